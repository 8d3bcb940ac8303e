"""The part of a song that a grid is made of."""

import hashlib
from pathlib import Path

import numpy as np

from modules.audio.io import StreamWriter
from modules.audio.mono import MonoFile
from modules.errors import UsageError
from modules.text import printable
from modules.webui.workspace import safe_name


def excerpt(path: Path, folder: Path, start: float, seconds: float | None) -> Path:
    """A song from second `start` on, `seconds` long at most, as a mono float wav in `folder`; the song itself where
    that is all of it (`start` 0, `seconds` None). An excerpt that is there already is taken."""
    if not start and seconds is None:
        return path
    status = path.stat()
    about = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {start:g} {seconds}"
    digest = hashlib.sha256(about.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    target = folder / f"{safe_name(path.stem)[:60]} {digest}.wav"
    if target.is_file():
        return target
    file = MonoFile(path)
    first = round(start * file.rate)
    last = None if seconds is None else first + round(seconds * file.rate)
    done, blocks = 0, []
    for block in file.blocks():
        blocks.append(block[max(0, first - done) : None if last is None else max(0, last - done)])
        done += len(block)
        if last is not None and done >= last:
            break
    wav = np.concatenate(blocks)
    if not len(wav):
        raise UsageError(f"--start {start:g}: {printable(path)} ends at {done / file.rate:.1f} s")
    with StreamWriter(target, file.rate, "wav", subtype="FLOAT") as writer:
        writer.write(wav)
    return target
