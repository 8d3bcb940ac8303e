"""The decoder of a voice in a form that can be written down as a graph of fixed operations (ONNX)."""

import copy
import math

import torch
from torch import nn

from vdecoder.nsf_hifigan import NSFGenerator
from vdecoder.source import _TURN, N_OVERTONES, NOISE_UNVOICED, NOISE_VOICED, SINE_AMPLITUDE, HarmonicSource

N_HARMONICS = N_OVERTONES + 1


class GraphSource(nn.Module):
    """A `HarmonicSource` with the same integer phases and its random numbers as inputs, or from a seed in the graph
    (which ONNX counts from when the file is opened, not from each run). Its weights are used, not copied."""

    def __init__(self, source: HarmonicSource, seed: int | None = None) -> None:
        super().__init__()
        assert not source.slow_start
        self.source, self.seed = source, seed
        self.register_buffer("samples", torch.arange(1, source.hop_length + 1), persistent=False)
        # The fundamental starts at zero.
        self.register_buffer("may_start_anywhere", (torch.arange(N_HARMONICS) > 0).float(), persistent=False)

    def forward(
        self, f0: torch.Tensor, starts: torch.Tensor | None = None, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The excitation (1, 1, N * hop_length) float32 of an F0 (1, N) Hz.

        Without a seed: `starts` (1, 9) turns from 0 to 1, where each harmonic starts, the first not used; `noise`
        (1, N * hop_length, 9) standard normal.
        """
        weight, bias = self.source.l_linear.weight[0], self.source.l_linear.bias
        if self.seed is None:
            mixed = (noise @ weight).reshape(1, -1, self.source.hop_length)
        else:
            starts = _Random.apply(self.may_start_anywhere[None], self.seed, "RandomUniformLike")
            # A sum of nine independent normal numbers with those weights is one with the length of the weights.
            frames = f0.unsqueeze(2).expand(-1, -1, self.source.hop_length)
            mixed = _Random.apply(frames, self.seed, "RandomNormalLike") * torch.linalg.vector_norm(weight)
        voiced = (f0 > 0).float()
        total = mixed * (NOISE_VOICED * voiced + NOISE_UNVOICED * (1 - voiced)).unsqueeze(2)
        starts = (starts * self.may_start_anywhere * _TURN).long()
        # Harmonic by harmonic, so that (T, 9) phases never exist together.
        for harmonic in range(N_HARMONICS):
            waves = torch.sin(self._phase(f0 * (harmonic + 1), starts[:, harmonic]))
            total = total + waves * (SINE_AMPLITUDE * weight[harmonic] * voiced).unsqueeze(2)
        return torch.tanh(total.reshape(1, 1, -1) + bias)

    def _phase(self, frequency: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """`HarmonicSource._phase`, (1, N) and (1,) to (1, N, hop), in operations that ONNX has for integers."""
        turns = frequency / self.source.sampling_rate
        step = ((turns - torch.floor(turns)) * _TURN).long()
        base = (torch.cumsum(step, dim=1) - step) % _TURN * self.source.hop_length + start.unsqueeze(1)
        at = (base.unsqueeze(2) + step.unsqueeze(2) * self.samples) % _TURN
        return at.float() * (2 * math.pi / _TURN)


class _Random(torch.autograd.Function):
    """Random numbers in the shape of another tensor, by the ONNX operation of that name."""

    @staticmethod
    def forward(ctx, like: torch.Tensor, seed: int, operation: str) -> torch.Tensor:
        return torch.rand_like(like) if operation == "RandomUniformLike" else torch.randn_like(like)

    @staticmethod
    def symbolic(g, like, seed: int, operation: str):
        return g.op(operation, like, seed_f=float(seed)).setType(like.type())


class GraphDecoder(nn.Module):
    """An `NSFGenerator`, weight norm folded, for one chunk of any length; it is copied. `seed`: see `GraphSource`."""

    def __init__(self, generator: NSFGenerator, seed: int | None = None) -> None:
        super().__init__()
        self.generator = copy.deepcopy(generator)
        self.source = GraphSource(self.generator.m_source, seed)
        self.takes_random_numbers = seed is None

    def forward(self, z: torch.Tensor, f0: torch.Tensor, g: torch.Tensor, *random: torch.Tensor) -> torch.Tensor:
        """The waveform (1, 1, T); arguments as `NSFGenerator.forward`, then those of `GraphSource` where it has any."""
        wav = torch.tanh(self.generator.filter(z, self.source(f0, *random), g))
        return wav.reshape(1, 1, -1)
