"""Engine: a stream of blocks at the model's rate through a voice. Devices, files and other rates are not its business.

    window        |------ extra ------|====== block ======|- delay -|
                  `- context          `- put out now       `- tail of the cross-fade, and room for the search

What is kept from block to block: the pitch of what was put out, the noise, the phase of the source, the loudest volume.
Units are not: every content encoder here attends to all of what it is given, and what it says of a past moment is
better with what came after it.
"""

import logging
import math
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch

from modules.audio.loudness import frame_volume, hop_energies
from modules.contracts import VoiceInput
from modules.inference.options import ConversionOptions
from modules.inference.pipeline import Pipeline
from modules.realtime.anchored import NoiseRun, Phase, PitchHistory, draws_of
from modules.realtime.join import Joiner
from modules.realtime.options import RealtimeOptions

logger = logging.getLogger(__name__)

SEARCH_SECONDS = 0.005  # that a block may move to either side to meet the one before
F0_CONTEXT_SECONDS = (
    0.15  # before what is predicted: more changes no frame by more than 10 cents (fcpe, speech and song)
)
HOLD_SECONDS = 0.4  # that the gate stays open after the last loud moment
PEAK_HALF_LIFE = 30.0  # seconds in which the loudest volume is forgotten by half
WARM_UP_BLOCKS = 6
_SEED = 52468  # of the noise
_WORTH_MORE_THREADS = 0.85  # share of the time that they must take at most


class Engine:
    """Converts blocks of `n_block` samples at `sampling_rate`; the output lies `delay` samples behind the input."""

    def __init__(self, pipeline: Pipeline, conversion: ConversionOptions, options: RealtimeOptions) -> None:
        self.pipeline = replace(pipeline, encoder=pipeline.encoder.for_stream())
        self.conversion, self.options = conversion, options
        self.sampling_rate, self.hop = pipeline.audio.sampling_rate, pipeline.audio.hop_length

        def frames(seconds: float) -> int:
            return max(1, math.ceil(seconds * self.sampling_rate / self.hop - 1e-6))

        n_crossfade = round(options.crossfade * self.sampling_rate)
        n_search = round(SEARCH_SECONDS * self.sampling_rate)
        self._n_step = max(1, round(options.block * self.sampling_rate / self.hop))
        self._n_past, self._n_delay = frames(options.extra), frames((n_crossfade + n_search) / self.sampling_rate)
        self._n_frames = self._n_past + self._n_step + self._n_delay
        self._n_predicted = min(self._n_frames, self._n_step + self._n_delay + frames(F0_CONTEXT_SECONDS))
        self.n_block, self.delay = self._n_step * self.hop, self._n_delay * self.hop
        self._joiner = Joiner(self.n_block, min(n_crossfade, self.n_block), n_search)
        self._threshold = 10 ** (options.gate / 20)
        self._beside = ThreadPoolExecutor(1, "f0")  # the pitch is predicted while the units are extracted
        self.threads: tuple[int, int] | None = None  # of torch: for the units, for the voice; None: as they are
        self.reset()

    @property
    def block_seconds(self) -> float:
        """The length of a block, in whole frames."""
        return self.n_block / self.sampling_rate

    @property
    def delay_seconds(self) -> float:
        """By how much the output lies behind the input within the engine."""
        return self.delay / self.sampling_rate

    def reset(self) -> None:
        """Forgets all that was heard."""
        pipeline = self.pipeline
        self._wav = np.zeros(self._n_frames * self.hop, np.float32)
        self._pitch = PitchHistory(self._n_frames)
        channels = pipeline.synthesizer.latent_channels
        self._noise = NoiseRun(self._n_frames, self.hop, channels, pipeline.device, _SEED)
        self._phase = Phase(self.sampling_rate, self.hop)
        self._loudest, self._quiet_seconds = 0.0, math.inf
        self._joiner.reset()
        self.is_silent = False  # whether the gate was closed for the last block

    def warm_up(self) -> list[float]:
        """Runs every network on a made-up tone, so that the first block is not late; seconds that blocks then took."""
        seconds = []
        random = np.random.default_rng(0)
        for _ in range(WARM_UP_BLOCKS):
            phase = 2 * np.pi * 220 * np.arange(self.n_block) / self.sampling_rate
            tone = 0.3 * np.sin(phase) + 0.1 * np.sin(2 * phase) + 0.01 * random.standard_normal(self.n_block)
            started = time.perf_counter()
            self._convert(tone.astype(np.float32))
            seconds.append(time.perf_counter() - started)
        self.reset()
        return seconds[1:]

    def process(self, block: np.ndarray, bypass: bool = False) -> np.ndarray:
        """The next (n_block,) float32 of the stream for the next `block` (n_block,) in [-1, 1] of the input; with
        `bypass` the input itself, at the same delay."""
        block = np.asarray(block, np.float32)
        is_open = self._listen(block)
        self.is_silent = not (is_open or bypass)
        if is_open and not bypass:
            return self._convert(block)
        self._move(block)
        margin = self._joiner.n_search
        start = self._n_past * self.hop
        heard = self._wav[start - margin : start + self.n_block + self._joiner.n_crossfade + margin]
        return self._joiner(heard if bypass else np.zeros_like(heard), may_shift=False)

    def _listen(self, block: np.ndarray) -> bool:
        """Whether the gate is open for a block: something in it is loud, or was a moment ago."""
        energies = hop_energies(block, self.hop)
        loud = np.flatnonzero(np.sqrt(energies / self.hop) >= self._threshold)
        was_open = self._quiet_seconds < HOLD_SECONDS + self.delay_seconds
        if len(loud):
            self._quiet_seconds = (len(energies) - 1 - int(loud[-1])) * self.hop / self.sampling_rate
        else:
            self._quiet_seconds += self.block_seconds
        return len(loud) > 0 or was_open

    def _move(self, block: np.ndarray) -> None:
        self._wav = np.concatenate([self._wav[len(block) :], block])
        self._pitch.move(self._n_step)

    @torch.inference_mode()
    def _convert(self, block: np.ndarray) -> np.ndarray:
        """The next block of the voice."""
        self._move(block)
        self._noise.move(self._n_step)
        given, gain = self._features()
        if self.threads is not None:
            torch.set_num_threads(self.threads[1])
        turns = self._phase.advance(self._source_f0(given), self._n_past, self._n_step)
        draws = draws_of(self._noise, turns)
        conversion, synthesizer = self.conversion, self.pipeline.synthesizer
        inputs = given.units, given.f0, given.uv, given.speaker, given.volume
        made = synthesizer.infer(*inputs, conversion.noise_scale, False, given.needed, draws=draws)
        start = self._n_past * self.hop - self._joiner.n_search
        stop = start + self.n_block + self._joiner.n_crossfade + 2 * self._joiner.n_search
        is_voiced = bool(given.uv[self._n_past : self._n_past + self._n_delay].any())
        return self._joiner(made.wav[start:stop].float().cpu().numpy() / np.float32(gain), is_voiced)

    def _features(self) -> tuple[VoiceInput, float]:
        """What the voice is given of the window, and the gain that is in its volume."""
        pipeline, conversion, n_new = self.pipeline, self.conversion, self._n_step + self._n_delay
        if self.threads is not None:
            torch.set_num_threads(self.threads[0])
        prediction = self._beside.submit(pipeline.predictor.predict, self._wav[-self._n_predicted * self.hop :])
        wav = torch.from_numpy(self._wav).to(pipeline.device)
        units = pipeline.encode([wav], [self._n_frames])[0]
        self._pitch.set_end(prediction.result(), n_new)
        pitch = self._pitch.filled()
        f0 = torch.from_numpy(pitch.f0).to(pipeline.device) * 2.0 ** (conversion.transpose / 12)
        uv = torch.from_numpy(pitch.uv).to(pipeline.device)
        volume, gain = None, 1.0
        if pipeline.with_volume:
            volume = frame_volume(wav, self.hop)
            faded = self._loudest * 0.5 ** (self.block_seconds / PEAK_HALF_LIFE)
            self._loudest = max(faded, float(volume.max()))
            gain = pipeline.training_gain(self._loudest)
            volume = volume * gain
        # From the first sample of the search to the last of the cross-fade.
        first = self._n_past - math.ceil(self._joiner.n_search / self.hop)
        needed = slice(max(0, first), self._n_frames)
        speaker = pipeline.speakers[conversion.speaker]
        (given,) = pipeline.retrieve([VoiceInput(units, f0, uv, speaker, volume, needed)], conversion)
        return given, gain

    def _source_f0(self, given: VoiceInput) -> np.ndarray:
        """The pitch (N,) Hz that the decoder's source follows."""
        f0 = given.f0 * (given.uv > 0.5) if self.pipeline.unvoiced_source else given.f0
        return f0.cpu().numpy()


def choose_threads(engine: Engine) -> float:
    """Warms the networks up and, on a CPU, stays with the numbers of torch's threads that suit the computer as it is
    now; the seconds that the slowest block then took.

    Threads wait for each other at every layer: where another program has one of the cores, two took 1.5 s for what one
    does in 0.5 s. So more are taken only where they are clearly quicker. The pitch has a thread of its own beside the
    units: with two cores one thread each, and two for the voice, take 0.30 s where two for all take 0.37 s.
    """
    if engine.pipeline.device.type != "cpu":
        return max(engine.warm_up())
    most = torch.get_num_threads()
    half, best, quickest, slowest = max(1, most // 2), (1, 1), math.inf, math.inf
    for engine.threads in sorted({(1, 1), (1, half), (1, most), (half, most)}):
        taken = engine.warm_up()
        if statistics.median(taken) < quickest * _WORTH_MORE_THREADS:
            best, quickest, slowest = engine.threads, statistics.median(taken), max(taken)
    engine.threads = best
    logger.info("of %d threads %d for the units and %d for the voice", most, *best)
    return slowest
