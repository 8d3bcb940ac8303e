"""The audio encoder of Whisper (architecture and names: OpenAI, MIT); code of ours, weights from its files."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from modules.audio.mel import mel_filters
from modules.config.audio import AudioSpec
from modules.errors import CheckpointError
from modules.nn.channels_last import QuickLinear
from modules.weights.checkpoint import load_weights
from modules.weights.state_dict import fit, state_dict

HEAD_WIDTH = 64  # in every size of Whisper
_AUDIO = {"sampling_rate": 16000, "n_fft": 400, "hop_length": 160, "win_length": 400, "fmin": 0.0, "fmax": 8000.0}
_DYNAMIC_RANGE = 8.0  # decades (of power) below the loudest point


class WhisperEncoder(nn.Module):
    """Log mel to features, `width` of them, two mel frames to one; at most `n_positions` frames.

    Source: Radford and others, "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, arXiv 2212.04356,
    section 2.2.
    """

    def __init__(self, n_mels: int, n_positions: int, width: int, n_layers: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(n_mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", sinusoids(n_positions, width))
        self.blocks = nn.ModuleList(Block(width, width // HEAD_WIDTH) for _ in range(n_layers))
        self.ln_post = nn.LayerNorm(width)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """Features (B, N, D) of a log mel (B, M, 2 N), N at most the number of positions."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.positional_embedding[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x)


class Block(nn.Module):
    """Self-attention and a two-layer perceptron, each with its norm in front and a way around it."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, n_heads)
        self.attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(QuickLinear(width, 4 * width), nn.GELU(), QuickLinear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, D) to the same."""
        x = x + self.attn(self.attn_ln(x))
        return x + self.mlp(self.mlp_ln(x))


class Attention(nn.Module):
    """Multi-head self-attention; keys have no bias."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = QuickLinear(width, width)
        self.key = QuickLinear(width, width, bias=False)
        self.value = QuickLinear(width, width)
        self.out = QuickLinear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, D) to the same."""
        batch, n, width = x.shape
        q, k, v = (
            layer(x).view(batch, n, self.n_heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(batch, n, width))


def sinusoids(n_positions: int, width: int) -> torch.Tensor:
    """Positions as (n_positions, width): first sines, then cosines, of timescales from 1 to 10000."""
    half = width // 2
    rates = torch.exp(-math.log(10000.0) / (half - 1) * torch.arange(half))
    angles = torch.arange(n_positions)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def log_mel(wav: torch.Tensor, n_mels: int) -> torch.Tensor:
    """Whisper's input (M, T // 160) of `wav` (T,) at 16 kHz, T above 200: log10 power mel, the loudest point less 8 at
    least, scaled to about -1 to 1."""
    audio = AudioSpec(**_AUDIO, n_mels=n_mels)
    window = torch.hann_window(audio.win_length, device=wav.device)
    spec = torch.stft(wav, audio.n_fft, audio.hop_length, window=window, center=True, return_complex=True)
    power = spec[:, :-1].abs().square()
    log = torch.log10((mel_filters(audio, wav.device) @ power).clamp_min(1e-10))
    return (torch.maximum(log, log.max() - _DYNAMIC_RANGE) + 4) / 4


def load_encoder(path: Path, width: int) -> WhisperEncoder:
    """The encoder, `width` wide, in one of OpenAI's `.pt` files, or in our int8 safetensors form, in float32."""
    found = state_dict(load_weights(path), path)
    # OpenAI's files hold the decoder, too.
    weights = {name.removeprefix("encoder."): value for name, value in found.items() if name.startswith("encoder.")}
    weights = weights or found
    try:
        found_width, n_mels, _ = weights["conv1.weight"].shape
        n_layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    except (KeyError, ValueError):
        raise CheckpointError(f"{path}: holds no Whisper encoder. Get the file from OpenAI.") from None
    if found_width != width:
        raise CheckpointError(f"{path}: a Whisper of width {found_width}; this encoder needs width {width}")
    positions = weights.setdefault("positional_embedding", sinusoids(1500, width))
    network = WhisperEncoder(n_mels, len(positions), width, n_layers)
    network.load_state_dict(fit(weights, network.state_dict(), path, "Get the file from OpenAI."))
    return network.eval().requires_grad_(False)
