"""The largest batch that the memory of a GPU holds, found by trying."""

from collections.abc import Callable

import torch

from modules.data.dataset import WINDOW_SLACK, Batch
from modules.errors import UsageError, UserError
from modules.training.step import VitsStep

FREE_SHARE = 0.1  # clips of many lengths fill the memory less tightly than the ones that are tried


def largest_batch_size(step: VitsStep, most: int) -> int:
    """The largest `train.batch_size`, `most` at most, that `step`, whose weights it changes, has memory for."""
    if step.device.type != "cuda":
        raise UsageError(
            f"--auto_batch needs a CUDA GPU: the memory of {step.device} is shared with all other programs, so no size "
            "surely fits. Set train.batch_size in the config"
        )
    torch.cuda.set_per_process_memory_fraction(1 - FREE_SHARE, step.device)
    try:
        found = largest_that_fits(lambda size: _fits(step, size), most)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, step.device)
        torch.cuda.empty_cache()
    if found == 0:
        raise UserError(f"the memory of {step.device} is too small for one clip. Lower train.segment_size")
    return found


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """The largest size of 1 to `most` that fits, 0 if none does: by doubling, then by halving what is unknown."""
    fitting, failing, size = 0, most + 1, 1
    while failing - fitting > 1:
        if fits(size):
            fitting = size
        else:
            failing = size
        size = min(2 * fitting, most) if failing > most else (fitting + failing) // 2
    return fitting


def _fits(step: VitsStep, size: int) -> bool:
    try:
        for _ in range(2):  # the first makes the moments of the optimizers, which the second has to live with
            step.run([long_batch(step, size)])
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        for optimizer in (step.optim_g, step.optim_d):
            optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()


def long_batch(step: VitsStep, size: int) -> Batch:
    """Noise in the shapes of the longest clips."""
    model, audio, device = step.config.model, step.audio, step.device
    n_frames = max(step.config.train.window_frames + WINDOW_SLACK, step.segment_frames)

    def noise(*shape: int) -> torch.Tensor:
        return torch.rand(size, *shape, device=device)

    return Batch(
        units=noise(model.ssl_dim, n_frames),
        f0=200 + noise(n_frames),
        uv=torch.ones(size, n_frames, device=device),
        spec=noise(audio.n_freqs, n_frames),
        wav=noise(1, n_frames * audio.hop_length) - 0.5,
        speakers=torch.zeros(size, dtype=torch.long, device=device),
        lengths=torch.full((size,), n_frames, device=device),
        volume=noise(n_frames) if model.vol_embedding else None,
        paths=["noise"] * size,
    )
