"""A song's file taken apart into the files of its parts, in memory that does not grow with its length.

Each stage reads its input to measure it (and to see that all of it can be read), then a block at a time through the
network. What the network gives waits on disk, so that a killed run goes on there; in the end it is brought to the
input's rate and written beside the rest, which is the input minus it.
"""

import contextlib
import logging
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from modules.audio.blocks import resampled
from modules.audio.io import StreamWriter
from modules.errors import AudioError, UsageError
from modules.files import lock_folder, make_folder, remove_leftovers
from modules.separation.partial import PartialSound
from modules.separation.record import Record, identity
from modules.separation.separator import Separator
from modules.separation.sound import Reader, SoundFile
from modules.separation.stages import DRY, LEAD, VOCALS, Stage, choose_stem

logger = logging.getLogger(__name__)

_FULL = 1 << 23  # of 24 bits
_MOST_CHANNELS, _HIGHEST_RATE = 8, 655350  # that a flac may have


@dataclass(frozen=True)
class Step:
    """A stage with the model that does it."""

    stage: Stage
    separator: Separator
    input: str | None  # the part that it takes apart; None for the song itself


def plan(separator: Separator, lead: Separator | None = None, echo: Separator | None = None) -> list[Step]:
    """The stages in their order; a UsageError where a model does not give what its stage needs."""
    steps = [Step(VOCALS, separator, None)]
    if lead:
        steps.append(Step(LEAD, lead, "vocals"))
    if echo:
        steps.append(Step(DRY, echo, steps[-1].stage.name))
    for step in steps:
        choose_stem(step.separator.stems, step.stage, step.separator.label)
    return steps


def separate_file(
    source: Path,
    folder: Path,
    separator: Separator,
    lead: Separator | None = None,
    echo: Separator | None = None,
    overwrite: bool = False,
    show: bool = True,
) -> dict[str, Path]:
    """Writes the parts of a song as 24-bit flac, with the rate, the length and the channels of the song; their paths by
    name. What is there already, made from the same by the same, stays as it is.

    `vocals.flac` and `music.flac`, and with a model for it `lead.flac` and `backing.flac` of the vocals, and `dry.flac`
    of the lead or else the vocals. Two that belong together add up to what they were made of, exactly.

    Args:
        overwrite: make all of them again, and replace files of other songs, other models and others; else a UsageError.
        show: progress bars.
    """
    source, folder, steps = Path(source), Path(folder), plan(separator, lead, echo)
    identity(_readable(source))
    make_folder(folder)
    with lock_folder(folder):
        remove_leftovers(folder, recursive=False)
        record, keys = Record(folder), _keys(source, steps)
        paths = {output: record.path(output) for step in steps for output in step.stage.outputs}
        if source.resolve() in [path.resolve() for path in paths.values()]:
            raise UsageError(f"{source}: would be replaced by its own part. Use another folder than {folder}.")
        for step, key in zip(steps, keys, strict=True):
            if record.is_foreign(step.stage, key) and not overwrite:
                names = " and ".join(record.path(output).name for output in step.stage.outputs)
                text = f"{folder}: {names} there are of another song, by another model or by others"
                raise UsageError(f"{text}. Use another folder, or add --overwrite.")
        for step, key in zip(steps, keys, strict=True):
            if record.is_done(step.stage, key) and not overwrite:
                continue
            _separate(step, source if step.input is None else record.path(step.input), record, key, show)
            record.finish(step.stage, {"source": source.name, "model": step.separator.label})
            for later in (LEAD, DRY):
                record.drop_later(later, key)
    return paths


def find_folder(
    wanted: Path, source: Path, steps: list[Step], overwrite: bool = False, used: Collection[Path] = ()
) -> tuple[Path, bool]:
    """Where the parts of a song go, and whether all are there: `wanted`, or `wanted_2` and so on where that holds parts
    of another song or by another model. `overwrite` takes what is not in `used`."""
    keys = _keys(_readable(source), steps)
    for number in range(1, 1_000_000):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
        if folder in used or (folder.exists() and not folder.is_dir()):
            continue
        record = Record(folder)
        pairs = [(step.stage, key) for step, key in zip(steps, keys, strict=True)]
        if overwrite or not any(record.is_foreign(*pair) for pair in pairs):
            if folder != wanted:
                text = "%s holds the parts of another song or by another model and stays; these go to %s"
                logger.info(text + " (--overwrite replaces)", wanted.as_posix(), folder.name)
            return folder, all(record.is_done(*pair) for pair in pairs)
    raise UsageError(f"{wanted}: there is no free name like it")


def _readable(source: Path) -> Path:
    if not source.is_file():
        raise AudioError(f"{source}: {'is a folder, expected a song' if source.is_dir() else 'no such file'}")
    return source


def _keys(source: Path, steps: list[Step]) -> list[dict[str, Any]]:
    """What each stage's files are made from: the song, and all models up to there, the first of all first."""
    song, models, keys = identity(source), [], []
    chains: dict[str, list[str]] = {}
    for step in steps:
        models = [*chains.get(step.input or "", []), step.separator.stamp]
        chains[step.stage.name] = models
        keys.append({"source_sha256": song, "models_sha256": models})
    return keys


def _separate(step: Step, source: Path, record: Record, key: dict[str, Any], show: bool) -> None:
    """One stage of one song."""
    before, started, separator, stage = _stamp(source), time.monotonic(), step.separator, step.stage
    sound = SoundFile(source)
    if sound.channels > _MOST_CHANNELS or sound.rate > _HIGHEST_RATE:
        limits = f"a flac holds at most {_MOST_CHANNELS} channels and {_HIGHEST_RATE} Hz"
        raise AudioError(f"{source}: has {sound.channels} channels at {sound.rate} Hz, and {limits}. Save it as less.")
    for text in sound.notes:
        logger.warning("%s: %s", source, text)
    partial = PartialSound(record.path(stage.name).parent, stage.name, key, sound.channels)
    rate, seconds = separator.sampling_rate, sound.n_samples / sound.rate
    if not partial.is_complete:
        blocks = resampled(sound.blocks(), sound.rate, rate, sound.channels)
        out = separator.separate(blocks, stage, sound.mean, sound.deviation, partial.done)
        options = {"unit": "s", "unit_scale": True, "dynamic_ncols": True, "disable": not show}
        begun = partial.done / rate
        with tqdm(desc=f"{source.name}: {stage.name}", total=seconds, initial=begun, **options) as bar:
            for n_samples in partial.fill(out):
                bar.update(min(n_samples / rate, seconds - bar.n))  # at two rates, parts of a sample more
    record.begin(stage, key)
    with _writers(stage, sound, record) as writers:
        taken = Reader(resampled(partial.blocks(), rate, sound.rate, sound.channels), sound.channels)
        for block in sound.blocks():
            for writer, samples in zip(writers, _split(block, taken.take(len(block))), strict=False):
                writer.write(samples)
        if _stamp(source) != before:
            raise AudioError(f"{source}: has changed while it was read. Run this again when it is finished.")
    partial.remove()
    took = time.monotonic() - started
    logger.info("%s: %.1f s in %.1f s by %s", record.path(stage.name), seconds, took, separator.label)


@contextlib.contextmanager
def _writers(stage: Stage, sound: SoundFile, record: Record) -> Iterator[list[StreamWriter]]:
    """Files for the parts of a stage, which take their names together: both or none but for a crash between the two."""
    form = {"format": "flac", "channels": sound.channels, "subtype": "PCM_24"}
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(StreamWriter(record.path(name), sound.rate, **form)) for name in stage.outputs]


def _split(whole: np.ndarray, part: np.ndarray) -> Iterator[np.ndarray]:
    """A part and the rest of a block, int32 with 24 bits in use, which add up to the block rounded to 24 bits.

    The part gives way where the rest would clip: of a whole of 0.9, a part of -0.3 would leave 1.2, so it is -0.1.
    """
    wide = np.rint(whole.astype(np.float64) * _FULL)
    taken = np.clip(np.rint(part.astype(np.float64) * _FULL), wide - (_FULL - 1), wide + _FULL)
    taken = np.clip(taken, -_FULL, _FULL - 1)
    rest = np.clip(wide - taken, -_FULL, _FULL - 1)
    for samples in (taken, rest):
        yield samples.astype(np.int32) << 8


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
