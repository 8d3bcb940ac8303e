"""The same sound twice: fingerprints of pairs of spectral peaks, and the files of all speakers that share them.

Source: Wang, "An Industrial-Strength Audio Search Algorithm", ISMIR 2003, sections 2.1 to 2.3.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.ndimage import maximum_filter

from modules.doctor.findings import Finding
from modules.doctor.framing import Framer
from modules.text import printable

_FRAME_SECONDS, _HOP_SECONDS = 0.08, 0.02  # 12.5 Hz between two bins
_LOW_BIN, _HIGH_BIN = 16, 280  # 200 to 3500 Hz: what a telephone and every codec let through
_HALVED_RATE = 32000  # Hz; from here on means of two samples do: what they fold lies far above the band
_NEAR_FRAMES, _NEAR_BINS = 4, 6  # a peak is the largest within these, to both sides
_PEAKS_PER_SECOND = 16
_RANGE_DB, _SILENT_DB = 40, -80  # peaks lie so far below the second's largest at most, and above silence
_SECOND = 50  # frames
_FAN = 4  # pairs for each peak
_NEXT_FRAMES, _LAST_FRAMES, _MOST_BINS = 3, 34, 63  # where the second of a pair may lie

_MOST_HASHES = 600_000  # that are compared: of more only every second, third, ... value, of all sounds the same ones
_MOST_EQUAL = 64  # neighbours with the same hash that each is compared with; hum has more
# Hits of two different sounds of the six clean voices: 5 at most, of 360 and more; of a copy through mp3, AAC, 8 kHz or
# noise of 15 dB, trimmed: 15 % at least, in 89 % of the seconds and more. Two takes that have some words in common
# (ru_edwin_m 029 and 032) have 9 % in half of the seconds, and are not the same.
_FEWEST_HITS, _HITS_PER_SECOND = 8, 4
_MOST_OF_IT, _LONG_SECONDS = 0.7, 12  # of the shorter one's seconds; or so many, in long takes
_SILENT_PEAK = 1e-4
_ERROR_SHARE = 0.1  # of a speaker's seconds


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What a sound is recognised by."""

    seconds: float
    digest: str  # of all samples; empty where the sound is silent
    hashes: np.ndarray = field(repr=False)  # (n,) uint32
    frames: np.ndarray = field(repr=False)  # (n,) int32, when, in 20 ms


class FingerprintMeter:
    """Makes the fingerprint of one sound as it streams by."""

    def __init__(self, rate: int) -> None:
        self._rate, self._n_samples, self._peak = rate, 0, 0.0
        self._digest = hashlib.blake2b(digest_size=16)
        self._halver = Framer(2, 2) if rate >= _HALVED_RATE else None
        reduced = rate / 2 if self._halver else rate
        length = round(reduced * _FRAME_SECONDS)
        self._framer = Framer(length, reduced * _HOP_SECONDS)
        self._window = np.hanning(length).astype(np.float32)
        self._levels = np.full((_NEAR_FRAMES, _HIGH_BIN - _LOW_BIN), -200, np.float32)  # not searched yet, with context
        self._at = -_NEAR_FRAMES  # frame of their first row
        self._pairs: list[np.ndarray] = []
        self._peaks = np.zeros((0, 2), np.int64)  # chosen, and not paired with all that follow yet

    def push(self, block: np.ndarray) -> None:
        """Takes the next (T,) float32 mono samples."""
        self._n_samples += len(block)
        self._peak = max(self._peak, float(np.abs(block).max(initial=0.0)))
        self._digest.update(np.ascontiguousarray(block, np.float32))
        if self._halver:
            pairs = self._halver.push(block)
            block = (pairs[:, 0] + pairs[:, 1]) / 2
        spectrum = np.fft.rfft(self._framer.push(block) * self._window)[:, _LOW_BIN:_HIGH_BIN]
        power = (spectrum.real**2 + spectrum.imag**2) / (self._framer.length / 4) ** 2
        level = np.full((len(power), _HIGH_BIN - _LOW_BIN), -200, np.float32)
        level[:, : power.shape[1]] = 10 * np.log10(power + 1e-20)
        self._search(level)

    def _search(self, level: np.ndarray, is_last: bool = False) -> None:
        """Finds the peaks of whole seconds among the frames that were not searched yet."""
        self._levels = np.concatenate([self._levels, level])
        while True:
            n_rows = len(self._levels) - 2 * _NEAR_FRAMES
            if n_rows < _SECOND and not (is_last and n_rows > 0):
                return
            n_rows = min(n_rows, _SECOND)
            part = self._levels[: n_rows + 2 * _NEAR_FRAMES]
            inner = part[_NEAR_FRAMES:-_NEAR_FRAMES]
            largest = maximum_filter(part, (2 * _NEAR_FRAMES + 1, 2 * _NEAR_BINS + 1))[_NEAR_FRAMES:-_NEAR_FRAMES]
            limit = max(_SILENT_DB, float(inner.max()) - _RANGE_DB)
            rows, bins = np.nonzero((inner == largest) & (inner > limit))
            order = np.argsort(-inner[rows, bins], kind="stable")[:_PEAKS_PER_SECOND]
            chosen = np.stack([rows[order] + self._at + _NEAR_FRAMES, bins[order]], 1)
            chosen = chosen[np.lexsort((chosen[:, 1], chosen[:, 0]))]
            self._peaks = np.concatenate([self._peaks, chosen])
            self._levels, self._at = self._levels[n_rows:], self._at + n_rows
            self._pair(self._at + _NEAR_FRAMES - _LAST_FRAMES)

    def _pair(self, until: int) -> None:
        """Pairs the peaks before frame `until` with those that follow; all that can follow are there."""
        peaks, n_done = self._peaks, int(np.searchsorted(self._peaks[:, 0], until))
        for index in range(n_done):
            frame, low = peaks[index]
            later = peaks[index + 1 :]
            apart, shift = later[:, 0] - frame, later[:, 1] - low
            fits = (apart >= _NEXT_FRAMES) & (apart < _LAST_FRAMES) & (np.abs(shift) <= _MOST_BINS)
            first = np.flatnonzero(fits)[:_FAN]
            code = (low << 12) | ((shift[first] + 64) << 5) | (apart[first] - _NEXT_FRAMES)
            self._pairs.append(np.stack([code, np.full(len(first), frame)], 1))
        self._peaks = peaks[n_done:]

    def finish(self) -> Fingerprint:
        """The fingerprint of all that was pushed."""
        self._search(np.full((_NEAR_FRAMES, self._levels.shape[1]), -200, np.float32), is_last=True)
        self._pair(1 << 40)
        pairs = np.concatenate([np.zeros((0, 2), np.int64), *self._pairs])
        digest = self._digest.hexdigest() if self._peak >= _SILENT_PEAK else ""
        seconds = self._n_samples / self._rate
        return Fingerprint(seconds, digest, pairs[:, 0].astype(np.uint32), pairs[:, 1].astype(np.int32))


def find_duplicates(
    section: str, sounds: dict[Path, Fingerprint], speakers: dict[Path, str] | None = None
) -> list[Finding]:
    """The sounds that are there twice, among all speakers; `speakers` says whose each is (without: its folder's name).

    The same recording under two speakers is an error, as both voices would learn it; within one a warning, and an error
    where the copies are more than a tenth of the speaker's material.
    """
    paths = sorted(sounds)
    owner = {path: speakers[path] if speakers else path.parent.name for path in paths}
    groups: dict[tuple[str, ...], list[tuple[float, Path, Path]]] = defaultdict(list)
    for share, first, second in _shared([sounds[path] for path in paths]):
        one, other = paths[first], paths[second]
        groups[tuple(sorted({owner[one], owner[other]}))].append((share, one, other))
    findings = []
    for names, pairs in sorted(groups.items()):
        pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
        files = tuple(dict.fromkeys(path for _, one, other in pairs for path in (one, other)))
        share, one, other = pairs[0]
        example = f"{printable(one.name)} and {printable(other.name)}, {100 * share:.0f} % alike"
        if len(names) == 2:
            text = (
                f"{len(files)} {section} of the two hold the same sound (most alike: {example}): both voices learn it"
            )
            remedy = "Delete them from the speaker whose voice it is not"
            findings.append(Finding(section, "error", "duplicates", " and ".join(names), text, remedy, files))
            continue
        n_files, total = list(owner.values()).count(names[0]), 0.0
        total = sum(sounds[path].seconds for path in paths if owner[path] == names[0])
        copied = sum(sounds[path].seconds for path in _copies(pairs, sounds))
        level = "error" if copied > _ERROR_SHARE * total else "warning"
        text = f"{len(files)} of {n_files} {section} hold sound that is there twice (most alike: {example})"
        remedy = f"Delete one of each: {copied:.0f} of {total:.0f} s count double in training"
        findings.append(Finding(section, level, "duplicates", names[0], text, remedy, files))
    return findings


def _copies(pairs: list[tuple[float, Path, Path]], sounds: dict[Path, Fingerprint]) -> set[Path]:
    """Of each pair the shorter one, the first of equal ones stays."""
    return {other if sounds[other].seconds <= sounds[one].seconds else one for _, one, other in pairs}


def _shared(prints: list[Fingerprint]) -> list[tuple[float, int, int]]:
    """(share of the shorter one's seconds that the other has too, index, index) of what is the same."""
    found = {}
    by_digest: dict[str, int] = {}
    for index, sound in enumerate(prints):
        if sound.digest and (first := by_digest.setdefault(sound.digest, index)) != index:
            found[first, index] = 1.0
    hashes = np.concatenate([np.zeros(0, np.uint32), *(sound.hashes for sound in prints)])
    frames = np.concatenate([np.zeros(0, np.int32), *(sound.frames for sound in prints)])
    owners = np.repeat(np.arange(len(prints)), [len(sound.hashes) for sound in prints])
    counts = np.array([len(sound.hashes) for sound in prints])
    thinned = max(1, len(hashes) // _MOST_HASHES)
    keep = (hashes * np.uint32(2654435761) >> np.uint32(16)) % thinned == 0  # the same ones in every sound
    for first, second, hits, n_seconds in _aligned(hashes[keep], frames[keep], owners[keep]):
        shorter = min(first, second, key=lambda index: counts[index])
        filled = len(np.unique(prints[shorter].frames // _SECOND))
        is_dense = hits * thinned >= _HITS_PER_SECOND * n_seconds
        is_enough = n_seconds >= min(_MOST_OF_IT * filled, _LONG_SECONDS)
        if is_dense and is_enough and (first, second) not in found:
            found[first, second] = min(1.0, n_seconds / filled)
    return [(share, *pair) for pair, share in sorted(found.items())]


def _aligned(hashes: np.ndarray, frames: np.ndarray, owners: np.ndarray) -> list[tuple[int, int, int, int]]:
    """(owner, owner, hits, seconds that have hits) of each two sounds, at the distance in time with most hits."""
    order = np.lexsort((frames, owners, hashes))
    hashes, frames, owners = hashes[order], frames[order], owners[order]
    found = [np.zeros((0, 2), np.int64)]
    for step in range(1, _MOST_EQUAL + 1):
        same = np.flatnonzero(hashes[step:] == hashes[:-step])
        if not len(same):
            break
        same = same[owners[same] != owners[same + step]]
        found.append(np.stack([same, same + step], 1))
    first, second = np.concatenate(found).T
    n_owners, span = int(owners.max(initial=0)) + 1, 1 << 26  # frames, over which two takes may be apart
    key = (owners[first] * n_owners + owners[second]) * span + (frames[second] - frames[first]) + span // 2
    order = np.lexsort((hashes[first], key))
    key, value, frame = key[order], hashes[first][order], frames[first][order]
    is_new = np.ones(len(key), bool)
    is_new[1:] = (key[1:] != key[:-1]) | (value[1:] != value[:-1])  # of a hum each hash counts once
    key, frame = key[is_new], frame[is_new]
    keys, starts, counts = np.unique(key, return_index=True, return_counts=True)
    beside = np.zeros_like(counts)  # half of the peaks may lie one frame later
    beside[:-1] = np.where(keys[1:] == keys[:-1] + 1, counts[1:], 0)
    hits, best = counts + beside, {}
    for at in np.flatnonzero(hits >= _FEWEST_HITS):
        pair = int(keys[at] // span)
        if hits[at] > best.get(pair, (0,))[0]:
            here = frame[starts[at] : starts[at] + hits[at]]  # those of the next distance lie behind them
            best[pair] = (int(hits[at]), len(np.unique(here // _SECOND)))
    return [(pair // n_owners, pair % n_owners, *numbers) for pair, numbers in sorted(best.items())]
