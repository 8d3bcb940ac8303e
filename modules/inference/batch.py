"""A batch: going on past a song that fails, and leaving out what an earlier run has done already."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from modules.audio.io import probe
from modules.errors import FAILURES, AudioError, UsageError, UserError, reason_of
from modules.files import make_folder, remove_leftovers
from modules.inference.converter import VoiceConverter
from modules.inference.options import ConversionOptions
from modules.inference.report import ConversionReport
from modules.inference.results import find_result, fold, note_result, reserve

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One file in one voice."""

    source: Path  # the file to convert
    result: Path  # the file to write
    options: ConversionOptions


def each_once(jobs: list[Job]) -> list[Job]:
    """The jobs without those that ask for the same of the same file again."""
    found: dict[tuple, Job] = {}
    for job in jobs:
        found.setdefault((job.source.resolve(), job.options), job)
    return list(found.values())


def check_results_differ(jobs: list[Job]) -> None:
    """Refuses jobs of which one would overwrite another's result or a source."""
    sources = {fold(job.source.resolve()) for job in jobs}
    writers: dict[str, Job] = {}
    for job in each_once(jobs):
        path = fold(job.result.resolve())
        if path in sources:
            raise UsageError(f"{job.result} is one of the sources and would be overwritten; rename that source")
        if (other := writers.setdefault(path, job)) is not job:
            raise UsageError(f"{other.source} and {job.source} would both be written to {job.result}; rename one")


def run_jobs(
    jobs: list[Job],
    converter: VoiceConverter,
    resume: bool = False,
    on_done: Callable[[Job, ConversionReport | None], None] | None = None,
    overwrite: bool = False,
) -> list[Job]:
    """Converts one after the other and returns the jobs that succeeded, with the results that they really have.

    What fails is reported and the rest goes on. A result of another request stays, and the new one gets a number.

    Args:
        resume: leave out what an earlier run of the same requests has finished, and go on within an unfinished one.
        on_done: is called with every finished job; the report is None where an earlier run had finished it.
        overwrite: replace results of other requests.
    """
    finished, stereo_logged = [], False
    keep = {fold(job.source.resolve()) for job in jobs}
    for job in jobs:
        report = None
        try:
            make_folder(job.result.parent)
            remove_leftovers(job.result.parent, recursive=False)
            key = converter.key(job.source, job.options)
            if resume and (made := find_result(job.result, key)) is not None:
                logger.info("%s: already exists", made.as_posix())
                converter.write_f0(job.source, job.options)
                job = replace(job, result=made)
            else:
                if not stereo_logged and (channels := probe(job.source).channels) > 1:
                    logger.info("%s: its %d channels become one, as those of all such files", job.source, channels)
                    stereo_logged = True
                with reserve(job.result, key, keep, overwrite) as path:
                    report = converter.convert(job.source, path, job.options, resume=resume)
                    note_result(path, key)
                job = replace(job, result=path)
        except (*FAILURES, torch.OutOfMemoryError) as error:
            if not isinstance(error, UserError):
                error = AudioError(f"{job.source}: {reason_of(error, job.source)}")
            if len(jobs) == 1:
                raise error from None
            logger.error("%s", " ".join(str(error).split()))
            continue
        finished.append(job)
        keep.add(fold(job.result.resolve()))
        if report is not None:
            text = "%s: %.1f s (%.1f s voiced), made in %.1f s, real-time factor %.2f"
            times = report.seconds, report.voiced_seconds, report.elapsed, report.realtime_factor
            logger.info(text, job.result.as_posix(), *times)
        if on_done is not None:
            on_done(job, report)
    if len(finished) < len(jobs):
        logger.error("%d of %d conversions failed; see the messages above", len(jobs) - len(finished), len(jobs))
    return finished
