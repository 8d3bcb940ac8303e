"""Safe writing: every artefact goes to a temporary name and is renamed when it is whole."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from modules.errors import UsageError, reason_of

logger = logging.getLogger(__name__)

_TEMPORARY = re.compile(r"^\.(?P<name>.+)\.(?P<pid>\d+)\.partial(\.[^.]*)?$")


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is flushed to disk and takes that name, else it is removed.

    It keeps the suffix (writers choose formats by it) and starts with a dot (listings skip it). Folders above are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial_path(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:  # for the reader it is the artefact that fails, not its temporary name
        if error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """Where this process writes what is to become `path`; `remove_leftovers` deletes it after a crash."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial{path.suffix}")


def write_text(path: Path | str, text: str) -> None:
    """Writes UTF-8 text with `\\n` line ends, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: Path | str, value: object, indent: int | None = 2) -> None:
    """Writes JSON with readable non-ASCII letters and a final newline, whole or not at all."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def read_bytes(path: Path | str, limit: int = 1 << 26) -> bytes:
    """A small file's content. OSError where it cannot be had: also for a pipe or a device, which would never end, and
    for more than `limit` bytes."""
    status = Path(path).stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    if status.st_size > limit:
        raise OSError(errno.EINVAL, f"has {status.st_size >> 20} MB, which is no file of this kind", str(path))
    return Path(path).read_bytes()


def make_folder(folder: Path) -> None:
    """Makes a folder with all above it; a UsageError where something else is in its place or it may not be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"{folder}: the folder cannot be made ({reason_of(error, folder)})"
        raise UsageError(f"{problem}; remove what is in its place, or use another folder") from None


def check_place(path: Path) -> None:
    """Refuses, before any work, a result's place that a folder takes, or whose own folder cannot be made."""
    make_folder(path.parent)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, and a file of that name is to be written; move it away")


def set_aside(path: Path, copy: bool = False) -> Path:
    """Renames a file or folder to the next free `NAME.bak-N`, or copies a file to it, and returns that."""
    number = 1
    while os.path.lexists(backup := path.with_name(f"{path.name}.bak-{number}")):
        number += 1
    try:
        if not copy:
            return path.rename(backup)
        with atomic_path(backup) as temporary:
            shutil.copyfile(path, temporary)
        return backup
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be set aside as {backup.name} ({reason_of(error, path)}); move it away"
        ) from None


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder that is there; a UsageError where one is in. A dead one locks nothing."""
    path = folder / ".lock"
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: is no file, so {folder} cannot be locked; delete it")
    try:
        opened = path.open("a+", encoding="ascii", errors="replace")
    except OSError as error:
        problem = f"{folder}: nothing can be written there ({reason_of(error, path)})"
        raise UsageError(f"{problem}; allow it, or use another folder") from None
    with opened as file:
        try:
            take_lock(file.fileno())
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = file.read(20).strip() or "unknown"
            problem = f"{folder}: another process (number {owner}) is at work there"
            raise UsageError(f"{problem}; let it end, stop it, or use another folder") from None
        except OSError as error:  # some network file systems
            logger.warning("%s: cannot be locked (%s); start no second process on it", folder, reason_of(error))
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def take_lock(descriptor: int) -> None:
    """Takes the system's lock of an open file, which ends with the process, however that ends; BlockingIOError or
    PermissionError where another process has it."""
    if os.name == "nt":
        import msvcrt

        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # a byte behind the text, which stays readable
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_inputs(*named: tuple[str, Path]) -> None:
    """Refuses files that cannot be read, all at once; each comes with the flag that named it."""
    problems = []
    for flag, path in named:
        try:
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                path.open("rb").close()
            else:
                kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
                problems.append(f"{flag} {path}: is {kind}, expected a file")
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            problems.append(f"{flag} {path}: {reason_of(error, path)}")
    if problems:
        raise UsageError("; ".join(problems))


def check_output(
    output: Path,
    inputs: Iterable[Path],
    overwrite: bool,
    suffixes: tuple[str, ...] = (".pth", ".pt"),
    flag: str = "-o/--output",
) -> None:
    """Refuses a file to write that is an input (also by way of a link), is not allowed to exist, or ends wrongly."""
    for path in inputs:
        if output.resolve() == path.resolve() or (output.exists() and path.exists() and output.samefile(path)):
            problem = f"is the input {path}, and inputs are never overwritten: use another name"
            raise UsageError(f"{flag} {output}: {problem}")
    if output.suffix.lower() not in suffixes:
        raise UsageError(f"{flag} {output}: expected a name that ends in {' or '.join(suffixes)}")
    if output.is_dir():
        raise UsageError(f"{flag} {output}: is a folder; name a file")
    if output.exists() and not overwrite:
        raise UsageError(f"{flag} {output}: already exists; use another name, or add --overwrite")


def is_zip(path: Path | str) -> bool:
    """Whether a file is a zip by its ending, be it damaged or not; False where there is none."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # a changed byte says that it spans several disks
        return True


def sha256_of(path: Path | str, show: bool = False) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits, read in blocks of 1 MiB; `show` a bar where it takes over 2 s."""
    path, digest = Path(path), hashlib.sha256()
    bar = tqdm(
        desc=path.name, total=path.stat().st_size, unit="B", unit_scale=True, leave=False, delay=2, disable=not show
    )
    with path.open("rb") as file, bar:
        while block := file.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def remove_leftovers(folder: Path, recursive: bool = True) -> None:
    """Deletes the temporary files that processes which no longer run left below `folder`."""
    for path in folder.rglob(".*.partial*") if recursive else folder.glob(".*.partial*"):
        match = _TEMPORARY.match(path.name)
        if match and not is_alive(int(match["pid"])):
            discard(path)


def discard(path: Path) -> None:
    """Deletes a file of ours that is not needed any more; one that another program holds open stays, with a warning."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s: cannot be deleted (%s); delete it when nothing uses it", path, reason_of(error, path))


def is_alive(pid: int) -> bool:
    """Whether that process runs; on Windows always False, where a file in use cannot be deleted anyway."""
    if pid == os.getpid():
        return True
    if os.name == "nt":  # signal 0 would end the process there
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # on Linux: a killed process that nobody has waited for still has its number, and the state Z
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True
