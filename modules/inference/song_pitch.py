"""SongPitch: the F0 of a whole song, known before any of it is sung, so that a curve can be written, mended and tuned.

The song has one row for each frame of the model, row k at k * hop. A chunk's frames begin where its audio does, so they
lie up to half a hop beside the rows; frame i of a chunk belongs to the row nearest to it, k = i + shift:

    rows     |    |    |    |    |    |    |    |    |
    chunk           .    .    .    .    .                  shift 1: frame 0 is row 1
    owned           |=========|                            rows between `start` and `fade_start`; the rest is context

What a chunk's own predictor found stays, to the bit, in every frame whose row nobody changed.
"""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from modules.config.audio import AudioSpec
from modules.contracts import F0
from modules.f0.autotune import note_shifts, scale_notes
from modules.f0.base import fill_gaps
from modules.f0.curve_files import Curve, read_curve, write_curve
from modules.inference.chunks import Chunk
from modules.inference.melody import MelodyOptions
from modules.inference.options import ConversionOptions
from modules.inference.pipeline import Pipeline
from modules.inference.stream import Song
from modules.text import printable

logger = logging.getLogger(__name__)

SAID_SECONDS = 0.5  # of what is sung and not in a file, or in a file and not sung, from which on it is said
LATER_SECONDS = 1.0  # by which a curve may go on after its song


class SongPitch:
    """The F0 of a song, on its rows and for each of its chunks."""

    def __init__(self, song: Song, audio: AudioSpec) -> None:
        self.song, self.audio = song, audio
        self.hop_seconds = audio.hop_length / audio.sampling_rate
        n_rows = max(1, audio.n_frames(song.at(song.n_samples)))
        self.hz = np.zeros(n_rows, np.float32)  # (N,) Hz of the song, 0 where unvoiced, as it is to be sung
        self.is_sung = np.zeros(n_rows, bool)  # (N,) rows that go through the networks
        self.warnings: list[str] = []  # what the user must know
        self._found: dict[int, F0] = {}  # `start` of a chunk -> what was predicted
        self._changed = np.zeros(n_rows, bool)  # rows that a file changes
        self._shifts: np.ndarray | None = None  # (N,) semitones

    def predict(self, chunks: list[Chunk], pipeline: Pipeline, progress: bool) -> None:
        """Finds the pitch of all chunks; their audio is read and let go."""
        voiced = [chunk for chunk in chunks if chunk.voiced]
        name = f"F0 of {printable(Path(self.song.name).name, 40)}"
        for chunk in tqdm(voiced, name, unit="chunk", leave=False, dynamic_ncols=True, disable=not progress):
            audio = self.song.read(chunk.read_start, chunk.read_stop)
            chunk = replace(chunk, audio=np.pad(audio, (chunk.pad_left, chunk.pad_right)))
            if chunk.is_loud:
                pipeline.predict_f0(chunk, self.song.rate)
                self._found[chunk.start] = curve = chunk.f0
                first, last = self._row(chunk.start), min(self._row(chunk.fade_start), len(self.hz))
                frames = np.clip(np.arange(first, last) - self._shift(chunk), 0, len(curve.f0) - 1)
                self.hz[first:last] = (curve.f0 * curve.uv)[frames]
                self.is_sung[first:last] = True
        self.song.rewind()

    def settle(self, options: ConversionOptions, predictor: str) -> None:
        """Makes it what is to be sung: follows the curve of a file, writes its own, tunes it, as is asked for."""
        melody = options.melody
        if melody.f0_in is not None:
            self.follow(melody.f0_in, predictor)
        if melody.f0_out is not None:
            write_curve(melody.f0_out, self.hz, self.hop_seconds, melody.overwrite)
            logger.info("%s: the F0 of %s", melody.f0_out.as_posix(), self.song.name)
        if melody.autotune:
            self.tune(melody, options.transpose)

    def follow(self, path: Path, predictor: str) -> None:
        """Takes over the curve in a file; `predictor` is what found the other one."""
        curve = read_curve(path)
        wanted = curve.on_frames(len(self.hz), self.hop_seconds)
        self._changed = self.is_sung & ~np.isnan(wanted) & (wanted.astype(np.float32) != self.hz)
        self._warn(path, curve, wanted, predictor)
        self.hz = np.where(self._changed, wanted, self.hz).astype(np.float32)
        n_changed, n_sung = int(self._changed.sum()), int(self.is_sung.sum())
        logger.info("%s: other than what %s finds in %d of %d frames", path, predictor, n_changed, n_sung)

    def tune(self, melody: MelodyOptions, transpose: float) -> None:
        """Pulls the notes to a scale; `transpose` is from the song to the result, in semitones."""
        notes = scale_notes(melody.scale)
        self._shifts = melody.autotune * note_shifts(self.hz, self.hop_seconds, transpose, notes, melody.tuning)
        moved = np.abs(self._shifts[self.hz > 0])
        cents = 100 * float(np.median(moved)) if len(moved) else 0.0
        logger.info("%s: tuned to %s, half of it by more than %.0f cents", self.song.name, melody.scale, cents)

    def of_chunk(self, chunk: Chunk) -> F0 | None:
        """The curve of a chunk, all its N frames; None where nothing was predicted, since it is not sung."""
        curve = self._found.get(chunk.start)
        if curve is None:
            return None
        n_frames, hop = len(curve.f0), self.audio.hop_length * self.song.rate / self.audio.sampling_rate
        places = origin(chunk) + np.arange(n_frames) * hop
        is_real = (places >= chunk.read_start) & (places < chunk.read_stop)  # its rows beside that are other chunks'
        if not is_real.any():
            return curve
        frames = np.clip(np.arange(n_frames), *np.flatnonzero(is_real)[[0, -1]])
        rows = np.clip(frames + self._shift(chunk), 0, len(self.hz) - 1)
        changed, own = self._changed[rows], curve.f0 * curve.uv
        if changed.any():  # of the padding, what the predictor calls voiced follows the sound beside it
            wanted = np.where(is_real | (own > 0), self.hz[rows], 0)
            heard = None if curve.heard is None else np.where(changed, 0.0, curve.heard)
            curve = replace(fill_gaps(np.where(changed, wanted, own)), heard=heard)
        if self._shifts is not None:
            tuned = curve.f0 * 2.0 ** (self._shifts[rows] / 12)
            curve = replace(curve, f0=tuned.astype(np.float32))
        return curve

    def _warn(self, path: Path, curve: Curve, wanted: np.ndarray, predictor: str) -> None:
        """Notes what a file leaves out, and what of it is not sung."""
        if text := self._lasting(np.isnan(wanted) & (self.hz > 0)):
            self.warnings.append(f"{path}: leaves out {text} and are sung; there the pitch is what {predictor} finds")
        if text := self._lasting((wanted > 0) & ~self.is_sung):
            self.warnings.append(f"{path}: has a pitch for {text}; there the song is below -sd and stays silent")
        if curve.times[-1] > self.song.seconds + LATER_SECONDS:
            self.warnings.append(
                f"{path}: goes on to {curve.times[-1]:.1f} s, and the song ends at {self.song.seconds:.1f} s. Is it of "
                "this song?"
            )

    def _lasting(self, rows: np.ndarray) -> str:
        """How long these rows (N,) last and where they begin; empty where that is not worth a word."""
        places = np.flatnonzero(rows)
        seconds = len(places) * self.hop_seconds
        return f"{seconds:.1f} s that begin at {places[0] * self.hop_seconds:.1f} s" if seconds >= SAID_SECONDS else ""

    def _row(self, position: int) -> int:
        """The first row at or after a sample of the song."""
        return -(-position * self.audio.sampling_rate // (self.song.rate * self.audio.hop_length))

    def _shift(self, chunk: Chunk) -> int:
        """From a chunk's frames to their rows."""
        return round(origin(chunk) * self.audio.sampling_rate / (self.song.rate * self.audio.hop_length))


def origin(chunk: Chunk) -> int:
    """The sample of the song at which a chunk's frames begin; negative where its padding comes before the song."""
    return chunk.read_start - chunk.pad_left


def pitch_of_part(whole: Chunk, part: Chunk, song: Song, audio: AudioSpec) -> F0:
    """The curve of a part of a chunk that has its audio: of each of its frames that of the nearest one of the whole."""
    first = round((origin(part) - origin(whole)) * audio.sampling_rate / (song.rate * audio.hop_length))
    n_frames = audio.n_frames(song.at(len(part.audio)))
    frames = np.clip(np.arange(first, first + n_frames), 0, len(whole.f0.f0) - 1)
    heard = None if whole.f0.heard is None else whole.f0.heard[frames]
    return F0(whole.f0.f0[frames], whole.f0.uv[frames], heard)
