"""Pretrained files: where they are looked for, and what to tell a user who has not got one.

They lie in `pretrain/` of the workspace (the current directory) or, failing that, in `pretrain/` beside the code.
`pretrain/README.md` lists them all.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from modules.errors import MissingWeights
from modules.files import sha256_of

logger = logging.getLogger(__name__)

CODE_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Weights:
    """A pretrained file.

    Args:
        path: starts with `pretrain/`.
        url: where it can be had.
        sha256: of the published file, or None where nobody published one.
    """

    path: str
    url: str
    sha256: str | None = None


def find(path: str) -> Path | None:
    """`path` (`pretrain/...`) in the workspace, or else beside the code; None if it is in neither."""
    for root in (Path.cwd(), CODE_ROOT):
        candidate = root / path
        if candidate.is_file():
            return candidate
    return None


def require(*alternatives: Weights) -> Path:
    """The first of some equally good files that is there.

    Raises:
        MissingWeights: none is; the text says what to put where.
    """
    for weights in alternatives:
        found = find(weights.path)
        if found is not None:
            return found
    wanted = alternatives[0]
    raise MissingWeights(
        f"{wanted.path}: not found in {Path.cwd()} or beside the code. "
        f"Download {wanted.url} and save it under that name (see pretrain/README.md)."
    )


def checksum(*alternatives: Weights) -> str:
    """SHA-256 of the file that `require` picks; a warning where it is not the published one.

    Raises:
        MissingWeights: as `require`.
    """
    path = require(*alternatives)
    found = sha256_of(path)
    wanted = next((weights.sha256 for weights in alternatives if path.as_posix().endswith(weights.path)), None)
    if wanted not in (None, found):
        logger.warning("%s is not the published file (sha256 %s..., expected %s...)", path, found[:12], wanted[:12])
    return found
