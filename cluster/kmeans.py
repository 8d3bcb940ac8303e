"""Cluster centres of a speaker's units: training, `kmeans_10000.pt` (laid out as so-vits-svc's), blending."""

import logging
import pickle
import types
from collections.abc import Collection
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from cluster import CLUSTER_COMMAND, check_encoder, check_width
from modules.device import fp32_region
from modules.errors import FAILURES, CheckpointError, reason_of
from modules.files import atomic_path, set_aside
from modules.weights.checkpoint import first_line
from modules.weights.foreign import array_of, load_foreign

logger = logging.getLogger(__name__)

_ENCODER = "speech_encoder"  # our key beside so-vits-svc's
_AGAIN = f"Make it again with: {CLUSTER_COMMAND}"
_CPU_PASSES, _GPU_PASSES = 10, 50  # over the data, at most: mini-batches move the centres many times in each
_TOLERANCE = 1e-4  # of the units' variance: centres that move less in a pass have settled
_SEEDS_PER_FRAME = 3  # starting centres are drawn from so many frames for each
_SEEDING_ROUNDS = 256
_CHUNK_NUMBERS = 2**24  # distances held at a time: 64 MB
_progress_bar = partial(tqdm, unit="pass", dynamic_ncols=True, leave=False)


def train_centres(
    units: np.ndarray, n_clusters: int, device: torch.device, seed: int = 0, progress: str = ""
) -> np.ndarray:
    """Centres (min(K, N), D) float32 of `units` (N, D) float32: by scikit-learn's mini-batch k-means on the CPU, by
    Lloyd's algorithm elsewhere. `progress` names the progress bar; there is none where it is empty."""
    if len(units) <= n_clusters:
        return units.astype(np.float32)
    if device.type != "cpu":
        return lloyd_centres(units, n_clusters, device, seed, progress)
    from sklearn.cluster import MiniBatchKMeans

    random = np.random.default_rng(seed)
    # The first call chooses the starting centres among the frames it is given, so it gets more than the others.
    size, first = max(1024, n_clusters), max(1024, _SEEDS_PER_FRAME * n_clusters)
    model = MiniBatchKMeans(n_clusters, n_init=1, batch_size=size, compute_labels=False, random_state=seed)
    model.partial_fit(units[random.permutation(len(units))[:first]])
    with _progress_bar(total=_CPU_PASSES, desc=progress, disable=not progress) as bar:
        for _ in range(_CPU_PASSES):
            before = model.cluster_centers_.copy()
            order = random.permutation(len(units))
            for start in range(0, len(order), size):
                model.partial_fit(units[order[start : start + size]])
                bar.update(min(size, len(order) - start) / len(order))
            if _have_settled(before, model.cluster_centers_, units):
                break
    return np.asarray(model.cluster_centers_, np.float32)


def lloyd_centres(
    units: np.ndarray, n_clusters: int, device: torch.device, seed: int = 0, progress: str = ""
) -> np.ndarray:
    """Centres (K, D) by Lloyd's algorithm in torch of `units` (N, D), N > K, which stay on the CPU."""
    rows = torch.from_numpy(units)
    middle = rows.mean(0)  # distances between centred frames lose less to rounding
    centres = _starting_centres(rows - middle, n_clusters, device, seed)
    for _ in _progress_bar(range(_GPU_PASSES), desc=progress, disable=not progress):
        sums, counts, gaps = torch.zeros_like(centres), torch.zeros(n_clusters, device=device), []
        for chunk in rows.split(max(1, _CHUNK_NUMBERS // n_clusters)):
            chunk = (chunk - middle).to(device)
            nearest, distances = _nearest(chunk, centres)
            sums.index_add_(0, nearest, chunk)
            counts += torch.bincount(nearest, minlength=n_clusters)
            gaps.append(distances)
        moved = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty):  # a centre that no frame is nearest to moves to a frame that is far from all centres
            far = torch.cat(gaps).topk(len(empty)).indices.cpu()
            moved[empty] = (rows[far] - middle).to(device)
        before, centres = centres, moved
        if not len(empty) and _have_settled(before.cpu().numpy(), centres.cpu().numpy(), units):
            break
    return (centres.cpu() + middle).numpy()


def _starting_centres(rows: torch.Tensor, n_clusters: int, device: torch.device, seed: int) -> torch.Tensor:
    """Frames far from each other, each drawn in proportion to its squared distance from those drawn before.

    Source: Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", 2007, section 2.2; several are
    drawn at once where there are many.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(rows), generator=generator)
    sample = rows[order[: max(1024, _SEEDS_PER_FRAME * n_clusters)]].to(device)
    centres = drawn = sample[:1]
    gaps = torch.full((len(sample),), float("inf"), device=device)
    while len(centres) < n_clusters:
        gaps = torch.minimum(gaps, _nearest(sample, drawn)[1])
        # Frames that are all the same have no distances to draw by: a trace of chance is left to each.
        weights = (gaps / gaps.mean().clamp(min=1e-20) + 1e-6).double().cpu()
        n = min(max(1, n_clusters // _SEEDING_ROUNDS), n_clusters - len(centres))
        drawn = sample[torch.multinomial(weights, n, generator=generator).to(device)]
        centres = torch.cat([centres, drawn])
    return centres.clone()


def _nearest(rows: torch.Tensor, centres: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n,) index of the centre nearest to each row, and (n,) its squared distance; few distances at a time."""
    squares = centres.square().sum(1)
    found, gaps = [], []
    with fp32_region(rows.device):
        for chunk in rows.split(max(1, _CHUNK_NUMBERS // len(centres))):
            # |x - c|^2 = |x|^2 + (|c|^2 - 2 x c), and |x|^2 does not change which is the nearest
            smallest = torch.addmm(squares, chunk, centres.T, alpha=-2).min(1)
            found.append(smallest.indices)
            gaps.append((smallest.values + chunk.square().sum(1)).clamp(min=0))
    return torch.cat(found), torch.cat(gaps)


def _have_settled(before: np.ndarray, after: np.ndarray, units: np.ndarray) -> bool:
    step = max(1, len(units) // 10000)  # the variance of a part will do
    return np.square(after - before).sum(1).mean() <= _TOLERANCE * units[::step].var(0).sum()


class _Pickler(pickle.Pickler):
    """Writes an array as `numpy.ndarray(shape, dtype, bytearray)`: numpy 2 would name modules that numpy 1 lacks."""

    def reducer_override(self, value: object) -> object:
        if type(value) is np.ndarray:
            return np.ndarray, (value.shape, value.dtype.str, bytearray(value.tobytes()))
        return NotImplemented


def save_centres(path: Path | str, centres: dict[str, np.ndarray], encoder: str = "") -> None:
    """Writes centres (K, D) of each speaker in so-vits-svc's layout, with the `encoder` whose units they are, in the
    place of earlier ones of these speakers, also of some of them; any other file of that name becomes `NAME.bak-N`."""
    path = Path(path)
    if path.exists() and not _are_of(path, centres):
        logger.warning("%s holds something else: it is now %s", path, set_aside(path).name)
    about = {_ENCODER: encoder} if encoder else {}
    content = {
        name: {"n_features_in_": rows.shape[1], "_n_threads": 4, "cluster_centers_": np.asarray(rows, np.float32)}
        | about
        for name, rows in centres.items()
    }
    pickle_module = types.SimpleNamespace(__name__="pickle", Pickler=_Pickler)
    try:
        with atomic_path(path) as temporary:
            torch.save(content, temporary, pickle_module=pickle_module)
    except (OSError, RuntimeError) as error:
        reason = reason_of(error, path) if isinstance(error, OSError) else first_line(error)
        raise CheckpointError(f"{path}: could not be written ({reason}). Free some disk space.") from None


def _are_of(path: Path, speakers: Collection[str]) -> bool:
    try:
        return not load_centres(path).keys().isdisjoint(speakers)
    except FAILURES:
        return False


def load_centres(path: Path | str) -> dict[str, np.ndarray]:
    """Centres of every speaker, (K, D) float32, from this tool's or so-vits-svc's file; nothing in it can run."""
    return {name: rows for name, (rows, _) in _load(path).items()}


def _load(path: Path | str) -> dict[str, tuple[np.ndarray, str]]:
    """The same with the encoder whose units they are, "" where the file does not say."""
    centres = {}
    for name, entry in load_foreign(path).items():
        if not isinstance(entry, dict) or "cluster_centers_" not in entry:
            problem = f"holds no cluster centres for {str(name)[:40]!r}"
            raise CheckpointError(f"{path}: {problem}. Make such a file with: {CLUSTER_COMMAND}")
        rows = array_of(entry["cluster_centers_"], path)
        if rows.ndim != 2 or 0 in rows.shape:
            raise CheckpointError(f"{path}: the centres of {name} have the shape {rows.shape}. {_AGAIN}")
        centres[str(name)] = rows.astype(np.float32, copy=False), str(entry.get(_ENCODER) or "")
    return centres


class KMeansRetriever:
    """Blends units with the nearest cluster centre of a speaker; see `cluster.load_retriever`."""

    def __init__(self, path: Path | str, speakers: dict[str, int], dim: int, encoder: str = "") -> None:
        loaded = _load(path)
        found = {name: rows for name, (rows, _) in loaded.items()}
        if missing := [name for name in speakers if name not in found]:
            problem = f"holds no centres of {', '.join(missing)} (it has {', '.join(sorted(found)) or 'none'})"
            raise CheckpointError(f"{path}: {problem}. Make it again with all speakers: {CLUSTER_COMMAND}")
        for name in speakers:
            check_width(f"{path}: the centres of {name}", found[name].shape[1], dim, CLUSTER_COMMAND)
            check_encoder(f"{path}: the centres of {name}", loaded[name][1], encoder, CLUSTER_COMMAND)
            if not np.isfinite(found[name]).all():
                raise CheckpointError(f"{path}: the centres of {name} are not finite. {_AGAIN}")
        self._arrays = {name: found[name] for name in speakers}
        self._centres: dict[tuple[str, torch.device], torch.Tensor] = {}

    def blend(self, units: torch.Tensor, speaker: str, ratio: float) -> torch.Tensor:
        """Moves each frame of `units` (D, N) towards the centre nearest to it, with `ratio` 1 all the way."""
        if units.shape[1] == 0:
            return units
        key = speaker, units.device
        if key not in self._centres:
            self._centres[key] = torch.from_numpy(self._arrays[speaker].copy()).to(units.device)
        rows = units.T.float()
        centres = self._centres[key]
        nearest = centres[_nearest(rows, centres)[0]]
        return (ratio * nearest + (1 - ratio) * rows).T.to(units.dtype)
