"""The live stream with a stand-in for the sound card: nothing waits, nothing is lost in silence."""

import io
import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fake_engine import make_engine
from fake_sound_card import FakeSoundCard
from inference.fake_voice import AUDIO, sung
from tqdm import tqdm

from modules.errors import UsageError
from modules.realtime import live
from modules.realtime.devices import Connection, find_device
from modules.realtime.keys import BypassKey
from modules.realtime.live import LiveStream, SampleQueue

RATE = AUDIO.sampling_rate


def test_a_full_queue_drops_the_oldest_and_counts_it():
    queue = SampleQueue(100)
    for start in range(0, 160, 40):
        queue.write(np.arange(start, start + 40, dtype=np.float32))
    assert queue.n_dropped == 60 and queue.n_written == 160 and len(queue) == 100
    np.testing.assert_array_equal(queue.read(30), np.arange(60, 90))
    np.testing.assert_array_equal(queue.wait(0), np.arange(90, 160))
    assert not len(queue.wait(0.01)) and not len(queue.read(10))


def test_enter_changes_the_bypass():
    read, write = os.pipe()
    with open(read) as terminal:  # noqa: PTH123, a descriptor
        key = BypassKey(False, terminal)
        os.write(write, b"\nb\n\n")
        os.close(write)
        key._thread.join(5)
    assert key() and not BypassKey(False, None)()


class Session:
    """A live stream whose devices a test plays; it runs in a thread."""

    def __init__(self, monkeypatch, bypass: bool = False):
        monkeypatch.setattr(live, "GIVE_UP_SECONDS", 0.0)
        monkeypatch.setattr(live, "SHOW_SECONDS", 0.0)
        monkeypatch.setattr(live, "LOST_SECONDS", 60.0)
        self.card, self.error = FakeSoundCard((RATE,)), None
        self.engine, _, self.calls = make_engine()
        self.has_begun, self.may_go_on, process = threading.Event(), threading.Event(), self.engine.process
        self.may_go_on.set()
        self.engine.process = lambda *args: (self.has_begun.set(), self.may_go_on.wait(5), process(*args))[2]
        self.stream = LiveStream(self.engine, self._connect, 0.05, lambda: bypass)
        self.bar = tqdm(bar_format="{desc}", file=io.StringIO())
        self.connections = 0

    def _connect(self, hear, play):
        self.connections += 1
        if self.connections > 1:
            raise UsageError("--device_in Headset: no microphone is called so")
        devices = find_device(self.card, None, True), find_device(self.card, None, False)
        return Connection(self.card, devices, RATE, hear, play)

    def __enter__(self):
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        until = time.monotonic() + 5
        while not (len(self.card.streams) == 2 and self.card.streams[1].active) and time.monotonic() < until:
            time.sleep(0.001)
        self.microphone, self.output = self.card.streams
        return self

    def _run(self):
        try:
            self.stream.run(self.bar)
        except UsageError as error:
            self.error = error

    def wait_for_blocks(self, n_blocks):
        """Until so many have been put out."""
        wanted = round(self.stream._margin * RATE) + n_blocks * self.engine.n_block
        until = time.monotonic() + 5
        while self.stream._outbox.n_written < wanted and time.monotonic() < until:
            time.sleep(0.002)
        assert self.stream._outbox.n_written == wanted

    def unplug(self):
        self.microphone.active = False
        self.thread.join(5)

    def __exit__(self, *exception):
        if self.thread.is_alive():
            self.unplug()


def test_what_is_sung_comes_out_and_the_status_line_says_how(monkeypatch):
    with Session(monkeypatch, bypass=True) as session:
        n_block, wav, out = session.engine.n_block, sung(1.0, RATE), []
        assert not session.output.play(10).any() and session.stream.n_gaps == 0, "silence before the first block"
        for index in range(4):
            session.microphone.record(wav[index * n_block :][:n_block])
            session.wait_for_blocks(index + 1)
            out.append(session.output.play(n_block)[:, 0])
        heard, behind = np.concatenate(out), round(session.stream._margin * RATE) + session.engine.delay
        np.testing.assert_allclose(heard[behind + 700 :], wav[700 : len(heard) - behind], atol=1e-6)
        for _ in range(3):
            session.output.play(10 * n_block)
        assert "bypass" in session.bar.desc and "gaps 0" in session.bar.desc and "latency" in session.bar.desc
    assert "1 gaps in the output" in str(session.stream) and not session.stream.dropped_seconds


def test_what_the_worker_cannot_take_is_dropped_and_counted(monkeypatch):
    with Session(monkeypatch) as session:
        wav, n_block = sung(2.0, RATE), session.engine.n_block
        session.may_go_on.clear()
        session.microphone.record(wav[:n_block])
        assert session.has_begun.wait(5)
        session.microphone.record(wav)  # returns, although the networks are at work
        session.may_go_on.set()
        session.wait_for_blocks(3)
        assert session.stream._inbox.n_dropped == len(wav) - 2 * n_block
        session.unplug()
    assert session.stream.dropped_seconds >= 2.0 - 2 * session.engine.block_seconds
    assert "s of sound dropped" in str(session.stream)


def test_an_unplugged_device_is_waited_for_and_then_named(monkeypatch, caplog):
    with Session(monkeypatch) as session:
        session.unplug()
    assert "a device was lost and did not come back: --device_in Headset" in str(session.error)
    assert "does not answer any more (unplugged?)" in caplog.text
    assert all(stream.is_closed for stream in session.card.streams)


def test_a_device_may_take_its_time_to_begin_and_not_to_go_on(monkeypatch):
    now, connection = [100.0], SimpleNamespace(rate_in=RATE, rate_out=RATE, is_active=True, start=lambda: None)
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    stream = LiveStream(make_engine()[0], lambda hear, play: connection, 0.05, lambda: False)
    stream._open()
    now[0] += 4.9
    stream._check(connection)
    stream._hear(np.zeros(10, np.float32))
    stream._play(10)
    now[0] += 1.6
    with pytest.raises(live.DeviceLost):
        stream._check(connection)
