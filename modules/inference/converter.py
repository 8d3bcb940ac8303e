"""VoiceConverter: one request from audio to audio, step by step. It is given finished parts and knows only contracts.

The ladder, each rung on top of the one before: pieces (`_convert_pieces`, which a `Renderer` sings), a stretch of them
(`_join_stretch`), a stream of blocks (`_convert_blocks`), then `convert_wav` for arrays and `convert` for files.
"""

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from modules.audio import io
from modules.audio.crossfade import crossfade, join_pieces
from modules.audio.slicer import slice_silence
from modules.errors import AudioError, UsageError, UserError
from modules.inference.memory import return_freed_memory
from modules.inference.options import ConversionOptions
from modules.inference.pieces import Piece, Timeline, plan_pieces
from modules.inference.rendering import ConverterParts, Renderer, Sung
from modules.inference.source import Source, Window, array_source, file_source, survey

logger = logging.getLogger(__name__)

SILENCE_BLOCK_SECONDS = 10.0  # long silences are written in blocks
SHORTEST_SECONDS = 0.5  # least audio given to the networks; pitch trackers and encoders need a few frames


@dataclass(frozen=True)
class ConversionReport:
    """What a finished conversion amounts to.

    Args:
        path: the file written.
        seconds: its duration.
        elapsed: seconds that it took.
        voiced_seconds: how much of it went through the networks.
    """

    path: Path
    seconds: float
    elapsed: float
    voiced_seconds: float

    @property
    def realtime_factor(self) -> float:
        """Computing time over duration: below 1 is faster than playing."""
        return self.elapsed / max(self.seconds, 1e-9)


class VoiceConverter:
    """Sings a source in a trained voice.

    Args:
        parts: finished networks and what must be known about them.
    """

    def __init__(self, parts: ConverterParts) -> None:
        self.parts = parts
        self.audio = parts.audio
        self.renderer = Renderer(parts)
        self._heard_pitch = False

    def check(self, options: ConversionOptions) -> None:
        """Refuses a request that this voice cannot fulfil.

        Raises:
            UsageError: unknown speaker (those there are get listed), or pitch prediction without a pitch decoder.
        """
        if options.speaker not in self.parts.speakers:
            known = ", ".join(self.parts.speakers)
            raise UsageError(f"-s/--spk_list: the model has no speaker {options.speaker!r}. It has: {known}.")
        if self.parts.refiner_speakers is not None and options.speaker not in self.parts.refiner_speakers:
            known = ", ".join(self.parts.refiner_speakers)
            raise UsageError(
                f"-s/--spk_list: the diffusion model has no speaker {options.speaker!r}. It has: {known}. Leave out "
                "-shd, or use a diffusion model of that voice."
            )
        if options.predict_f0 and not self.parts.can_predict_f0:
            raise UsageError(
                "-a/--auto_predict_f0: this model was trained without a pitch decoder "
                "(model.use_automatic_f0_prediction is false); leave -a out"
            )

    def convert(
        self, path_in: Path, path_out: Path, options: ConversionOptions, progress: bool = True
    ) -> ConversionReport:
        """Converts a file of any length, writing as it goes; the result takes its name when it is whole.

        Args:
            path_in: any format that soundfile reads.
            path_out: the result, mono at the model's rate; an older one is replaced.
            options: the request.
            progress: show a progress bar over seconds of audio.

        Raises:
            AudioError: the input cannot be used, or the output cannot be written.
            UsageError: see `check`.
        """
        started = time.perf_counter()
        self.check(options)
        source = file_source(path_in)
        rate = self.audio.sampling_rate
        n_written, n_voiced = 0, 0
        with (
            tqdm(total=round(source.seconds), unit="s", desc=path_in.name, disable=not progress, leave=False) as bar,
            io.StreamWriter(path_out, rate, options.output_format) as writer,
        ):
            for wav, voiced in self._convert_blocks(source, options):
                writer.write(wav)
                n_written += len(wav)
                n_voiced += len(wav) * voiced
                bar.update(n_written // rate - bar.n)
        return ConversionReport(path_out, n_written / rate, time.perf_counter() - started, n_voiced / rate)

    def convert_wav(self, wav: np.ndarray, rate: int, options: ConversionOptions) -> np.ndarray:
        """Converts a clip in memory.

        Args:
            wav: (T,) float32 at `rate`.
            rate: Hz.
            options: the request.

        Returns:
            (ceil(T * model rate / rate),) float32 at the model's rate.

        Raises:
            AudioError: empty, not mono, or not finite.
            UsageError: see `check`.
        """
        self.check(options)
        return np.concatenate([block for block, _ in self._convert_blocks(array_source(wav, rate), options)])

    def _convert_blocks(self, source: Source, options: ConversionOptions) -> Iterator[tuple[np.ndarray, bool]]:
        """The converted audio in blocks, each with whether it is voiced; together exactly as long as the input."""
        found = survey(source)
        if found.gain < 1:
            logger.info(
                "%s: the peak %.3g is above full scale; read at %.3g times the level",
                source.name,
                1 / found.gain,
                found.gain,
            )
        timeline = Timeline(source.rate, self.audio.sampling_rate)
        window = Window(source, found.gain)
        self._heard_pitch, was_voiced = False, False
        plan = [
            (segment, plan_pieces(segment, source.rate, options, found.rms, found.rms_hop) if segment.voiced else [])
            for segment in slice_silence(found.rms, found.n_samples, source.rate, options.slice_db)
        ]
        converted = self._convert_pieces(chain.from_iterable(pieces for _, pieces in plan), window, timeline, options)
        for segment, pieces in plan:
            if segment.voiced:
                was_voiced = True
                for wav in self._join_stretch(pieces, converted, timeline, options):
                    yield wav, True
            else:
                yield from ((wav, False) for wav in self._silence(timeline.length(segment.start, segment.end)))
        if was_voiced and not self._heard_pitch:
            logger.warning(
                "%s: no pitch was heard anywhere, so the result is toneless. Is it music without a voice, or very "
                "noisy? Try another -f0p, or a lower threshold (-ft)",
                source.name,
            )

    def _silence(self, length: int) -> Iterator[np.ndarray]:
        step = int(SILENCE_BLOCK_SECONDS * self.audio.sampling_rate)
        for start in range(0, length, step):
            yield np.zeros(min(step, length - start), np.float32)

    def _join_stretch(
        self, pieces: list[Piece], converted: Iterator[np.ndarray], timeline: Timeline, options: ConversionOptions
    ) -> Iterator[np.ndarray]:
        """The output of neighbouring pieces, taken from `converted`, cross-faded where they overlap.

        piece 1  [====body====][tail]
        piece 2                [head][====body====][tail]      tail and head become one join
        """
        tail = np.zeros(0, np.float32)
        for piece, following in zip(pieces, chain(pieces[1:], [None])):
            wav = next(converted)
            overlap = len(tail)
            if overlap and piece.has_context:
                yield join_pieces(tail, wav[:overlap])
            elif overlap:
                yield crossfade(tail, wav[:overlap], overlap, options.overlap_retain)
            kept = timeline.length(following.start, piece.stop) if following else 0
            yield wav[overlap : len(wav) - kept]
            tail = wav[len(wav) - kept :]

    def _convert_pieces(
        self, pieces: Iterable[Piece], window: Window, timeline: Timeline, options: ConversionOptions
    ) -> Iterator[np.ndarray]:
        """The output of each piece in turn, exactly as long as its place on the timeline.

        Where the renderer gains from it, pieces wait until there is a batch of them.
        """
        waiting: list[tuple[Piece, Sung | None]] = []
        frames = 0
        for piece in pieces:
            chunk = self._chunk_of(piece, window, timeline.from_rate)
            sung = None
            if chunk.any():  # digital silence has no voice to convert
                with _explained(window.name, [piece], timeline.from_rate):
                    sung = self.renderer.sing(chunk, timeline.from_rate, options)
                self._heard_pitch |= sung.voiced
                frames += sung.n_frames
            waiting.append((piece, sung))
            if frames >= self.renderer.batch_frames:
                yield from self._finish(waiting, window.name, timeline, options)
                waiting, frames = [], 0
        yield from self._finish(waiting, window.name, timeline, options)

    def _chunk_of(self, piece: Piece, window: Window, rate: int) -> np.ndarray:
        """What the networks are given of a piece: its audio between its zeros, never shorter than they can take."""
        chunk = window.read(piece.read_start, piece.read_stop)
        missing = max(0, int(SHORTEST_SECONDS * rate) - len(chunk) - piece.pad_left - piece.pad_right)
        return np.pad(chunk, (piece.pad_left, piece.pad_right + missing))

    def _finish(
        self, waiting: list[tuple[Piece, Sung | None]], name: str, timeline: Timeline, options: ConversionOptions
    ) -> Iterator[np.ndarray]:
        """The output of sung pieces; silent ones (None) give zeros."""
        there = [(piece, sung) for piece, sung in waiting if sung is not None]
        wavs: Iterator[np.ndarray] = iter(())
        if there:
            with _explained(name, [piece for piece, _ in there], timeline.from_rate):
                wavs = iter(self.renderer.finish([sung for _, sung in there], options))
        for piece, sung in waiting:
            if sung is None:
                yield np.zeros(timeline.length(piece.start, piece.stop), np.float32)
            else:
                yield self._trim(next(wavs), piece, name, timeline, options)

    def _trim(
        self, wav: np.ndarray, piece: Piece, name: str, timeline: Timeline, options: ConversionOptions
    ) -> np.ndarray:
        """The part of a rendered chunk that is its piece's place on the timeline."""
        if not np.isfinite(wav).all():
            where = _place(name, [piece], timeline.from_rate)
            raise AudioError(f"{where}: the model produced numbers that are not finite. Try --precision fp32.")
        length = timeline.length(piece.start, piece.stop)
        read = piece.read_stop - piece.read_start + piece.pad_left + piece.pad_right
        if piece.has_context or read < int(SHORTEST_SECONDS * timeline.from_rate):
            lead = timeline.at(piece.start - piece.read_start + piece.pad_left)
            return _fit(wav[lead:], length, centred=False)
        cut = int(self.audio.sampling_rate * options.pad_seconds)
        return _fit(wav[cut : len(wav) - cut], length, centred=True)


@contextlib.contextmanager
def _explained(name: str, pieces: list[Piece], rate: int) -> Iterator[None]:
    """Turns whatever a network raises into one line that names the file and the time."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{_place(name, pieces, rate)}: {error}") from error
    except (RuntimeError, ValueError, MemoryError) as error:
        raise AudioError(f"{_place(name, pieces, rate)}: {_explain(error)}") from error
    finally:
        return_freed_memory()


def _place(name: str, pieces: list[Piece], rate: int) -> str:
    return f"{name}, {pieces[0].start / rate:.1f} to {pieces[-1].stop / rate:.1f} s"


def _fit(wav: np.ndarray, length: int, centred: bool) -> np.ndarray:
    """`wav` cut at its end, or padded with zeros, to `length`; padding is shared between both ends where `centred`.

    Frames are whole, so a padded chunk gives up to one hop less than it was long; upstream shares that gap, and so do
    we, to give the same samples.
    """
    missing = max(0, length - len(wav))
    left = missing // 2 if centred else 0
    return np.pad(wav[:length], (left, missing - left)).astype(np.float32, copy=False)


def _explain(error: Exception) -> str:
    """One line for an error out of a network, with what to do where memory ran out."""
    text = (str(error).strip().splitlines() or [""])[0][:200]
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text:
        return "not enough memory. Use shorter pieces (-cl 15 -lg 1) or the CPU (-d cpu)."
    return f"the conversion failed ({type(error).__name__}: {text})"
