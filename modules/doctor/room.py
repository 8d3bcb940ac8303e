"""Music under a voice and the ringing of a room, by how notes stand and how sound falls; numpy and scipy only."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from scipy import fft
from scipy.ndimage import uniform_filter1d

from modules.audio.io import resample
from modules.doctor.findings import Finding
from modules.doctor.stretches import Stretches
from modules.text import printable

_RATE = 11025  # Hz: chords and falls show below 5 kHz
_LEAST_SECONDS = 1  # a shorter rest is left out

# Lines of the spectrum that stand still.
_N_FFT, _HOP = 2048, 512  # 186 ms, 46 ms
_LOWEST_LINE, _HIGHEST_LINE = 60.0, 2500.0  # Hz
_PROMINENCE_DB = 10.0  # above the mean of 31 bins
_DEPTH_DB = 55.0  # below the loudest line
_STILL = 0.2  # bins, 1 Hz, that a line may move from frame to frame: a voice glides faster, and so does vibrato
_LINE_FRAMES = 5  # that it lasts: 0.4 s with the window
_WHOLE = 0.5  # of the frames of a stretch: what stands longer hums
_MAINS, _MAINS_HZ = (50, 60), 1.5  # whose multiples hum
_ON_SERIES_HZ = 4.0  # from a multiple of one fundamental
_LEAST_OTHERS = 2  # lines that no single series explains make a chord

# Falls of the level in bands.
_N_FALL, _FALL_HOP = 256, 128  # 23 ms, 12 ms
_BANDS = np.round(np.array([150, 300, 500, 800, 1200, 1800, 2600, 3600, 5000]) * _N_FALL / _RATE).astype(int)
_FALL_FRAMES = 13  # 0.15 s
_STRAIGHT_DB = 3.0  # RMS from a straight line
_OVER_FLOOR_DB, _UNDER_LOUD_DB, _RANGE_DB = 5.0, 5.0, 50.0  # where a fall may end and start; floor, loud: 3 %, 95 %
_CLIPPED = 0.3  # of the samples at the peak: x5 has 28 % at most, x30 36 % at least; that says nothing of a room
_SLOW, _STEEP = (30.0, 90.0), 150.0  # dB/s: 60 dB in 2 s to 0.7 s, as rooms that ring; as only dry sound falls

# Chosen on six clean voices (all 175 takes of 8 s; as they are, at full scale, as AAC 96 kbit/s) and four sung ones.
# Chords: clean at most 0.19 s of a take and 0.4 % of a voice; a band 10 dB under a voice for a minute 3 % at least.
_CHORD_SECONDS, _CHORD_SHARE = 0.3, 0.012
_SPOILT = 0.05  # of a voice's time: a band 10 dB under all of it
# Slow falls to each steep one: clean takes at most 50, voices 24, RT60 0.8 s with 3 dB of direct sound 78 at least.
# Slow falls in all that was looked at: noise as loud as the voice has 4 % at most, RT60 2 s 5 % at least.
_RATIO, _SLOW_SHARE = 75.0, 0.045
_MOST = 0.5  # of a voice's time that rings: it will always sound so


@dataclass(frozen=True)
class Room:
    """What was counted in a sound."""

    seconds: float = 0.0  # looked at
    chord_seconds: float = 0.0  # in which notes stand still that are no harmonics of one voice
    windows: int = 0  # of 0.15 s, in bands, in which a fall was looked for
    slow: int = 0  # falls as in a room that rings
    steep: int = 0  # falls as only dry sound has

    def __add__(self, other: "Room") -> "Room":
        return Room(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def has_music(self) -> bool:
        """Whether several notes sound at once."""
        return self.chord_seconds >= max(_CHORD_SECONDS, _CHORD_SHARE * self.seconds)

    @property
    def rings(self) -> bool:
        """Whether sound dies away slowly, and hardly ever at once, and no plucked string does it."""
        is_slow = self.ratio >= _RATIO and self.slow >= _SLOW_SHARE * self.windows
        return is_slow and self.chord_share < _CHORD_SHARE

    @property
    def chord_share(self) -> float:
        """Share of the time that has chords."""
        return self.chord_seconds / max(self.seconds, 1e-9)

    @property
    def ratio(self) -> float:
        """Slow falls to each steep one; the constants keep the few falls of a short sound from saying much."""
        return (self.slow + 1) / (self.steep + 3)


class RoomMeter:
    """Looks at ten seconds at a time.

    Music: lines of the spectrum that stand still for 0.4 s and of which at least two are not harmonics of one note.
    Ringing: slopes of the level in bands, straight over 0.15 s; a room has slow ones and swallows the steep ones.

    Source: Seyerlehner, Pohle, Schedl and Widmer, "Automatic music detection in television productions", 2007 (lines
    that stand still); Wen, Habets and Naylor, "Blind estimation of reverberation time based on the distribution of
    signal decay rates", 2008.
    """

    def __init__(self, rate: int) -> None:
        self._stretches, self._loudest, self._found = Stretches(rate), -np.inf, Room()  # dB, of a line

    def push(self, block: np.ndarray) -> None:
        """Takes the next (T,) samples."""
        for stretch in self._stretches.push(block):
            self._look(stretch)

    def finish(self) -> Room:
        """What was counted in all that was pushed."""
        for stretch in self._stretches.rest(_LEAST_SECONDS):
            self._look(stretch)
        return self._found

    def _look(self, stretch: np.ndarray) -> None:
        magnitudes = np.abs(stretch)
        if np.mean(magnitudes > 0.99 * magnitudes.max()) > _CLIPPED:
            return
        wav = resample(stretch, self._stretches.rate, _RATE)
        self._found += Room(len(stretch) / self._stretches.rate, self._chord_seconds(wav), *_count_falls(wav))

    def _chord_seconds(self, wav: np.ndarray) -> float:
        db = 10 * np.log10(_power(wav, _N_FFT, _HOP) + 1e-10)
        self._loudest = max(self._loudest, float(np.percentile(db.max(axis=1), 95)))
        hz, stands = _lines(db, self._loudest - _DEPTH_DB)
        around = uniform_filter1d(stands.mean(axis=0), 3, mode="constant") * 3
        stands &= around < _WHOLE
        frames = np.flatnonzero(stands.sum(axis=1) > _LEAST_OTHERS)
        return sum(_is_chord(hz[frame][stands[frame]]) for frame in frames) * _HOP / _RATE


def judge(section: str, speaker: str, sounds: Mapping[Path, Room], noisy: Collection[Path] = ()) -> list[Finding]:
    """Kinds `music` and `reverb`, of a file only the surer one. Where no file is clear, all of them together are.

    `noisy` files are not judged for reverb: hum swallows the abrupt falls too.
    """
    seconds, findings = sum(room.seconds for room in sounds.values()), []
    musical = _those(sounds, "has_music", "chord_share")
    if musical:
        detail = "chords in {:.1%} of the time, of a voice alone less than 1%"
        text = _describe(section, sounds, musical, "music under the voice", detail, "chord_share")
        is_much = sum(room.chord_seconds for room in sounds.values()) >= _SPOILT * seconds
        remedy = (
            "Take the voice out of the music with: python separate.py FILE (docs/covers.md), or leave these files out"
        )
        level = "error" if is_much else "warning"
        findings.append(Finding(section, level, "music", speaker, text, remedy, tuple(musical)))
    rooms = {path: sounds[path] for path in set(sounds) - {*musical, *noisy}}
    ringing = _those(rooms, "rings", "ratio")
    if ringing:
        detail = f"{{:.0f}} slow falls to each abrupt one, of a dry voice less than {_RATIO:.0f}"
        text = _describe(section, sounds, ringing, "the ringing of a hall", detail, "ratio")
        is_much = sum(rooms[path].seconds for path in ringing) > _MOST * seconds
        remedy = "Record closer to the microphone, in a furnished room and without effects, or leave these files out"
        level = "error" if is_much else "warning"
        findings.append(Finding(section, level, "reverb", speaker, text, remedy, tuple(ringing)))
    return findings


def _those(sounds: Mapping[Path, Room], verdict: str, measure: str) -> list[Path]:
    """The files that have it, the worst first; all, where only all of them together have it."""
    worst_first = sorted(sounds, key=lambda path: (-getattr(sounds[path], measure), path))
    clear = [path for path in worst_first if getattr(sounds[path], verdict)]
    return clear or (worst_first if getattr(_together(sounds, worst_first), verdict) else [])


def _together(sounds: Mapping[Path, Room], paths: Sequence[Path]) -> Room:
    return sum((sounds[path] for path in paths), Room())


def _describe(
    section: str, sounds: Mapping[Path, Room], found: Sequence[Path], what: str, detail: str, measure: str
) -> str:
    """In words; the number is the worst file's, or that of all together where `_those` needed all."""
    worst = sounds[found[0]]
    where, room = f"worst: {printable(found[0].name)}", worst
    if not (worst.has_music or worst.rings):
        where, room = "together", _together(sounds, found)
    return f"{len(found)} of {len(sounds)} {section} have {what} ({where}, {detail.format(getattr(room, measure))})"


def _power(wav: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """(N, n_fft / 2 + 1) power of the whole windows in (T,)."""
    frames = np.lib.stride_tricks.sliding_window_view(wav, n_fft)[::hop]
    spectrum = fft.rfft(frames * np.hanning(n_fft).astype(np.float32))
    return spectrum.real**2 + spectrum.imag**2


def _lines(db: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz of the peaks of a spectrum (N, bins), and which of them have stood for _LINE_FRAMES; (N, M)."""
    first, last = (int(hz * _N_FFT / _RATE) for hz in (_LOWEST_LINE, _HIGHEST_LINE))
    left, at, right = (db[:, first + offset : last + offset] for offset in (-1, 0, 1))
    is_peak = (at > left) & (at >= right) & (at > floor) & (at > uniform_filter1d(at, 31, axis=1) + _PROMINENCE_DB)
    lean = np.clip(0.5 * (left - right) / np.minimum(left - 2 * at + right, -1e-6), -0.5, 0.5)  # of a parabola
    bins = np.where(is_peak, np.arange(first, last, dtype=np.float32) + lean, -1e3)
    before = np.pad(bins[:-1], ((0, 0), (1, 1)), constant_values=-2e3)
    width = bins.shape[1]
    goes_on = [np.abs(bins[1:] - before[:, shift : shift + width]) < _STILL for shift in range(3)]
    stands = is_peak
    for _ in range(_LINE_FRAMES - 1):
        stood = np.pad(stands[:-1], ((0, 0), (1, 1)))
        stands = np.zeros_like(is_peak)
        for shift in range(3):
            stands[1:] |= goes_on[shift] & stood[:, shift : shift + width]
    return bins * (_RATE / _N_FFT), stands


def _is_chord(hz: np.ndarray) -> bool:
    """Whether lines (n,) Hz are those of more than one note, with and without what could be the mains' hum."""
    if _outside_series(hz) < _LEAST_OTHERS:
        return False
    voiced = [hz[np.abs(hz - mains * np.round(hz / mains)) > _MAINS_HZ] for mains in _MAINS]
    return all(_outside_series(some) >= _LEAST_OTHERS for some in voiced)


def _outside_series(hz: np.ndarray) -> int:
    """How many lines the best harmonic series leaves unexplained: one of them is its first to fourth harmonic."""
    if len(hz) <= _LEAST_OTHERS:
        return 0
    fundamentals = (hz[:, None] / np.arange(1, 5)).ravel()
    fundamentals = fundamentals[fundamentals > _LOWEST_LINE][:, None]
    number = np.maximum(np.round(hz / fundamentals), 1)
    return len(hz) - int((np.abs(hz - number * fundamentals) < _ON_SERIES_HZ).sum(axis=1).max())


def _count_falls(wav: np.ndarray) -> tuple[int, int, int]:
    """How many windows were looked at, and how many are slow and steep falls."""
    energies = np.add.reduceat(_power(wav, _N_FALL, _FALL_HOP), _BANDS, axis=1)[:, :-1]
    db = 10 * np.log10(energies + 1e-10)
    floor, loud = np.percentile(db, (3, 95), axis=0)
    times = (np.arange(_FALL_FRAMES) - (_FALL_FRAMES - 1) / 2) * (_FALL_HOP / _RATE)
    windows = np.lib.stride_tricks.sliding_window_view(db, _FALL_FRAMES, axis=0)
    slopes = windows @ times / (times @ times)
    spread = windows.var(axis=-1) - slopes**2 * (times @ times) / _FALL_FRAMES
    start, end = windows[..., :3].mean(axis=-1), windows[..., -3:].mean(axis=-1)
    counts = (spread < _STRAIGHT_DB**2) & (start < loud - _UNDER_LOUD_DB)
    counts &= (end > floor + _OVER_FLOOR_DB) & (end > loud - _RANGE_DB)
    slow = counts & (-slopes > _SLOW[0]) & (-slopes < _SLOW[1])
    return slopes.size, int(slow.sum()), int((counts & (-slopes > _STEEP)).sum())
