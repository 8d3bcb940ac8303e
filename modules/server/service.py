"""Service: what all routes share. A song comes in, waits, is converted, and its result goes out."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from modules.inference.loaded_voice import LoadedVoice
from modules.server.jobs import Job, JobQueue
from modules.server.limits import Limits
from modules.server.metrics import Metrics
from modules.server.refusals import Refusal, folder_names
from modules.server.requests import Wanted, places_of
from modules.server.songs import check_song
from modules.server.uploads import Form, read_form

if TYPE_CHECKING:
    from starlette.requests import Request

SONG_FIELD = "song"
Work = Callable[[Job], None]
ReadWanted = Callable[[Form], Wanted]


@dataclass(frozen=True)
class Service:
    """The voices, the queue and the limits of a server."""

    voices: Mapping[str, LoadedVoice]  # by id, at least one
    queue: JobQueue
    limits: Limits
    metrics: Metrics

    async def take(
        self,
        request: "Request",
        read_wanted: ReadWanted,
        convert: Callable[..., None],
        file_fields: tuple[str, ...] = (SONG_FIELD,),
    ) -> tuple[Job, Form]:
        """Takes a song in, and lets it wait for its turn; a `Refusal` where that cannot be.

        `convert(job, wanted, song, queue)` is called in the worker's thread.
        """
        job = self.queue.reserve()
        try:
            song = job.folder / SONG_FIELD
            form = await read_form(request, song, file_fields, self.limits)
            wanted = read_wanted(form)
            job.names = {str(song): form.name, song.as_posix(): form.name}
            job.names |= {**folder_names(job.folder), **places_of(wanted.voice)}
            seconds = await asyncio.to_thread(check_song, form.song, self.limits, job.names)
            job.seconds = 0.0, seconds
            self.queue.submit(job, partial(convert, wanted=wanted, song=song, queue=self.queue))
        except ClientDisconnect:
            self.queue.drop(job)
            raise Refusal(499, "the client went away") from None
        except BaseException:
            self.queue.drop(job)
            raise
        return job, form
