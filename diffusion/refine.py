"""Diffusion in a conversion: what the voice model made becomes a mel, loses its flaws to noise, and comes back clean.

Shallow diffusion starts from the voice model's mel, pure diffusion from noise; both end in the mel vocoder. Chunks of a
song go through together, padded to the longest, with a mask over the padding.
"""

import math
from collections.abc import Iterable

import torch
from torch.nn import functional as F
from tqdm import tqdm

from diffusion.samplers.base import is_ancestral, n_evaluations
from diffusion.unit2mel import Unit2Mel
from modules.batching import group_by_length, halve_on_out_of_memory
from modules.contracts import MelVocoder, Synthesis, VoiceInput
from modules.device import seeded

SEED = 52468  # the one that the voice model's noise has
# Lengths are padded to multiples of this, so that kernels are planned for few lengths only.
LENGTH_STEP = 32
# Batches hold at most this many frames. On a CPU each chunk goes alone: larger tensors leave the caches, which costs
# 15 % (benchmarks/diffusion.py). On a GPU what is free decides.
CPU_FRAMES = 1
SMALLEST_GPU_FRAMES, LARGEST_GPU_FRAMES = 4096, 65536
_GPU_SHARE = 0.4  # of the free memory


class DiffusionRefiner:
    """Shallow or pure diffusion over synthesized chunks: a `contracts.MelRefiner`."""

    def __init__(self, network: Unit2Mel, vocoder: MelVocoder, k_step: int, method: str | None, speedup: int) -> None:
        """Solves `k_step` noise levels, `speedup` per evaluation; a `method` of None is the ancestral chain."""
        self.network, self.vocoder = network, vocoder
        self.k_step, self.method, self.speedup = k_step, method, speedup
        self.device = next(network.parameters()).device
        self.batch_frames = self._affordable_frames()

    def refine(
        self, outputs: list[Synthesis | None], features: list[VoiceInput], formant_key: float = 0.0
    ) -> list[torch.Tensor]:
        """Audio (N * hop_length,) of each chunk, whatever others there are; `formant_key`: see `contracts`."""
        chunks = list(zip(outputs, features))
        # The ancestral chain draws fresh noise on its way, which a batch would change: there each chunk goes alone.
        is_alone = is_ancestral(self.method, self.speedup)
        lengths = [_padded(len(_f0(chunk))) for chunk in chunks]
        wavs: list[torch.Tensor] = [None] * len(chunks)
        for group in group_by_length(lengths, 0 if is_alone else self.batch_frames):
            mels = halve_on_out_of_memory(self.mels, [chunks[index] for index in group])
            for index, mel in zip(group, mels):
                with seeded(self.device, SEED):
                    f0 = _f0(chunks[index])[: mel.shape[1]] * 2.0 ** (formant_key / 12)
                    wavs[index] = self.vocoder.synthesize(mel, f0, features[index].needed)
        return wavs

    def mels(self, chunks: list[tuple[Synthesis | None, VoiceInput]]) -> list[torch.Tensor]:
        """The natural-log mel (M, N) of each chunk, all denoised in one batch."""
        lengths = [len(_f0(chunk)) for chunk in chunks]
        longest = _padded(max(lengths))
        start = mask = None
        if chunks[0][0] is not None:
            start = _pad([self._mel_of(output) for output, _ in chunks], longest)
        with torch.inference_mode():
            condition = self._condition(chunks, longest)
            if len(set(lengths)) > 1 or longest != lengths[0]:
                frames = torch.arange(longest, device=self.device)
                mask = (frames < torch.tensor(lengths, device=self.device)[:, None]).float()[:, None]
            n_mels = self.network.decoder.denoise_fn.output_projection.out_channels
            noise = _pad([self._noise(n_mels, length) for length in lengths], longest)[:, None]
            total = n_evaluations(self.method, self.k_step, self.speedup)
            bar = tqdm(desc="diffusion", total=total, unit="step", delay=2, leave=False, dynamic_ncols=True)
            with seeded(self.device, SEED), bar:
                refined = self.network.decoder.sample(
                    condition, self.k_step, self.method, self.speedup, start, noise, mask, bar.update
                )
        return [mel[:, :length] for mel, length in zip(refined, lengths)]

    def _condition(self, chunks: list[tuple[Synthesis | None, VoiceInput]], longest: int) -> torch.Tensor:
        features = [given for _, given in chunks]

        def together(values: Iterable[torch.Tensor]) -> torch.Tensor:
            return _pad([value.float().to(self.device) for value in values], longest)

        if isinstance(features[0].speaker, int):
            speaker = torch.tensor([given.speaker for given in features], device=self.device)
        else:
            speaker = together(given.speaker for given in features)
        units, volume = together(given.units for given in features), together(given.volume for given in features)
        return self.network.condition(units, together(map(_f0, chunks)), volume, speaker)

    def _mel_of(self, output: Synthesis) -> torch.Tensor:
        """The mel (M, N) of what was synthesized, as many frames as its pitch has."""
        mel = self.vocoder.mel(output.wav.float())
        missing = len(output.f0) - mel.shape[1]
        return F.pad(mel, (0, missing), mode="replicate") if missing > 0 else mel[:, : len(output.f0)]

    def _noise(self, n_mels: int, length: int) -> torch.Tensor:
        """(M, N): the same for a chunk alone and in company, on every device."""
        generator = torch.Generator().manual_seed(SEED)
        return torch.randn(n_mels, length, generator=generator).to(self.device)

    def _affordable_frames(self) -> int:
        if self.device.type != "cuda":
            return CPU_FRAMES
        denoiser = self.network.decoder.denoise_fn
        # Per frame: the projections of every layer, and about a dozen tensors of the layer at work.
        per_frame = (
            denoiser.input_projection.weight.element_size()
            * denoiser.channels
            * (2 * len(denoiser.residual_layers) + 12)
        )
        free, _ = torch.cuda.mem_get_info(self.device)
        return int(min(max(free * _GPU_SHARE / per_frame, SMALLEST_GPU_FRAMES), LARGEST_GPU_FRAMES))


def _f0(chunk: tuple[Synthesis | None, VoiceInput]) -> torch.Tensor:
    """(N,) Hz: as the voice model made it where there is one, else as extracted."""
    output, given = chunk
    return given.f0 if output is None else output.f0


def _padded(length: int) -> int:
    """The length that a batch has whose longest item has `length` frames."""
    return LENGTH_STEP * math.ceil(length / LENGTH_STEP)


def _pad(tensors: list[torch.Tensor], length: int) -> torch.Tensor:
    """Stacks (..., N) tensors along a new first axis, with zeros up to `length` at the end."""
    return torch.stack([F.pad(tensor, (0, length - tensor.shape[-1])) for tensor in tensors])
