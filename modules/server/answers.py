"""Answers: a result with its headers, a job's progress as events."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from starlette.responses import FileResponse

from modules.server.jobs import Job, JobQueue
from modules.server.refusals import Refusal

_TYPES = {"flac": "audio/flac", "wav": "audio/wav", "mp3": "audio/mpeg", "m4a": "audio/mp4", "aiff": "audio/aiff"}
_TYPES |= {"ogg": "audio/ogg", "oga": "audio/ogg", "opus": "audio/ogg", "wave": "audio/wav"}
_MOST_TEXT = 4000  # bytes of warnings in a header; 8000 are what many servers and clients take
_EVENT_SECONDS, _QUIET_SECONDS = 0.25, 15.0  # between two looks at a job, and without an event


class ResultResponse(FileResponse):
    """The result of a job, which stays as long as it is read."""

    def __init__(self, job: Job, queue: JobQueue, title: str | None = None) -> None:
        self._job, self._queue, path = job, queue, queue.hold(job)
        media = _TYPES.get(path.suffix.removeprefix("."), "application/octet-stream")
        super().__init__(path, media_type=media, filename=title or job.title, headers=_headers(job))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._queue.release(self._job)


def _headers(job: Job) -> dict[str, str]:
    """About a result, in ASCII: texts are percent-encoded UTF-8, and as many warnings as there is room for."""
    warnings, shown = job.report["warnings"], []
    for text in warnings:
        if len(quote(json.dumps([*shown, text]))) > _MOST_TEXT:
            break
        shown.append(text)
    found = {"X-Warnings-Count": str(len(warnings)), "X-Warnings": quote(json.dumps(shown))}
    for name in ("speaker", "transpose", "seconds", "realtime_factor"):
        found[f"X-{name.title().replace('_', '-')}"] = quote(str(job.report[name]))
    return found


async def outcome(job: Job, queue: JobQueue, receive: Any) -> None:
    """Waits until a job has ended; a client that hangs up ends it. Raises the `Refusal` of one that failed."""
    done = asyncio.ensure_future(asyncio.shield(asyncio.wrap_future(job.done)))
    gone = asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    if not done.done():
        queue.drop(job)
        raise Refusal(499, "the client went away")
    if job.error is not None:
        raise job.error


async def _hung_up(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def events(job: Job) -> AsyncIterator[str]:
    """Server-sent events: the job whenever it has changed, at last as it ended."""
    told, quiet = None, 0.0
    while True:
        is_last, about = job.done.done(), json.dumps(job.about)
        if about != told:
            told, quiet = about, 0.0
            yield f"event: {'end' if is_last else 'progress'}\ndata: {about}\n\n"
        if is_last:
            return
        if quiet >= _QUIET_SECONDS:
            quiet = 0.0
            yield ": still there\n\n"
        await asyncio.sleep(_EVENT_SECONDS)
        quiet += _EVENT_SECONDS
