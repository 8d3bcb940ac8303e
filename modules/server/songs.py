"""The songs of jobs: whether one can be read, and the work that converts it."""

from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from modules.audio.decoding import open_sound
from modules.audio.io import StreamWriter, resample, write
from modules.errors import AudioError
from modules.server.jobs import Job, JobQueue
from modules.server.limits import Limits
from modules.server.refusals import Refusal, refusal_of, without_places
from modules.server.requests import Wanted


def check_song(path: Path, limits: Limits, names: Mapping[str, str]) -> float:
    """Seconds of a song that can be read and is no longer than allowed; of one without a length no more is decoded."""
    try:
        sound, n_samples = open_sound(path), 0
        most = limits.max_seconds * sound.rate
        if sound.n_samples is not None:
            n_samples = sound.n_samples
        else:
            with closing(sound.blocks()) as blocks:
                for block in blocks:
                    n_samples += len(block)
                    if n_samples > most:
                        break
        if not n_samples:
            raise AudioError(f"{path}: holds no audio")
    except Exception as error:
        raise refusal_of(error, names) from None
    if n_samples > most:
        raise Refusal(413, f"the song lasts more than {limits.max_seconds:g} s, which is the most")
    return n_samples / sound.rate


def convert_song(job: Job, wanted: Wanted, song: Path, queue: JobQueue) -> None:
    """The work of a job: writes the result as it is made, in the format that is wanted."""
    voice = wanted.voice
    blocks = voice.stream(song, on_progress=partial(queue.on_progress, job), **wanted.asked)
    job.result = job.folder / f"result.{wanted.wav_format}"  # a format that is known by now
    tags = voice.converter.metadata(Path(job.names[str(song)]), voice.request)
    with closing(blocks), StreamWriter(job.result, voice.rate, wanted.wav_format, tags) as writer:
        for block in blocks:
            writer.write(block)
    _conclude(job, wanted, song)


def convert_block(job: Job, wanted: Wanted, song: Path, queue: JobQueue, rate: int | None) -> None:
    """The same for a block of a program that plays live: a wav at `rate` (None: its own), as long as the block."""
    voice, sound = wanted.voice, open_sound(song)
    blocks = voice.stream(song, on_progress=partial(queue.on_progress, job), **wanted.asked)
    wav = np.concatenate(list(blocks))
    rate = rate or sound.rate
    n_samples = round(len(wav) / voice.rate * rate)
    if sound.n_samples is not None:  # as it is in the wav files of such programs
        n_samples = round(sound.n_samples / sound.rate * rate)
    wav = resample(wav, voice.rate, rate)
    job.result = job.folder / "result.wav"
    write(job.result, np.pad(wav, (0, max(0, n_samples - len(wav))))[:n_samples], rate)
    _conclude(job, wanted, song)


def _conclude(job: Job, wanted: Wanted, song: Path) -> None:
    """Takes note of what a conversion amounts to."""
    voice = wanted.voice
    job.title = f"{Path(job.names[str(song)]).stem}_{voice.request.speaker}{job.result.suffix}"
    about = {"speaker": voice.request.speaker, "transpose": voice.request.transpose, **voice.report.to_plain()}
    about["warnings"] = [without_places(text, job.names) for text in about["warnings"]]
    job.report = {"bytes": job.result.stat().st_size, **about}
