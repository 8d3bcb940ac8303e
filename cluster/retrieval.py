"""Feature retrieval: an index (on disk: `index_files`) of a speaker's frames, and blending with the nearest of them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster import INDEX_COMMAND, check_encoder, check_width
from cluster.index_files import encoder_of, parse_index, read_faiss_file, read_json_index, read_pickled_index
from cluster.kmeans import train_centres
from modules.errors import CheckpointError

MAX_VECTORS = 200_000  # above, centres stand for the frames
N_CENTRES = 10_000
N_NEIGHBOURS = 8
_VECTORS_PER_LIST = 39  # faiss wants at least so many to place the centroid of a list
_ADD_BLOCK = 8192
_SEARCH_BLOCK = 1024  # frames; 25 MB of neighbours at 768 wide


def list_count(n_vectors: int) -> int:
    """Inverted lists for an index of so many vectors, 0 where there are too few; of 10000, 10000 // 39 = 256."""
    return min(int(16 * math.sqrt(n_vectors)), n_vectors // _VECTORS_PER_LIST)


def train_index(units: np.ndarray, seed: int = 0, progress: str = "") -> Any:
    """A faiss index of a speaker's frames (N, D): IVF-flat with L2 distances, or flat for less than a second of audio.

    `progress` names the progress bar of large sets; there is none where it is empty.
    """
    import faiss

    vectors = np.ascontiguousarray(np.random.default_rng(seed).permutation(units), np.float32)
    if len(vectors) > MAX_VECTORS:
        vectors = train_centres(vectors, N_CENTRES, torch.device("cpu"), seed, progress)
    n_lists = list_count(len(vectors))
    index = faiss.index_factory(vectors.shape[1], f"IVF{n_lists},Flat" if n_lists else "Flat", faiss.METRIC_L2)
    if n_lists:
        index.nprobe = 1
        index.cp.seed = seed + 1234  # faiss's own default at seed 0
        index.train(vectors)
    for start in range(0, len(vectors), _ADD_BLOCK):
        index.add(vectors[start : start + _ADD_BLOCK])
    return index


class IndexRetriever:
    """Blends units with the nearest frames of a speaker; see `cluster.load_retriever`."""

    def __init__(self, path: Path | str, speakers: dict[str, int], dim: int, encoder: str = "") -> None:
        path = Path(path)
        with path.open("rb") as file:
            is_json = file.read(1) == b"{"
        if is_json:
            width, files = read_json_index(path)
            check_width(f"{path}: its vectors", width, dim, INDEX_COMMAND)
            check_encoder(f"{path}: its vectors", encoder_of(path), encoder, INDEX_COMMAND)
            self._read = lambda speaker: read_faiss_file(path, files[speaker], dim)
            known = ", ".join(files)
            missing = [name for name in speakers if name not in files]
        else:
            pickled = read_pickled_index(path)
            self._read = lambda speaker: parse_index(pickled[speakers[speaker]], dim, path)
            known = "the ids " + ", ".join(map(str, pickled))
            missing = [f"{name} (id {number})" for name, number in speakers.items() if number not in pickled]
        if missing:
            problem = f"holds no index of {', '.join(missing)} (it has {known})"
            raise CheckpointError(f"{path}: {problem}. Make it again with all speakers: {INDEX_COMMAND}")
        self._indexes: dict[str, Any] = {}

    def blend(self, units: torch.Tensor, speaker: str, ratio: float) -> torch.Tensor:
        """Moves each frame of `units` (D, N) towards the mean of its 8 nearest, weighted by (1 / squared distance)^2;
        with `ratio` 1 all the way. The first use of a speaker reads the index."""
        if units.shape[1] == 0:
            return units
        if speaker not in self._indexes:
            self._indexes[speaker] = self._read(speaker)
        index = self._indexes[speaker]
        rows = np.ascontiguousarray(units.T.float().cpu().numpy())
        blocks = [rows[start : start + _SEARCH_BLOCK] for start in range(0, len(rows), _SEARCH_BLOCK)]
        found = np.concatenate([_mean_of_nearest(index, block) for block in blocks])
        mixed = ratio * found + (1 - ratio) * rows
        return torch.from_numpy(np.ascontiguousarray(mixed.T, np.float32)).to(units.device, units.dtype)


def _mean_of_nearest(index: Any, rows: np.ndarray) -> np.ndarray:
    """(n, D) float32: for each row the weighted mean of its nearest vectors."""
    _, ids, vectors = index.search_and_reconstruct(rows, min(N_NEIGHBOURS, index.ntotal))
    is_hit = ids >= 0
    vectors = np.where(is_hit[..., None], vectors, 0)
    # Computed here because the scores of a flat index are |x|^2 - 2xv + |v|^2, in which small distances drown.
    distances = np.square(vectors - rows[:, None]).sum(-1, dtype=np.float64)
    distances[~is_hit] = np.inf
    nearest = distances.min(1, keepdims=True)
    # 1/d over the largest of them: between 0 and 1 however small the distances are, and an exact hit takes all.
    with np.errstate(invalid="ignore", divide="ignore"):
        closeness = np.where(nearest > 0, nearest / distances, distances == 0)
    weights = np.where(is_hit, np.square(closeness), 0)
    total = weights.sum(1, keepdims=True)
    mean = np.einsum("nk,nkd->nd", (weights / np.maximum(total, 1)).astype(np.float32), vectors)
    return np.where(total > 0, mean, rows)  # a frame that no vector is found for stays as it is
