"""Silence to segments: where a song can be cut inaudibly, by one loudness value per 20 ms."""

from dataclasses import dataclass

import numpy as np

from modules.audio.loudness import hop_energies, rms_from_energies

WINDOW_HOPS = 4
MIN_INTERVAL_MS = 300
MAX_SILENCE_KEPT_MS = 5000


@dataclass(frozen=True)
class Segment:
    """A part of a file that is voiced or silent."""

    start: int  # samples
    end: int  # exclusive
    voiced: bool  # whether there is something to convert


class RmsMeter:
    """Loudness of a stream, one value each hop (20 ms), whatever the sizes of the blocks it comes in."""

    def __init__(self, rate: int, hop_length: int | None = None) -> None:
        self.hop_length = hop_length or slicer_hop(rate)
        self.n_samples = 0
        self._energies: list[np.ndarray] = []
        self._rest = np.zeros(0, dtype=np.float32)

    def push(self, block: np.ndarray) -> None:
        """Takes the next (T,) samples."""
        self.n_samples += len(block)
        joined = np.concatenate([self._rest, block]) if len(self._rest) else block
        whole = len(joined) // self.hop_length * self.hop_length
        if whole:
            self._energies.append(hop_energies(joined[:whole], self.hop_length))
        self._rest = joined[whole:].copy()

    def finish(self, hops: int = WINDOW_HOPS) -> np.ndarray:
        """Loudness of all that was pushed: (n_samples // hop_length + 1,), windows of so many hops centred on each."""
        parts = [*self._energies, hop_energies(self._rest, self.hop_length)]
        return rms_from_energies(np.concatenate(parts), self.n_samples, self.hop_length, hops)


def slicer_hop(rate: int) -> int:
    """Samples between two loudness values, 20 ms apart."""
    return round(rate * 20 / 1000)


def slice_silence(
    rms: np.ndarray, n_samples: int, rate: int, threshold_db: float = -40.0, min_length_ms: int = 5000
) -> list[Segment]:
    """Cuts a file at its silences, exactly as so-vits-svc's slicer does.

    Silences of 0.3 s and more are cut where they are quietest once the segment before them has `min_length_ms`; up to
    5 s of a silence stays with the voice at either side. `rms` is what `RmsMeter.finish` gives for the file; segments
    cover 0 to n_samples without gap or overlap, none empty.
    """
    hop = slicer_hop(rate)
    min_length = round(rate * min_length_ms / 1000 / hop)
    tags = []
    if n_samples > min_length:  # so-vits-svc compares samples with frames, and segment borders depend on it
        min_interval = round(rate * MIN_INTERVAL_MS / 1000 / hop)
        keep = round(rate * MAX_SILENCE_KEPT_MS / 1000 / hop)
        tags = _silences(rms, 10 ** (threshold_db / 20), min_length, min_interval, keep)
    segments, position = [], 0
    for first, last in tags:
        start, end = min(first * hop, n_samples), min(last * hop, n_samples)
        segments += [Segment(position, start, True), Segment(start, end, False)]
        position = end
    segments.append(Segment(position, n_samples, True))
    return [segment for segment in segments if segment.end > segment.start]


def _silences(rms: np.ndarray, threshold: float, min_length: int, min_interval: int, keep: int) -> list[tuple]:
    """(start, end) of silent segments in frames; equal numbers mean a cut without anything taken out."""

    def quietest(first: int, last: int) -> int:
        return first + int(np.argmin(rms[first : last + 1]))

    tags: list[tuple[int, int]] = []
    silence_start, clip_start = None, 0
    for frame, is_silent in enumerate(rms < threshold):
        if is_silent:
            silence_start = frame if silence_start is None else silence_start
            continue
        if silence_start is None:
            continue
        length, leading = frame - silence_start, silence_start == 0
        in_the_middle = length >= min_interval and frame - clip_start >= min_length
        if (leading and frame > keep) or in_the_middle:
            if length <= keep:
                left = right = quietest(silence_start, frame)
            else:
                left, right = quietest(silence_start, silence_start + keep), quietest(frame - keep, frame)
                if length <= 2 * keep and not leading:
                    between = quietest(frame - keep, silence_start + keep)
                    left, right = min(left, between), max(right, between)
            tags.append((0 if leading else left, right))
            clip_start = right
        silence_start = None
    if silence_start is not None and len(rms) - silence_start >= min_interval:
        last = quietest(silence_start, min(len(rms), silence_start + keep))
        tags.append((last, len(rms) + 1))
    return tags
