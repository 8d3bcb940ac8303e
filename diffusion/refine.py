"""Diffusion in a conversion: what the voice model sang becomes a mel, loses its flaws to noise, and comes back clean.

Shallow diffusion starts from the voice model's mel, pure diffusion from noise; both end in the mel vocoder. Stretches
of a song go through together, padded to the longest with a mask that keeps them from hearing the padding.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from tqdm import tqdm

from diffusion.samplers.base import is_ancestral, n_evaluations
from diffusion.unit2mel import Unit2Mel
from modules.contracts import MelVocoder, Stretch
from modules.device import seeded

SEED = 52468  # the one that the voice model's noise has
# Lengths are padded to multiples of this, so that kernels are planned for few lengths only.
LENGTH_STEP = 32
# Batches hold at most this many frames. On a CPU each stretch goes alone: larger tensors leave the caches, which costs
# 15 % (benchmarks/diffusion.py). On a GPU what is free decides.
CPU_FRAMES = 1
SMALLEST_GPU_FRAMES, LARGEST_GPU_FRAMES = 4096, 65536
_GPU_SHARE = 0.4  # of the free memory


@dataclass(frozen=True)
class Walk:
    """How the chain is walked.

    Args:
        k_step: levels to run.
        method: name of a sampler, None for the ancestral chain.
        speedup: levels per evaluation.
    """

    k_step: int
    method: str | None
    speedup: int


class DiffusionRefiner:
    """Shallow or pure diffusion over rendered stretches.

    Args:
        network: trained, on the device.
        vocoder: of the network's mel.
        walk: how the chain is walked.
        show_progress: draw a bar over the evaluations of a batch that takes longer than two seconds.
    """

    def __init__(self, network: Unit2Mel, vocoder: MelVocoder, walk: Walk, show_progress: bool = True) -> None:
        self.network, self.vocoder, self.walk, self.show_progress = network, vocoder, walk, show_progress
        self.device = next(network.parameters()).device
        self.batch_frames = self._affordable_frames()

    def refine(self, stretches: list[Stretch]) -> list[torch.Tensor]:
        """Audio (N * hop_length,) of each stretch, whatever company it is in.

        A batch that the device has no memory for is halved.
        """
        order = sorted(range(len(stretches)), key=lambda index: len(stretches[index].f0))
        results: dict[int, torch.Tensor] = {}
        for batch in self._batches(order, stretches):
            mels = self._halving([stretches[index] for index in batch])
            for index, mel in zip(batch, mels):
                with seeded(self.device, SEED):
                    results[index] = self.vocoder.synthesize(mel, stretches[index].f0[: mel.shape[1]])
        return [results[index] for index in range(len(stretches))]

    def mels(self, stretches: list[Stretch]) -> list[torch.Tensor]:
        """The natural-log mel (M, N) of each stretch, all denoised in one batch."""
        lengths = [len(stretch.f0) for stretch in stretches]
        longest = _padded(max(lengths))
        start = None
        if stretches[0].wav is not None:
            start = _pad([self._mel_of(stretch) for stretch in stretches], longest)
        with torch.inference_mode():
            condition = self._condition(stretches, longest)
            mask = None
            if len(set(lengths)) > 1 or longest != lengths[0]:
                frames = torch.arange(longest, device=self.device)
                mask = (frames < torch.tensor(lengths, device=self.device)[:, None]).float()[:, None]
            n_mels = self.network.decoder.denoise_fn.output_projection.out_channels
            noise = _pad([self._noise(n_mels, length) for length in lengths], longest)[:, None]
            walk = self.walk
            total = n_evaluations(walk.method, walk.k_step, walk.speedup)
            with (
                seeded(self.device, SEED),
                tqdm(
                    total=total,
                    desc="diffusion",
                    unit="step",
                    leave=False,
                    delay=2,
                    dynamic_ncols=True,
                    disable=not self.show_progress,
                ) as bar,
            ):
                made = self.network.decoder.sample(
                    condition, walk.k_step, walk.method, walk.speedup, start, noise, mask, bar.update
                )
        return [mel[:, :length] for mel, length in zip(made, lengths)]

    def _condition(self, stretches: list[Stretch], longest: int) -> torch.Tensor:
        units, f0, volume = (
            _pad([value.float().to(self.device) for value in values], longest)
            for values in zip(*((stretch.units, stretch.f0, stretch.volume) for stretch in stretches))
        )
        if isinstance(stretches[0].speaker, int):
            speaker = torch.tensor([stretch.speaker for stretch in stretches], device=self.device)
        else:
            speaker = _pad([stretch.speaker.float().to(self.device) for stretch in stretches], longest)
        return self.network.condition(units, f0, volume, speaker)

    def _mel_of(self, stretch: Stretch) -> torch.Tensor:
        """The mel (M, N) of what was sung, as many frames as its pitch has."""
        mel = self.vocoder.mel(stretch.wav.float())
        missing = len(stretch.f0) - mel.shape[1]
        return F.pad(mel, (0, missing), mode="replicate") if missing > 0 else mel[:, : len(stretch.f0)]

    def _noise(self, n_mels: int, length: int) -> torch.Tensor:
        """(M, N): the same for a stretch alone and in company, on every device."""
        generator = torch.Generator().manual_seed(SEED)
        return torch.randn(n_mels, length, generator=generator).to(self.device)

    def _batches(self, order: list[int], stretches: list[Stretch]) -> list[list[int]]:
        """Neighbours in length, as many as the memory allows with their padding.

        The ancestral chain draws fresh noise on its way, which company would change: there each stretch goes alone.
        """
        if is_ancestral(self.walk.method, self.walk.speedup):
            return [[index] for index in order]
        batches: list[list[int]] = []
        for index in order:
            frames = _padded(len(stretches[index].f0))
            fits = batches and (len(batches[-1]) + 1) * frames <= self.batch_frames
            if fits:
                batches[-1].append(index)
            else:
                batches.append([index])
        return batches

    def _halving(self, stretches: list[Stretch]) -> list[torch.Tensor]:
        try:
            return self.mels(stretches)
        except torch.OutOfMemoryError:
            if len(stretches) == 1:
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        middle = len(stretches) // 2
        return self._halving(stretches[:middle]) + self._halving(stretches[middle:])

    def _affordable_frames(self) -> int:
        if self.device.type != "cuda":
            return CPU_FRAMES
        denoiser = self.network.decoder.denoise_fn
        weight = denoiser.input_projection.weight
        # Per frame: the projections of every layer, and about a dozen tensors of the layer at work.
        per_frame = weight.element_size() * denoiser.channels * (2 * len(denoiser.residual_layers) + 12)
        free, _ = torch.cuda.mem_get_info(self.device)
        return int(min(max(free * _GPU_SHARE / per_frame, SMALLEST_GPU_FRAMES), LARGEST_GPU_FRAMES))


def _padded(length: int) -> int:
    """The length that a batch has whose longest item has `length` frames."""
    return LENGTH_STEP * math.ceil(length / LENGTH_STEP)


def _pad(tensors: list[torch.Tensor], length: int) -> torch.Tensor:
    """Stacks (..., N) tensors along a new first axis, with zeros up to `length` at the end."""
    return torch.stack([F.pad(tensor, (0, length - tensor.shape[-1])) for tensor in tensors])
