"""A batch: which files the names mean, what their results are called, and going on past a file that fails."""

import logging
from dataclasses import dataclass
from pathlib import Path

from modules.audio.io import AUDIO_SUFFIXES
from modules.errors import AudioError, UsageError, UserError
from modules.files import remove_leftovers
from modules.inference.converter import VoiceConverter
from modules.inference.options import ConversionOptions

logger = logging.getLogger(__name__)

RAW = Path("raw")
RESULTS = Path("results")


@dataclass(frozen=True)
class Job:
    """One file in one voice.

    Args:
        source: the file to convert.
        result: the file to write.
        options: how.
    """

    source: Path
    result: Path
    options: ConversionOptions

    @classmethod
    def named(cls, name: str, source: Path, options: ConversionOptions, predictor: str, kind: str = "sovits") -> "Job":
        """The job of a source that was typed as `name`, with its result under `results/`."""
        return cls(source, RESULTS / result_name(name, options, predictor, kind), options)


def find_sources(names: list[str], folder: Path = RAW) -> dict[str, Path]:
    """Name to file, for the names that can be found; the others are reported.

    `folder` is made where there is none: it is where users look for the place to put their files.

    Raises:
        AudioError: there is only one name and it has no file.
    """
    _make_folder(folder)
    found = {}
    for name in dict.fromkeys(names):
        try:
            found[name] = find_source(name, folder)
        except AudioError as error:
            if len(names) == 1:
                raise
            logger.error("%s", error)
    return found


def find_source(name: str, folder: Path = RAW) -> Path:
    """The file that a name means: in `folder` as it is, there with `.wav`, or a path of its own.

    Raises:
        AudioError: there is none; the text lists what `folder` holds.
    """
    candidates = [folder / name]
    if not Path(name).suffix:
        candidates.append(folder / f"{name}.wav")
    candidates.append(Path(name))
    if not name.strip():
        raise AudioError(f"-n/--clean_names: a name is empty. {_listing(folder)}")
    for path in candidates:
        if path.is_file():
            return path
    what = "is a folder, not a file" if (folder / name).is_dir() else "no such file"
    raise AudioError(f"{folder / name}: {what}. {_listing(folder)}")


def result_name(name: str, options: ConversionOptions, predictor: str, kind: str = "sovits") -> str:
    """The name of a result: `song.wav_0key_alto_sovits_pm.flac`.

    The source's name stays as typed, with its suffix; of a path outside the source folder only the last part is kept.

    Args:
        name: the source as typed.
        options: key, speaker and format.
        predictor: name of the pitch predictor.
        kind: "sovits", "sovdiff" for shallow diffusion, "diff" for diffusion alone.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts or name.startswith(("./", ".\\")):
        name = Path(name).name
    key = "auto" if options.predict_f0 else f"{options.transpose:g}key"
    return f"{name}_{key}_{_as_file_name(options.speaker)}_{kind}_{predictor}.{options.output_format}"


def check_results_differ(jobs: list[Job]) -> list[Job]:
    """The jobs, each once, if no result would overwrite another or a source.

    Raises:
        UsageError: two different jobs have one result, or a result is also a source; both are named.
    """
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


def run_jobs(jobs: list[Job], converter: VoiceConverter) -> list[Job]:
    """Converts one after the other and returns the jobs that succeeded; what fails is reported and the rest goes on.

    Raises:
        UserError: there is only one job and it failed.
    """
    finished = []
    for job in jobs:
        try:
            _make_folder(job.result.parent)
            remove_leftovers(job.result.parent, recursive=False)
            report = converter.convert(job.source, job.result, job.options)
        except UserError as error:
            if len(jobs) == 1:
                raise
            logger.error("%s", error)
            continue
        finished.append(job)
        logger.info(
            "%s: %.1f s (%.1f s voiced), made in %.1f s, real-time factor %.2f",
            report.path.as_posix(),
            report.seconds,
            report.voiced_seconds,
            report.elapsed,
            report.realtime_factor,
        )
    if len(finished) < len(jobs):
        logger.error("%d of %d conversions failed; the reasons stand above", len(jobs) - len(finished), len(jobs))
    return finished


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: the folder cannot be made ({error.strerror}); remove what is in its place"
        ) from None


def _as_file_name(speaker: str) -> str:
    """A speaker's name without path separators."""
    return speaker.replace("/", "_").replace("\\", "_")


def _listing(folder: Path) -> str:
    """What there is to convert, in words."""
    if not folder.is_dir():
        return f"There is no folder {folder}/; put the file there, or give its path."
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if _is_audio(path))
    if not found:
        return f"{folder}/ holds no audio; put the file there, or give its path."
    more = f" and {len(found) - 20} more" if len(found) > 20 else ""
    return f"In {folder}/: {', '.join(found[:20])}{more}."


def _is_audio(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")
