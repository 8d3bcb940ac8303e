"""What OpenAPI cannot know of forms that are read as they come in: their fields, from the flags of conversion."""

from typing import Any

from modules.inference.loaded_voice import LoadedVoice
from modules.server.requests import describe_options

_FILE = {"type": "string", "format": "binary"}
_ERROR = {"content": {"application/json": {"example": {"error": "one line that says what is wrong"}}}}
_ERRORS = {
    "400": "the song or the form cannot be read",
    "401": "the token is missing or wrong",
    "403": "a page of another site asks, or the Host header names another machine",
    "413": "the song is too large or too long",
    "422": "an option is unknown or wrong",
    "503": "the queue is full or the server is being stopped; see Retry-After",
    "504": "the conversion takes too long",
}


def describe_forms(schema: dict[str, Any], voice: LoadedVoice) -> dict[str, Any]:
    """The schema with the forms of all routes that take one; defaults are those of a voice."""
    song = {
        "song": {**_FILE, "description": "a voice alone, in any format"},
        "voice": _text("id of a voice (default: the first)"),
        "speaker": _text("who sings; may be left out where the voice has only one"),
        "mix": {"type": "array", "items": _text("NAME=SHARE"), "description": "several speakers, a field for each"},
        "transpose": {**_text("semitones, auto or auto-octave"), "default": "0"},
        "wav_format": {**_text("flac, wav, mp3, m4a, ogg ..."), "default": "flac"},
        "response": {"type": "string", "enum": ["audio", "json"], "default": "audio"},
    }
    for option in describe_options(voice):
        about = {"type": option["type"], "default": option["default"], "description": option["about"]}
        song[option["name"]] = about | {key: option[key] for key in ("minimum", "maximum") if key in option}
    number = {"type": "number", "default": 0}
    block = {"sample": _FILE, "fPitchChange": number, "sampleRate": number, "sSpeakId": number}
    old_song = {"audio_path": _FILE, "tran": number, "spk": _text("name"), "wav_format": _text("wav, flac ...")}
    forms = {
        "/convert": (song, "song"),
        "/jobs": (song, "song"),
        "/voiceChangeModel": (block, "sample"),
        "/wav2wav": (old_song, "audio_path"),
    }
    for path, (fields, file) in forms.items():
        form = {"schema": {"type": "object", "properties": fields, "required": [file]}}
        schema["paths"][path]["post"]["requestBody"] = {"required": True, "content": {"multipart/form-data": form}}
    for methods in schema["paths"].values():
        for route in methods.values():
            route["responses"].pop("422", None)
            codes = _ERRORS if "requestBody" in route else ("401", "403")
            route["responses"] |= {code: {"description": _ERRORS[code], **_ERROR} for code in codes}
    return schema


def _text(about: str) -> dict[str, str]:
    return {"type": "string", "description": about}
