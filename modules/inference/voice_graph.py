"""The voice model as one function of so-vits-svc's ONNX inputs; `onnx_voice.py` is what reads such a graph.

c (1, Tc, D)  mel2ph (1, N)      units, and which of them (from 1; 0 for none) each frame takes
f0 (1, N)  uv (1, N)             melody
noise (1, I, N)                  standard normal times the noise scale
sid (1,) or (N, S)               position of the speaker in the config, or weights of all of them
vol (1, N)                       loudness, for models that take it
source_phases (1, 9)  source_noise (1, T, 9)     random numbers of the harmonic source, where they are inputs
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from modules.f0.convert import f0_to_coarse
from modules.weights.onnx import Graph

N_HARMONICS = 9  # of the source
SOURCE_INPUTS = ("source_phases", "source_noise")


class VoiceGraph(nn.Module):
    """A voice model whose inputs are all that its sound depends on.

    Args:
        network: a `SynthesizerTrn` for conversion, weight norm folded; it is copied, but for its decoder.
        decoder: latent (1, I, N), f0 (1, N), speaker (1, gin, 1 or N) and perhaps random numbers to the waveform.
        speaker_ids: rows of the model's speaker table, in the order in which the config names the speakers.
    """

    def __init__(self, network: nn.Module, decoder: nn.Module, speaker_ids: list[int]) -> None:
        super().__init__()
        self.network = copy.deepcopy(network, {id(network.dec): decoder})  # the copy gets it in the place of its own
        self.register_buffer("speakers", network.emb_g.weight[speaker_ids].clone())
        self.eval().requires_grad_(False)

    def forward(
        self,
        c: torch.Tensor,
        f0: torch.Tensor,
        mel2ph: torch.Tensor,
        uv: torch.Tensor,
        noise: torch.Tensor,
        sid: torch.Tensor,
        *others: torch.Tensor,
    ) -> torch.Tensor:
        """The waveform (1, 1, T); `others` are volume and random numbers of the source, where wanted."""
        network = self.network
        given = list(others)
        vol = given.pop(0) if network.emb_vol is not None else None
        # A row of zeros in front is what frames without a unit take.
        units = F.pad(c, (0, 0, 1, 0))[0][mel2ph[0]].T.unsqueeze(0)
        x = network._content(units, uv, vol, None)
        z, _, _ = network.enc_p(x, f0_to_coarse(f0, network.clamp_f0_high), None, 1.0, noise)
        if sid.is_floating_point():
            speaker = (sid @ self.speakers).T.unsqueeze(0)
        else:
            speaker = self.speakers[sid].unsqueeze(2)
        z = network.flow(z, None, speaker, reverse=True)
        return network.dec(z, f0, speaker, *given)


def describe_voice(module: VoiceGraph, latent_channels: int, hop_length: int, n_frames: int = 64) -> Graph:
    """The graph of a voice, with so-vits-svc's names, order and dynamic axes.

    Args:
        module: the voice.
        latent_channels: I.
        hop_length: samples per frame.
        n_frames: of the example.
    """
    network, n_speakers = module.network, len(module.speakers)
    n_units, width = n_frames * 3 // 5, network.pre.in_channels
    inputs = {
        "c": torch.randn(1, n_units, width),
        "f0": torch.linspace(100, 400, n_frames)[None],
        "mel2ph": torch.arange(n_frames)[None] * n_units // n_frames + 1,
        "uv": torch.ones(1, n_frames),
        "noise": torch.randn(1, latent_channels, n_frames),
        "sid": torch.full((n_frames, n_speakers), 1 / n_speakers) if n_speakers > 1 else torch.zeros(1).long(),
    }
    dynamic = {"c": {0: "batch", 1: "units"}, "noise": {2: "frames"}}
    dynamic |= {name: {1: "frames"} for name in ("f0", "mel2ph", "uv")}
    if n_speakers > 1:
        dynamic["sid"] = {0: "frames"}
    if network.emb_vol is not None:
        inputs["vol"] = torch.full((1, n_frames), 0.1)
        dynamic["vol"] = {1: "frames"}
    if network.dec.takes_random_numbers:
        numbers = torch.rand(1, N_HARMONICS), torch.randn(1, n_frames * hop_length, N_HARMONICS)
        inputs |= zip(SOURCE_INPUTS, numbers)
        dynamic[SOURCE_INPUTS[1]] = {1: "samples"}
    return Graph(module, inputs, ("audio",), {**dynamic, "audio": {2: "samples"}})
