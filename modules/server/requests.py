"""What a form asks for, verified before the song's turn comes."""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modules.inference.arguments import conversion_arguments
from modules.inference.keyword_options import CONVERTED, CURVES, LOADED, PLACES
from modules.inference.loaded_voice import LoadedVoice
from modules.inference.options import BOUNDS
from modules.registry import unknown_name
from modules.server.refusals import Refusal, folder_names, refusal_of
from modules.text import listing

# Only who starts the server names files of its machine.
OFFERED = tuple(name for name in CONVERTED if name not in (*PLACES, *CURVES))
_TRUTHS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_TYPES = {int: "integer", float: "number", None: "string"}  # of flags, in OpenAPI
_OURS = ("voice", "speaker", "mix", "transpose", "wav_format", "response")


@dataclass(frozen=True)
class Wanted:
    """A conversion that a client asks for."""

    voice: LoadedVoice
    speaker: str | dict[str, float] | None = None
    transpose: float | str = 0
    wav_format: str = "flac"
    options: Mapping[str, Any] = field(default_factory=dict)  # of `LoadedVoice.convert`, by name

    @property
    def asked(self) -> dict[str, Any]:
        """What `LoadedVoice.convert` takes."""
        return {"speaker": self.speaker, "transpose": self.transpose, **self.options}

    def check(self) -> None:
        """Refuses what this voice cannot do, before its turn comes; safe while it sings."""
        for name, value in self.options.items():
            if _number(value) > (most := _most(self.voice, name)):
                raise Refusal(422, f"{name} is {value}; this server takes at most {most:g} s at once")
        try:
            self.voice.check(output_format=self.wav_format, **self.asked)
        except Exception as error:
            raise refusal_of(error, places_of(self.voice)) from None


def read_wanted(fields: Mapping[str, list[str]], voices: Mapping[str, LoadedVoice]) -> Wanted:
    """What the fields of a form ask for, checked."""
    values = {}
    for name, texts in fields.items():
        if name in PLACES or name in LOADED:
            raise Refusal(422, f"{name} is chosen when the server is started: python serve.py --{name} ...")
        if name in CURVES:
            raise Refusal(422, f"{name} names a file of the server, which cannot be done; use inference_main.py")
        if name not in (*_OURS, *OFFERED):
            raise Refusal(422, unknown_name("field", name, [*_OURS, *OFFERED]))
        if name != "mix" and len(texts) > 1:
            raise Refusal(422, f"{name} is given {len(texts)} times")
        values[name] = texts[-1]
    voice = find_voice(voices, values.get("voice"))
    speaker, shares = values.get("speaker"), fields.get("mix")
    if speaker is not None and shares:
        raise Refusal(422, "mix says who sings; leave speaker out")
    options = {name: values[name] for name in OFFERED if name in values}
    options |= {name: _TRUTHS.get(text.lower(), text) for name, text in options.items() if _is_truth(voice, name)}
    wanted = Wanted(
        voice,
        read_mix(shares) if shares else speaker,
        read_key(values.get("transpose", "0")),
        values.get("wav_format", "flac").lower(),
        options,
    )
    wanted.check()
    return wanted


def find_voice(voices: Mapping[str, LoadedVoice], name: str | None, status: int = 422) -> LoadedVoice:
    """A voice by its id; the first one where none is named."""
    if name is not None and name not in voices:
        raise Refusal(status, f"there is no voice {name!r}. There are: {listing(voices)}")
    return voices[name] if name is not None else next(iter(voices.values()))


def read_key(text: str) -> float | str:
    """Semitones, or a word that `LoadedVoice` knows or refuses."""
    try:
        return float(text)
    except ValueError:
        return text


def read_mix(shares: Iterable[str]) -> dict[str, float]:
    """NAME=X, one a field, as shares of voices."""
    found = {}
    for text in shares:
        name, _, share = text.rpartition("=")
        if not name or not np.isfinite(_number(share)):
            raise Refusal(422, f"mix is {text!r}; expected NAME=SHARE, a field for each voice: alto=0.7")
        found[name] = _number(share)
    return found


def describe_options(voice: LoadedVoice) -> list[dict[str, Any]]:
    """Name, type, default, range and help of each option that a client may give."""
    flags = conversion_arguments("convert", "")._actions
    actions, found = {action.dest: action for action in flags if action.help != argparse.SUPPRESS}, []
    for name in OFFERED:
        action = actions[name]
        kind = "boolean" if _is_truth(voice, name) else _TYPES[action.type]
        about = {"name": name, "type": kind, "default": getattr(voice.args, name), "about": action.help}
        if name in BOUNDS:
            about |= {"minimum": BOUNDS[name][0], "maximum": min(BOUNDS[name][1], _most(voice, name))}
        found.append(about)
    return found


def places_of(voice: LoadedVoice) -> dict[str, str]:
    """How the places of a voice are called to clients: its files without the folders above."""
    return folder_names(voice.model.parent, voice.model.parent.resolve(), Path.cwd())


def _most(voice: LoadedVoice, name: str) -> float:
    """The most that an option may be here: what is in the networks at once takes the memory."""
    return voice.args.max_segment if name in ("max_segment", "clip") else np.inf


def _is_truth(voice: LoadedVoice, name: str) -> bool:
    """Whether an option is on or off."""
    return isinstance(getattr(voice.args, name), bool)


def _number(text: object) -> float:
    """A number, NaN where it is none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return float("nan")
