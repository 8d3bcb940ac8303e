"""Choosing the key of a conversion (`-t auto`): which notes a song holds against which the voice was trained on."""

import logging
from pathlib import Path

import numpy as np

from modules.audio.slicer import Segment, slice_silence
from modules.errors import UsageError
from modules.f0.curve_files import read_curve
from modules.f0.histogram import PitchHistogram, choose_shift
from modules.inference.arguments import AUTO_OCTAVE
from modules.inference.chunks import Chunk
from modules.inference.pipeline import Pipeline
from modules.inference.stream import Song

logger = logging.getLogger(__name__)

LISTEN_SECONDS = 90.0  # of a song, spread over all of it
PART_SECONDS = 10.0  # at once


class KeyChooser:
    """Chooses transpositions; the F0 of every song is extracted once."""

    def __init__(
        self, voices: dict[str, PitchHistogram], speakers: list[str], model: Path, pipeline: Pipeline, slice_db: float
    ) -> None:
        """A chooser for `speakers`, whose notes `voices` must have; `model` is the voice's file, for the message."""
        self.voices, self.pipeline, self.slice_db = voices, pipeline, slice_db
        self._songs: dict[Path, PitchHistogram] = {}
        for speaker in speakers:
            if speaker not in voices:
                raise UsageError(
                    f"-t auto: neither {model} nor dataset/44k/f0_histograms.json says which notes {speaker!r} was "
                    "trained on. Give a number (-t 0), measure them once (python evaluate.py --range --card), or run "
                    "preprocess_hubert_f0.py on the voice's data set."
                )

    def choose(self, path: Path, speaker: str, how: str, f0_in: Path | None = None) -> int:
        """Semitones for a song, of which `f0_in` may be the curve, in a voice; says why."""
        if path not in self._songs:
            song = Song.from_file(path, self.pipeline.audio.sampling_rate)
            self._songs[path] = song_histogram(song, self.pipeline, self.slice_db, f0_in)
        return self._choose(self._songs[path], str(path), speaker, how)

    def choose_for(self, song: Song, speaker: str, how: str, f0_in: Path | None = None) -> int:
        """The same for a song that nothing has been read of yet, and that is not to be converted itself."""
        return self._choose(song_histogram(song, self.pipeline, self.slice_db, f0_in), song.name, speaker, how)

    def _choose(self, notes: PitchHistogram, name: str, speaker: str, how: str) -> int:
        choice = choose_shift(notes, self.voices[speaker], how == AUTO_OCTAVE)
        logger.info("%s, %s: %s", name, speaker, choice.reason)
        return int(choice.semitones)


def song_histogram(song: Song, pipeline: Pipeline, slice_db: float, f0_in: Path | None = None) -> PitchHistogram:
    """Which notes a song holds, by the curve `f0_in` as far as that goes; of more than `LISTEN_SECONDS` of voice only
    parts count, at equal distances."""
    given = None if f0_in is None else read_curve(f0_in)
    hop_seconds = pipeline.audio.hop_length / pipeline.audio.sampling_rate
    histogram = PitchHistogram.from_curve(np.zeros(0), np.zeros(0))
    segments = slice_silence(song.rms, song.n_samples, song.rate, slice_db)
    for start, stop in choose_parts([segment for segment in segments if segment.voiced], song.rate):
        part = Chunk(start, stop, start, stop, stop, audio=song.read(start, stop))
        if part.audio.any():
            pipeline.predict_f0(part, song.rate)
            hz = part.f0.f0 * part.f0.uv
            if given is not None:
                said = given.on_frames(len(hz), hop_seconds, start / song.rate)
                hz = np.where(np.isnan(said), hz, said)
            histogram = histogram + PitchHistogram.from_curve(hz, hz > 0)
    return histogram


def choose_parts(voiced: list[Segment], rate: int) -> list[tuple[int, int]]:
    """Spans of samples to predict the pitch of, ascending: all of the voiced segments, or every n-th part of them."""
    part = int(PART_SECONDS * rate)
    parts = [
        (start, min(start + part, segment.end))
        for segment in voiced
        for start in range(segment.start, segment.end, part)
    ]
    seconds = sum(stop - start for start, stop in parts) / rate
    if seconds <= LISTEN_SECONDS:
        return parts
    wanted = max(1, round(len(parts) * LISTEN_SECONDS / seconds))
    return [parts[round(index * (len(parts) - 1) / max(1, wanted - 1))] for index in range(wanted)]
