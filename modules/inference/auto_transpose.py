"""The notes of a song before it is converted: enough of it to choose a key, however long it is."""

from pathlib import Path

import numpy as np

from modules.audio.slicer import Segment, slice_silence
from modules.f0.histogram import PitchHistogram
from modules.inference.pipeline import Renderer
from modules.inference.stream import Window, file_source, survey

HEARD_SECONDS = 90.0  # of a song, spread over all of it
PART_SECONDS = 10.0  # at once


def hear_song(path: Path, renderer: Renderer, slice_db: float) -> PitchHistogram:
    """Which notes a recording holds, heard with the predictor that will convert it.

    Of more than `HEARD_SECONDS` of voice only parts are heard, at equal distances.

    Args:
        path: any format that soundfile reads.
        renderer: with the predictor.
        slice_db: loudness below which a stretch counts as silence.

    Raises:
        AudioError: the file cannot be used.
    """
    source = file_source(path)
    found = survey(source)
    window = Window(source, found.gain)
    histogram = PitchHistogram.from_curve(np.zeros(0), np.zeros(0))
    segments = slice_silence(found.rms, found.n_samples, source.rate, slice_db)
    for start, stop in choose_parts([segment for segment in segments if segment.voiced], source.rate):
        chunk = window.read(start, stop)
        if chunk.any():
            curve = renderer.hear(chunk, source.rate, start / source.rate, found.n_samples / source.rate).curve
            histogram = histogram + PitchHistogram.from_curve(curve.f0, curve.uv)
    return histogram


def choose_parts(voiced: list[Segment], rate: int) -> list[tuple[int, int]]:
    """Spans of samples to hear, ascending: all of the voiced segments, or every n-th part of them.

    Args:
        voiced: segments of a song, ascending.
        rate: Hz.
    """
    part = int(PART_SECONDS * rate)
    parts = [
        (start, min(start + part, segment.end))
        for segment in voiced
        for start in range(segment.start, segment.end, part)
    ]
    seconds = sum(stop - start for start, stop in parts) / rate
    if seconds <= HEARD_SECONDS:
        return parts
    wanted = max(1, round(len(parts) * HEARD_SECONDS / seconds))
    return [parts[round(index * (len(parts) - 1) / max(1, wanted - 1))] for index in range(wanted)]
