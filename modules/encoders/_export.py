"""Content encoders as ONNX graphs: audio (1, 1, T) at 16 kHz to units (1, N', D), the form of file `onnx.py` reads.

The HuBERT family takes the whole clip at once, Whisper one window: the encoder cuts longer clips, a graph cannot.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from modules.audio.mel import mel_filters
from modules.config.audio import AudioSpec
from modules.encoders._networks.whisper import _AUDIO, _DYNAMIC_RANGE
from modules.encoders.base import SpeechEncoder
from modules.encoders.hubert import HubertEncoder
from modules.encoders.wavlm import WavLmBasePlus
from modules.encoders.whisper_ppg import WhisperPpg
from modules.errors import UsageError
from modules.weights.onnx import Graph, is_same, open_session


class HubertGraph(nn.Module):
    """An encoder of the HuBERT family."""

    def __init__(self, encoder: HubertEncoder) -> None:
        super().__init__()
        self.network = encoder._network
        self.padding, self.layer, self.projected = encoder.padding, encoder.layer, encoder.projected
        self.norms_audio = isinstance(encoder, WavLmBasePlus) and encoder.normed

    def forward(self, source: torch.Tensor) -> torch.Tensor:
        """(1, 1, T), at least 400 samples with the encoder's padding, to (1, N', D)."""
        x = source
        if self.norms_audio:
            x = x - x.mean()
            x = x * torch.rsqrt(x.square().mean() + 1e-5)  # the epsilon of F.layer_norm
        x = F.pad(x, (self.padding, self.padding))
        parts = self.network.network
        for block in parts.feature_extractor.conv_layers:
            x = block.conv(x)
            x = F.gelu(x if block.layer_norm is None else block.layer_norm(x))
        x = x.transpose(1, 2)
        if self.network.channel_scale is not None:
            x = x * self.network.channel_scale
        x = parts.encoder(x, None) if self.layer is None else parts.encoder.extract_features(x, None, self.layer)[-1]
        return self.network.final_proj(x) if self.projected else x


class WhisperGraph(nn.Module):
    """A Whisper encoder for one window of audio."""

    def __init__(self, encoder: WhisperPpg) -> None:
        super().__init__()
        self.network, self.layout, self.hop_length = encoder._network, encoder.layout, encoder.hop_length
        audio = AudioSpec(**_AUDIO, n_mels=self.network.conv1.in_channels)
        # The graph operation for spectra is single precision and slow; a table of sines is neither.
        turns = torch.arange(audio.n_fft)[:, None] * torch.arange(audio.n_freqs) % audio.n_fft
        angles = turns.double() * (2 * math.pi / audio.n_fft)
        window = torch.hann_window(audio.win_length)[:, None].double()
        self.register_buffer("cosines", window * angles.cos())
        self.register_buffer("sines", window * angles.sin())
        self.register_buffer("filters", mel_filters(audio, torch.device("cpu")))
        self.edge, self.block = audio.n_fft // 2, math.gcd(audio.n_fft, audio.hop_length)
        self.blocks_per_frame, self.blocks_per_hop = (n // self.block for n in (audio.n_fft, audio.hop_length))

    def forward(self, source: torch.Tensor) -> torch.Tensor:
        """(1, 1, T), at least 320 samples and at most a window of them, to (1, T // 320, D)."""
        n_frames = source.shape[2] // self.hop_length
        silence = F.pad(source[0], (0, (self.layout.silence + self.layout.padded) * self.hop_length))
        total = self.layout.padded or n_frames + self.layout.silence
        units = self.network(self._log_mel(silence[:, : total * self.hop_length]))
        return units[:, :n_frames]

    def _log_mel(self, wav: torch.Tensor) -> torch.Tensor:
        """`_networks.whisper.log_mel`, (1, T) to (1, M, T // 160)."""
        padded = F.pad(wav, (self.edge, self.edge), mode="reflect")
        # A frame of 400 samples is five blocks of 80, and the next one starts two blocks later.
        blocks = padded.reshape(-1, self.block)
        count = self.blocks_per_frame
        frames = [blocks[first : first - count : self.blocks_per_hop] for first in range(count)]
        frames = torch.cat(frames, dim=1).double()
        power = (frames @ self.cosines).square() + (frames @ self.sines).square()
        log = torch.log10((self.filters @ power.T.float()).clamp_min(1e-10))
        return ((torch.maximum(log, log.max() - _DYNAMIC_RANGE) + 4) / 4)[None]


def check_exportable(kind: type[SpeechEncoder]) -> None:
    """Refuses an encoder that has no network here: an ONNX file already."""
    if not issubclass(kind, (WhisperPpg, HubertEncoder)):
        raise UsageError(f"--encoder {kind.name}: is an ONNX file already ({kind.weights[0].path})")


def encoder_graph(encoder: WhisperPpg | HubertEncoder) -> Graph:
    """The graph of a loaded encoder."""
    module = WhisperGraph(encoder) if isinstance(encoder, WhisperPpg) else HubertGraph(encoder)
    example = {"source": torch.randn(1, 1, 16000) / 10}
    return Graph(module.eval(), example, ("embed",), {"source": {2: "samples"}, "embed": {1: "frames"}})


def check_encoder(encoder: SpeechEncoder, path: Path) -> bool:
    """Whether onnxruntime gives the encoder's units of test sounds of several lengths; logs how far apart they are."""
    session, good = open_session(path, torch.device("cpu"), "--check"), True
    generator = np.random.default_rng(0)
    for n_samples in (16000, 720, 34567, 5 * 16000):
        times = np.arange(n_samples) / encoder.sampling_rate
        wav = 0.1 * np.sin(2 * np.pi * (200 + 50 * np.sin(3 * times)) * times) * np.sin(9 * times)
        wav = (wav + 0.02 * generator.standard_normal(n_samples)).astype(np.float32)
        found = session.run(None, {session.get_inputs()[0].name: wav[None, None]})[0]
        good &= is_same(f"{path}, {n_samples} samples", found, encoder.encode(wav).T[None])
    return good
