"""The routes of so-vits-svc's two Flask servers, for programs that were written for them.

`POST /voiceChangeModel` converts one block of a VST plug-in, `POST /wav2wav` a whole song. Both sing in the first
voice. Where so-vits-svc took the path of a file on the server, the file itself is sent.
"""

import math
from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import Response

from modules.inference.loaded_voice import LoadedVoice
from modules.server.answers import ResultResponse, outcome
from modules.server.jobs import Job
from modules.server.refusals import Refusal
from modules.server.requests import Wanted, find_voice
from modules.server.routes import service_of
from modules.server.songs import convert_block, convert_song
from modules.server.uploads import Form

router = APIRouter()

RATES = (8000, 384_000)  # Hz, of what a plug-in may ask for
# A block is one piece, as so-vits-svc took it: not cut at silences, nothing put around it.
BLOCK_OPTIONS = {"slice_db": -200, "pad_seconds": 0}


@router.post("/voiceChangeModel")
async def change_block(request: Request) -> Response:
    """One block of sound: file `sample`, fields fPitchChange, sampleRate and sSpeakId; answers with a wav."""
    service, found = service_of(request), {}

    def read(form: Form) -> Wanted:
        _refuse_others(form, "fPitchChange", "sampleRate", "sSpeakId")
        voice = find_voice(service.voices, None)
        rate = read_number(form, "sampleRate", 0)
        if rate and not RATES[0] <= rate <= RATES[1]:
            raise Refusal(422, f"sampleRate is {rate:g}; expected {RATES[0]} to {RATES[1]} Hz")
        found["rate"] = int(rate) or None
        speaker = speaker_of(voice, int(read_number(form, "sSpeakId", 0)))
        wanted = Wanted(voice, speaker, read_number(form, "fPitchChange", 0), "wav", BLOCK_OPTIONS)
        wanted.check()
        return wanted

    def convert(job: Job, **request: object) -> None:
        convert_block(job, rate=found["rate"], **request)

    job, _ = await service.take(request, read, convert, ("sample",))
    return await _answer(request, job)


@router.post("/wav2wav")
async def change_song(request: Request) -> Response:
    """A whole song: file `audio_path`, fields tran, spk and wav_format; answers with that format."""
    service = service_of(request)

    def read(form: Form) -> Wanted:
        _refuse_others(form, "tran", "spk", "wav_format")
        voice = find_voice(service.voices, None)
        name = form.fields.get("spk", ["0"])[-1]
        is_number = name not in voice.speakers and name.isdecimal()
        speaker = speaker_of(voice, int(name)) if is_number else name
        wav_format = form.fields.get("wav_format", ["wav"])[-1].lower()
        wanted = Wanted(voice, speaker, int(read_number(form, "tran", 0)), wav_format)
        wanted.check()
        return wanted

    job, _ = await service.take(request, read, convert_song, ("audio_path", "audio", "song", "sample"))
    return await _answer(request, job)


async def _answer(request: Request, job: Job) -> Response:
    """The attachment that both servers sent."""
    queue, job.kept = service_of(request).queue, False
    try:
        await outcome(job, queue, request.receive)
        return ResultResponse(job, queue, f"temp{job.result.suffix}")
    except BaseException:
        queue.drop(job)
        raise


def speaker_of(voice: LoadedVoice, number: int) -> str:
    """The name of the speaker with that id."""
    known: Mapping[str, int] = voice.converter.pipeline.speakers
    for name, found in known.items():
        if found == number:
            return name
    listed = ", ".join(f"{found} ({name})" for name, found in known.items())
    raise Refusal(422, f"the voice has no speaker {number}. It has: {listed}")


def read_number(form: Form, name: str, default: float) -> float:
    """A field that holds a number."""
    text = form.fields.get(name, [str(default)])[-1]
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise Refusal(422, f"{name} is {text!r}; expected a number")
    return number


def _refuse_others(form: Form, *known: str) -> None:
    """Refuses fields that would have no effect."""
    others = [name for name in form.fields if name not in known]
    if others:
        raise Refusal(422, f"unknown field {others[0]!r}. Known: {', '.join(known)}")
