"""Which stretch of a file goes through the networks at once, where its output lies, and how outputs are joined.

Positions on the input are samples of the file; `Timeline` turns them into samples of the output. Because every length
is a difference of two such positions, a result has exactly the right length however many pieces it is made of.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, pairwise

import numpy as np

from modules.audio.crossfade import crossfade, join_pieces, split_forced
from modules.audio.slicer import Segment
from modules.inference.options import ConversionOptions

JOIN_SECONDS = 0.05  # cross-fade at the cuts of a capped stretch


@dataclass(frozen=True)
class Timeline:
    """Positions of the input in samples of the output.

    Args:
        from_rate: Hz of the input.
        to_rate: Hz of the output.
    """

    from_rate: int
    to_rate: int

    def at(self, position: int) -> int:
        """ceil(position * to_rate / from_rate), exact: `at(n)` is the length of a converted clip of n samples."""
        return -(-position * self.to_rate // self.from_rate)

    def length(self, start: int, stop: int) -> int:
        """Samples of output between two positions of the input."""
        return self.at(stop) - self.at(start)


@dataclass(frozen=True)
class Piece:
    """One pass through the networks.

        read_start      start                      stop     read_stop
            |--context----|=======output============|--context--|

    Args:
        start: first input sample that the output stands for. A piece overlaps its neighbour by their cross-fade.
        stop: one past the last.
        read_start: first input sample given to the networks, at most `start`.
        read_stop: one past the last, at least `stop`.
        pad_left: zeros put before, in input samples.
        pad_right: zeros put behind.
    """

    start: int
    stop: int
    read_start: int
    read_stop: int
    pad_left: int
    pad_right: int

    @property
    def has_context(self) -> bool:
        """Whether real audio surrounds the output on at least one side."""
        return self.read_start < self.start or self.read_stop > self.stop


def plan_pieces(segment: Segment, rate: int, options: ConversionOptions, rms: np.ndarray, rms_hop: int) -> list[Piece]:
    """The pieces of one voiced stretch, in order.

    A stretch up to the cap is one piece between zeros. Forced pieces (`clip_seconds`) also lie between zeros, each
    starting `overlap_seconds` before the last one ends. A stretch above the cap is cut where it is quietest, with real
    audio as context at the cuts.

    Args:
        segment: a voiced stretch.
        rate: Hz of the input.
        options: the request.
        rms: loudness of the whole file, one value every `rms_hop` samples.
        rms_hop: samples between two values of `rms`.
    """
    pad = int(rate * options.pad_seconds)
    if options.clip_seconds > 0:
        length, overlap = int(rate * options.clip_seconds), int(rate * options.overlap_seconds)
        spans = split_forced(segment.end - segment.start, length, overlap)
        offset = segment.start
        return [Piece(offset + a, offset + b, offset + a, offset + b, pad, pad) for a, b in spans]
    if segment.end - segment.start <= options.max_segment_seconds * rate:
        return [Piece(segment.start, segment.end, segment.start, segment.end, pad, pad)]
    cuts = find_cuts(segment, int(rate * options.max_segment_seconds), rms, rms_hop)
    return _pieces_between(segment, cuts, rate, options, pad)


def split_piece(
    piece: Piece, longest: int, rate: int, options: ConversionOptions, rms: np.ndarray, rms_hop: int
) -> list[Piece]:
    """A piece as several, none with more than about `longest` samples of output; together they read what it reads.

    Args:
        piece: with more than `longest` samples.
        longest: most samples between two cuts.
        rate: Hz of the input.
        options: the request.
        rms: loudness of the whole file, one value every `rms_hop` samples.
        rms_hop: samples between two values of `rms`.
    """
    whole = Segment(piece.start, piece.stop, True)
    parts = _pieces_between(whole, find_cuts(whole, longest, rms, rms_hop), rate, options, 0)
    parts[0] = replace(parts[0], read_start=piece.read_start, pad_left=piece.pad_left)
    parts[-1] = replace(parts[-1], read_stop=piece.read_stop, pad_right=piece.pad_right)
    return parts


def join_stretch(
    pieces: list[Piece], rendered: Iterator[np.ndarray], timeline: Timeline, overlap_retain: float
) -> Iterator[np.ndarray]:
    """The output of neighbouring pieces, taken from `rendered`, cross-faded where they overlap.

    piece 1  [====body====][tail]
    piece 2                [head][====body====][tail]      tail and head become one join
    """
    tail = np.zeros(0, np.float32)
    for piece, following in zip(pieces, chain(pieces[1:], [None])):
        wav = next(rendered)
        overlap = len(tail)
        if overlap and piece.has_context:
            yield join_pieces(tail, wav[:overlap])
        elif overlap:
            yield crossfade(tail, wav[:overlap], overlap, overlap_retain)
        kept = timeline.length(following.start, piece.stop) if following else 0
        yield wav[overlap : len(wav) - kept]
        tail = wav[len(wav) - kept :]


def find_cuts(segment: Segment, longest: int, rms: np.ndarray, rms_hop: int) -> list[int]:
    """Places to cut a stretch so that no part exceeds `longest` samples: the quietest frame in reach, each time.

    The search covers the second half of what is allowed and leaves at least a quarter of `longest` for the last part.

    Args:
        segment: the stretch, longer than `longest`.
        longest: most samples between two cuts.
        rms: loudness of the whole file.
        rms_hop: samples between two values of `rms`.

    Returns:
        Positions inside the stretch, ascending.
    """
    cuts, position = [], segment.start
    while segment.end - position > longest:
        first = (position + longest // 2) // rms_hop + 1
        last = min(position + longest, segment.end - longest // 4) // rms_hop
        window = rms[first : last + 1]
        quietest = first + int(np.argmin(window)) if len(window) else last
        position = quietest * rms_hop
        cuts.append(position)
    return cuts


def _pieces_between(segment: Segment, cuts: list[int], rate: int, options: ConversionOptions, pad: int) -> list[Piece]:
    """Pieces from cut to cut: half a join beyond each cut is put out, `context_seconds` beyond it are read."""
    half_join, context = int(rate * JOIN_SECONDS / 2), int(rate * options.context_seconds)
    edges = [segment.start, *cuts, segment.end]
    pieces = []
    for left, right in pairwise(edges):
        first, last = left == segment.start, right == segment.end
        pieces.append(
            Piece(
                start=left if first else left - half_join,
                stop=right if last else right + half_join,
                read_start=left if first else max(segment.start, left - context),
                read_stop=right if last else min(segment.end, right + context),
                pad_left=pad if first else 0,
                pad_right=pad if last else 0,
            )
        )
    return pieces
