"""`whisper-ppg-*`: the audio encoder of OpenAI's Whisper, in five sizes. Its features say what is spoken.

Whisper was trained on 30 s windows, and its features depend on where in the window a sound lies (6 s later: cosine
0.7). So a clip must be laid out alike in training and in conversion. `whisper-ppg` and `whisper-ppg-large` keep
so-vits-svc's layout, one 30 s window padded with zeros, because published models were trained so. The others use
windows about as long as a training clip:

    audio    |---------- 23 s -----------------------------|
    windows  |==== 8.3 s ====|
                         |==== 8.3 s ====|                    overlap 1 s, cross-faded
                                     |==== 8.3 s ====|        each from position 0, 2 s of zeros behind it

Without silence behind it, the last 0.2 s of a window are wrong (cosine 0.88; with it 0.985).
"""

import copy
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from modules.audio.windows import plan_overlaps
from modules.encoders._networks.whisper import load_encoder, log_mel
from modules.encoders.base import ENCODERS, SpeechEncoder
from modules.nn.channels_last import lower_linear
from modules.pretrained.catalogue import weights_of
from modules.pretrained.find import Weights, require


@dataclass(frozen=True)
class Layout:
    """How audio is cut into windows, in frames of 20 ms."""

    longest: int  # window
    overlap: int  # that neighbouring windows share
    silence: int  # zeros behind each
    padded: int  # total that shorter windows are padded to with more zeros; 0 for no padding


SHORT_WINDOWS = Layout(longest=500, overlap=50, silence=100, padded=0)
# Behind a window of a stream: 2 s of zeros are an eighth of all the work, and bring it hardly nearer to the conversion
# of the whole song (mel distance 0.369 in place of 0.379).
STREAM_SILENCE = 25
FULL_WINDOWS = Layout(longest=1500, overlap=100, silence=0, padded=1500)


class WhisperPpg(SpeechEncoder):
    """Features of Whisper's encoder, 50 a second: exactly T // 320 of them (at least one)."""

    layout: Layout

    def __init__(self, device: torch.device | str) -> None:
        super().__init__(device)
        self._network = load_encoder(require(*self.weights), self.dim).to(self.device)

    def for_stream(self) -> "WhisperPpg":
        """With less silence behind its windows; 30 s windows stay what they are, for models were trained on nothing
        else."""
        other = copy.copy(self)
        other.layout = replace(self.layout, silence=min(self.layout.silence, STREAM_SILENCE))
        return other

    def lower(self, dtype: torch.dtype) -> None:
        """The transformer's products."""
        lower_linear(self._network, dtype)

    def units(self, wav: torch.Tensor) -> torch.Tensor:
        """Windows one after the other, so that memory does not grow with the clip; joined by linear cross-fades."""
        n_frames = max(1, len(wav) // self.hop_length)
        units = wav.new_zeros(self.dim, n_frames)
        rise = torch.arange(1, self.layout.overlap + 1, device=wav.device) / (self.layout.overlap + 1)
        for window in plan_overlaps(n_frames, self.layout.longest, self.layout.overlap):
            end = len(wav) if window.stop == n_frames else window.stop * self.hop_length
            count = window.stop - window.start
            mel = self._mel(wav[window.start * self.hop_length : end], count)
            rows = self._network(mel[None])[0, :count].T.contiguous()
            if window.start > 0:
                units[:, window.start : window.start + len(rise)] *= 1 - rise
                rows[:, : len(rise)] *= rise
            units[:, window] += rows
        return units

    def units_batch(self, wavs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Clips of one window each together where all windows are padded to one length, else one by one."""
        counts = [max(1, len(wav) // self.hop_length) for wav in wavs]
        if len(wavs) < 2 or not self.layout.padded or max(counts) > self.layout.longest:
            return super().units_batch(wavs)
        rows = self._network(torch.stack([self._mel(wav, count) for wav, count in zip(wavs, counts, strict=True)]))
        return [row[:count].T.contiguous() for row, count in zip(rows, counts, strict=True)]

    def _mel(self, wav: torch.Tensor, n_frames: int) -> torch.Tensor:
        """The network's input (M, 2 N) for a window of `n_frames`, with the silence behind it."""
        total = max(n_frames + self.layout.silence, self.layout.padded)
        padded = F.pad(wav, (0, max(0, total * self.hop_length - len(wav))))[: total * self.hop_length]
        return log_mel(padded, self._network.conv1.in_channels)


# Comes with this repository; OpenAI's `base.pt` is used instead where it is there.
_INT8 = Weights(
    "pretrain/whisper-ppg-base/whisper_base_encoder_int8.safetensors",
    "part of this repository: git checkout -- pretrain/whisper-ppg-base",
    "b488729b9b9fcf593880b9baf3d4f635b96198c2b78430dde7f020556cfd7c58",
    same_as="8946692fbfba86bf098dc8040837d55cf4a5907000fe17d42dc664d8d0da866f",  # until December 2026: not deflated
)

for _name, _dim, _layout, _weights in (
    ("whisper-ppg-tiny", 384, SHORT_WINDOWS, weights_of("whisper-tiny")),  # 37 million parameters with the decoder
    ("whisper-ppg-base", 512, SHORT_WINDOWS, (*weights_of("whisper-base"), _INT8)),
    ("whisper-ppg-small", 768, SHORT_WINDOWS, weights_of("whisper-small")),  # 244 million
    # so-vits-svc's, laid out as there up to 30 s; longer clips get more windows instead of a stretch.
    ("whisper-ppg", 1024, FULL_WINDOWS, weights_of("whisper-medium")),
    ("whisper-ppg-large", 1280, FULL_WINDOWS, weights_of("whisper-large-v2")),
):
    _fields = {"name": _name, "dim": _dim, "layout": _layout, "weights": _weights}
    ENCODERS.register(_name)(type(_name, (WhisperPpg,), _fields))
