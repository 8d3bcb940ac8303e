"""The voice model: content units and F0 to a waveform in a trained voice, for training and for conversion.

The layers are in `modules/nn` and `vdecoder`. Attribute names are those of published checkpoints.

Letters: B batch, D unit width, H hidden channels, I latent channels, F spectrum bins, N frames, S speakers,
T = N * hop_length samples.

Source: Kim, Kong and Son, "Conditional Variational Autoencoder with Adversarial Learning for End-to-End
Text-to-Speech", 2021, arXiv:2106.06103, as so-vits-svc 4.1 arranges it for singing voice conversion.
"""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from modules.config.fit import CONVERTS_WITH, require_own_config
from modules.config.schema import Config
from modules.contracts import Draws, Synthesis, VoiceInput
from modules.device import WithoutDrawing, seeded
from modules.errors import ConfigError, UsageError
from modules.f0.convert import f0_to_coarse, f0_to_lf0, lf0_to_f0, normalize_lf0
from modules.nn.flows import CouplingFlow
from modules.nn.latent import LATENT_KERNEL, PitchDecoder, PosteriorEncoder, PriorEncoder
from modules.nn.masks import random_starts, sequence_mask, slice_frames
from modules.nn.transformer import CausalTransformer, TransformerSpec
from modules.nn.wavenet import WaveNet
from modules.weights.checkpoint import load_checkpoint
from modules.weights.families import fit_voice, voice_weights
from vdecoder.nsf_hifigan import ACTIVATIONS, GeneratorSpec, NSFGenerator, prepare_for_inference

# The seed upstream uses for every conversion, so that the same input gives the same output.
INFERENCE_SEED = 52468
FLOW_LAYERS = 4


class TrainingOutput(NamedTuple):
    """What `SynthesizerTrn.forward` returns; the last three are None without F0 prediction."""

    y_hat: torch.Tensor | None  # (B, 1, segment samples), the waveform of a window of each item; None if not decoded
    ids_slice: torch.Tensor  # (B,) frames where the windows start
    z_mask: torch.Tensor  # (B, 1, N) bool, True at real frames
    z: torch.Tensor  # (B, I, N) sample of the posterior, as are the next five in shape
    z_p: torch.Tensor  # the same in the prior's space
    m_p: torch.Tensor  # mean and log deviation of the prior
    logs_p: torch.Tensor
    m_q: torch.Tensor  # mean and log deviation of the posterior
    logs_q: torch.Tensor
    pred_lf0: torch.Tensor | None  # (B, 1, N) predicted F0, on the scaled mel axis of `f0_to_lf0`
    norm_lf0: torch.Tensor | None  # what it was predicted from: the normalised F0
    lf0: torch.Tensor | None  # its target


class SynthesizerTrn(nn.Module):
    """The whole voice model. Arguments are the keys of a config's `model` section, under their names.

    Its methods take `c` (B, D, N) units; `f0` (B, N) Hz, fp32 in every precision; `uv` (B, N), 1 = voiced; `g` (B,) or
    (B, 1) speaker ids; and `vol` (B, N), needed exactly if the model has a volume embedding.
    """

    def __init__(
        self,
        spec_channels: int,
        segment_size: int,  # frames of the window that is decoded in training
        inter_channels: int,
        hidden_channels: int,
        filter_channels: int,
        n_heads: int,
        n_layers: int,
        kernel_size: int,
        p_dropout: float,
        resblock: str,
        resblock_kernel_sizes: list[int],
        resblock_dilation_sizes: list[list[int]],
        upsample_rates: list[int],
        upsample_initial_channel: int,
        upsample_kernel_sizes: list[int],
        gin_channels: int,
        ssl_dim: int,
        n_speakers: int,
        sampling_rate: int = 44100,
        vol_embedding: bool = False,
        vocoder_name: str = "nsf-hifigan",
        use_depthwise_conv: bool = False,
        use_automatic_f0_prediction: bool = True,
        flow_share_parameter: bool = False,
        n_flow_layer: int = 4,
        n_layers_trans_flow: int = 3,
        use_transformer_flow: bool = False,
        clamp_f0_high: bool = False,
        unvoiced_source: bool = False,
        **unused: object,  # further keys of a config's model section (`use_spectral_norm`, ...), of no effect here
    ) -> None:
        super().__init__()
        if vocoder_name not in ACTIVATIONS:
            raise ConfigError(f"model.vocoder_name is {vocoder_name!r}. Known: {', '.join(ACTIVATIONS)}.")
        spec = TransformerSpec(hidden_channels, filter_channels, n_heads, n_layers, kernel_size, p_dropout)
        self.segment_size = segment_size
        self.clamp_f0_high, self.unvoiced_source = clamp_f0_high, unvoiced_source
        self.emb_g = nn.Embedding(n_speakers, gin_channels)
        self.emb_vol = nn.Linear(1, hidden_channels) if vol_embedding else None
        self.pre = nn.Conv1d(ssl_dim, hidden_channels, 5, padding=2)
        self.enc_p = PriorEncoder(spec, inter_channels)
        generator = GeneratorSpec(
            sampling_rate=sampling_rate,
            upsample_rates=upsample_rates,
            upsample_kernel_sizes=upsample_kernel_sizes,
            upsample_initial_channel=upsample_initial_channel,
            resblock=resblock,
            resblock_kernel_sizes=resblock_kernel_sizes,
            resblock_dilation_sizes=resblock_dilation_sizes,
            activation=ACTIVATIONS[vocoder_name],
        )
        self.sampling_rate, self.hop_length = sampling_rate, generator.hop_length
        self.dec = NSFGenerator(inter_channels, generator, cond_channels=gin_channels)
        self.enc_q = PosteriorEncoder(spec_channels, inter_channels, hidden_channels, gin_channels, use_depthwise_conv)

        def flow_network() -> nn.Module:
            if use_transformer_flow:
                flow_spec = replace(spec, n_layers=n_layers_trans_flow, kernel_size=LATENT_KERNEL)
                return CausalTransformer(flow_spec, gin_channels)
            return WaveNet(hidden_channels, LATENT_KERNEL, FLOW_LAYERS, gin_channels, use_depthwise_conv)

        self.flow = CouplingFlow(inter_channels, hidden_channels, n_flow_layer, flow_network, flow_share_parameter)
        self.f0_decoder = PitchDecoder(spec, gin_channels) if use_automatic_f0_prediction else None
        self.emb_uv = nn.Embedding(2, hidden_channels)

    def forward(
        self,
        c: torch.Tensor,
        f0: torch.Tensor,
        uv: torch.Tensor,
        spec: torch.Tensor,
        g: torch.Tensor,
        c_lengths: torch.Tensor,
        spec_lengths: torch.Tensor,
        vol: torch.Tensor | None = None,
        decode: bool = True,
    ) -> TrainingOutput:
        """One training pass: encodes whole items and, with `decode`, decodes a random window of each.

        `spec` (B, F, N) is linear magnitude, to whose frames the units are aligned; `c_lengths` and `spec_lengths` (B,)
        are real frames, at least `segment_size`.
        """
        speaker = self._speaker_vector(g)
        mask = sequence_mask(c_lengths, c.shape[2])
        x = self._content(c, uv, vol, mask)
        pred_lf0 = norm_lf0 = lf0 = None
        if self.f0_decoder is not None:
            lf0 = f0_to_lf0(f0).unsqueeze(1)
            # A random range, so that the prediction cannot copy the absolute pitch.
            factor = torch.empty(c.shape[0], 1, device=c.device).uniform_(0.8, 1.2)
            norm_lf0 = normalize_lf0(lf0, mask, uv, factor)
            pred_lf0 = self.f0_decoder(x, norm_lf0, mask, speaker)
        _, m_p, logs_p = self.enc_p(x, f0_to_coarse(f0, self.clamp_f0_high), mask)
        z_mask = sequence_mask(spec_lengths, spec.shape[2])
        z, m_q, logs_q = self.enc_q(spec, z_mask, speaker)
        z_p = self.flow(z, z_mask, speaker)
        starts = random_starts(spec_lengths, self.segment_size)
        y_hat = None
        if decode:
            windows = (slice_frames(x, starts, self.segment_size) for x in (z, self.source_f0(f0, uv)))
            y_hat = self.dec(*windows, speaker)
        return TrainingOutput(y_hat, starts, z_mask, z, z_p, m_p, logs_p, m_q, logs_q, pred_lf0, norm_lf0, lf0)

    @torch.no_grad()
    def infer(
        self,
        c: torch.Tensor,
        f0: torch.Tensor,
        uv: torch.Tensor,
        g: torch.Tensor,
        noise_scale: float = 0.35,
        seed: int | None = INFERENCE_SEED,
        predict_f0: bool = False,
        vol: torch.Tensor | None = None,
        needed: slice | None = None,
        draws: Draws | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The waveform (B, 1, T) float32 in [-1, 1] of whole items, and the F0 (B, N) Hz it was made with.

        `g` may also be weights (S, N) or (B, S, N) for a mix per frame. Only the `needed` frames are decoded, None for
        all; the others are 0. The caller's random numbers are left as they were; with a seed of None they are used.
        With `draws` (of one item) none are drawn.
        """
        speaker = self._speaker_vector(g)
        x = self._content(c, uv, vol, None)
        if predict_f0:
            f0 = self._predict_f0(x, f0, uv, speaker)
        with contextlib.nullcontext() if seed is None else seeded(c.device, seed):
            noise = draws and draws.latent[None]
            source_draws = () if draws is None else (draws.phases[None], draws.noise[None])
            z_p, _, _ = self.enc_p(x, f0_to_coarse(f0, self.clamp_f0_high), None, noise_scale, noise)
            z = self.flow(z_p, None, speaker, reverse=True)
            source_f0 = self.source_f0(f0, uv)
            wav = self.dec.in_windows(z, source_f0, speaker, needed=needed, source_draws=source_draws)
            # Upstream's source draws a second, unused noise. Whoever goes on drawing then gets upstream's numbers.
            torch.randn(wav.shape[0], wav.shape[2], 1, device=wav.device)
        return wav, f0

    @torch.no_grad()
    def infer_batch(
        self,
        c: torch.Tensor,
        f0: torch.Tensor,
        uv: torch.Tensor,
        g: torch.Tensor,
        lengths: list[int],
        noise_scale: float = 0.35,
        seed: int = INFERENCE_SEED,
        vol: torch.Tensor | None = None,
        needed: list[slice | None] | None = None,
    ) -> list[torch.Tensor]:
        """The waveforms (1, 1, N * hop_length) of padded items, each what `infer` makes of it alone, up to rounding.

        Prior and flow see the whole batch; every item is decoded by itself, at its own length and with its own noise.
        `lengths` are the real frames of each item, `needed` those to decode of each; the rest as `infer`, padded to the
        longest.
        """
        speaker = self._speaker_vector(g)
        mask = sequence_mask(torch.tensor(lengths, device=c.device), c.shape[2])
        x = self._content(c, uv, vol, mask)
        channels = self.dec.conv_pre.in_channels
        noise = torch.zeros(len(lengths), channels, c.shape[2], device=c.device)
        for index, length in enumerate(lengths):
            with seeded(c.device, seed):
                noise[index, :, :length] = torch.randn(1, channels, length, device=c.device)[0]
        z_p, _, _ = self.enc_p(x, f0_to_coarse(f0, self.clamp_f0_high), mask, noise_scale, noise)
        z = self.flow(z_p, mask, speaker, reverse=True)
        wavs, source_f0 = [], self.source_f0(f0, uv)
        for index, length in enumerate(lengths):
            one = slice(index, index + 1)
            condition = speaker[one] if len(speaker) > 1 else speaker
            with seeded(c.device, seed):
                torch.randn(1, channels, length, device=c.device)  # the prior's turn
                inputs = z[one, :, :length], source_f0[one, :length], condition[:, :, :length]
                wavs.append(self.dec.in_windows(*inputs, needed=needed and needed[index]))
        return wavs

    def source_f0(self, f0: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
        """The F0 (B, N) Hz of the decoder's source: all of `f0`, which goes on through unvoiced frames, as published
        models were trained; with `unvoiced_source` it is 0 there, so that consonants and breath are made of noise."""
        return f0 * (uv > 0.5) if self.unvoiced_source else f0

    def _predict_f0(self, x: torch.Tensor, f0: torch.Tensor, uv: torch.Tensor, speaker: torch.Tensor) -> torch.Tensor:
        if self.f0_decoder is None:
            raise UsageError(
                "this model was trained without pitch prediction (model.use_automatic_f0_prediction is false). "
                "Leave out automatic f0 prediction, or use another model."
            )
        lf0 = f0_to_lf0(f0).unsqueeze(1)
        norm_lf0 = normalize_lf0(lf0, torch.ones_like(lf0), uv)
        return lf0_to_f0(self.f0_decoder(x, norm_lf0, None, speaker).float()).squeeze(1)

    def _content(
        self, c: torch.Tensor, uv: torch.Tensor, vol: torch.Tensor | None, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """(B, H, N): units, voicing and volume in the hidden width. Only the units are masked."""
        x = self.pre(c)
        x = x if mask is None else x * mask
        x = x + self.emb_uv(uv.long()).transpose(1, 2)
        if self.emb_vol is None:
            return x
        if vol is None:
            raise ValueError("a model with volume embedding needs the volume")
        return x + self.emb_vol(vol.unsqueeze(2)).transpose(1, 2)

    def _speaker_vector(self, g: torch.Tensor) -> torch.Tensor:
        """(B, gin, 1) of ids (B,) or (B, 1); (B, gin, N) of weights (S, N) or (B, S, N)."""
        if not g.is_floating_point():
            return self.emb_g(g.reshape(-1)).unsqueeze(2)
        weights = g if g.dim() == 3 else g.unsqueeze(0)
        rows = self.emb_g.weight[: weights.shape[1]]
        return rows.T @ weights.to(rows.dtype)


def build_synthesizer(config: Config) -> SynthesizerTrn:
    """The untrained voice model that `config` describes, on the current default device."""
    return SynthesizerTrn(
        config.audio.n_freqs,
        config.segment_frames,
        sampling_rate=config.data.sampling_rate,
        **config.model.generator_kwargs(),
    )


class Voice:
    """A trained voice, ready to convert: a `contracts.Synthesizer` round a loaded `network` in evaluation mode."""

    def __init__(self, network: SynthesizerTrn) -> None:
        self.network = network
        self.sampling_rate = network.sampling_rate
        self.hop_length = network.hop_length
        self.n_speakers = network.emb_g.num_embeddings
        self.latent_channels = network.dec.conv_pre.in_channels
        self.device = network.emb_g.weight.device
        self.dtype = network.emb_g.weight.dtype

    def infer(
        self,
        units: torch.Tensor,
        f0: torch.Tensor,
        uv: torch.Tensor,
        speaker: int | torch.Tensor,
        volume: torch.Tensor | None = None,
        noise_scale: float = 0.35,
        predict_f0: bool = False,
        needed: slice | None = None,
        draws: Draws | None = None,
        seed: int | None = INFERENCE_SEED,
    ) -> Synthesis:
        """The waveform (N * hop_length,) float32 of a chunk in this voice, and the F0 (N,) it was made with.

        Tensors on any device, of any float type: units (D, N); `f0` (N,) Hz; `uv` (N,), 1 = voiced; linear volume (N,),
        ignored by a model without volume embedding. The speaker is an id, or weights (S, N) that sum to 1 per frame. A
        noise scale of 0 gives the mean of the prior, 1 all of its spread. Only the `needed` frames are decoded, None
        for all; the others are 0. Random numbers are `draws`, if given, on the voice's device.
        """
        wav, used_f0 = self.network.infer(
            units[None].to(self.device, self.dtype),
            f0[None].to(self.device, torch.float32),
            uv[None].to(self.device, torch.float32),
            self._speaker(speaker),
            noise_scale,
            seed,
            predict_f0,
            None if volume is None else volume[None].to(self.device, self.dtype),
            needed,
            draws,
        )
        return Synthesis(wav[0, 0], used_f0[0])

    def infer_batch(self, items: list[VoiceInput], noise_scale: float = 0.35) -> list[Synthesis]:
        """Several chunks at once, each as `infer` makes it alone up to rounding."""
        lengths = [len(item.f0) for item in items]

        def stack(tensors: list[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
            longest = max(lengths)
            padded = [F.pad(tensor.to(self.device, dtype), (0, longest - tensor.shape[-1])) for tensor in tensors]
            return torch.stack(padded)

        f0 = stack([item.f0 for item in items], torch.float32)
        uv = stack([item.uv for item in items], torch.float32)
        speakers = [self._speaker(item.speaker) for item in items]
        speaker = stack(speakers, torch.float32) if speakers[0].is_floating_point() else torch.cat(speakers)
        volume = None if items[0].volume is None else stack([item.volume for item in items], self.dtype)
        units = stack([item.units for item in items], self.dtype)
        needed = [item.needed for item in items]
        wavs = self.network.infer_batch(units, f0, uv, speaker, lengths, noise_scale, vol=volume, needed=needed)
        return [Synthesis(wav[0, 0], f0[index, : lengths[index]]) for index, wav in enumerate(wavs)]

    def _speaker(self, speaker: int | torch.Tensor) -> torch.Tensor:
        if isinstance(speaker, torch.Tensor) and speaker.is_floating_point():
            return speaker.to(self.device)
        if not 0 <= int(speaker) < self.n_speakers:
            raise UsageError(f"speaker id {int(speaker)}: this model has ids 0 to {self.n_speakers - 1}")
        return torch.tensor([int(speaker)], device=self.device)


def load_synthesizer(
    model_path: Path | str,
    config: Config,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    content: dict[str, Any] | None = None,
) -> Voice:
    """A voice from a checkpoint `G_*.pth` (`content`, where it has been read already): weight norm folded, posterior
    encoder and optimizer never loaded. Compressed checkpoints (half precision, `.safetensors`) load too. A config that
    does not belong to the file is refused.

    `dtype` is that of the network; F0, phases, the harmonic source and the waveform are fp32 in any case.
    """
    content = load_checkpoint(model_path) if content is None else content
    found = voice_weights(content, model_path)
    require_own_config(model_path, content.get("config"), config, CONVERTS_WITH, config.path or "the config")
    with WithoutDrawing():
        network = build_synthesizer(config)
    network.enc_q = None
    weights = fit_voice(found, network.state_dict(), model_path, config.path)
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    prepare_for_inference(network, network.dec, dtype)
    return Voice(network.to(device))
