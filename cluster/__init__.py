"""Pulling units towards the training voice: cluster centres (`kmeans`) or nearest frames (`retrieval`)."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from modules.errors import CheckpointError, UsageError, reason_of
from modules.files import is_zip

if TYPE_CHECKING:  # it imports torch, which --help of the scripts does not wait for
    from modules.contracts import Retriever

CLUSTER_COMMAND = "python cluster/train_cluster.py"
INDEX_COMMAND = "python train_index.py"
MAX_SEED = 10**9


def check_retriever(path: Path | str, feature_retrieval: bool) -> None:
    """Refuses a file that is missing or of the other kind, without reading it."""
    path = Path(path)
    command = INDEX_COMMAND if feature_retrieval else CLUSTER_COMMAND
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Make it with: {command}")
    try:
        with path.open("rb") as file:
            start = file.read(1)
    except OSError as error:
        raise CheckpointError(f"{path}: {reason_of(error, path)}") from None
    # Centres are torch's zip or, from old versions, a pickle like an index of so-vits-svc: the ending tells those.
    is_index = not is_zip(path) and (start == b"{" or path.suffix not in (".pt", ".pth"))
    if feature_retrieval and not is_index:
        wanted = f"-fr/--feature_retrieval wants an index. Leave -fr out, or make an index with: {command}"
        raise UsageError(f"{path}: holds cluster centres, but {wanted}")
    if is_index and not feature_retrieval:
        raise UsageError(f"{path}: is a feature index, not cluster centres. Add -fr, or make centres with: {command}")
    if feature_retrieval:
        require_faiss()


def load_retriever(
    path: Path | str, speakers: dict[str, int], dim: int, feature_retrieval: bool, encoder: str = ""
) -> "Retriever":
    """What blends units, `dim` wide, of the given speakers (name -> id): from `kmeans_10000.pt`, or with
    `feature_retrieval` from `feature_and_index.json` or so-vits-svc's `.pkl`; ours say of which `encoder` they are."""
    check_retriever(path, feature_retrieval)
    if feature_retrieval:
        from cluster.retrieval import IndexRetriever

        return IndexRetriever(Path(path), speakers, dim, encoder)
    from cluster.kmeans import KMeansRetriever

    return KMeansRetriever(Path(path), speakers, dim, encoder)


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
        problem = f"{what} are {width} wide, but this model's units are {dim}: they come from another encoder"
        raise CheckpointError(f"{problem}. Make it again with: {command}")


def check_encoder(what: str, told: str, encoder: str, command: str) -> None:
    """Refuses vectors that are known to be of another encoder than the model's units."""
    if told and encoder and told.split("-onnx")[0] != encoder.split("-onnx")[0]:
        problem = f"{what} are of units of {told}, but this model's are of {encoder}"
        raise CheckpointError(f"{problem}. Make them again from this model's data set with: {command}")
