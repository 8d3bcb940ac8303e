"""The decoder of a voice in a form that can be written down as a graph of fixed operations (ONNX)."""

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from modules.nn.onnx import replace_layers
from vdecoder.activations import FILTER_TAPS, AliasFreeSnake
from vdecoder.nsf_hifigan import NSFGenerator
from vdecoder.source import _TURN, N_OVERTONES, NOISE_UNVOICED, NOISE_VOICED, SINE_AMPLITUDE, HarmonicSource

N_HARMONICS = N_OVERTONES + 1


class GraphSource(nn.Module):
    """A `HarmonicSource` with the same integer phases and its random numbers as inputs, or from a seed in the graph.

    Args:
        source: the source; its weights are used, not copied.
        seed: of random numbers drawn inside the graph; None takes them as inputs. In ONNX a seed counts from when the
            file is opened, not from each run.
    """

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
        """The excitation of a pitch curve.

        Args:
            f0: (1, N) Hz.
            starts: (1, 9) turns from 0 to 1, where each harmonic starts; the first is not used. None with a seed.
            noise: (1, T, 9) standard normal. None with a seed.

        Returns:
            (1, 1, T) float32, T = N * hop_length.
        """
        weight, bias = self.source.l_linear.weight[0], self.source.l_linear.bias
        if self.seed is None:
            mixed = (noise @ weight).reshape(1, -1, self.source.hop_length)
        else:
            starts = _Uniform.apply(self.may_start_anywhere[None], self.seed)
            # A sum of nine independent normal numbers with those weights is one with the length of the weights.
            frames = f0.unsqueeze(2).expand(-1, -1, self.source.hop_length)
            mixed = _Normal.apply(frames, self.seed) * torch.linalg.vector_norm(weight)
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


class GraphSnake(nn.Module):
    """An `AliasFreeSnake` whose filters have one copy for each channel, as the grouped convolutions of a graph need.

    Args:
        snake: the activation; its parameters are used, not copied.
    """

    def __init__(self, snake: AliasFreeSnake) -> None:
        super().__init__()
        self.act = snake.act
        self.channels = len(snake.act.alpha)
        for name, taps in (("up", 2 * snake.upsample.filter), ("down", snake.downsample.lowpass.filter)):
            self.register_buffer(name, taps.repeat(self.channels, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, T) to the same shape."""
        edge = FILTER_TAPS // 2
        x = F.pad(x, (edge - 1, edge - 1), mode="replicate")
        x = F.conv_transpose1d(x, self.up, stride=2, groups=self.channels)[..., 15:-15]
        x = F.pad(self.act(x), (edge - 1, edge), mode="replicate")
        return F.conv1d(x, self.down, stride=2, groups=self.channels)


class _Uniform(torch.autograd.Function):
    """Numbers from 0 to 1 in the shape of another tensor."""

    @staticmethod
    def forward(ctx, like: torch.Tensor, seed: int) -> torch.Tensor:
        return torch.rand_like(like)

    @staticmethod
    def symbolic(g, like, seed: int):
        return g.op("RandomUniformLike", like, seed_f=float(seed)).setType(like.type())


class _Normal(torch.autograd.Function):
    """Standard normal numbers in the shape of another tensor."""

    @staticmethod
    def forward(ctx, like: torch.Tensor, seed: int) -> torch.Tensor:
        return torch.randn_like(like)

    @staticmethod
    def symbolic(g, like, seed: int):
        return g.op("RandomNormalLike", like, seed_f=float(seed)).setType(like.type())


class GraphDecoder(nn.Module):
    """An `NSFGenerator` for one stretch of any length.

    Args:
        generator: the decoder of a voice, weight norm folded; it is copied.
        seed: see `GraphSource`.
    """

    def __init__(self, generator: NSFGenerator, seed: int | None = None) -> None:
        super().__init__()
        self.generator = copy.deepcopy(generator)
        self.source = GraphSource(self.generator.m_source, seed)
        self.takes_random_numbers = seed is None
        replace_layers(self.generator, {AliasFreeSnake: GraphSnake})

    def forward(self, z: torch.Tensor, f0: torch.Tensor, g: torch.Tensor, *random: torch.Tensor) -> torch.Tensor:
        """The waveform (1, 1, T); arguments as `NSFGenerator.forward`, then those of `GraphSource` where it has any."""
        wav = torch.tanh(self.generator.filter(z, self.source(f0, *random), g))
        return wav.reshape(1, 1, -1)
