"""A form as it comes in: fields of text, and one file, which goes to disk while it is read, up to the size allowed."""

import asyncio
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import parse_qsl, unquote_to_bytes

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from modules.server.limits import MEGABYTE, Limits
from modules.server.refusals import Refusal
from modules.text import printable

if TYPE_CHECKING:
    from starlette.requests import Request

_IDLE_SECONDS = 30.0  # without a byte: nobody keeps a place in the queue by sending nothing
_MOST_FIELDS = 200
_LONGEST_FIELD = 1 << 16  # bytes
_ROOM_FOR_FIELDS = MEGABYTE  # what a form may have beside its file
_ENCODED_NAME = re.compile(rb";\s*filename\*=[\w-]*'[\w-]*'([^;]*)")  # RFC 5987, of older clients
_FORM, _TEXT_FORM = b"multipart/form-data", b"application/x-www-form-urlencoded"


@dataclass
class Form:
    """What came in."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    song: Path | None = None  # where the file is; None until it is there
    name: str = "song"  # what the client calls it, without folders: to be shown, never to be used as a path


async def read_form(request: "Request", path: Path, file_fields: tuple[str, ...], limits: Limits) -> Form:
    """Reads a form whose file, in one of these fields, goes to `path`; a `Refusal` where there is none, or a too large
    one."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.max_bytes + _ROOM_FOR_FIELDS:
        raise _too_large(limits)
    try:
        if kind == _FORM and options.get(b"boundary"):
            with path.open("wb") as file:
                reader = _Reader(file, file_fields, limits)
                reading = _read(request, MultipartParser(options[b"boundary"], reader.callbacks), limits)
                await asyncio.wait_for(reading, limits.time_limit)
            return reader.finish(path)
        if kind == _TEXT_FORM:
            text = await asyncio.wait_for(_read_text(request), limits.time_limit)
            found = parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
            raise _no_song([name for name, _ in found], file_fields)
    except asyncio.TimeoutError:
        text = f"the song did not arrive within {limits.time_limit:g} s, or for {_IDLE_SECONDS:g} s nothing came"
        raise Refusal(408, text) from None
    except (MultipartParseError, ValueError) as error:
        raise Refusal(400, f"the form is damaged ({printable(error, 100)}); send it again") from None
    raise Refusal(415, f"expected a form (multipart/form-data) with the song in the field {file_fields[0]!r}")


async def _read(request: "Request", parser: MultipartParser, limits: Limits) -> None:
    done, slow_from, blocks = 0, time.monotonic() + 0.02, request.stream()
    while (block := await asyncio.wait_for(anext(blocks, None), _IDLE_SECONDS)) is not None:
        done += len(block)
        if done > limits.max_bytes + _ROOM_FOR_FIELDS:
            raise _too_large(limits)
        parser.write(block)
        if time.monotonic() > slow_from:  # a client that sends quickly must not keep others waiting
            await asyncio.sleep(0)
            slow_from = time.monotonic() + 0.02
    parser.finalize()


async def _read_text(request: "Request") -> str:
    content = b""
    async for block in request.stream():
        content += block
        if len(content) > _LONGEST_FIELD:
            raise Refusal(413, "a form without a file may have 64 kB")
    return content.decode("utf-8", "replace")


class _Reader:
    """What the parser calls with each piece of the form."""

    def __init__(self, file: BinaryIO, file_fields: tuple[str, ...], limits: Limits) -> None:
        self._file, self._file_fields, self._limits = file, file_fields, limits
        self._form, self._has_file, self._is_whole = Form(), False, False
        self._size = self._n_fields = 0
        self._key = self._value = b""
        self._start()
        self.callbacks = {
            "on_part_begin": self._start,
            "on_header_field": self._add_key,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": self._add_data,
            "on_part_end": self._end,
            "on_end": self._complete,
        }

    def finish(self, path: Path) -> Form:
        """The form, whose file is at `path`."""
        if not self._is_whole:
            raise Refusal(400, "the form ends before its last boundary; send it again")
        if not self._has_file:
            raise _no_song(self._form.fields, self._file_fields)
        self._form.song = path
        return self._form

    def _start(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._name, self._text, self._is_file = "", b"", False

    def _add_key(self, data: bytes, start: int, end: int) -> None:
        self._key += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._key.lower()] = self._value
        self._key = self._value = b""

    def _open(self) -> None:
        """A part begins: a field, or the file."""
        self._n_fields += 1
        if self._n_fields > _MOST_FIELDS:
            raise Refusal(400, f"a form may have {_MOST_FIELDS} fields")
        header = self._headers.get(b"content-disposition", b"")
        _, options = parse_options_header(header)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        name = options.get(b"filename")
        if name is None and (encoded := _ENCODED_NAME.search(header)):  # what that parser leaves out
            name = unquote_to_bytes(encoded[1])
        self._is_file = name is not None
        if not self._is_file:
            return
        if self._name not in self._file_fields:
            raise Refusal(400, f"a file came in the field {printable(self._name, 50)!r}; {self._where}")
        if self._has_file:
            raise Refusal(400, "one song at a time; the form has several")
        self._has_file, self._form.name = True, bare_name(name.decode("utf-8", "replace"))

    @property
    def _where(self) -> str:
        return f"the song goes in the field {self._file_fields[0]!r}"

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._size += end - start
            if self._size > self._limits.max_bytes:
                raise _too_large(self._limits)
            self._file.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > _LONGEST_FIELD:
            raise Refusal(413, f"the field {printable(self._name, 50)!r} has more than 64 kB")

    def _end(self) -> None:
        if not self._is_file:
            self._form.fields.setdefault(self._name, []).append(self._text.decode("utf-8", "replace"))

    def _complete(self) -> None:
        self._is_whole = True


def bare_name(name: str) -> str:
    """A client's name of a file without folders, drives and control characters: `song` where nothing is left."""
    last = re.split(r"[/\\]", name)[-1]
    return printable(re.sub(r"[\x00-\x1f\x7f]", "", last), 120).strip(" .") or "song"


def _no_song(given: Iterable[str], file_fields: tuple[str, ...]) -> Refusal:
    """Why a form without a file is of no use."""
    named = next((name for name in given if name in file_fields), None)
    what = "no song came" if named is None else f"the field {named!r} is text, and files of the server cannot be named"
    return Refusal(400, f"{what}. Send the file itself: curl -F {named or file_fields[0]}=@song.wav")


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"the song has more than {limits.max_mb:g} MB, which is the most")
