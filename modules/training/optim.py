"""Backward passes and optimizer steps: loss scaling, clipping, averaged weights; a broken gradient changes nothing."""

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class Updates:
    """Gradients to steps, for any number of optimizers that share one precision.

    A step whose gradient is not finite is left out: weights and moments stay as they are. On CUDA the device itself
    decides that, so no step waits for it, and in fp16 the scale of the loss is halved: part of the search for the
    largest one. Gradients of one optimizer that are longer than `clip_norm` are shortened to it; 0 leaves all.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, clip_norm: float = 0.0) -> None:
        self.dtype, self.clip_norm = dtype, clip_norm
        scale, interval = (2.0**16, 2000) if dtype == torch.float16 else (1.0, 2**31 - 1)  # else it never grows
        on_cuda = device.type == "cuda"
        self.scaler = torch.amp.GradScaler("cuda", init_scale=scale, growth_interval=interval, enabled=on_cuda)

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradient of a loss, a scalar, to those of its parameters."""
        self.scaler.scale(loss).backward()

    def step(self, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """Updates the parameters of an optimizer; returns the length of their gradient, before it was clipped."""
        self.scaler.unscale_(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if self.clip_norm:
            nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        if self.scaler.is_enabled():
            self.scaler.step(optimizer)
        elif norm.isfinite():
            optimizer.step()
        return norm

    def end(self) -> None:
        """Call it once after the steps of all optimizers: the scale of the next loss."""
        # Only fp16 has a scale to search for; elsewhere each broken step would halve it for good.
        self.scaler.update(None if self.dtype == torch.float16 else 1.0)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the scale, and the precision that it belongs to."""
        return {"precision": str(self.dtype), **self.scaler.state_dict()}

    def load_state_dict(self, saved: Any) -> None:
        """Goes on with the scale of a checkpoint, where it was made in the same precision."""
        if not isinstance(saved, dict) or not self.scaler.is_enabled() or self.dtype != torch.float16:
            return
        state = {key: value for key, value in saved.items() if key != "precision"}
        # A checkpoint of an older version names no precision: only fp16 had a scale then.
        if state and saved.get("precision", str(torch.float16)) == str(self.dtype):
            self.scaler.load_state_dict(state)


def make_adamw(
    net: nn.Module,
    device: torch.device,
    rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> torch.optim.AdamW:
    """AdamW over all parameters of a network; one kernel for hundreds of small tensors where the device has it."""
    fused = device.type in ("cpu", "cuda")
    return torch.optim.AdamW(net.parameters(), rate, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)


class AveragedWeights(AveragedModel):
    """An exponential moving average of a network's weights, itself a network of that kind (`module`).

    After n updates, one keeps the share min(decay, (1 + n) / (10 + n)) of it, so that it does not start as noise.

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; Yazici et al., "The
    unusual effectiveness of averaging in GAN training", 2019, arXiv:1806.04498.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        def average(averaged: list[torch.Tensor], current: list[torch.Tensor], _: torch.Tensor) -> None:
            n_updates = int(self.n_averaged)  # on the CPU, unlike what is handed in: nothing waits for a GPU
            kept = min(decay, (1 + n_updates) / (10 + n_updates))
            torch._foreach_lerp_(averaged, current, 1 - kept)

        super().__init__(net, multi_avg_fn=average)
        self.requires_grad_(False)
        self.eval()
