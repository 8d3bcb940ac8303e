"""Measuring a voice's range: it sings vowels on every semitone, and F0 predictors, level and noise judge it.

A vowel is the steadiest stretch of a recording, the mean of whose content units is held (what changes in it would count
as noise); three follow each other on a note, whose F0 is given exactly. `modules.metrics.notes` says when a note is
right and what comes of all.
"""

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modules.audio.loudness import frame_volume
from modules.audio.mel import mel_spectrogram
from modules.config.audio import AudioSpec
from modules.contracts import F0, F0Predictor, Synthesizer, VoiceInput
from modules.data.dataset import Item
from modules.errors import AudioError
from modules.evaluation.evaluator import audio_below, evenly_spaced, read_excerpt
from modules.f0.voice_range import VoiceRange
from modules.inference.chunks import Chunk
from modules.inference.options import ConversionOptions
from modules.inference.pipeline import Pipeline
from modules.inference.stream import Song
from modules.metrics.notes import NoteScore, find_range, judge_note
from modules.weights.card import volume_peak_of

NOTES = range(36, 97)  # C2 to C7
HIGHEST_HZ = 2150.0  # that the judges look for: above C7
BUILT_IN = "synthesized vowels"
_NOTE_SECONDS, _EDGE_SECONDS, _VOWELS = 0.7, 0.1, 3  # of a note; at either end, not judged; on each
_VOWEL_SECONDS = 0.24  # a held vowel in speech hardly lasts longer
_FAINTEST = 0.2  # of the loudest frame of a recording: level of a vowel
_BATCH = 8  # notes; where all of one are wrong after right ones, the voice has come to its end
_MOST_CLIPS, _CLIPS, _CLIP_SECONDS = 16, 4, 5.0  # that a vowel is looked for in, until so many have one
_CONTEXT_SECONDS = 1.0  # of the recording at either side of a vowel that the content encoder hears
_PLAIN_VOLUME = 0.3  # linear RMS, of a voice with volume whose card does not say how loud its clips were
_FORMANTS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240))  # Hz, of "ah", "ee" and "oo"
_WIDTHS, _FOURTH = (90, 110, 160), (3400, 250)  # Hz: bandwidths; a formant that all have, and its bandwidth
_BUILT_IN_HZ, _BUILT_IN_SECONDS = 165.0, 1.5


@dataclass(frozen=True)
class Vowels:
    """What is sung on each note, one after the other, so that no range hangs on a single vowel."""

    units: torch.Tensor  # (D, k)
    origin: str  # for people: the names of recordings, or BUILT_IN


@dataclass(frozen=True)
class Measured:
    """What came of the scale of one speaker."""

    range: VoiceRange | None  # None where no two neighbouring notes were right
    scores: tuple[NoteScore, ...]
    vowel: str

    def __str__(self) -> str:
        return f"{self.range or 'sings no note of the scale rightly'}, sung on {self.vowel}"


@dataclass(frozen=True)
class ScaleTest:
    """A voice and its judges."""

    synthesizer: Synthesizer
    audio: AudioSpec
    predictors: Sequence[F0Predictor]
    volume: float | None = None  # linear RMS of each frame; None for a voice that is given none
    notes: Sequence[int] = NOTES  # MIDI, ascending

    def measure(self, speaker: int, vowels: Vowels, on_note: Callable[[], None] = lambda: None) -> Measured:
        """The range of a speaker; `on_note` is called after each note, and what it raises ends the measurement.

        Notes after a whole batch of wrong ones that follows a right one are not sung.
        """
        scores: list[NoteScore] = []
        for midi, wav in zip(self.notes, self._synthesize(speaker, vowels)):
            scores.append(self._score(midi, wav))
            on_note()
            if any(score.is_right for score in scores) and not any(score.is_right for score in scores[-_BATCH:]):
                break
        found, names = find_range(scores), tuple(predictor.name for predictor in self.predictors)
        today = datetime.date.today().isoformat()
        known = found and VoiceRange(found.sings, found.comfortable, today, names, vowels.origin)
        return Measured(known, tuple(scores), vowels.origin)

    def _score(self, midi: int, wav: np.ndarray) -> NoteScore:
        edge, hop = round(_EDGE_SECONDS * self.audio.frame_rate), self.audio.hop_length
        curves = []
        for predictor in self.predictors:
            curve = predictor.predict(wav)
            curves.append(F0(curve.f0[edge:-edge], curve.uv[edge:-edge]))
        return judge_note(wav[edge * hop : -edge * hop], self.audio.sampling_rate, midi, curves)

    def _synthesize(self, speaker: int, vowels: Vowels) -> Iterator[np.ndarray]:
        """Each note, (T,) float32, made in batches."""
        n_frames = round(_NOTE_SECONDS * self.audio.frame_rate)
        units = vowels.units[:, torch.arange(n_frames) * vowels.units.shape[1] // n_frames]
        volume = None if self.volume is None else torch.full((n_frames,), self.volume, device=units.device)
        voiced = torch.ones(n_frames, device=units.device)
        for start in range(0, len(self.notes), _BATCH):
            pitches = [440.0 * 2.0 ** ((midi - 69) / 12) for midi in self.notes[start : start + _BATCH]]
            items = [VoiceInput(units, voiced * hz, voiced, speaker, volume) for hz in pitches]
            with torch.inference_mode():
                made = self.synthesizer.infer_batch(items, ConversionOptions.noise_scale)
            yield from (output.wav.float().cpu().numpy() for output in made)


def find_steady(wav: np.ndarray, curve: F0, audio: AudioSpec) -> tuple[float, slice] | None:
    """The steadiest voiced frames of a recording (T,), and how unsteady they are; None where none are long enough.

    Unsteady is the spread of F0 in semitones plus the mean change of the log mel from frame to frame.
    """
    length = round(_VOWEL_SECONDS * audio.frame_rate)
    sound = torch.from_numpy(np.asarray(wav, np.float32))
    volume = frame_volume(sound, audio.hop_length).numpy()
    mel = mel_spectrogram(sound, audio).numpy()
    n_frames = min(len(curve.f0), len(volume), mel.shape[1])
    if n_frames < length + 1:
        return None
    usable = (curve.uv[:n_frames] > 0.5) & (volume[:n_frames] >= _FAINTEST * volume.max())
    semitones = 12 * np.log2(np.maximum(curve.f0[:n_frames], 1.0))
    change = np.abs(np.diff(mel[:, :n_frames], axis=1, prepend=mel[:, :1])).mean(0)
    windows = np.lib.stride_tricks.sliding_window_view
    unsteady = windows(semitones, length).std(1) + windows(change, length).mean(1)
    unsteady = np.where(windows(usable, length).all(1), unsteady, np.inf)
    start = int(np.argmin(unsteady))
    return (float(unsteady[start]), slice(start, start + length)) if np.isfinite(unsteady[start]) else None


def find_vowels(pipeline: Pipeline, speaker: str, folder: Path) -> Vowels | None:
    """Vowels of a speaker's own recordings in a folder; None where there is no folder or no steady sound in it."""
    paths = evenly_spaced(audio_below(folder), _MOST_CLIPS)
    found: list[tuple[float, slice, Chunk, Path]] = []
    for path in (path for first in range(_CLIPS) for path in paths[first::_CLIPS]):  # from all over the folder
        try:
            clip = read_excerpt(path, _CLIP_SECONDS)
        except AudioError:
            continue  # whoever prepares the data set says so
        chunk = _chunk_of(pipeline, clip.wav, clip.rate)
        if (steady := find_steady(chunk.wav.cpu().numpy(), chunk.f0, pipeline.audio)) is not None:
            found.append((*steady, chunk, path))
        if len(found) == _CLIPS:
            break
    best = sorted(found, key=lambda one: one[0])[:_VOWELS]
    if not best:
        return None
    units = [_held_units(pipeline, speaker, chunk.wav.cpu().numpy(), place) for _, place, chunk, _ in best]
    return Vowels(torch.stack(units, 1), ", ".join(path.name for *_, path in best))


def vowels_of(items: Iterable[Item], audio: AudioSpec) -> Vowels | None:
    """The same of clips with their features, as training has them."""
    found: list[tuple[float, torch.Tensor, str]] = []
    for item in items:
        steady = find_steady(item.wav.numpy(), F0(item.f0.numpy(), item.uv.numpy()), audio)
        if steady is not None:
            found.append((steady[0], item.units[:, steady[1]].mean(1), Path(item.path).name))
    best = sorted(found, key=lambda one: one[0])[:_VOWELS]
    return (
        Vowels(torch.stack([units for _, units, _ in best], 1), ", ".join(name for *_, name in best)) if best else None
    )


def built_in_vowels(pipeline: Pipeline, speaker: str) -> Vowels:
    """Vowels for a voice without recordings, synthesized, as the content encoder hears them."""
    units, half = [], round(_VOWEL_SECONDS * pipeline.audio.frame_rate / 2)
    for formants in _FORMANTS:
        wav = synthesize_vowel(formants, pipeline.audio.sampling_rate)
        middle = len(wav) // pipeline.audio.hop_length // 2
        units.append(_held_units(pipeline, speaker, wav, slice(middle - half, middle + half)))
    return Vowels(torch.stack(units, 1), BUILT_IN)


def _held_units(pipeline: Pipeline, speaker: str, wav: np.ndarray, place: slice) -> torch.Tensor:
    """The mean units (D,) of some frames of a recording (T,) at the voice's rate."""
    hop, context = pipeline.audio.hop_length, round(_CONTEXT_SECONDS * pipeline.audio.frame_rate)
    first = max(0, place.start - context)
    part = wav[first * hop : (place.stop + context) * hop]
    units = _units_of(pipeline, speaker, part, pipeline.audio.sampling_rate)
    return units[:, place.start - first : place.stop - first].mean(1)


def synthesize_vowel(formants: tuple[float, float, float], rate: int) -> np.ndarray:
    """A vowel (T,) float32: harmonics of 165 Hz that fall by 12 dB an octave, through resonances at these Hz.

    Source: the formants of Peterson and Barney, "Control Methods Used in a Study of the Vowels", 1952, table II.
    """
    times = np.arange(round(_BUILT_IN_SECONDS * rate)) / rate
    hz = _BUILT_IN_HZ * np.arange(1, int(min(rate / 2, 8000) / _BUILT_IN_HZ))
    gains = (hz / _BUILT_IN_HZ) ** -2.0 * hz  # radiation from the lips gives 6 dB an octave back
    for centre, width in (*zip(formants, _WIDTHS), _FOURTH):
        gains = gains * centre**2 / np.abs(centre**2 - hz**2 + 1j * width * hz)
    wav = (gains[:, None] * np.sin(2 * np.pi * hz[:, None] * times)).sum(0)
    return (0.5 * wav / np.abs(wav).max()).astype(np.float32)


def volume_for(card: Mapping[str, Any], with_volume: bool) -> float | None:
    """The volume that a voice is given, where it is given any: that of its clips."""
    return (volume_peak_of(card) or _PLAIN_VOLUME) if with_volume else None


def _chunk_of(pipeline: Pipeline, wav: np.ndarray, rate: int) -> Chunk:
    chunk = Chunk(0, len(wav), 0, len(wav), len(wav), audio=wav)
    pipeline.predict_f0(chunk, rate)
    return chunk


def _units_of(pipeline: Pipeline, speaker: str, wav: np.ndarray, rate: int) -> torch.Tensor:
    """Units (D, N) of a recording on the voice's frames."""
    chunk, song = _chunk_of(pipeline, wav, rate), Song.from_array(wav, rate, pipeline.audio.sampling_rate)
    with torch.inference_mode():
        return pipeline.extract([chunk], song, ConversionOptions(speaker))[0].units
