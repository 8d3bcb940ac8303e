"""Pieces of a song to their sound, in turn: listening ahead, batches, and what is done when memory runs out.

    queue      pieces wait until there is a batch; the pitch of the newest is taken while the others are sung
    batch      out of memory on a GPU: the batch is halved, then a piece is cut at its quietest place, then it fails

Knows pieces and the renderer, but neither files nor silences nor what is done with the result.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from modules.errors import AudioError, UserError
from modules.inference.chunks import Piece, Timeline, join_stretch, split_piece
from modules.inference.memory import return_freed_memory
from modules.inference.options import ConversionOptions
from modules.inference.pipeline import Heard, Renderer
from modules.inference.stream import Survey, Window

logger = logging.getLogger(__name__)

SHORTEST_SECONDS = 0.5  # least audio given to the networks; pitch trackers and encoders need a few frames
SHORTEST_SPLIT_SECONDS = 4.0  # a piece shorter than this is not cut again when memory runs out


@dataclass
class Findings:
    """What a conversion came across, for its report.

    Args:
        heard_pitch: a pitch was heard anywhere.
        lowest, highest: of the notes that were sung, in Hz.
        warnings: what the user should know.
    """

    heard_pitch: bool = False
    lowest: float = float("inf")
    highest: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Logs a warning and keeps it."""
        self.warnings.append(text)
        logger.warning("%s", text)

    def add_melody(self, f0: np.ndarray, uv: np.ndarray, transpose: float) -> None:
        """Takes note of a curve: f0 (N,) Hz before it was transposed, uv (N,)."""
        voiced = f0[uv > 0] * 2.0 ** (transpose / 12)
        if len(voiced):
            self.heard_pitch = True
            self.lowest, self.highest = min(self.lowest, voiced.min()), max(self.highest, voiced.max())


@dataclass(frozen=True)
class Song:
    """One conversion under way.

    Args:
        window: where the audio comes from.
        found: what the first pass saw.
        timeline: positions in and out.
        options: the request.
        findings: what is come across.
    """

    window: Window
    found: Survey
    timeline: Timeline
    options: ConversionOptions
    findings: Findings

    @property
    def rate(self) -> int:
        """Hz of the source."""
        return self.timeline.from_rate

    @property
    def seconds(self) -> float:
        """Length of the source."""
        return self.found.n_samples / self.rate


@dataclass(frozen=True)
class _Waiting:
    """A piece, its audio between its zeros, and its pitch where that is being taken already."""

    piece: Piece
    chunk: np.ndarray
    heard: Future[Heard] | None = None


class Performer:
    """Renders the pieces of a song.

    Args:
        renderer: every network has its turn there.
    """

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self._batch_frames = renderer.batch_frames
        self._longest_seconds = float("inf")  # found when memory runs out, and kept

    def perform(self, pieces: Iterable[Piece], song: Song) -> Iterator[np.ndarray]:
        """The output of each piece in turn, exactly as long as its place on the timeline.

        Args:
            pieces: ascending.
            song: where they are from.

        Raises:
            AudioError: a network failed; the text names the file and the time range.
        """
        ahead = 1 if self.renderer.parts.predictor_on_cpu else 0
        queue: list[_Waiting] = []
        with ThreadPoolExecutor(1, "pitch") as ears:
            for piece in pieces:
                chunk = _chunk_of(piece, song)
                heard = ears.submit(self._hear, piece, chunk, song) if ahead and chunk.any() else None
                queue.append(_Waiting(piece, chunk, heard))
                ready = queue[: len(queue) - ahead]
                if ready and self._frames(ready, song) >= self._batch_frames:
                    queue = queue[len(ready) :]
                    yield from self._render(ready, song)
            if queue:
                yield from self._render(queue, song)

    def _frames(self, waiting: list[_Waiting], song: Song) -> float:
        audio = self.renderer.parts.audio
        return sum(len(one.chunk) for one in waiting) / song.rate * audio.frame_rate

    def _hear(self, piece: Piece, chunk: np.ndarray, song: Song) -> Heard:
        start = (piece.read_start - piece.pad_left) / song.rate
        return self.renderer.hear(chunk, song.rate, start, song.seconds)

    def _render(self, waiting: list[_Waiting], song: Song) -> list[np.ndarray]:
        """The output of each; digital silence has no voice to convert and gives zeros."""
        loud = [one for one in waiting if one.chunk.any()]
        made = iter(self._render_loud(loud, song) if loud else [])
        timeline = song.timeline
        return [
            next(made) if one.chunk.any() else np.zeros(timeline.length(one.piece.start, one.piece.stop), np.float32)
            for one in waiting
        ]

    def _render_loud(self, waiting: list[_Waiting], song: Song) -> list[np.ndarray]:
        """The same with whatever memory there is."""
        if len(waiting) == 1 and _seconds(waiting[0].piece, song) > self._longest_seconds:
            return [self._render_in_parts(waiting[0], song)]
        with contextlib.suppress(torch.OutOfMemoryError):  # left before going on, so that its tensors are free again
            return self._render_together(waiting, song)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        place = _place(song.window.name, [one.piece for one in waiting], song.rate)
        if len(waiting) > 1:
            self._batch_frames = int(self._frames(waiting, song) / 2)
            song.findings.warn(f"{place}: {len(waiting)} stretches at once are too much for this memory; halving that")
            middle = len(waiting) // 2
            return self._render_loud(waiting[:middle], song) + self._render_loud(waiting[middle:], song)
        seconds = _seconds(waiting[0].piece, song)
        if seconds < SHORTEST_SPLIT_SECONDS:
            raise AudioError(f"{place}: {_NO_MEMORY}")
        self._longest_seconds = seconds / 2
        song.findings.warn(
            f"{place}: {seconds:.0f} s at once are too much for this memory; longer stretches are cut at a quiet place "
            f"from here on, as --max_segment {max(2, int(seconds / 2))} does from the start"
        )
        return [self._render_in_parts(waiting[0], song)]

    def _render_in_parts(self, one: _Waiting, song: Song) -> np.ndarray:
        """The output of a piece that is too long, cut where it is quietest and joined again."""
        longest = int(max(min(self._longest_seconds, _seconds(one.piece, song) / 2), 1) * song.rate)
        parts = split_piece(one.piece, longest, song.rate, song.options, song.found.rms, song.found.rms_hop)
        outputs = []
        for part in parts:
            first = part.read_start - part.pad_left - (one.piece.read_start - one.piece.pad_left)
            chunk = one.chunk[first : first + part.pad_left + part.read_stop - part.read_start + part.pad_right]
            outputs += self._render([_Waiting(part, chunk)], song)
        return np.concatenate(list(join_stretch(parts, iter(outputs), song.timeline, song.options.overlap_retain)))

    def _render_together(self, waiting: list[_Waiting], song: Song) -> list[np.ndarray]:
        pieces = [one.piece for one in waiting]
        heard = []
        for one in waiting:
            with _explained(song.window.name, [one.piece], song.rate):
                heard.append(one.heard.result() if one.heard else self._hear(one.piece, one.chunk, song))
        with _explained(song.window.name, pieces, song.rate):
            wavs = self.renderer.finish(self.renderer.sing(heard, song.options), song.options)
        for chunk in heard:
            song.findings.add_melody(chunk.curve.f0, chunk.curve.uv, song.options.transpose)
        return [_trim(wav, piece, song) for wav, piece in zip(wavs, pieces)]


def _seconds(piece: Piece, song: Song) -> float:
    return (piece.stop - piece.start) / song.rate


def _chunk_of(piece: Piece, song: Song) -> np.ndarray:
    """What the networks are given of a piece: its audio between its zeros, never shorter than they can take."""
    chunk = song.window.read(piece.read_start, piece.read_stop)
    missing = max(0, int(SHORTEST_SECONDS * song.rate) - len(chunk) - piece.pad_left - piece.pad_right)
    return np.pad(chunk, (piece.pad_left, piece.pad_right + missing))


def _trim(wav: np.ndarray, piece: Piece, song: Song) -> np.ndarray:
    """The part of a rendered chunk that is its piece's place on the timeline."""
    timeline, options = song.timeline, song.options
    if not np.isfinite(wav).all():
        where = _place(song.window.name, [piece], song.rate)
        raise AudioError(f"{where}: the model produced numbers that are not finite. Try --precision fp32.")
    length = timeline.length(piece.start, piece.stop)
    read = piece.read_stop - piece.read_start + piece.pad_left + piece.pad_right
    if piece.has_context or read < int(SHORTEST_SECONDS * song.rate):
        lead = timeline.at(piece.start - piece.read_start + piece.pad_left)
        return fit(wav[lead:], length, centred=False)
    cut = int(timeline.to_rate * options.pad_seconds)
    return fit(wav[cut : len(wav) - cut], length, centred=True)


def fit(wav: np.ndarray, length: int, centred: bool) -> np.ndarray:
    """`wav` cut at its end, or padded with zeros, to `length`; padding is shared between both ends where `centred`.

    Frames are whole, so a padded chunk gives up to one hop less than it was long; upstream shares that gap, and so do
    we, to give the same samples.
    """
    missing = max(0, length - len(wav))
    left = missing // 2 if centred else 0
    return np.pad(wav[:length], (left, missing - left)).astype(np.float32, copy=False)


@contextlib.contextmanager
def _explained(name: str, pieces: list[Piece], rate: int) -> Iterator[None]:
    """Turns whatever a network raises into one line that names the file and the time."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except UserError as error:
        raise type(error)(f"{_place(name, pieces, rate)}: {error}") from error
    except (RuntimeError, ValueError, MemoryError) as error:
        raise AudioError(f"{_place(name, pieces, rate)}: {_explain(error)}") from error
    finally:
        return_freed_memory()


def _place(name: str, pieces: list[Piece], rate: int) -> str:
    return f"{name}, {pieces[0].start / rate:.1f} to {pieces[-1].stop / rate:.1f} s"


_NO_MEMORY = "not enough memory. Use shorter pieces (-cl 15 -lg 1) or the CPU (-d cpu)."


def _explain(error: Exception) -> str:
    """One line for an error out of a network, with what to do where memory ran out."""
    text = (str(error).strip().splitlines() or [""])[0][:200]
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text:
        return _NO_MEMORY
    return f"the conversion failed ({type(error).__name__}: {text})"
