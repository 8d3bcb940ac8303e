"""Fetching big files over HTTP: broken transfers are resumed, and nothing wrong takes a file's name.

While it runs, `NAME.part` holds what has come and `NAME.part.json` what it belongs to (address, version, length). Only
a complete and verified file is renamed to `NAME`.
"""

import contextlib
import errno
import http.client
import json
import shutil
import ssl
import stat
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from modules.errors import DownloadError
from modules.files import atomic_path, sha256_of, take_lock, write_json

_PASSING = {408, 425, 429, 500, 502, 503, 504}  # answers that another try may change
_LARGEST_MEMBER = 20 << 30  # what a zip may unpack to, in bytes
_WEB_PAGE = "a web page came instead of a file. Open it in a browser and download it by hand."


def fetch(
    url: str,
    target: Path,
    sha256: str | None = None,  # what it must be, or its first digits; None accepts anything that is not a web page
    tries: int = 5,  # attempts in a row that bring nothing
    stall_seconds: float = 30.0,  # silence that ends an attempt
    pause_seconds: float = 1.0,  # before the second attempt; doubles with each
) -> str:
    """Downloads a file to `target`, replacing one there when it is complete, and returns its SHA-256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part, note = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")
    with _only_one(target.with_name(target.name + ".lock")):
        farthest, fruitless = _size(part), 0
        try:
            while reason := _attempt(url, part, note, stall_seconds):
                fruitless = 1 if _size(part) > farthest else fruitless + 1
                farthest = max(farthest, _size(part))
                if fruitless >= tries:
                    reason = f"{reason}, {tries} times in a row"
                    raise DownloadError(f"{url}: {reason}. What came is kept; the same command goes on.")
                time.sleep(pause_seconds * 2 ** (fruitless - 1))
        except OSError as error:
            reason = f"could not be written ({error.strerror or error})"
            if error.errno == errno.ENOSPC:
                reason = "the disk is full. Free some space; the same command goes on."
            raise DownloadError(f"{target}: {reason}") from None
        found = sha256_of(part)
        if sha256 is not None and not found.startswith(sha256):
            part.unlink()
            note.unlink(missing_ok=True)
            reason = f"not the published file (sha256 {found[:16]}..., expected {sha256[:16]}...). It was deleted"
            raise DownloadError(f"{url}: what came is {reason}. Try again, or another mirror.")
        part.replace(target)
        note.unlink(missing_ok=True)
    return found


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _attempt(url: str, part: Path, note: Path, stall_seconds: float) -> str | None:
    """One request, which appends to `part` what is missing; why it ended early, or None where the file is whole."""
    known = _read_note(note, url)
    offset = _size(part) if known else 0
    headers = {"User-Agent": "svc-toolkit", "Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": known["version"]}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=stall_seconds) as answer:
            return _receive(answer, part, note, offset, url)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # there is nothing behind the offset
            if offset and known.get("total") == offset:
                return None
            part.unlink(missing_ok=True)
            note.unlink(missing_ok=True)
            return "the server has a shorter file than before"
        if error.code in _PASSING:
            return f"the server answered {error.code} {error.reason}"
        raise DownloadError(f"{url}: the server answered {error.code} {error.reason}. Open it in a browser.") from None
    except (TimeoutError, http.client.HTTPException, ConnectionError, ssl.SSLError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", None) or error
        silent = isinstance(reason, TimeoutError)
        return f"nothing came for {stall_seconds:g} s" if silent else f"no connection ({reason})"
    except ValueError as error:
        raise DownloadError(f"{url}: not a usable address ({error})") from None


def _receive(answer, part: Path, note: Path, offset: int, url: str) -> str | None:
    """Writes what an answer holds to its place in `part`; returns as `_attempt`."""
    if answer.headers.get_content_type() == "text/html":
        raise DownloadError(f"{url}: {_WEB_PAGE}")
    length = answer.headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else None  # of the file; None where the server does not say
    if answer.status == 206:
        span, _, whole = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if span.split("-")[0] != str(offset):
            note.unlink(missing_ok=True)  # the next attempt starts over
            return f"the server sent {span or 'something else'} when asked for the rest from byte {offset}"
        total = int(whole) if whole.isdigit() else None if total is None else offset + total
    else:
        offset = 0
    version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    write_json(note, {"url": url, "version": version, "total": total})
    needed, free = (total or offset) - offset, shutil.disk_usage(part.parent).free
    if needed > free:
        sizes = f"{needed >> 20} MB are needed and {free >> 20} MB free"
        raise DownloadError(f"{part.parent}: {sizes}. Free some disk space.")
    shown = {"desc": part.name.removesuffix(".part"), "unit": "B", "unit_scale": True, "dynamic_ncols": True}
    with part.open("r+b" if offset else "wb") as file, tqdm(total=total, initial=offset, **shown) as bar:
        file.seek(offset)
        while block := answer.read1(1 << 18):
            if file.tell() == 0 and block.lstrip()[:1] == b"<" and b"<html" in block[:1024].lower():
                raise DownloadError(f"{url}: {_WEB_PAGE}")
            file.write(block)
            bar.update(len(block))
            if total is not None and file.tell() > total:
                file.truncate(0)
                raise DownloadError(f"{url}: more came than the {total} bytes that the server announced")
        came = file.tell()
    return f"the connection ended after {came} of {total} bytes" if total is not None and came < total else None


def _read_note(note: Path, url: str) -> dict:
    """What the part belongs to; empty where that is not certain, and it is fetched from the start."""
    try:
        known = json.loads(note.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    usable = isinstance(known, dict) and known.get("url") == url and isinstance(known.get("version"), str)
    return known if usable and known["version"] and not known["version"].startswith("W/") else {}


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("a+b") as file:
        try:
            take_lock(file.fileno())
        except OSError:
            raise DownloadError(f"{path}: another process is fetching this file; wait for it") from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows does not delete an open file; an empty one does no harm
                path.unlink()


def extract_members(archive: Path, members: dict[str, Path]) -> None:
    """Unpacks `members` of a zip, path in it -> file to write; a path that is not there is looked for by its last part.
    Doubtful ones (links, paths that lead out, too big) are refused."""
    try:
        with zipfile.ZipFile(archive) as opened:
            listed = {info.filename: info for info in opened.infolist() if not info.is_dir()}
            for name, target in members.items():
                info = _member(listed, name, archive)
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
