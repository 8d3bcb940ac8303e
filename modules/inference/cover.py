"""A cover: the lead of a song converted, and mixed with the rest of the song at its level and in its place."""

import hashlib
import json
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

from modules.audio.io import StreamWriter
from modules.audio.mixing import CEILING, Form, choose_form, mix, voice_gains
from modules.files import make_folder, remove_leftovers
from modules.inference.batch import Job, run_jobs
from modules.inference.converter import VoiceConverter
from modules.inference.options import ConversionOptions
from modules.inference.report import ConversionReport, decibels
from modules.inference.results import find_result, fold, note_result, reserve

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stems:
    """What a song was made of."""

    lead: Path  # the voice that is converted
    music: tuple[Path, ...]  # all that stays: the accompaniment, backing voices
    like: Path  # whose rate and length a cover has
    folder: Path  # for what is made of them


@dataclass(frozen=True)
class Cover:
    """One song in one voice."""

    song: Path  # names it
    stems: Stems
    converted: Path  # where the converted lead goes
    result: Path  # the file to write
    options: ConversionOptions
    gain_db: float = 0.0  # of the voice, against the lead


def make_cover(
    cover: Cover, converter: VoiceConverter, overwrite: bool = False
) -> tuple[Path, Path, ConversionReport | None]:
    """The finished cover, the converted lead, and what there is to say; nothing (None) where all was there already.

    A lead that an earlier run has converted is taken, and an unfinished one goes on.
    """
    started, stems, key = time.perf_counter(), cover.stems, cover_key(cover, converter)
    form = choose_form(stems.like, [*stems.music, stems.lead])
    reports: list[ConversionReport | None] = []
    job = Job(stems.lead, cover.converted, replace(cover.options, output_format="flac"))
    if (made := find_result(cover.result, key)) is not None:
        logger.info("%s: already exists", made.as_posix())
        converter.write_f0(job.source, job.options)
        return made, find_result(job.result, converter.key(job.source, job.options)) or job.result, None
    (done,) = run_jobs([job], converter, resume=True, on_done=lambda _, report: reports.append(report))
    make_folder(cover.result.parent)
    remove_leftovers(cover.result.parent, recursive=False)
    keep = {fold(path.resolve()) for path in (cover.song, stems.lead, *stems.music)}
    with reserve(cover.result, key, keep, overwrite) as path:
        if not path.exists():  # also before: a cover whose process dies right behind the last sample is not made twice
            note_result(path, key)
        _mix(cover, done.result, form, path, converter.metadata(cover.song, cover.options))
        note_result(path, key)
    report = reports[0] or ConversionReport(seconds=form.n_samples / form.rate)
    report.elapsed = time.perf_counter() - started
    return path, done.result, report


def _mix(cover: Cover, voice: Path, form: Form, path: Path, tags: dict[str, str]) -> None:
    gains = voice_gains(voice, cover.stems.lead, form, cover.gain_db)
    writer = StreamWriter(path, form.rate, cover.options.output_format, tags, form.channels)
    peak = mix(writer, [*((music, 1.0) for music in cover.stems.music), (voice, gains)], form)
    limited = f"; its peaks, up to {decibels(peak):+.1f} dB, were turned down" if peak > CEILING else ""
    told = " and ".join(f"{decibels(gain):+.1f}" for gain in dict.fromkeys(gains.tolist()))
    text = "%s: %.1f s at %d Hz, the converted voice by %s dB in its channels%s"
    logger.info(text, path.as_posix(), form.n_samples / form.rate, form.rate, told, limited)


def cover_key(cover: Cover, converter: VoiceConverter) -> str:
    """Equal for requests that give the same cover: the files as they are now, the options, the voice's files."""
    stems, stamps = cover.stems, []
    for path in (stems.like, *stems.music):
        stat = path.stat()
        stamps.append([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    about = ["cover", converter.key(stems.lead, cover.options), stamps, cover.gain_db, cover.song.name]
    return hashlib.sha256(json.dumps(about).encode("utf-8", "surrogatepass")).hexdigest()
