"""Small pitch networks with random weights, as files where the predictors look for theirs.

The goldens under `tests/goldens/tiny/` were made with weights drawn from one seed, which is repeated here instead of
storing megabytes of them.
"""

import math
import zlib
from pathlib import Path

import golden_rule
import numpy as np
import torch

from modules.f0._networks.pcmer import Pcmer, PcmerSizes

SEED = 4
PCMER_RANGE = (32.70, 1975.5)  # Hz of the first and the last bin
SMALL_PCMER = PcmerSizes(channels=64, layers=2, heads=2)


def seeded_state(names: list[str], shapes: list[tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The weights that the tiny goldens were made with: parameters first, then buffers, in the order of the names."""
    generator = torch.Generator().manual_seed(SEED)
    state = {}
    for is_buffer in (False, True):
        for name, shape in zip(names, shapes):
            last = name.rsplit(".", 1)[-1]
            if (last in ("running_mean", "running_var", "num_batches_tracked")) != is_buffer:
                continue
            if last == "num_batches_tracked":
                state[name] = torch.zeros((), dtype=torch.int64)
            elif last == "running_var":
                state[name] = 1 + 0.2 * torch.rand(shape, generator=generator)
            elif last == "running_mean":
                state[name] = 0.1 * torch.randn(shape, generator=generator)
            else:
                scale = 0.7 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.05
                state[name] = scale * torch.randn(shape, generator=generator)
    return state


def rmvpe_state() -> dict[str, torch.Tensor]:
    """Weights of a two-level RMVPE, those of the unused timbre filter included."""
    golden = golden_rule.load_golden("tiny/rmvpe_small")
    shapes = [tuple(map(int, text.split("x"))) if text else () for text in golden["shapes"].tolist()]
    return seeded_state(golden["keys"].tolist(), shapes)


def write_rmvpe(folder: Path) -> Path:
    """Puts `pretrain/rmvpe.pt` into a workspace."""
    path = folder / "pretrain/rmvpe.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": rmvpe_state()}, path)
    return path


def pcmer(sizes: PcmerSizes) -> Pcmer:
    """A PCmer with the weights of `golden_rule`; the random features of its attention follow a rule of their own."""
    network = Pcmer(sizes).eval()
    golden_rule.fill(network)
    for name, buffer in network.named_buffers():
        if name.endswith("projection_matrix"):
            seed = zlib.crc32(name.encode())
            drawn = np.random.RandomState(seed).standard_normal(buffer.numel()).astype(np.float32)
            buffer.copy_(torch.from_numpy(drawn).reshape(buffer.shape))
    low, high = (1200 * math.log2(edge / 10) for edge in PCMER_RANGE)
    network.cent_table.copy_(torch.from_numpy(np.linspace(low, high, sizes.bins)))
    return network


def write_fcpe(folder: Path, sizes: PcmerSizes = SMALL_PCMER) -> Path:
    """Puts so-vits-svc's form of `pretrain/fcpe.pt` into a workspace."""
    path = folder / "pretrain/fcpe.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    mel = {"sampling_rate": 16000, "num_mels": sizes.n_mels, "n_fft": 1024, "win_size": 1024, "hop_size": 160}
    config = {"mel": {**mel, "fmin": 0, "fmax": 8000}, "model": {"n_layers": sizes.layers}}
    torch.save({"config": config, "model": pcmer(sizes).state_dict()}, path)
    return path
