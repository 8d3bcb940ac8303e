"""Fetching big files over HTTP: broken transfers go on where they stopped, and nothing wrong takes a file's name.

While it runs, `NAME.part` holds what has come and `NAME.part.json` what it belongs to (address, version, length). Only
a complete and verified file is renamed to `NAME`.
"""

import contextlib
import errno
import http.client
import json
import os
import shutil
import ssl
import stat
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from modules.errors import DownloadError
from modules.files import atomic_path, sha256_of, write_json

_CHUNK = 1 << 18
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # answers that another try may change
_LARGEST_MEMBER = 20 << 30  # what a zip may unpack to, in bytes


@dataclass(frozen=True)
class Patience:
    """When to give up.

    Args:
        tries: attempts in a row that bring nothing.
        stall_seconds: silence that ends an attempt.
        pause_seconds: before the second attempt; doubles with each.
    """

    tries: int = 5
    stall_seconds: float = 30.0
    pause_seconds: float = 1.0


class _Interrupted(Exception):
    """An attempt ended early; the next one goes on."""


class _WrongRange(_Interrupted):
    """The server cannot send the rest; the next attempt starts over."""


def fetch(url: str, target: Path, sha256: str | None = None, patience: Patience = Patience()) -> str:
    """Downloads a file and returns its SHA-256. Proxies are taken from the environment.

    Args:
        url: http or https.
        target: where it goes; an existing file is replaced when the new one is complete.
        sha256: what it must be, or its first digits; None accepts anything that is not a web page.
        patience: when to give up.

    Raises:
        DownloadError: refused, unreachable, another length or content than announced, no space, or another process
            is fetching the same file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part, note = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")
    with _only_one(target.with_name(target.name + ".lock")):
        try:
            _fill(url, part, note, target.name, patience)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise DownloadError(f"{target}: the disk is full. Free some space; the same command goes on.") from None
            raise DownloadError(f"{target}: could not be written ({error.strerror or error})") from None
        found = sha256_of(part)
        if sha256 is not None and not found.startswith(sha256):
            part.unlink()
            note.unlink(missing_ok=True)
            raise DownloadError(
                f"{url}: what came is not the published file (sha256 {found[:16]}..., expected {sha256[:16]}...). "
                "It was deleted. Try again, or another mirror."
            )
        part.replace(target)
        note.unlink(missing_ok=True)
    return found


def extract_members(archive: Path, members: dict[str, Path]) -> None:
    """Unpacks chosen files of a zip, each to its own place.

    Args:
        archive: the zip.
        members: path in the zip -> file to write. A path that is not there is looked for by its last part.

    Raises:
        DownloadError: not a zip, a member is missing, doubtful (a link, a path that leads out) or too big.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            listed = {info.filename: info for info in opened.infolist() if not info.is_dir()}
            for name, target in members.items():
                info = _member(listed, name, archive)
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(target) as unfinished, opened.open(info) as source, unfinished.open("wb") as file:
                    shutil.copyfileobj(source, file)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DownloadError(f"{archive}: not a usable zip ({error}). Delete it and try again.") from None
    except OSError as error:
        raise DownloadError(f"{archive}: could not be unpacked ({error.strerror or error})") from None


def _member(listed: dict[str, zipfile.ZipInfo], name: str, archive: Path) -> zipfile.ZipInfo:
    same_end = [path for path in listed if PurePosixPath(path).name == PurePosixPath(name).name]
    if name not in listed and len(same_end) != 1:
        raise DownloadError(f"{archive}: holds no {name}; it holds {', '.join(sorted(listed)[:6]) or 'nothing'}")
    info = listed[name if name in listed else same_end[0]]
    parts = PurePosixPath(info.filename.replace("\\", "/")).parts
    if ".." in parts or parts[0].startswith("/") or ":" in parts[0] or stat.S_ISLNK(info.external_attr >> 16):
        raise DownloadError(f"{archive}: refused, its member {info.filename!r} leads out of the folder")
    if info.file_size > _LARGEST_MEMBER:
        raise DownloadError(f"{archive}: refused, {info.filename} would be {info.file_size >> 30} GB")
    return info


def _fill(url: str, part: Path, note: Path, name: str, patience: Patience) -> None:
    """Brings `part` to its full length, over several attempts where needed."""
    fruitless, pause = 0, patience.pause_seconds
    farthest = part.stat().st_size if part.exists() else 0
    while True:
        try:
            _attempt(url, part, note, name, patience.stall_seconds)
            return
        except _Interrupted as error:
            if isinstance(error, _WrongRange):
                note.unlink(missing_ok=True)
            here = part.stat().st_size if part.exists() else 0
            fruitless, pause = (fruitless + 1, pause) if here <= farthest else (1, patience.pause_seconds)
            farthest = max(farthest, here)
            if fruitless >= patience.tries:
                raise DownloadError(
                    f"{url}: {error}, {patience.tries} times in a row. What came is kept; the same command goes on."
                ) from None
            time.sleep(pause)
            pause *= 2


def _attempt(url: str, part: Path, note: Path, name: str, stall_seconds: float) -> None:
    """One request; appends to `part` what is missing.

    Raises:
        _Interrupted: it ended early.
        DownloadError: it is of no use to try again.
    """
    known = _read_note(note, url)
    offset = part.stat().st_size if part.exists() and known else 0
    headers = {"User-Agent": "svc-toolkit", "Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": known["version"]}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=stall_seconds) as answer:
            offset, total = _place(answer, offset, url)
            version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            write_json(note, {"url": url, "version": version, "total": total})
            _check_space(part, offset, total)
            _receive(answer, part, offset, total, name, url)
    except urllib.error.HTTPError as error:
        if error.code == 416 and offset and known.get("total") == offset:
            return
        if error.code == 416:
            part.unlink(missing_ok=True)
            note.unlink(missing_ok=True)
            raise _Interrupted("the server has a shorter file than before") from None
        if error.code in _PASSING:
            raise _Interrupted(f"the server answered {error.code} {error.reason}") from None
        raise DownloadError(f"{url}: the server answered {error.code} {error.reason}. Open it in a browser.") from None
    except (TimeoutError, http.client.HTTPException, ConnectionError, ssl.SSLError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", None) or error
        stalled = isinstance(reason, TimeoutError)
        text = f"nothing came for {stall_seconds:g} s" if stalled else f"no connection ({reason})"
        raise _Interrupted(text) from None
    except ValueError as error:
        raise DownloadError(f"{url}: not a usable address ({error})") from None


def _place(answer, offset: int, url: str) -> tuple[int, int | None]:
    """Where in the file the answer starts, and how long the file is (None where the server does not say)."""
    if answer.headers.get_content_type() == "text/html":
        raise DownloadError(f"{url}: a web page came instead of a file. Open it in a browser and download it by hand.")
    length = answer.headers.get("Content-Length")
    length = int(length) if length and length.isdigit() else None
    if answer.status != 206:
        return 0, length
    span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    start = span.split("-")[0]
    if start != str(offset):
        raise _WrongRange(f"the server sent {span or 'something else'} when asked for the rest from byte {offset}")
    return offset, int(total) if total.isdigit() else None if length is None else offset + length


def _receive(answer, part: Path, offset: int, total: int | None, name: str, url: str) -> None:
    with (
        part.open("r+b" if offset else "wb") as file,
        tqdm(total=total, initial=offset, desc=name, unit="B", unit_scale=True, dynamic_ncols=True) as bar,
    ):
        file.seek(offset)
        while chunk := answer.read1(_CHUNK):
            if file.tell() == 0 and chunk.lstrip()[:1] == b"<" and b"<html" in chunk[:1024].lower():
                raise DownloadError(f"{url}: a web page came instead of a file. Open it in a browser.")
            file.write(chunk)
            bar.update(len(chunk))
            if total is not None and file.tell() > total:
                file.truncate(0)
                raise DownloadError(f"{url}: more came than the {total} bytes that the server announced")
        came = file.tell()
    if total is not None and came < total:
        raise _Interrupted(f"the connection ended after {came} of {total} bytes")


def _read_note(note: Path, url: str) -> dict:
    """What the part belongs to; nothing where that cannot be told, and it is fetched from the start."""
    try:
        known = json.loads(note.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    usable = isinstance(known, dict) and known.get("url") == url and isinstance(known.get("version"), str)
    return known if usable and known["version"] and not known["version"].startswith("W/") else {}


def _check_space(part: Path, offset: int, total: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - offset > free:
        raise DownloadError(
            f"{part.parent}: {(total - offset) >> 20} MB are needed and {free >> 20} MB free. Free some disk space."
        )


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Holds a lock that the system releases with the process, however that ends.

    Raises:
        DownloadError: another process holds it.
    """
    with path.open("a+b") as file:
        try:
            _lock(file)
        except OSError:
            raise DownloadError(f"{path}: another process is fetching this file; wait for it") from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows does not delete an open file; an empty one does no harm
                path.unlink()


def _lock(file) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
