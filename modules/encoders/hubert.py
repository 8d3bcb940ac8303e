"""`vec768l12`, `vec256l9`, `cnhubertlarge` (as fairseq saved them), `hubertsoft`; base of the whole HuBERT family."""

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from modules.audio.windows import plan_windows
from modules.encoders._networks.hubert import HOP, RECEPTIVE_FIELD, HubertNetwork, rename
from modules.encoders.base import ENCODERS, SpeechEncoder
from modules.errors import CheckpointError
from modules.pretrained.catalogue import weights_of
from modules.pretrained.find import require
from modules.weights.foreign import load_foreign
from modules.weights.state_dict import state_dict

logger = logging.getLogger(__name__)

# Longer audio goes through in windows: a minute needs 3 GB. Up to here the numbers are those of the whole clip.
WINDOW_FRAMES = 60 * 50
CONTEXT_FRAMES = 2 * 50


class HubertEncoder(SpeechEncoder):
    """What the family shares: one network, one layer of it, a projection where the encoder has one.

    Each frame sees 400 samples and the next starts 320 later, so audio of T samples gives (T - 400) // 320 + 1 frames;
    less than 400 samples are padded to one frame.
    """

    layer: int | None = None  # of the transformer, whose output is taken, counted from 1; None is the network's end
    projected = False
    padding = 0  # samples of silence before and behind
    publisher = "fairseq"  # whose names the file's tensors have

    def __init__(self, device: torch.device | str) -> None:
        super().__init__(device)
        path = require(*self.weights)
        network = self._network = self._load(path)
        if self.layer is not None and network.n_layers < self.layer:
            raise CheckpointError(
                f"{path}: has {network.n_layers} layers, {self.name} needs layer {self.layer}. Wrong file."
            )
        if self.projected and network.final_proj is None:
            raise CheckpointError(f"{path}: has no final_proj, which {self.name} needs. It is another model.")
        width = network.final_proj.out_features if self.projected else network.width
        if width != self.dim:
            raise CheckpointError(f"{path}: gives units {width} wide, {self.name} needs {self.dim}. Wrong file.")
        network.to(self.device)

    def _load(self, path: Path) -> HubertNetwork:
        """The network in the file; a subclass whose file is of another form has its own."""
        return HubertNetwork(rename(state_dict(load_foreign(path), path), self.publisher), path)

    def lower(self, dtype: torch.dtype) -> None:
        """The transformer's products, and the convolutions but the first."""
        self._network.lower(dtype)

    def units(self, wav: torch.Tensor) -> torch.Tensor:
        """One clip, in windows where it is longer than a minute."""
        wav = self._pad(wav)
        n_frames = (len(wav) - RECEPTIVE_FIELD) // HOP + 1
        if n_frames <= WINDOW_FRAMES:
            return self._run(wav[None], [len(wav)])[0]
        logger.info("%s: %.0f s in windows of a minute that overlap by 4 s", self.name, n_frames / 50)
        parts = []
        for read, keep in plan_windows(n_frames, WINDOW_FRAMES, CONTEXT_FRAMES):
            window = wav[read.start * HOP : (read.stop - 1) * HOP + RECEPTIVE_FIELD]
            parts.append(self._run(window[None], [len(window)])[0][:, keep])
        return torch.cat(parts, dim=1)

    def units_batch(self, wavs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Clips together where each still gets its own numbers, else one by one."""
        lengths = {len(wav) for wav in wavs}
        exact = len(lengths) == 1 or self._network.is_exact_when_padded
        if len(wavs) < 2 or max(lengths) > WINDOW_FRAMES * HOP or not exact:
            return super().units_batch(wavs)
        padded = [self._pad(wav) for wav in wavs]
        return self._run(pad_sequence(padded, batch_first=True), [len(wav) for wav in padded])

    def _pad(self, wav: torch.Tensor) -> torch.Tensor:
        wav = F.pad(wav, (self.padding, self.padding))
        return F.pad(wav, (0, max(0, RECEPTIVE_FIELD - len(wav))))

    def _run(self, wavs: torch.Tensor, lengths: list[int]) -> list[torch.Tensor]:
        rows = self._network(wavs, lengths, self.layer)
        return [self._network.final_proj(row.T).T for row in rows] if self.projected else rows


@ENCODERS.register("vec768l12")
class ContentVec768(HubertEncoder):
    """ContentVec, layer 12: the encoder of most published 4.1 voices.

    Source: Qian and others, "ContentVec: An Improved Self-Supervised Speech Representation by Disentangling Speakers",
    2022, arXiv 2204.09224.
    """

    name = "vec768l12"
    dim = 768
    layer = 12
    weights = weights_of("contentvec")


@ENCODERS.register("vec256l9")
class ContentVec256(HubertEncoder):
    """ContentVec, layer 9, projected: the encoder of published 4.0 voices."""

    name = "vec256l9"
    dim = 256
    layer = 9
    projected = True
    weights = weights_of("contentvec")


@ENCODERS.register("cnhubertlarge")
class ChineseHubertLarge(HubertEncoder):
    """HuBERT large, trained on Mandarin; its input is not normalised, as in so-vits-svc."""

    name = "cnhubertlarge"
    dim = 1024
    weights = weights_of("cnhubert")


@ENCODERS.register("hubertsoft")
class HubertSoft(HubertEncoder):
    """All layers, then a projection to 256 soft speech units; silence at both ends makes it T // 320 frames.

    Source: van Niekerk and others, "A Comparison of Discrete and Soft Speech Units for Improved Voice Conversion",
    2021, arXiv 2111.02392.
    """

    name = "hubertsoft"
    dim = 256
    projected = True
    padding = (RECEPTIVE_FIELD - HOP) // 2
    publisher = "soft"
    weights = weights_of("hubertsoft")
