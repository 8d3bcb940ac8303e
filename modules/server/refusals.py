"""Refusal: an answer in place of a result, with its HTTP status and one line that names no place on the server."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from modules.errors import AudioError, UserError, is_out_of_memory, reason_of

logger = logging.getLogger(__name__)

_MISTAKE = "the server made a mistake, which its log describes"


class Refusal(Exception):
    """What a client is told in place of a result."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.headers = status, dict(headers or {})


def refusal_of(error: BaseException, names: Mapping[str, str]) -> Refusal:
    """What a client is told of an error; `names`: how files and folders of the server are called to clients.

    400: the song is at fault; 422: the options are; 507, 500: the server is, and its log says more.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, UserError):
        is_song = isinstance(error, AudioError)
        status = 500 if is_song and _is_failure(error) else 400 if is_song else 422
        return Refusal(status, without_places(reason_of(error), names))
    logger.error("a request failed: %s", reason_of(error), exc_info=error)
    if isinstance(error, OSError) or is_out_of_memory(error):
        return Refusal(507, "the server has no room left for this; try again later, or send a shorter song")
    return Refusal(500, _MISTAKE)


def folder_names(*folders: Path) -> dict[str, str]:
    """For `without_places`: what lies in these folders is called by its own name."""
    return {start: "" for folder in folders for start in (f"{folder}{os.sep}", f"{folder.as_posix()}/")}


def without_places(text: str, names: Mapping[str, str]) -> str:
    """A message whose files and folders have the names that clients know them by."""
    for place, name in sorted(names.items(), key=lambda pair: -len(pair[0])):
        text = text.replace(place, name)
    return text


def _is_failure(error: BaseException) -> bool:
    """Whether a network or the memory failed, and not the song."""
    causes = []
    while error is not None:
        causes.append(error)
        error = error.__cause__
    return any(isinstance(cause, RuntimeError | ValueError | MemoryError) for cause in causes)
