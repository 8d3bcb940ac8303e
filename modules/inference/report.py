"""ConversionReport: what a conversion amounts to, and what its user must know and no more."""

import logging
from dataclasses import dataclass, field
from math import log10
from typing import Any

import numpy as np

from modules.audio.loudness import FULL_SCALE
from modules.audio.slicer import slice_silence
from modules.contracts import F0, F0Predictor
from modules.f0.doubt import LEAST_SECONDS, PitchDoubt
from modules.f0.histogram import PitchHistogram, describe_shift
from modules.f0.limits import F0_MAX
from modules.inference.extension import Comfort, Extension
from modules.inference.options import ConversionOptions
from modules.inference.stream import Song

logger = logging.getLogger(__name__)

AUDIBLE_DB = -35.0  # what is silenced is missed from here on, against the loudest of the song; hiss and hum lie below
AS_GOOD_AS_SILENT_DB = -80.0
MISSED_SECONDS = 0.5  # of audible sound left silent, or notes outside the voice, from which on it is said
LEVEL_DB = 6.0  # difference from the song that is said
SHORTEST_SECONDS = 0.1  # in less no predictor finds a pitch
CLIPPED_SAMPLES = 10  # fewer are not heard
DOUBTFUL_SHARE = 0.05  # of a song with doubtful pitch, from which on its notes are not compared with the voice's
HIGHEST_KNOWN = F0_MAX + 3  # Hz: where the pitch scale of voices ends


@dataclass
class ConversionReport:
    """What a conversion amounts to; filled in as it goes."""

    seconds: float = 0.0  # its duration
    elapsed: float = 0.0  # seconds that it took
    voiced_seconds: float = 0.0  # how much of it went through the networks
    resumed_seconds: float = 0.0  # how much of it an earlier run had left
    silent_seconds: float = 0.0  # how much lies below the silence threshold and stays silent, digital silence apart
    clipped_samples: int = 0  # of the result that stand at full scale
    f0_range: tuple[float, float] | None = None  # lowest and highest note of the result in Hz; None without any pitch
    warnings: list[str] = field(default_factory=list)  # what the user should know
    histogram: PitchHistogram = field(default_factory=PitchHistogram)  # of the song's notes, before it was transposed
    doubt: PitchDoubt = field(default_factory=PitchDoubt)  # where the sound contradicts the predictor
    high_seconds: float = 0.0  # of the result above the highest note that voices know
    extended: dict[int, float] = field(
        default_factory=dict
    )  # voiced seconds sung so many semitones higher than asked, and moved back
    outside_seconds: float = 0.0  # of phrases wider than the voice's range
    _powers: list[float] = field(default_factory=lambda: [0.0, 0.0])  # of song and result over the sung parts, summed

    @property
    def realtime_factor(self) -> float:
        """Computing time over duration of what was computed: below 1 is faster than playing."""
        return self.elapsed / max(self.seconds - self.resumed_seconds, 1e-9)

    @property
    def level_db(self) -> float | None:
        """Level of the result against the song over the sung parts, in dB; None where nothing was sung."""
        song, result = self._powers
        return 10 * log10(max(result, 1e-12 * song) / song) if song else None

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        seconds = ("seconds", "voiced_seconds", "silent_seconds", "resumed_seconds")
        return {name: round(getattr(self, name), 3) for name in seconds} | {
            "elapsed_seconds": round(self.elapsed, 3),
            "realtime_factor": round(self.realtime_factor, 4),
            "level_db": None if self.level_db is None else round(self.level_db, 1),
            "clipped_samples": self.clipped_samples,
            "f0_range_hz": self.f0_range and [round(hz, 1) for hz in self.f0_range],
            "warnings": self.warnings,
        }

    def warn(self, text: str) -> None:
        """Logs a warning and keeps it."""
        self.warnings.append(text)
        logger.warning("%s", text)

    def add_pitch(self, curve: F0, transpose: float) -> None:
        """Takes note of a chunk's pitch before it was transposed."""
        voiced = curve.f0[curve.uv > 0] * 2.0 ** (transpose / 12)
        if len(voiced):
            low, high = self.f0_range or (float("inf"), 0.0)
            self.f0_range = min(low, float(voiced.min())), max(high, float(voiced.max()))
            self.histogram += PitchHistogram.from_curve(curve.f0, curve.uv)

    def add_doubt(self, curve: F0, transpose: float, hop_seconds: float, start: float, inside: slice) -> None:
        """Takes note of what is doubtful about a chunk's pitch, which begins at second `start`, in its frames `inside`:
        the others are another chunk's."""
        voiced = (curve.f0 * curve.uv)[inside]
        self.high_seconds += hop_seconds * np.count_nonzero(voiced * 2.0 ** (transpose / 12) > HIGHEST_KNOWN)
        heard = None if curve.heard is None else curve.heard[inside]
        self.doubt.add(voiced, heard, hop_seconds, start + inside.start * hop_seconds)

    def add_extension(self, extension: Extension | None, curve: F0, frame_rate: float) -> None:
        """Takes note of what of a chunk was sung elsewhere and moved back, and of what stayed outside the range."""
        if extension is None:
            return
        self.outside_seconds += extension.outside_seconds
        moved, counts = np.unique(extension.shifts[curve.uv > 0.5], return_counts=True)
        for shift, count in zip(moved.tolist(), counts.tolist()):
            if shift:
                self.extended[shift] = self.extended.get(shift, 0.0) + count / frame_rate

    def tell_of_extension(self, name: str, comfort: Comfort) -> None:
        """Says which phrases were sung elsewhere, and warns of notes that no key of their phrase brings inside."""
        if self.outside_seconds >= MISSED_SECONDS:
            self.warn(
                f"{name}: {self.outside_seconds:.1f} s stay outside {comfort}: their phrases are wider than the voice; "
                "expect artefacts there"
            )
        if not self.extended:
            logger.info("%s: all phrases lie within %s; none was moved", name, comfort)
            return
        parts = [f"{self.extended[shift]:.1f} s by {shift:+d}" for shift in sorted(self.extended)]
        logger.info("%s: sung within %s and moved back: %s semitones", name, comfort, ", ".join(parts))

    def warn_of_pitch(self, name: str, transpose: float, predictor: F0Predictor) -> None:
        """Says where the pitch of the song `name` is doubtful, and where it is too high for a voice."""
        doubt = self.doubt
        if doubt.seconds >= LEAST_SECONDS:
            what, flags = doubt.describe(predictor.name, *predictor.limits)
            remedy = " ".join(f"{'-f0p' if flag == 'predictor' else flag} {value}" for flag, value in flags.items())
            if max(doubt.heard) * 2.0 ** (transpose / 12) > HIGHEST_KNOWN:
                remedy += f" -t {transpose - 12:g}, since voices know no note above {HIGHEST_KNOWN:.0f} Hz"
            self.warn(f"{name}, {doubt.first:.1f} to {doubt.last:.1f} s: {what}. Try: {remedy}")
        if self.high_seconds >= LEAST_SECONDS:
            self.warn(
                f"{name}: {self.high_seconds:.1f} s of the result are above {HIGHEST_KNOWN:.0f} Hz, where voices know "
                f"no notes; expect wrong ones there. -t {transpose - 12:g} brings them down"
            )

    def add_sound(self, source: np.ndarray, result: np.ndarray) -> None:
        """Takes note of the levels of a sung part (T,) and of what became of it (T',)."""
        seconds = len(result)  # in whatever unit: both last as long
        for index, wav in enumerate((source, result)):
            if len(wav):
                self._powers[index] += float(np.mean(wav.astype(np.float64) ** 2)) * seconds
        self.clipped_samples += int(np.count_nonzero(np.abs(result) >= FULL_SCALE))

    def conclude(self, song: Song, options: ConversionOptions, voice: PitchHistogram | None = None) -> None:
        """Warns of what the user must know once all is converted; `voice` holds the notes it was trained on."""
        for text in song.notes:
            self.warn(f"{song.name}: {text}")
        hardly_sung = self._warn_of_silence(song, options)
        level = self.level_db
        if level is None or hardly_sung:
            return
        if self.f0_range is None:
            if self.doubt.seconds < LEAST_SECONDS:  # else that line says why
                self.warn(f"{song.name}: no pitch was found anywhere, so the result is toneless. {_why_toneless(song)}")
        elif abs(level) >= LEVEL_DB:
            remedy = "; -lea 0 gives it the song's loudness" if options.loudness_ratio > 0 else ", even with -lea 0"
            difference = f"{abs(level):.0f} dB {'louder' if level > 0 else 'quieter'} than the song"
            self.warn(f"{song.name}: the result is {difference}{remedy}")
        if self.clipped_samples >= CLIPPED_SAMPLES:
            self.warn(
                f"{song.name}: {self.clipped_samples} samples of the result are at full scale and may crackle; "
                + ("a lower -lea keeps them below" if options.loudness_ratio > 0 else "try another -t")
            )
        # Where the pitch is doubtful, so is which notes are outside, and the line about it would name others.
        is_known = self.histogram.frames and self.doubt.seconds <= DOUBTFUL_SHARE * song.seconds
        if voice is not None and is_known and not options.predict_f0 and not options.extend_range:
            warning = describe_shift(self.histogram, voice, options.voice_transpose).warning
            if warning:
                self.warn(f"{song.name}: {warning}")

    def _warn_of_silence(self, song: Song, options: ConversionOptions) -> bool:
        """Says what was left silent though there is something to hear; returns whether most of the song is silent."""
        loudest = float(song.rms.max())
        if decibels(loudest) < AS_GOOD_AS_SILENT_DB:
            what = f"nothing in it is above {decibels(loudest):.0f} dB" if loudest else "the song is silent"
            self.warn(f"{song.name}: {what}, so nothing was sung. Is it the right file?")
            return True
        left = left_silent(song, options.slice_db)
        seconds = song.rms_hop / song.rate
        self.silent_seconds = len(left) * seconds
        audible = left[left > loudest * 10 ** (AUDIBLE_DB / 20)]
        if len(audible) * seconds >= MISSED_SECONDS:
            self.warn(
                f"{song.name}: {self.silent_seconds:.1f} s lie below -sd {options.slice_db:g} and stay silent, the "
                f"loudest of it at {decibels(float(left.max())):.0f} dB; -sd {threshold_for(song, audible)} sings it "
                "too"
            )
            return self.silent_seconds > song.seconds / 2
        return False


def left_silent(song: Song, slice_db: float) -> np.ndarray:
    """Loudness (n,) of all that is in silent segments and is not digital silence."""
    hop, parts = song.rms_hop, [np.zeros(0)]
    for segment in slice_silence(song.rms, song.n_samples, song.rate, slice_db):
        if not segment.voiced:
            parts.append(song.rms[-(-segment.start // hop) : segment.end // hop])
    found = np.concatenate(parts)
    return found[found > 0]


def threshold_for(song: Song, audible: np.ndarray) -> int:
    """The highest silence threshold, in steps of 5 dB from the usual one, that leaves out nothing to speak of."""
    lowest, seconds = float(audible.min()), song.rms_hop / song.rate
    threshold = min(int(decibels(float(audible.max())) // 5 * 5), int(ConversionOptions.slice_db))
    while threshold > -195 and np.count_nonzero(left_silent(song, threshold) >= lowest) * seconds >= MISSED_SECONDS:
        threshold -= 5
    return threshold


def _why_toneless(song: Song) -> str:
    """What to think and do of a song without any pitch."""
    if song.seconds < SHORTEST_SECONDS:
        return f"It lasts only {song.seconds:.3f} s. Is it the right file?"
    return "Is it music without a voice, or very noisy? Try another -f0p, or a lower threshold (-ft)"


def decibels(amplitude: float) -> float:
    """An amplitude in dB of full scale, at least -200."""
    return 20 * log10(max(amplitude, 1e-10))
