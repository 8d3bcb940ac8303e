"""The routes of the server."""

import json
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from modules.inference.loaded_voice import LoadedVoice
from modules.server.answers import ResultResponse, events, outcome
from modules.server.jobs import Job
from modules.server.refusals import Refusal
from modules.server.requests import Wanted, describe_options, find_voice, read_wanted
from modules.server.service import Service
from modules.server.songs import convert_song
from modules.server.uploads import Form
from modules.weights.card import HISTOGRAMS

router = APIRouter()


def service_of(request: Request) -> Service:
    """What the server was started with."""
    return request.app.state.service


@router.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """Whether the server is there, and how many songs wait. Needs no token."""
    gauges = service_of(request).queue.gauges()
    return {"status": "ok", "queue_length": gauges["queue_length"], "in_work": gauges["in_work"]}


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> PlainTextResponse:
    """Numbers for Prometheus."""
    service = service_of(request)
    return PlainTextResponse(
        service.metrics.text(service.queue.gauges()), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


@router.get("/voices")
async def voices(request: Request) -> dict[str, Any]:
    """All voices, in brief. The first one sings where a request names none."""
    found = service_of(request).voices
    return {"voices": [{"id": name, "rate": voice.rate, "speakers": voice.speakers} for name, voice in found.items()]}


@router.get("/voices/{voice}")
async def one_voice(request: Request, voice: str) -> JSONResponse:
    """A voice: speakers, rate in Hz, card, and its options with defaults and ranges."""
    return JSONResponse(describe_voice(voice, find_voice(service_of(request).voices, voice, 404)))


def describe_voice(name: str, voice: LoadedVoice) -> dict[str, Any]:
    """A voice in plain values."""
    card = {key: value for key, value in voice.converter.pipeline.card.items() if key != HISTOGRAMS}
    return {
        "id": name,
        "rate": voice.rate,
        "speakers": voice.speakers,
        "card": json.loads(json.dumps(card, default=str)),
        "f0_predictor": voice.args.f0_predictor,
        "options": describe_options(voice),
    }


@router.post("/convert")
async def convert(request: Request) -> Response:
    """Converts a song while you wait, and answers with its sound; hang up to stop it.

    With response=json the answer is JSON with a link to the result, as of a job that has ended.
    """
    job, is_json = await _take(request)
    job.kept = is_json
    try:
        await outcome(job, service_of(request).queue, request.receive)
        return JSONResponse(job.about) if is_json else ResultResponse(job, service_of(request).queue)
    except BaseException:
        service_of(request).queue.drop(job)
        raise


async def _take(request: Request) -> tuple[Job, bool]:
    """A job for a form, and whether its answer is to be JSON."""
    service = service_of(request)

    def read(form: Form) -> Wanted:
        if (kind := form.fields.get("response", ["audio"])[-1]) not in ("audio", "json"):
            raise Refusal(422, f"response is {kind!r}; expected audio or json")
        return read_wanted(form.fields, service.voices)

    job, form = await service.take(request, read, convert_song)
    return job, form.fields.get("response") == ["json"]


@router.post("/jobs", status_code=202)
async def start(request: Request) -> JSONResponse:
    """Takes a song in and answers at once; ask for the job by its id."""
    job, _ = await _take(request)
    return JSONResponse(job.about, 202, {"Location": f"/jobs/{job.key}"})


@router.get("/jobs/{key}")
async def state(request: Request, key: str) -> JSONResponse:
    """A job: uploading, waiting, running, done, failed or cancelled; its progress, warnings and link."""
    return JSONResponse(service_of(request).queue.find(key).about)


@router.get("/jobs/{key}/events")
async def job_events(request: Request, key: str) -> StreamingResponse:
    """The job each time that it changes, as server-sent events, until it has ended."""
    return StreamingResponse(events(service_of(request).queue.find(key)), media_type="text/event-stream")


@router.get("/jobs/{key}/result")
async def result(request: Request, key: str) -> Response:
    """The sound of a job that is done."""
    queue = service_of(request).queue
    return ResultResponse(queue.find(key), queue)


@router.delete("/jobs/{key}")
async def cancel(request: Request, key: str) -> JSONResponse:
    """Stops a job, or deletes what is kept of one that has ended."""
    queue = service_of(request).queue
    job = queue.find(key)
    if job.done.done():
        queue.drop(job)
        return JSONResponse({"id": key, "state": "deleted"})
    queue.cancel(job, Refusal(410, "the job was cancelled"))
    return JSONResponse(job.about)
