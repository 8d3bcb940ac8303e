"""What a voice sings, by semitones, and where two predictors are an octave apart or the sound contradicts them.

Worker processes measure: nothing here needs torch. What is doubtful in stored features is for `modules.data.pitch`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from modules.audio.io import resample
from modules.data.clips import COMMAND
from modules.doctor.findings import Finding
from modules.doctor.stretches import SECONDS, Stretches
from modules.f0.doubt import LEAST_SECONDS, PitchDoubt
from modules.f0.histogram import BINS_PER_SEMITONE, CENTRES, PitchHistogram, describe_notes, note_name
from modules.f0.limits import F0_MAX, F0_MIN
from modules.f0.octaves import LOOK_RATE, check_octaves
from modules.text import printable

_HOP = 256  # samples at LOOK_RATE, 23 ms
HOP_SECONDS = _HOP / LOOK_RATE
_WHOLE_SECONDS, _EVERY = 600, 6  # the first ten minutes are measured, then one stretch of six
_SHORTEST = 0.1  # seconds that hold three periods of F0_MIN
_OCTAVE = (0.8, 1.25)  # octaves between two curves

# Six clean voices (all takes): 0.5 % of the voiced frames of a voice at most, 3.6 % and 0.21 s of a take; four sung
# ones: none. A singer repitched to medians of 900, 1100 and 1350 Hz: 6 %, 24 % and 40 %.
_VOICE_SHARE = 0.02
_FILE_SHARE, _FILE_SECONDS = 0.1, 0.5

_NARROW, _MONOTONE = 12, 5  # semitones; five minutes of speech of the six clean voices have 13 to 20
_ENOUGH_SECONDS = 60.0  # voiced, to say so


@dataclass(frozen=True)
class Pitch:
    """The notes of a sound, in frames of `HOP_SECONDS`."""

    seconds: float = 0.0
    measured_seconds: float = 0.0  # of these
    notes: PitchHistogram = field(default_factory=PitchHistogram)
    doubtful: int = 0  # frames in which the predictors are an octave apart or the sound contradicts
    heard: PitchHistogram = field(default_factory=PitchHistogram)  # what the sound has where it contradicts
    found: PitchHistogram = field(default_factory=PitchHistogram)  # what the predictor has there, where it is voiced

    def __add__(self, other: "Pitch") -> "Pitch":
        return Pitch(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    @property
    def voiced_seconds(self) -> float:
        """Measured time with a pitch."""
        return self.notes.frames * HOP_SECONDS

    @property
    def doubt(self) -> float:
        """Doubtful frames, as a share of the voiced ones, 0 to 1."""
        return min(1.0, self.doubtful / max(1, self.notes.frames))


class PitchMeter:
    """Two predictors, Praat's autocorrelation and WORLD's DIO, both with the repair that the toolkit gives any curve.

    Source: Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
    sampled sound", 1993; Morise, Kawahara and Katayose, "Fast and reliable F0 estimation method based on the period
    extraction of vocal fold vibration of singing voice and speech", 2009.
    """

    def __init__(self, rate: int) -> None:
        self._stretches, self._count, self._found = Stretches(rate), 0, Pitch()

    def push(self, block: np.ndarray) -> None:
        """Takes the next (T,) samples."""
        for stretch in self._stretches.push(block):
            self._look(stretch)

    def finish(self) -> Pitch:
        """What was found in all that was pushed."""
        for stretch in self._stretches.rest(_SHORTEST):
            self._look(stretch)
        return self._found + Pitch(seconds=self._stretches.n_samples / self._stretches.rate)

    def _look(self, stretch: np.ndarray) -> None:
        is_measured = self._count < _WHOLE_SECONDS // SECONDS or self._count % _EVERY == 0
        self._count += 1
        if is_measured:
            self._found += _measure(resample(stretch, self._stretches.rate, LOOK_RATE))


def _measure(wav: np.ndarray) -> Pitch:
    """The notes of (T,) at LOOK_RATE."""
    seconds, n_frames = len(wav) / LOOK_RATE, len(wav) // _HOP
    if not wav.any() or len(wav) <= 3 * LOOK_RATE / F0_MIN:
        return Pitch(measured_seconds=seconds)
    curve, heard = check_octaves(wav, LOOK_RATE, HOP_SECONDS, _praat(wav, n_frames), F0_MIN, F0_MAX)
    other, _ = check_octaves(wav, LOOK_RATE, HOP_SECONDS, _dio(wav, n_frames), F0_MIN, F0_MAX)
    both = (curve > 0) & (other > 0)
    apart = np.abs(np.log2(np.where(both, curve, 1.0) / np.where(both, other, 1.0)))
    doubtful = (heard > 0) | ((apart > _OCTAVE[0]) & (apart < _OCTAVE[1]))
    notes, heard_notes, found = (
        PitchHistogram.from_curve(hz, hz > 0) for hz in (curve, heard, np.where(heard > 0, curve, 0.0))
    )
    return Pitch(0.0, seconds, notes, int(doubtful.sum()), heard_notes, found)


def _praat(wav: np.ndarray, n_frames: int) -> np.ndarray:
    """(N,) Hz, 0 where unvoiced; Praat centres the frames that fit."""
    import parselmouth

    found = parselmouth.Sound(wav.astype(np.float64), LOOK_RATE).to_pitch_ac(
        time_step=HOP_SECONDS, voicing_threshold=0.6, pitch_floor=F0_MIN, pitch_ceiling=F0_MAX
    )
    curve = found.selected_array["frequency"]
    missing = max(0, n_frames - len(curve))
    return np.pad(curve, ((missing + 1) // 2, missing // 2))[:n_frames]


def _dio(wav: np.ndarray, n_frames: int) -> np.ndarray:
    """(N,) Hz, 0 where unvoiced."""
    import pyworld

    curve, _ = pyworld.dio(
        wav.astype(np.float64), LOOK_RATE, f0_floor=F0_MIN, f0_ceil=F0_MAX, frame_period=1000 * HOP_SECONDS, speed=4
    )
    return np.pad(curve, (0, n_frames))[:n_frames]


def coverage(pitch: Pitch) -> list[tuple[str, float]]:
    """(note, seconds) of every semitone from the lowest to the highest that is sung, none left out."""
    counts = np.asarray(pitch.notes.counts, np.float64)
    between = counts[1::2] / BINS_PER_SEMITONE  # half a semitone off: to the notes on both sides
    seconds = (counts[::2] + np.append(between, 0) + np.append(0, between)) * HOP_SECONDS
    sung = np.flatnonzero(seconds)
    return [
        (note_name(CENTRES[BINS_PER_SEMITONE * index]), float(seconds[index]))
        for index in (range(sung[0], sung[-1] + 1) if len(sung) else ())
    ]


def judge(section: str, speaker: str, sounds: Mapping[Path, Pitch]) -> list[Finding]:
    """Kinds `pitch` and `range`, the notes of a voice, and `octave`, doubt about them."""
    total = sum(sounds.values(), Pitch())
    if not total.notes.frames:
        if total.measured_seconds < _SHORTEST:
            return []
        return [Finding(section, "warning", "pitch", speaker, "no note was found", "Listen whether it is a voice")]
    return [*_judge_notes(section, speaker, total), *_judge_octaves(section, speaker, sounds, total)]


def _judge_notes(section: str, speaker: str, total: Pitch) -> list[Finding]:
    lasting = [note for note, seconds in coverage(total) if seconds >= 1]
    text = f"{describe_notes(total.notes)}, {len(lasting)} semitones with at least 1 s"
    if total.measured_seconds < 0.99 * total.seconds:
        text += f", in the {total.measured_seconds / 60:.1f} of {total.seconds / 60:.1f} min that were measured"
    findings = [Finding(section, "info", "pitch", speaker, text)]
    if lasting and len(lasting) < _NARROW and total.voiced_seconds >= _ENOUGH_SECONDS:
        level = "warning" if len(lasting) < _MONOTONE else "info"
        text = (
            f"hardly any note below {lasting[0]} or above {lasting[-1]} is in the material: songs that go there will "
            f"sound weak ({len(lasting)} semitones, expected {_NARROW} and more)"
        )
        remedy = "Record scales or songs that go lower and higher, or convert with -t auto"
        findings.append(Finding(section, level, "range", speaker, text, remedy))
    return findings


def _judge_octaves(section: str, speaker: str, sounds: Mapping[Path, Pitch], total: Pitch) -> list[Finding]:
    files = [
        path
        for path, pitch in sounds.items()
        if pitch.doubt >= _FILE_SHARE and pitch.doubtful * HOP_SECONDS >= _FILE_SECONDS
    ]
    if total.doubt >= _VOICE_SHARE and total.doubtful * HOP_SECONDS >= LEAST_SECONDS:
        files = files or [path for path, pitch in sounds.items() if pitch.doubtful]
    if not files:
        return []
    files.sort(key=lambda path: -sounds[path].doubt)
    meant = sum((sounds[path] for path in files), Pitch())
    doubt = PitchDoubt(_hz(meant.heard), _hz(meant.found), meant.heard.frames * HOP_SECONDS)
    described = doubt.describe("pm", F0_MIN, F0_MAX)
    what, flags = described or ("two predictors, pm and dio, are an octave apart", {"predictor": "fcpe"})
    flags = {"--f0_predictor": flags.pop("predictor", "pm"), **flags}
    command = " ".join([COMMAND, *(f"{flag} {value}" for flag, value in flags.items())])
    worst = files[0]
    text = (
        f"the pitch of {len(files)} of {len(sounds)} {section} is in doubt (worst: {printable(worst.name)}, "
        f"{sounds[worst].doubt:.0%} of its voiced time): {what}"
    )
    remedy = f"Try {command}, or leave out what is no clear note"
    return [Finding(section, "warning", "octave", speaker, text, remedy, tuple(files))]


def _hz(notes: PitchHistogram) -> list[float]:
    return np.repeat(440.0 * 2 ** ((CENTRES - 69) / 12), notes.counts).tolist()
