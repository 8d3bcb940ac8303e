"""A batch: what results are called, going on past a file that fails, and what an earlier run has done already."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modules.audio.io import probe
from modules.errors import UsageError, UserError
from modules.files import make_folder, remove_leftovers, write_json
from modules.inference.converter import ConversionReport, VoiceConverter
from modules.inference.options import ConversionOptions

logger = logging.getLogger(__name__)

RESULTS = Path("results")
JOURNAL = ".conversions.json"  # in each folder of results: name -> key of the request that it is the result of


@dataclass(frozen=True)
class Job:
    """One file in one voice."""

    source: Path  # the file to convert
    result: Path  # the file to write
    options: ConversionOptions
    warnings: tuple[str, ...] = ()  # what is known to be doubtful about it beforehand


def result_name(name: str, options: ConversionOptions, predictor: str, kind: str = "sovits") -> str:
    """The name of a result: `song.wav_0key_alto_sovits_pm.flac`, or `song.wav_0key_alto_0.5_sovits_pm.flac`.

    The source's `name` stays as typed, with its suffix; of a path outside the source folder only the last part is kept.
    `kind` is "sovits", "sovdiff" for shallow diffusion, or "diff" for diffusion alone.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts or name.startswith(("./", ".\\")):
        name = Path(name).name
    key = "auto" if options.predict_f0 else f"{options.transpose:g}key"
    retrieved = f"_{options.retrieval_ratio}" if options.retrieves else ""
    speaker = options.speaker.replace("/", "_").replace("\\", "_")
    return f"{name}_{key}_{speaker}{retrieved}_{kind}_{predictor}.{options.output_format}"


def check_results_differ(jobs: list[Job]) -> list[Job]:
    """The jobs, each once, if no result would overwrite another or a source."""
    sources = {job.source.resolve() for job in jobs}
    writers: dict[Path, Job] = {}
    for job in jobs:
        path = job.result.resolve()
        if path in sources:
            raise UsageError(f"{job.result} is one of the sources and would be overwritten; rename that source")
        other = writers.setdefault(path, job)
        if (other.source.resolve(), other.options) != (job.source.resolve(), job.options):
            raise UsageError(
                f"{other.source} and {job.source} would both be written to {job.result}; convert them one by one"
            )
    return list(writers.values())


def run_jobs(
    jobs: list[Job],
    converter: VoiceConverter,
    resume: bool = False,
    on_done: Callable[[Job, ConversionReport | None], None] | None = None,
) -> list[Job]:
    """Converts one after the other and returns the jobs that succeeded; what fails is reported and the rest goes on.

    Args:
        resume: leave out what an earlier run of the same requests has finished, and go on within an unfinished one.
        on_done: is called with every finished job; the report is None where an earlier run had finished it.
    """
    finished, stereo_logged = [], False
    for job in jobs:
        report = None
        try:
            make_folder(job.result.parent)
            remove_leftovers(job.result.parent, recursive=False)
            is_known = resume and job.result.is_file()
            if is_known and _journal(job.result).get(job.result.name) == converter.key(job.source, job.options):
                logger.info("%s: already exists", job.result.as_posix())
            else:
                if not stereo_logged and (channels := probe(job.source).channels) > 1:
                    logger.info("%s: its %d channels are mixed to one, as of all such files", job.source, channels)
                    stereo_logged = True
                report = converter.convert(job.source, job.result, job.options, resume=resume)
                known = _journal(job.result).items()
                entries = {name: key for name, key in known if (job.result.parent / name).is_file()}
                entries[job.result.name] = converter.key(job.source, job.options)
                write_json(job.result.parent / JOURNAL, entries)
        except UserError as error:
            if len(jobs) == 1:
                raise
            logger.error("%s", error)
            continue
        finished.append(job)
        if report is not None:
            text = "%s: %.1f s (%.1f s voiced), made in %.1f s, real-time factor %.2f"
            times = report.seconds, report.voiced_seconds, report.elapsed, report.realtime_factor
            logger.info(text, job.result.as_posix(), *times)
        if on_done is not None:
            on_done(job, report)
    if len(finished) < len(jobs):
        logger.error("%d of %d conversions failed; see the messages above", len(jobs) - len(finished), len(jobs))
    return finished


def _journal(result: Path) -> dict[str, str]:
    """Which requests the results in that folder are of; nothing where that is not known."""
    try:
        found = json.loads((result.parent / JOURNAL).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
