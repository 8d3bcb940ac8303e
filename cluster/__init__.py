"""Pulling units towards the training voice: cluster centres (`kmeans`) and nearest frames (`retrieval`).

Both replace a part of each frame of units by what the target speaker's own recordings hold near it. This file only
finds out which of the two a file is.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from modules.errors import CheckpointError, UsageError
from modules.files import is_zip

if TYPE_CHECKING:  # it imports torch, which --help of the scripts does not wait for
    from modules.contracts import Retriever

CLUSTER_COMMAND = "python cluster/train_cluster.py"
INDEX_COMMAND = "python train_index.py"
MAX_SEED = 10**9


def load_retriever(path: Path | str, speakers: dict[str, int], dim: int, feature_retrieval: bool) -> "Retriever":
    """What blends units, `dim` wide, of the given speakers (name -> id); others in the file are left alone.

    Args:
        path: `kmeans_10000.pt`, or with `feature_retrieval` a `feature_and_index.json` or so-vits-svc's `.pkl`.

    Raises:
        CheckpointError: no such file, damaged, it asks to run code, its width is another, or a speaker is not in it.
        UsageError: the file is of the other kind, or faiss is not installed.
    """
    path = Path(path)
    command = INDEX_COMMAND if feature_retrieval else CLUSTER_COMMAND
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Make it with: {command}")
    if _is_index(path) != feature_retrieval:
        if feature_retrieval:
            raise UsageError(
                f"{path}: holds cluster centres, but -fr/--feature_retrieval wants an index. Leave -fr out, or make an "
                f"index with: {command}"
            )
        raise UsageError(f"{path}: is a feature index, not cluster centres. Add -fr, or make centres with: {command}")
    if feature_retrieval:
        from cluster.retrieval import IndexRetriever

        require_faiss()
        return IndexRetriever(path, speakers, dim)
    from cluster.kmeans import KMeansRetriever

    return KMeansRetriever(path, speakers, dim)


def require_faiss() -> None:
    """Refuses to go on without faiss."""
    if importlib.util.find_spec("faiss") is None:
        raise UsageError("feature retrieval needs faiss. Install it with: pip install faiss-cpu")


def check_seed(seed: int) -> None:
    """Refuses a --seed that a library cannot take."""
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"--seed {seed}: expected 0 to {MAX_SEED}")


def check_width(what: str, width: int, dim: int, command: str) -> None:
    """Refuses vectors of another width than the model's units."""
    if width != dim:
        raise CheckpointError(
            f"{what} are {width} wide, but this model's units are {dim}: they come from another encoder. "
            f"Make it again with: {command}"
        )


def _is_index(path: Path) -> bool:
    """Centres are torch's zip or, from old versions, a pickle like an index of so-vits-svc: the ending tells those."""
    if is_zip(path):
        return False
    with path.open("rb") as file:
        is_json = file.read(1) == b"{"
    return is_json or path.suffix not in (".pt", ".pth")
