"""From the microphone through the engine to the output: one worker between two queues, until Ctrl-C."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
from tqdm import tqdm

from modules.errors import UsageError
from modules.realtime.blocks import BlockQueue, BlockTimes, StreamResampler
from modules.realtime.engine import Engine

logger = logging.getLogger(__name__)

MOST_BLOCKS_WAITING = 2  # of input; older ones are dropped
LOST_SECONDS = 1.5  # without a call of a device, after which it is gone
STARTING_SECONDS = 5.0  # that a device may take to its first call; PulseAudio took 2
GIVE_UP_SECONDS = 20.0  # that a lost device is waited for
SHOW_SECONDS = 0.25  # between two updates of the status line
# Of the slowest block of the warm-up, and seconds for what the resampler holds back: queued for what takes longer.
_MARGIN = 0.5, 0.02


class SampleQueue:
    """Samples between a device's thread and the worker; nobody waits for more than a copy."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.n_dropped, self.n_written = capacity, 0, 0  # samples
        self._parts: deque[np.ndarray] = deque()
        self._n_held = 0
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return self._n_held

    def write(self, wav: np.ndarray) -> None:
        """Appends (T,); what is more than the capacity drops the oldest, which is counted."""
        with self._changed:
            self._parts.append(wav)
            self._n_held, self.n_written = self._n_held + len(wav), self.n_written + len(wav)
            if (excess := self._n_held - self.capacity) > 0:
                self._take(excess)
                self.n_dropped += excess
            self._changed.notify()

    def read(self, n_samples: int) -> np.ndarray:
        """The next `n_samples`, or as many as there are."""
        with self._changed:
            return self._take(min(n_samples, self._n_held))

    def wait(self, seconds: float) -> np.ndarray:
        """All that is there, after a wait for something; empty where nothing came."""
        with self._changed:
            self._changed.wait_for(lambda: self._n_held > 0, seconds)
            return self._take(self._n_held)

    def _take(self, n_samples: int) -> np.ndarray:
        taken, missing = [], n_samples
        while missing > 0:
            part = self._parts.popleft()
            if len(part) > missing:
                self._parts.appendleft(part[missing:])
                part = part[:missing]
            taken.append(part)
            missing -= len(part)
        self._n_held -= n_samples
        return np.concatenate(taken) if taken else np.zeros(0, np.float32)


class Connected(Protocol):
    """An open microphone and output: `modules.realtime.devices.Connection`."""

    rate_in: int
    rate_out: int
    n_overflows: int
    latency: float
    is_active: bool

    def start(self) -> None: ...
    def close(self) -> None: ...


Connect = Callable[[Callable[[np.ndarray], None], Callable[[int], np.ndarray]], Connected]


class DeviceLost(Exception):
    """A device stopped calling."""


class LiveStream:
    """The engine between two devices.

    microphone -> queue -> resampler -> blocks -> engine -> resampler -> queue -> output
    """

    def __init__(self, engine: Engine, connect: Connect, slowest: float, bypass: Callable[[], bool]) -> None:
        """`connect` opens the devices; `slowest` is the work in seconds of the slowest block of the warm-up."""
        self._engine, self._connect, self._bypass = engine, connect, bypass
        self.times = BlockTimes(engine.block_seconds)
        self._margin = min(engine.block_seconds, slowest * _MARGIN[0] + _MARGIN[1])
        self.n_gaps, self.dropped_seconds = 0, 0.0
        self._shown = 0.0

    def run(self, bar: tqdm) -> None:
        """Converts until Ctrl-C; a lost device is waited for, a UsageError ends it where none comes back."""
        connection = self._open()
        while True:
            try:
                self._run_connected(connection, bar)
            except DeviceLost:
                text = "a device does not answer any more (unplugged?); waiting %.0f s for it"
                logger.warning(text, GIVE_UP_SECONDS)
            finally:
                connection.close()
                self._count_dropped(connection)
            connection = self._open_again()
            logger.info("the device is back")

    def __str__(self) -> str:
        parts = [str(self.times)]
        if self.n_gaps:
            parts.append(f"{self.n_gaps} gaps in the output")
        if self.dropped_seconds:
            parts.append(f"{self.dropped_seconds:.2f} s of sound dropped")
        return "; ".join(parts)

    def _open(self) -> Connected:
        """Opens the devices with empty queues between them."""
        self._inbox = self._outbox = SampleQueue(0)  # until the rates are known; nothing runs yet
        self._is_playing = self._is_dry = False
        self._heard_at = self._played_at = time.monotonic() + STARTING_SECONDS - LOST_SECONDS
        connection = self._connect(self._hear, self._play)
        block = self._engine.block_seconds
        self._inbox = SampleQueue(round(MOST_BLOCKS_WAITING * block * connection.rate_in))
        self._outbox = SampleQueue(round((2 * self._margin + block) * connection.rate_out))
        connection.start()
        return connection

    def _open_again(self) -> Connected:
        until = time.monotonic() + GIVE_UP_SECONDS
        while True:
            try:
                return self._open()
            except UsageError as error:
                if time.monotonic() > until:
                    raise UsageError(f"a device was lost and did not come back: {error}") from None
                time.sleep(1.0)

    def _run_connected(self, connection: Connected, bar: tqdm) -> None:
        """Converts until a device is lost."""
        engine, n_blocks = self._engine, 0
        engine.reset()
        to_model = StreamResampler(connection.rate_in, engine.sampling_rate)
        to_device = StreamResampler(engine.sampling_rate, connection.rate_out)
        blocks = BlockQueue(engine.n_block)
        while True:
            wav = self._inbox.wait(0.1)
            self._check(connection)
            for block in blocks.push(to_model(np.nan_to_num(wav))):
                out = self.times.process(engine, block, self._bypass())
                n_blocks += 1
                self._note_latency(connection, n_blocks, to_device.held_seconds)
                self._put_out(to_device(np.clip(out, -1, 1)), connection.rate_out)
                self._show(bar, connection)

    def _put_out(self, wav: np.ndarray, rate: int) -> None:
        """Queues the next samples; before the first a little silence, for blocks that take longer than that one."""
        if not self._is_playing:
            self._outbox.write(np.zeros(round(self._margin * rate), np.float32))
        self._outbox.write(wav)
        self._is_playing = True

    def _note_latency(self, connection: Connected, n_blocks: int, held: float) -> None:
        """From the first sample of the block that is finished to the moment when it will be heard."""
        engine, inbox = self._engine, self._inbox
        age = (inbox.n_written - inbox.n_dropped) / connection.rate_in - n_blocks * engine.block_seconds
        queued = len(self._outbox) / connection.rate_out if self._is_playing else self._margin
        own = engine.block_seconds + engine.delay_seconds
        self.times.latency.append(own + max(0.0, age) + queued + held + connection.latency)

    def _hear(self, wav: np.ndarray) -> None:
        self._heard_at = time.monotonic()
        self._inbox.write(wav)

    def _play(self, n_samples: int) -> np.ndarray:
        self._played_at = time.monotonic()
        wav = self._outbox.read(n_samples) if self._is_playing else np.zeros(0, np.float32)
        is_dry = self._is_playing and len(wav) < n_samples
        self.n_gaps += is_dry and not self._is_dry
        self._is_dry = is_dry
        return np.pad(wav, (0, n_samples - len(wav)))

    def _check(self, connection: Connected) -> None:
        last = min(self._heard_at, self._played_at)
        if not connection.is_active or time.monotonic() - last > LOST_SECONDS:
            raise DeviceLost

    def _count_dropped(self, connection: Connected) -> None:
        self.dropped_seconds += self._inbox.n_dropped / connection.rate_in
        self.dropped_seconds += self._outbox.n_dropped / connection.rate_out

    def _show(self, bar: tqdm, connection: Connected) -> None:
        """The status line."""
        now, times = time.monotonic(), self.times
        if now - self._shown < SHOW_SECONDS:
            return
        self._shown = now
        state = "bypass" if self._bypass() else "silent" if self._engine.is_silent else "voice "
        work, worst = (1000 * value for value in ((times.work or [0])[-1], max(times.work, default=0)))
        dropped = self.dropped_seconds + self._inbox.n_dropped / connection.rate_in
        dropped += self._outbox.n_dropped / connection.rate_out
        text = f"{state} · block {work:.0f} of {1000 * times.block_seconds:.0f} ms, worst {worst:.0f} ms · "
        text += f"latency {1000 * times.latency[-1]:.0f} ms · missed {times.n_missed} · gaps {self.n_gaps} · "
        bar.set_description_str(text + f"dropped {dropped:.2f} s · overflows {connection.n_overflows}")
