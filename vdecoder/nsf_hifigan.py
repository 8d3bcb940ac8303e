"""NSFGenerator: latent frames or mel frames, and an F0, to a waveform.

It serves as decoder of the voice model (with a speaker condition, leaky ReLU or snake) and as mel vocoder (no
condition). Attribute names are those of published checkpoints.

Source: Kong, Kim and Bae, "HiFi-GAN", 2020, arXiv:2010.05646, section 2.2, with the harmonic source of `source.py`
added to every stage.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from modules.audio.windows import plan_windows
from modules.errors import ConfigError
from modules.nn.channels_last import channels_last, is_channels_last
from modules.nn.weight_norm import NormedConv1d, NormedConvTranspose1d, fold_weight_norm
from vdecoder.activations import make_activation
from vdecoder.blocks import RESBLOCKS, reach_of
from vdecoder.source import HarmonicSource, SineSource

# torch's own default; every published checkpoint was trained with it before the last convolution.
LAST_SLOPE = 0.01

# Most frames per window of `in_windows`. On a CPU the widest tensors then stay below 32 MB, above which the C library
# asks the system for fresh pages each time, at twice the cost; on a GPU only the memory counts.
CPU_WINDOW = 448
GPU_WINDOW = 2048
# Sizes of windows are multiples of this, so that kernels are planned for few lengths only.
WINDOW_STEP = 64

# Upsampling layers before the sine of PC-NSF-HiFiGAN is added, at whose rate it is made.
MINI_STAGES = 2

ACTIVATIONS = {"nsf-hifigan": "lrelu", "nsf-snake-hifigan": "snake"}


@dataclass(frozen=True)
class GeneratorSpec:
    """Sizes of a generator; field names are those of config files."""

    sampling_rate: int  # Hz, of the waveform
    upsample_rates: Sequence[int]  # samples made of one, per stage; their product is the hop length
    upsample_kernel_sizes: Sequence[int]  # per stage, at least the rate
    upsample_initial_channel: int  # before the first stage; every stage halves them, rounding down
    resblock: str  # "1" or "2"
    resblock_kernel_sizes: Sequence[int]  # one residual block each, in every stage
    resblock_dilation_sizes: Sequence[Sequence[int]]  # of each of those blocks
    activation: str = "lrelu"  # or "snake"
    mini_nsf: bool = False  # PC-NSF-HiFiGAN: one sine, added once

    def __post_init__(self) -> None:
        if len(self.upsample_rates) != len(self.upsample_kernel_sizes):
            raise ConfigError(
                f"upsample_rates {list(self.upsample_rates)} and upsample_kernel_sizes "
                f"{list(self.upsample_kernel_sizes)} must have one entry per stage each"
            )
        if len(self.resblock_kernel_sizes) != len(self.resblock_dilation_sizes):
            raise ConfigError("resblock_kernel_sizes and resblock_dilation_sizes must have one entry per block each")
        if self.mini_nsf and len(self.upsample_rates) < MINI_STAGES:
            raise ConfigError(f"mini_nsf needs at least {MINI_STAGES} upsample_rates")
        if self.resblock not in RESBLOCKS:
            raise ConfigError(f'resblock is {self.resblock!r}; known are "1" and "2"')

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.upsample_rates)


class NSFGenerator(nn.Module):
    """Frames (latent or mel) and F0 to a waveform; a condition, where it has one, is added before the first stage.
    `slow_start`: see `HarmonicSource`; True for the published mel vocoder. With `mini_nsf` the source is a `SineSource`
    that comes in once, after the second upsampling, instead of in every stage."""

    def __init__(
        self, in_channels: int, spec: GeneratorSpec, cond_channels: int | None = None, slow_start: bool = False
    ) -> None:
        super().__init__()
        self.spec = spec
        self.n_blocks = len(spec.resblock_kernel_sizes)
        first = spec.upsample_initial_channel
        widths = [first // 2 ** (stage + 1) for stage in range(len(spec.upsample_rates))]

        if spec.mini_nsf:
            hop = math.prod(spec.upsample_rates[:MINI_STAGES])
            self.m_source = SineSource(spec.sampling_rate * hop / spec.hop_length, hop)
            self.source_conv = nn.Conv1d(1, widths[MINI_STAGES - 1], 1)
        else:
            self.m_source = HarmonicSource(spec.sampling_rate, spec.hop_length, slow_start)
            self.noise_convs = nn.ModuleList(
                _noise_conv(width, math.prod(spec.upsample_rates[stage + 1 :])) for stage, width in enumerate(widths)
            )
        self.conv_pre = NormedConv1d(in_channels, first, 7, padding=3)
        self.ups = nn.ModuleList(
            _upsampler(wide, width, kernel, rate)
            for wide, width, kernel, rate in zip(
                [first, *widths], widths, spec.upsample_kernel_sizes, spec.upsample_rates
            )
        )
        self.resblocks = nn.ModuleList(
            RESBLOCKS[spec.resblock](width, kernel, dilations, spec.activation)
            for width in widths
            for kernel, dilations in zip(spec.resblock_kernel_sizes, spec.resblock_dilation_sizes)
        )
        self.snakes = nn.ModuleList(
            make_activation(spec.activation, width, overwrite=True) for width in [first, *widths[:-1]]
        )
        self.conv_post = NormedConv1d(widths[-1], 1, 7, padding=3)
        self.snake_post = make_activation(spec.activation, widths[-1], slope=LAST_SLOPE, overwrite=True)
        self.cond = None if cond_channels is None else nn.Conv1d(cond_channels, first, 1)
        self._start_from_the_source()

    @torch.no_grad()
    def _start_from_the_source(self) -> None:
        """Makes an untrained generator follow the F0, as loud as its frames say, and nothing else.

        HiFi-GAN means to draw the convolutions from N(0, 0.01) but sets them where weight norm overwrites them, and its
        upsampling layers start as pulses at the frame rate: training spends its first thousands of steps getting rid
        of that buzz. Here upsampling starts as linear interpolation, whose slow curves open and close the rectifiers
        for the harmonics that are added to them, and all harmonics of the source start equal.
        """
        # At the scale that torch gives convolutions, each a third of its input's power: drawn from N(0, 0.01), narrow
        # ones would be so near the identity that their gradients vanish.
        for conv in (conv for conv in self.resblocks.modules() if isinstance(conv, NormedConv1d)):
            conv.weight_v.normal_(0.0, (3 * conv.weight_v[0].numel()) ** -0.5)
            _keep_as_drawn(conv)
        for up in self.ups:
            mix = torch.randn(*up.weight_v.shape[:2], 1)
            up.weight_v.copy_(mix * _ramp(up) / len(mix) ** 0.5)
            _keep_as_drawn(up)
        if not self.spec.mini_nsf:
            self.m_source.l_linear.weight.fill_(1 / 3)
            self.m_source.l_linear.bias.zero_()

    @torch.no_grad()
    def hold_interpolation(self) -> None:
        """Makes every upsampling layer the linear interpolation nearest to it: what it mixes of which channels stays.
        A generator that starts untrained is so already."""
        for up in self.ups:
            up.weight_v.copy_(_interpolating(up))

    @torch.no_grad()
    def is_interpolation(self, tolerance: float = 0.02) -> bool:
        """Whether every upsampling layer is linear interpolation, up to a share `tolerance` of its weights' norm.

        Storing such layers in 8 bits costs 0.01; 1600 free steps at a low learning rate, 0.02 to 0.09."""
        return all((up.weight_v - _interpolating(up)).norm() <= tolerance * up.weight_v.norm() for up in self.ups)

    def forward(self, x: torch.Tensor, f0: torch.Tensor, g: torch.Tensor | None = None) -> torch.Tensor:
        """The waveform (B, 1, N * hop_length) float32 in [-1, 1] of `x` (B, C, N) at F0 `f0` (B, N) Hz.

        `g` is the condition (B, cond_channels, 1 or N), given exactly if the generator was built with one.
        """
        return torch.tanh(self.filter(x, self.m_source(f0), g).float())

    @torch.no_grad()
    def in_windows(
        self,
        x: torch.Tensor,
        f0: torch.Tensor,
        g: torch.Tensor | None = None,
        window: int | None = None,
        needed: slice | None = None,
        source_draws: tuple[torch.Tensor, ...] = (),
    ) -> torch.Tensor:
        """What `forward` returns, up to rounding, in windows of at most `window` frames (None: what suits the device);
        0 outside the frames that are `needed`, if given. `source_draws`: see `HarmonicSource.waves`.

        For example, 861 frames with a reach of 15 make two windows of 448: [0, 448) of which the last 15 are dropped,
        and [413, 861) of which the first 20 are.
        """
        n_frames, hop, reach = x.shape[2], self.spec.hop_length, self.reach
        start, stop, _ = (needed or slice(None)).indices(n_frames)
        first = max(0, start - reach)  # of the frames that have a part in the needed ones
        n_read = min(n_frames, stop + reach) - first
        if window is None:
            window = CPU_WINDOW if x.device.type == "cpu" else GPU_WINDOW
        if n_read <= window or window <= 2 * reach:
            window = n_read
        else:
            count = math.ceil((n_read - 2 * reach) / (window - 2 * reach))
            smallest = math.ceil((n_read - 2 * reach) / count) + 2 * reach
            window = min(window, WINDOW_STEP * math.ceil(smallest / WINDOW_STEP))
        excitation, per_frame = self.m_source(f0, *source_draws), self.m_source.hop_length
        wav = excitation.new_zeros(len(x), 1, n_frames * hop)
        for local, keep in plan_windows(n_read, window, reach, equal=True):
            read = slice(first + local.start, first + local.stop)
            local_g = g if g is None or g.shape[2] == 1 else g[:, :, read]
            local_source = excitation[:, :, read.start * per_frame : read.stop * per_frame]
            part = self.filter(x[:, :, read], local_source, local_g)
            samples = slice((read.start + keep.start) * hop, (read.start + keep.stop) * hop)
            torch.tanh(part[:, :, keep.start * hop : keep.stop * hop].float(), out=wav[:, :, samples])
        wav[:, :, : start * hop] = wav[:, :, stop * hop :] = 0
        return wav

    @property
    def reach(self) -> int:
        """Frames on each side of a frame that have a part in its samples, rounded up."""
        rates, frames, per_frame = self.spec.upsample_rates, 3.0, 1
        for stage, rate in enumerate(rates):
            kernel = self.spec.upsample_kernel_sizes[stage]
            frames += (reach_of(self.snakes[stage]) + math.ceil(kernel / rate)) / per_frame
            per_frame *= rate
            blocks = self.resblocks[stage * self.n_blocks : (stage + 1) * self.n_blocks]
            # The excitation of two more samples of this stage comes in through the noise convolution.
            frames += (2 + max(map(reach_of, blocks))) / per_frame
        return math.ceil(frames + (reach_of(self.snake_post) + 3) / per_frame)

    def filter(self, x: torch.Tensor, excitation: torch.Tensor, g: torch.Tensor | None = None) -> torch.Tensor:
        """Shapes a given excitation (B, 1, N * samples of the source in a frame); the rest as `forward`, but before the
        last tanh."""
        # A copy, for a slice of a longer excitation has strides that oneDNN takes for another layout: it then compiles
        # new kernels for every length, 2 s of a first pass.
        excitation = excitation.to(x.dtype).clone(memory_format=torch.contiguous_format)
        if self.spec.activation != "snake":  # whose filters work on each channel by itself
            x = channels_last(x)
        x = self.conv_pre(x)
        if self.cond is not None:
            x = x + self.cond(g)
        for stage, (activation, up) in enumerate(zip(self.snakes, self.ups)):
            x = up(activation(x))
            if (conv := self._source_conv(stage)) is not None:
                x = x.add_(_bring_down(conv, excitation) if is_channels_last(x) else conv(excitation))
            first, *others = self.resblocks[stage * self.n_blocks : (stage + 1) * self.n_blocks]
            total = first(x)
            for block in others:
                total = total.add_(block(x))
            x = total.div_(self.n_blocks)
        return self.conv_post(self.snake_post(x))

    def _source_conv(self, stage: int) -> nn.Conv1d | None:
        """What brings the source to the width and rate of a stage, where it comes in there."""
        if not self.spec.mini_nsf:
            return self.noise_convs[stage]
        return self.source_conv if stage == MINI_STAGES - 1 else None


def _noise_conv(channels: int, stride: int) -> nn.Conv1d:
    """Brings the excitation down to the rate of a stage: T to T / stride."""
    if stride == 1:
        return nn.Conv1d(1, channels, 1)
    return nn.Conv1d(1, channels, 2 * stride, stride=stride, padding=(stride + 1) // 2)


def _bring_down(conv: nn.Conv1d, excitation: torch.Tensor) -> torch.Tensor:
    """What a `_noise_conv` gives, channels last, as a product of matrices: a kernel covers two strides. oneDNN compiles
    such a convolution for each new length, which takes 0.1 s."""
    stride, padding = conv.stride[0], conv.padding[0]
    rows = excitation.transpose(1, 2)
    if stride > 1:
        rows = F.pad(excitation, (padding, stride - padding)).view(len(excitation), -1, stride)
        rows = torch.cat([rows[:, :-1], rows[:, 1:]], 2)
    return F.linear(rows, conv.weight[:, 0], conv.bias).transpose(1, 2)


def _upsampler(in_channels: int, out_channels: int, kernel_size: int, rate: int) -> NormedConvTranspose1d:
    """N to N * rate. An odd kernel - rate is padded one more, which output_padding makes up for."""
    extra = kernel_size - rate
    return NormedConvTranspose1d(
        in_channels, out_channels, kernel_size, rate, padding=(extra + 1) // 2, output_padding=extra % 2
    )


def _ramp(up: NormedConvTranspose1d) -> torch.Tensor:
    """The kernel (K,) of linear interpolation: rising to its middle, falling to its end."""
    kernel = up.weight_v.shape[2]
    return 1 - ((torch.arange(kernel, device=up.weight_v.device) + 0.5) / kernel * 2 - 1).abs()


def _interpolating(up: NormedConvTranspose1d) -> torch.Tensor:
    """The direction (C_in, C_out, K) of an upsampling layer's weights, projected on linear interpolation."""
    ramp = _ramp(up)
    return (up.weight_v @ ramp / ramp.square().sum()).unsqueeze(2) * ramp


def _keep_as_drawn(conv: nn.Module) -> None:
    """Sets the gains of a weight-normed layer so that its weights are `weight_v` themselves, and its bias to zero."""
    conv.weight_g.copy_(torch.linalg.vector_norm(conv.weight_v, dim=(1, 2), keepdim=True))
    conv.bias.zero_()


def prepare_for_inference(network: nn.Module, decoder: NSFGenerator, dtype: torch.dtype) -> None:
    """Folds weight norm, stops gradients, and casts `network` to `dtype` but for the harmonic source of its decoder."""
    # In fp32 and before the cast: the norm of a wide layer would lose digits in half precision.
    fold_weight_norm(network).eval().requires_grad_(False)
    source, decoder.m_source = decoder.m_source, None
    network.to(dtype)
    decoder.m_source = source
