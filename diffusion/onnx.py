"""The diffusion model as the four graphs that so-vits-svc exports: what runs between them is a loop of the caller's.

    encoder  hubert (1, Tc, D), mel2ph (1, N), f0 (1, N), volume (1, N) [, spk_mix (N, S)]  ->  mel_pred (1, H, N)
    denoise  noise (1, 1, M, N), time (1,), condition (1, H, N)                             ->  noise_pred (1, 1, M, N)
    pred     noise, noise_pred (1, 1, M, N), time, time_prev (1,)                           ->  noise_pred_o, as noise
    after    x (1, 1, M, N)                                                                 ->  mel_out (1, M, N)

`mel_pred` is the condition of `denoise`; `pred` moves a noisy mel from one level to another along its noise.
"""

import math
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from diffusion.gaussian import GaussianDiffusion
from diffusion.samplers.pndm import transfer
from diffusion.unit2mel import Unit2Mel
from modules.weights.onnx import Graph, is_same, open_session

LOG10_VOCODER = "nsf-hifigan-log10"
# Input or output -> axis -> name of its length; other axes stay as long as in the example.
_DYNAMIC = {
    "hubert": {1: "units"},
    "spk_mix": {0: "frames"},
    **{name: {1: "frames"} for name in ("mel2ph", "f0", "volume")},
    **{name: {2: "frames"} for name in ("mel_pred", "condition", "mel_out")},
    **{name: {3: "frames"} for name in ("noise", "noise_pred", "noise_pred_o", "x")},
}


class EncoderGraph(nn.Module):
    """The condition; `speaker_ids` are rows of the speaker table in the order of the config's speakers."""

    def __init__(self, network: Unit2Mel, speaker_ids: list[int]) -> None:
        super().__init__()
        self.network = network
        if network.spk_embed is not None:
            rows = F.one_hot(torch.tensor(speaker_ids), network.spk_embed.num_embeddings)
            self.register_buffer("rows", rows.float())

    def forward(
        self,
        hubert: torch.Tensor,
        mel2ph: torch.Tensor,
        f0: torch.Tensor,
        volume: torch.Tensor,
        spk_mix: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The condition (1, H, N)."""
        # A row of zeros in front is what frames without a unit take.
        units = F.pad(hubert, (0, 0, 1, 0))[0][mel2ph[0]].T.unsqueeze(0)
        speaker = None if spk_mix is None else (spk_mix @ self.rows).T.unsqueeze(0)
        return self.network.condition(units, f0, volume, speaker)


class TransferGraph(nn.Module):
    """A noisy mel at another level, by the transfer of the sampler `pndm`; computed in double precision."""

    def __init__(self, decoder: GaussianDiffusion) -> None:
        super().__init__()
        self.register_buffer("kept", torch.from_numpy(decoder.schedule.alphas_cumprod.copy()))

    def forward(
        self, noise: torch.Tensor, noise_pred: torch.Tensor, time: torch.Tensor, time_prev: torch.Tensor
    ) -> torch.Tensor:
        """`noise` (1, 1, M, N) moved from level `time` to level `time_prev` along `noise_pred`."""
        kept, wanted = self.kept[time], self.kept[time_prev]
        root = kept.sqrt()
        of_x = 1 / (root * (root + wanted.sqrt()))
        of_noise = 1 / (root * (((1 - wanted) * kept).sqrt() + ((1 - kept) * wanted).sqrt()))
        step = wanted - kept
        return noise + (step * of_x).float() * noise - (step * of_noise).float() * noise_pred


class AfterGraph(nn.Module):
    """From the scale of the chain to the vocoder's mel: natural log, or log10 for the vocoder `nsf-hifigan-log10`."""

    def __init__(self, decoder: GaussianDiffusion, vocoder: str) -> None:
        super().__init__()
        self.scale = 1 / math.log(10) if vocoder == LOG10_VOCODER else 1.0
        self.decoder = decoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, M, N)."""
        return self.decoder.denormalise(x[:, 0]) * self.scale


def diffusion_graphs(
    network: Unit2Mel, speaker_ids: list[int], vocoder: str, n_units: int = 30, n_frames: int = 50
) -> dict[str, Graph]:
    """The four graphs by name, of a network for sampling in fp32; `n_units` and `n_frames` are those of the examples,
    `vocoder` is `vocoder.type` of its config."""
    decoder, n_speakers = network.decoder, len(speaker_ids)
    denoiser = decoder.denoise_fn
    condition = torch.randn(1, denoiser.residual_layers[0].conditioner_projection.in_channels, n_frames)
    mel = torch.randn(1, 1, denoiser.output_projection.out_channels, n_frames)
    level, following = torch.tensor([decoder.k_step_max // 2]), torch.tensor([decoder.k_step_max // 4])
    inputs = {
        "hubert": torch.randn(1, n_units, network.unit_embed.in_features),
        "mel2ph": torch.arange(n_frames)[None] * n_units // n_frames + 1,
        "f0": torch.linspace(100, 400, n_frames)[None],
        "volume": torch.full((1, n_frames), 0.1),
    }
    if network.spk_embed is not None:
        inputs["spk_mix"] = torch.full((n_frames, n_speakers), 1 / n_speakers)

    def graph(module: nn.Module, output: str, **inputs: torch.Tensor) -> Graph:
        dynamic = {name: _DYNAMIC[name] for name in (*inputs, output) if name in _DYNAMIC}
        return Graph(module.eval(), inputs, (output,), dynamic)

    transition = {"noise": mel, "noise_pred": torch.randn_like(mel), "time": level, "time_prev": following}
    return {
        "encoder": graph(EncoderGraph(network, speaker_ids), "mel_pred", **inputs),
        "denoise": graph(denoiser, "noise_pred", noise=mel, time=level, condition=condition),
        "pred": graph(TransferGraph(decoder), "noise_pred_o", **transition),
        "after": graph(AfterGraph(decoder, vocoder), "mel_out", x=mel),
    }


@torch.inference_mode()
def check_parts(network: Unit2Mel, speaker_ids: list[int], vocoder: str, paths: dict[str, Path]) -> bool:
    """Whether onnxruntime makes of the files `paths` what torch computes, at several lengths; logs the differences."""
    schedule, good = network.decoder.schedule.alphas_cumprod, True
    for name, path in paths.items():
        session = open_session(path, torch.device("cpu"), "--check")
        for n_units, n_frames in ((30, 50), (7, 11), (150, 259)):
            graph = diffusion_graphs(network, speaker_ids, vocoder, n_units, n_frames)[name]
            found = session.run(None, {key: value.numpy() for key, value in graph.inputs.items()})[0]
            values = list(graph.inputs.values())
            if name == "pred":  # against the sampler itself
                wanted = transfer(*values[:2], *(float(schedule[level]) for level in values[2:]))
            else:
                wanted = graph.module(*values)
            good &= is_same(f"{path}, {n_frames} frames", found, wanted)
    return good
