"""Where pretrained files are looked for: in `pretrain/` of the workspace (the current folder), else beside the code."""

import logging
from functools import cache
from pathlib import Path

from modules.errors import MissingWeights
from modules.files import sha256_of
from modules.pretrained.catalogue import Weights, package_with

logger = logging.getLogger(__name__)

CODE_ROOT = Path(__file__).resolve().parents[2]


def find(path: str) -> Path | None:
    """`path` (`pretrain/...`) in the workspace, or else beside the code; None if it is in neither."""
    return next((root / path for root in (Path.cwd(), CODE_ROOT) if (root / path).is_file()), None)


def require(*alternatives: Weights) -> Path:
    """The first of some equally good files that exists, or a MissingWeights that says what to put where."""
    for weights in alternatives:
        if found := find(weights.path):
            return found
    wanted = alternatives[0]
    remedy = f"Download {wanted.url} and save it under that name"
    if known := package_with(wanted.path):
        remedy = f"Get it with: python pretrain/download.py {known.name} (or save {wanted.url} under that name)"
    raise MissingWeights(f"{wanted.path}: not found in {Path.cwd()} or beside the code. {remedy}")


def checksum(*alternatives: Weights) -> str:
    """SHA-256 of the file that `require` picks, or of the one that it is the same as; a warning where it is not the
    published one."""
    path = require(*alternatives)
    stat = path.stat()
    found = _hash(path, stat.st_size, stat.st_mtime_ns)
    published = next((weights for weights in alternatives if path.as_posix().endswith(weights.path)), None)
    if published is None or published.sha256 is None or found == published.same_as:
        return found
    if found.startswith(published.sha256):
        return published.same_as or found
    logger.warning(
        "%s is not the published file (sha256 %s..., expected %s...)", path, found[:12], published.sha256[:12]
    )
    return found


@cache
def _hash(path: Path, size: int, changed: int) -> str:
    """The checksum of a file as it is now, computed once."""
    return sha256_of(path)
