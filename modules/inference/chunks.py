"""Which parts of a song go through the networks at once, and how their outputs are joined; in samples of the song."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from modules.audio.crossfade import crossfade, join_pieces, split_forced
from modules.audio.slicer import Segment, slice_silence
from modules.contracts import F0
from modules.inference.extension import Extension
from modules.inference.options import ConversionOptions
from modules.inference.stream import Song

JOIN_SECONDS = 0.05  # cross-fade at the cuts of a segment above the cap
SHORTEST_SECONDS = 0.5  # least audio given to the networks; F0 predictors and encoders need a few frames
SILENCE_SECONDS = 10.0  # long silences are written in blocks


@dataclass(eq=False)
class Chunk:
    """What goes through the networks at once.

    read_start      start              fade_start     stop     read_stop
        |--context----|=======output========|---fade----|--context--|
                                            |===output of the next===
    """

    start: int  # first sample that the output stands for
    stop: int  # one past the last
    read_start: int  # first sample given to the networks, at most `start`
    read_stop: int  # one past the last, at least `stop`
    fade_start: int  # from here to `stop` it overlaps the next chunk; `stop` where it does not
    pad_left: int = 0  # zeros put before, in samples
    pad_right: int = 0  # zeros put behind
    voiced: bool = True  # a silent one is put out as zeros
    audio: np.ndarray | None = None  # (T,) between its zeros, at the song's rate; None until it is read
    wav: torch.Tensor | None = None  # (T',) the same at the model's rate on the device; None until its pitch is known
    f0: F0 | None = None  # N frames, not transposed
    extension: Extension | None = None  # how its phrases are sung elsewhere, and moved back

    @property
    def has_context(self) -> bool:
        """Whether real audio surrounds the output on at least one side."""
        return self.read_start < self.start or self.read_stop > self.stop

    @property
    def is_centred(self) -> bool:
        """Whether it lies between equal lengths of zeros."""
        return not self.has_context and self.pad_left == self.pad_right

    @property
    def is_loud(self) -> bool:
        """Whether there is anything to convert: digital silence, too, has nothing."""
        return self.audio is not None and bool(self.audio.any())


def plan_chunks(song: Song, options: ConversionOptions) -> list[Chunk]:
    """The chunks of a whole song in order, silent ones between them; their audio is not read yet.

    A voiced segment up to the cap is one chunk between zeros. Forced chunks (`clip_seconds`) also lie between zeros,
    each starting `overlap_seconds` before the last one ends. A segment above the cap is cut where it is quietest, with
    real audio as context at the cuts.
    """
    pad, cap = int(song.rate * options.pad_seconds), int(song.rate * options.max_segment_seconds)
    chunks: list[Chunk] = []
    for segment in slice_silence(song.rms, song.n_samples, song.rate, options.slice_db):
        if not segment.voiced:
            step = int(SILENCE_SECONDS * song.rate)
            for start in range(segment.start, segment.end, step):
                stop = min(start + step, segment.end)
                chunks.append(Chunk(start, stop, start, stop, stop, voiced=False))
        elif options.clip_seconds > 0:
            length, overlap = int(song.rate * options.clip_seconds), int(song.rate * options.overlap_seconds)
            spans = split_forced(segment.end - segment.start, length, overlap)
            spans = [(segment.start + start, segment.start + stop) for start, stop in spans]
            for (start, stop), following in zip(spans, [*spans[1:], (segment.end, segment.end)]):
                chunks.append(Chunk(start, stop, start, stop, following[0], pad, pad))
        else:
            cuts = find_cuts(segment, cap, song.rms, song.rms_hop)
            chunks += _chunks_between(segment, cuts, song.rate, options, pad)
    for chunk in chunks:
        n_read = chunk.pad_left + chunk.read_stop - chunk.read_start + chunk.pad_right
        chunk.pad_right += max(0, int(SHORTEST_SECONDS * song.rate) - n_read)
    return chunks


def unfinished(chunks: list[Chunk], song: Song, n_done: int) -> list[Chunk]:
    """The chunks that are left when `n_done` samples of output exist.

    The last finished chunk comes again where its end is joined with the next one.
    """
    finished = [chunk for chunk in chunks if song.at(chunk.fade_start) <= n_done]
    again = bool(finished) and finished[-1].fade_start < finished[-1].stop
    return chunks[len(finished) - again :]


def split_chunk(chunk: Chunk, longest: int, song: Song, options: ConversionOptions) -> list[Chunk]:
    """A chunk as several, none with more than about `longest` samples of output; together they read what it reads."""
    whole = Segment(chunk.start, chunk.stop, True)
    parts = _chunks_between(whole, find_cuts(whole, longest, song.rms, song.rms_hop), song.rate, options, 0)
    parts[0].read_start, parts[0].pad_left = chunk.read_start, chunk.pad_left
    parts[-1].read_stop, parts[-1].pad_right = chunk.read_stop, chunk.pad_right
    origin = chunk.read_start - chunk.pad_left
    for part in parts:
        first, last = part.read_start - part.pad_left, part.read_stop + part.pad_right
        part.audio = chunk.audio[first - origin : last - origin]
    return parts


def silence(chunk: Chunk, song: Song) -> np.ndarray:
    """The output of a chunk in which there is nothing to convert."""
    return np.zeros(song.at(chunk.stop) - song.at(chunk.start), np.float32)


def trim(wav: np.ndarray, chunk: Chunk, song: Song, options: ConversionOptions) -> np.ndarray:
    """The output of a chunk from what the networks made of it, without padding and context."""
    wav = wav[kept_samples(len(wav), chunk, song, options)]
    # Frames are whole, so a padded chunk gives up to one hop less than it was long; upstream shares that gap, and so do
    # we, to give the same samples.
    missing = song.at(chunk.stop) - song.at(chunk.start) - len(wav)
    left = missing // 2 if chunk.is_centred else 0
    return np.pad(wav, (left, missing - left)).astype(np.float32, copy=False)


def kept_samples(n_samples: int, chunk: Chunk, song: Song, options: ConversionOptions) -> slice:
    """Which of the samples that the networks make of a chunk are put out."""
    if chunk.is_centred:
        start = int(song.out_rate * options.pad_seconds)
        stop = max(start, n_samples - start)
    else:
        start, stop = song.at(chunk.start - chunk.read_start + chunk.pad_left), n_samples
    return slice(start, min(stop, start + song.at(chunk.stop) - song.at(chunk.start)))


def join(tail: np.ndarray, wav: np.ndarray, chunk: Chunk, song: Song, retain: float) -> tuple[np.ndarray, np.ndarray]:
    """What can be put out once a chunk is converted, from its `start` to its `fade_start`, and its own tail.

    chunk before   =====output=====|---tail---|
    chunk                          |==== wav =====|---tail---|      the overlap is a cross-fade of both

    Of the overlap of forced chunks only the share `retain` is mixed.
    """
    if overlap := len(tail):
        same_audio, head = chunk.read_start < chunk.start, wav[:overlap]
        mixed = join_pieces(tail, head) if same_audio else crossfade(tail, head, overlap, retain)
        wav = np.concatenate([mixed, wav[overlap:]])
    n_ready = len(wav) - (song.at(chunk.stop) - song.at(chunk.fade_start))
    return wav[:n_ready], wav[n_ready:]


def find_cuts(segment: Segment, longest: int, rms: np.ndarray, rms_hop: int) -> list[int]:
    """Places to cut a segment so that no part exceeds `longest` samples: the quietest frame in reach, each time.

    The search covers the second half of what is allowed and leaves at least a quarter of `longest` for the last part.
    `rms` is the loudness of the whole file, one value every `rms_hop` samples.
    """
    cuts, position = [], segment.start
    while segment.end - position > longest:
        first = (position + longest // 2) // rms_hop + 1
        last = min(position + longest, segment.end - longest // 4) // rms_hop
        window = rms[first : last + 1]
        position = (first + int(np.argmin(window)) if len(window) else last) * rms_hop
        cuts.append(position)
    return cuts


def _chunks_between(segment: Segment, cuts: list[int], rate: int, options: ConversionOptions, pad: int) -> list[Chunk]:
    """Chunks from cut to cut: half a join beyond each cut is put out, `context_seconds` beyond it are read."""
    half_join, context = int(rate * JOIN_SECONDS / 2), int(rate * options.context_seconds)
    chunks = []
    for left, right in pairwise([segment.start, *cuts, segment.end]):
        is_first, is_last = left == segment.start, right == segment.end
        chunks.append(
            Chunk(
                start=left if is_first else left - half_join,
                stop=right if is_last else right + half_join,
                read_start=left if is_first else max(segment.start, left - context),
                read_stop=right if is_last else min(segment.end, right + context),
                fade_start=right if is_last else right - half_join,
                pad_left=pad if is_first else 0,
                pad_right=pad if is_last else 0,
            )
        )
    return chunks
