"""The engine on a file instead of a sound card: what CI runs, and how a setting is measured without a microphone."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from modules.audio.blocks import resampled
from modules.audio.io import StreamWriter
from modules.audio.mono import MonoFile
from modules.realtime.blocks import BlockQueue, BlockTimes
from modules.realtime.engine import Engine

logger = logging.getLogger(__name__)

READ_SECONDS = 1.0  # of the file at once


def convert_file(engine: Engine, source: Path, result: Path, paced: bool = False, bypass: bool = False) -> BlockTimes:
    """Writes what a listener would hear of a file, as long as it is and aligned with it: the delay is taken out.

    Unpaced, blocks follow each other as soon as they can, and latency is that of a stream in which no block waits.
    Paced, a block comes when its last sample would have been sung, and latency is what the clock says: where one is
    late, the next may be late too. An AudioError where the file cannot be read.
    """
    file, times, n_written = MonoFile(source), BlockTimes(engine.block_seconds), -engine.delay
    bar = tqdm(desc=result.name, total=_n_blocks(engine, file), unit="block", leave=False, delay=2)
    with StreamWriter(result, engine.sampling_rate, result.suffix[1:]) as writer, bar:
        started = time.perf_counter()
        for index, (block, n_wanted) in enumerate(_blocks(engine, file)):
            due = started + (index + 1) * engine.block_seconds
            if paced:
                time.sleep(max(0.0, due - time.perf_counter()))
            else:
                due = time.perf_counter()
            out = times.process(engine, block, bypass)
            late = time.perf_counter() - due
            if not engine.is_silent:
                times.latency.append(engine.block_seconds + engine.delay_seconds + late)
            first, n_left = max(0, -n_written), len(out) if n_wanted is None else n_wanted - max(0, n_written)
            writer.write(out[first:][: max(0, n_left)])
            n_written += len(out)
            bar.update()
    for note in file.notes:
        logger.info("%s: %s", source, note)
    if not times.work and not bypass:
        text = "%s: nothing in it is as loud as --gate %g dB, so the result is silence; give a lower --gate"
        logger.warning(text, source, engine.options.gate)
    return times


def _blocks(engine: Engine, file: MonoFile) -> Iterator[tuple[np.ndarray, int | None]]:
    """The blocks (n_block,) of a file at the engine's rate, zeros behind it until all has come out; with each the
    length of the result, once that is known."""
    queue, n_samples, n_block = BlockQueue(engine.n_block), 0, engine.n_block
    read = (block[:, None] for block in file.blocks(READ_SECONDS))
    for wav in resampled(read, file.rate, engine.sampling_rate, 1):
        n_samples += len(wav)
        for block in queue.push(wav[:, 0]):
            yield block, None
    n_wanted = -(-file.n_samples * engine.sampling_rate // file.rate)
    shortest = engine.delay + 1  # the resampler may give a sample less
    zeros = np.zeros(shortest + -(n_samples + shortest) % n_block, np.float32)
    for block in queue.push(zeros):
        yield block, n_wanted


def _n_blocks(engine: Engine, file: MonoFile) -> int | None:
    """How many blocks there will be, where the file says how long it is."""
    return file.n_samples and int(file.n_samples / file.rate / engine.block_seconds) + 1
