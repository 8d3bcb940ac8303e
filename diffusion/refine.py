"""Diffusion in a conversion: what the voice model made becomes a mel, loses its flaws to noise, and comes back clean.

Shallow diffusion starts from the voice model's mel, pure diffusion from noise; both end in the mel vocoder. Chunks of a
song go through together, padded to the longest with a mask that keeps them from hearing the padding.
"""

import math
from dataclasses import dataclass

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


@dataclass(frozen=True)
class SamplerSettings:
    """How the diffusion is solved."""

    k_step: int  # noise levels
    method: str | None  # name of a sampler, None for the ancestral chain
    speedup: int  # levels per evaluation


class DiffusionRefiner:
    """Shallow or pure diffusion over synthesized chunks: a `contracts.MelRefiner`.

    Args:
        network: trained, on the device.
        vocoder: of the network's mel.
        settings: how the diffusion is solved.
        show_progress: draw a bar over the evaluations of a batch that takes longer than two seconds.
    """

    def __init__(
        self, network: Unit2Mel, vocoder: MelVocoder, settings: SamplerSettings, show_progress: bool = True
    ) -> None:
        self.network, self.vocoder, self.settings, self.show_progress = network, vocoder, settings, show_progress
        self.device = next(network.parameters()).device
        self.batch_frames = self._affordable_frames()

    def refine(self, outputs: list[Synthesis | None], features: list[VoiceInput]) -> list[torch.Tensor]:
        """Audio (N * hop_length,) of each chunk, whatever company it is in.

        The ancestral chain draws fresh noise on its way, which company would change: there each chunk goes alone.
        """
        chunks = list(zip(outputs, features))
        is_alone = is_ancestral(self.settings.method, self.settings.speedup)
        lengths = [_padded(len(_f0(chunk))) for chunk in chunks]
        wavs: list[torch.Tensor] = [None] * len(chunks)
        for group in group_by_length(lengths, 0 if is_alone else self.batch_frames):
            mels = halve_on_out_of_memory(self.mels, [chunks[index] for index in group])
            for index, mel in zip(group, mels):
                with seeded(self.device, SEED):
                    wavs[index] = self.vocoder.synthesize(mel, _f0(chunks[index])[: mel.shape[1]])
        return wavs

    def mels(self, chunks: list[tuple[Synthesis | None, VoiceInput]]) -> list[torch.Tensor]:
        """The natural-log mel (M, N) of each chunk, all denoised in one batch."""
        lengths = [len(_f0(chunk)) for chunk in chunks]
        longest = _padded(max(lengths))
        settings, start, mask = self.settings, None, None
        if chunks[0][0] is not None:
            start = _pad([self._mel_of(output) for output, _ in chunks], longest)
        with torch.inference_mode():
            condition = self._condition(chunks, longest)
            if len(set(lengths)) > 1 or longest != lengths[0]:
                frames = torch.arange(longest, device=self.device)
                mask = (frames < torch.tensor(lengths, device=self.device)[:, None]).float()[:, None]
            n_mels = self.network.decoder.denoise_fn.output_projection.out_channels
            noise = _pad([self._noise(n_mels, length) for length in lengths], longest)[:, None]
            bar = tqdm(
                total=n_evaluations(settings.method, settings.k_step, settings.speedup),
                desc="diffusion",
                unit="step",
                leave=False,
                delay=2,
                dynamic_ncols=True,
                disable=not self.show_progress,
            )
            with seeded(self.device, SEED), bar:
                refined = self.network.decoder.sample(
                    condition, settings.k_step, settings.method, settings.speedup, start, noise, mask, bar.update
                )
        return [mel[:, :length] for mel, length in zip(refined, lengths)]

    def _condition(self, chunks: list[tuple[Synthesis | None, VoiceInput]], longest: int) -> torch.Tensor:
        features = [given for _, given in chunks]
        units, f0, volume = (
            _pad([value.float().to(self.device) for value in values], longest)
            for values in (
                [given.units for given in features],
                [_f0(chunk) for chunk in chunks],
                [given.volume for given in features],
            )
        )
        if isinstance(features[0].speaker, int):
            speaker = torch.tensor([given.speaker for given in features], device=self.device)
        else:
            speaker = _pad([given.speaker.float().to(self.device) for given in features], longest)
        return self.network.condition(units, f0, volume, speaker)

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
        weight = denoiser.input_projection.weight
        # Per frame: the projections of every layer, and about a dozen tensors of the layer at work.
        per_frame = weight.element_size() * denoiser.channels * (2 * len(denoiser.residual_layers) + 12)
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
