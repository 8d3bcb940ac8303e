"""The typed mirror of config.json: field name = JSON key = so-vits-svc's key; every default lives here.

A default is what an absent key means in a published 4.0 or 4.1 config; what a new config gets on top is in
`presets.py`. Keys marked "other tools" are not used here; they stay so that the file still works elsewhere.
"""

import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from modules.config.audio import AudioSpec
from modules.errors import ConfigError

# Upper bounds are far above anything useful: they keep a slip or a damaged file from asking for all memory there is.
Positive = Annotated[int, Field(gt=0, le=2**31 - 1)]
Width = Annotated[int, Field(gt=0, le=2**16)]
Depth = Annotated[int, Field(gt=0, le=128)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Sizes = Annotated[list[Annotated[int, Field(gt=0, le=4096)]], Field(min_length=1, max_length=16)]
SizeLists = Annotated[list[Sizes], Field(min_length=1, max_length=16)]

MOST_PARAMETERS = 1_000_000_000  # published voices hold 40 to 80 million


class Section(BaseModel):
    """One object of the file; unknown keys are kept."""

    model_config = ConfigDict(extra="allow", validate_assignment=True, protected_namespaces=(), allow_inf_nan=False)


class TrainConfig(Section):
    """`train`: how the model is trained."""

    log_interval: Positive = 200
    eval_interval: Positive = 800
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 1234
    epochs: Positive = 10000
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)] = [0.8, 0.99]
    eps: Annotated[float, Field(gt=0)] = 1e-9
    batch_size: Positive = 6
    fp16_run: bool = False
    half_type: str = "fp16"
    lr_decay: Annotated[float, Field(gt=0, le=1)] = 0.999875
    segment_size: Annotated[int, Field(gt=0, le=2**24)] = 10240
    init_lr_ratio: float = 1  # other tools
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    c_mel: NotNegative = 45
    c_kl: NotNegative = 1.0
    c_stft: NotNegative = 0.0  # ours
    use_sr: bool = True  # other tools
    max_speclen: int = 512  # other tools
    port: str | int = "8001"
    keep_ckpts: Annotated[int, Field(ge=0)] = 3
    all_in_mem: bool = False
    vol_aug: bool = False
    accumulate: Positive = 1  # ours, as all below
    clip_grad: NotNegative = 0.0
    ema_decay: Share = 0.0
    patience: Annotated[int, Field(ge=0)] = 10
    window_frames: Positive = 790
    linear_upsampling_steps: Annotated[int, Field(ge=0)] = 0
    adversarial_from: Annotated[int, Field(ge=0)] = 0
    bandwidth: dict[str, Annotated[float, Field(gt=0)]] = {}  # speaker to Hz


class DataConfig(Section):
    """`data`: file lists and the spectrum of training."""

    training_files: str = "filelists/train.txt"
    validation_files: str = "filelists/val.txt"
    max_wav_value: float = 32768.0  # other tools
    sampling_rate: Annotated[int, Field(gt=0, le=1_000_000)] = 44100
    filter_length: Width = 2048
    hop_length: Width = 512
    win_length: Width = 2048
    n_mel_channels: Annotated[int, Field(gt=0, le=4096)] = 80
    mel_fmin: NotNegative = 0.0
    mel_fmax: float | None = 22050
    unit_interpolate_mode: str = "left"


class ModelConfig(Section):
    """`model`: the shape of the networks."""

    inter_channels: Width = 192
    hidden_channels: Width = 192
    filter_channels: Width = 768
    n_heads: Width = 2
    n_layers: Depth = 6
    kernel_size: Width = 3
    p_dropout: Share = 0.1
    resblock: str = "1"
    resblock_kernel_sizes: Sizes = [3, 7, 11]
    resblock_dilation_sizes: SizeLists = [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
    upsample_rates: Sizes = [8, 8, 2, 2, 2]
    upsample_initial_channel: Width = 512
    upsample_kernel_sizes: Sizes = [16, 16, 4, 4, 4]
    n_layers_q: int = 3  # other tools
    n_layers_trans_flow: Depth = 3
    n_flow_layer: Depth = 4
    use_spectral_norm: bool = False
    gin_channels: Annotated[int, Field(ge=0, le=2**16)] = 768
    ssl_dim: Width = 768
    n_speakers: Width = 200
    vocoder_name: str = "nsf-hifigan"
    speech_encoder: str = "vec768l12"
    speaker_embedding: bool = False  # other tools
    vol_embedding: bool = False
    use_depthwise_conv: bool = False
    flow_share_parameter: bool = False
    use_automatic_f0_prediction: bool = True
    use_transformer_flow: bool = False
    discriminator_channels: Annotated[int, Field(gt=0, le=8192)] = 1024
    clamp_f0_high: bool = False
    unvoiced_source: bool = False

    def generator_kwargs(self) -> dict[str, Any]:
        """The arguments of `SynthesizerTrn` besides spec_channels, segment_size and sampling_rate."""
        left_out = {"n_layers_q", "speaker_embedding", "speech_encoder", "discriminator_channels"}
        return {name: getattr(self, name) for name in type(self).model_fields if name not in left_out}


class CardConfig(Section):
    """`card` (ours): what whoever trains a voice says about it; its checkpoints carry it, and songs made with it."""

    author: str = ""
    licence: str = ""
    credits: str = ""
    notes: str = ""


class Config(Section):
    """A whole config.json: `train`, `data`, `model`, `card` and `spk`, the speaker names and their ids."""

    train: TrainConfig = Field(default_factory=TrainConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    card: CardConfig = Field(default_factory=CardConfig)
    spk: dict[str, Annotated[int, Field(ge=0)]] = {}
    _path: Path | None = PrivateAttr(default=None)
    _order: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def path(self) -> Path | None:
        """Where the config was read from."""
        return self._path

    @property
    def audio(self) -> AudioSpec:
        """Rate and spectrum of training; a ConfigError where the values contradict each other."""
        data = self.data
        fmax = data.sampling_rate / 2 if data.mel_fmax is None else float(data.mel_fmax)
        sizes = data.sampling_rate, data.filter_length, data.hop_length, data.win_length, data.n_mel_channels
        return AudioSpec(*sizes, float(data.mel_fmin), fmax)

    @property
    def segment_frames(self) -> int:
        """Frames of one training slice."""
        return self.train.segment_size // self.data.hop_length

    def check(self) -> None:
        """Refuses two values that contradict each other; the text names both and what to set."""
        problem = next(chain(_audio_problems(self), _model_problems(self.model), _speaker_problems(self)), None)
        if problem:
            raise ConfigError(problem)
        refuse_absurd(voice_parts(self), "model")
        try:
            _ = self.audio
        except ConfigError as error:
            raise ConfigError(f"data: {error}") from None


def _audio_problems(config: Config) -> Iterator[str]:
    train, data, model = config.train, config.data, config.model
    product = math.prod(model.upsample_rates)
    if product != data.hop_length:
        yield (
            f"data.hop_length is {data.hop_length} but model.upsample_rates {model.upsample_rates} multiply to "
            f"{product}. Set data.hop_length to {product}, or choose upsample_rates whose product is {data.hop_length}."
        )
    if train.segment_size % data.hop_length:
        nearest = max(1, round(train.segment_size / data.hop_length)) * data.hop_length
        yield (
            f"train.segment_size {train.segment_size} is not a multiple of data.hop_length {data.hop_length}. "
            f"Set it to {nearest}."
        )
    if train.window_frames < config.segment_frames:
        yield (
            f"train.window_frames {train.window_frames} is less than the {config.segment_frames} frames of "
            f"train.segment_size {train.segment_size}. Set it to at least {config.segment_frames}."
        )
    yield from _unknown("data.unit_interpolate_mode", data.unit_interpolate_mode, ("left", "nearest", "linear"))


def _model_problems(model: ModelConfig) -> Iterator[str]:
    rates, kernels = model.upsample_rates, model.upsample_kernel_sizes
    if len(rates) != len(kernels):
        yield (
            f"model.upsample_rates has {len(rates)} entries and model.upsample_kernel_sizes {len(kernels)}; "
            "give one kernel size for each rate."
        )
    for rate, kernel in zip(rates, kernels):
        if kernel < rate or (kernel - rate) % 2:
            yield (
                f"model.upsample_kernel_sizes has {kernel} for the rate {rate}; it must be at least the rate, and "
                f"differ from it by an even number. Use {2 * rate}."
            )
    if len(model.resblock_kernel_sizes) != len(model.resblock_dilation_sizes):
        yield "model.resblock_kernel_sizes and model.resblock_dilation_sizes must have as many entries."
    yield from _unknown("model.resblock", model.resblock, ("1", "2"))
    if model.hidden_channels % model.n_heads:
        yield (
            f"model.n_heads {model.n_heads} does not divide model.hidden_channels {model.hidden_channels}. "
            "Choose heads that divide it."
        )
    for name in ("inter_channels", "hidden_channels"):
        if getattr(model, name) % 2:
            yield f"model.{name} is {getattr(model, name)}; it is split in halves: use an even number."
    if model.upsample_initial_channel < 2 ** len(rates):
        yield (
            f"model.upsample_initial_channel {model.upsample_initial_channel} cannot be halved {len(rates)} times; "
            f"use at least {2 ** len(rates)}."
        )
    yield from _unknown("model.vocoder_name", model.vocoder_name, ("nsf-hifigan", "nsf-snake-hifigan"))


def _speaker_problems(config: Config) -> Iterator[str]:
    names_by_id: dict[int, str] = {}
    for name, number in config.spk.items():
        if number in names_by_id:
            yield f"spk: {names_by_id[number]!r} and {name!r} have the same id {number}. Give each its own."
        names_by_id[number] = name
        if number >= config.model.n_speakers:
            yield (
                f"spk: {name!r} has the id {number} but model.n_speakers is {config.model.n_speakers}. "
                "Ids run from 0 to n_speakers - 1."
            )


def _unknown(key: str, found: object, known: tuple[str, ...]) -> Iterator[str]:
    if found not in known:
        yield f"{key} is {found!r}. Known: {', '.join(known)}."


def refuse_absurd(parts: dict[str, int], section: str) -> None:
    """Refuses a network that no user's machine could hold: `parts` maps the keys that size a part to its parameters."""
    total, largest = sum(parts.values()), max(parts, key=parts.__getitem__)
    if total > MOST_PARAMETERS:
        raise ConfigError(
            f"{section} describes a network of {total:.2g} parameters, at most {MOST_PARAMETERS:.0e} are allowed. Most "
            f"are in {largest}: correct these values."
        )


def voice_parts(config: Config) -> dict[str, int]:
    """Parameters of each part of a voice in training, for `refuse_absurd`; biases and norms are left out."""
    model = config.model
    hidden, gin, latent, ffn = model.hidden_channels, model.gin_channels, model.inter_channels, model.filter_channels
    transformer = model.n_layers * hidden * (4 * hidden + 2 * ffn * model.kernel_size)
    flows = 1 if model.flow_share_parameter else model.n_flow_layer
    if model.use_transformer_flow:
        coupling = model.n_layers_trans_flow * hidden * (4 * hidden + 2 * ffn * 5 + 2 * gin) + 2 * hidden**2
    else:
        coupling = _wavenet(model, 4)
    posterior = (config.data.filter_length // 2 + 1) * hidden + _wavenet(model, 16)
    decoder = decoder_parameters(latent, model) + gin * model.upsample_initial_channel
    return {
        "model.n_speakers, gin_channels": model.n_speakers * gin,
        "model.ssl_dim, hidden_channels": model.ssl_dim * hidden * 5,
        "model.n_layers, hidden_channels, filter_channels, kernel_size": transformer * 2 + hidden * (gin + 2 * latent),
        "model.n_flow_layer, hidden_channels, gin_channels": flows * coupling + model.n_flow_layer * latent * hidden,
        "data.filter_length, model.hidden_channels, gin_channels": posterior + 2 * latent * hidden,
        "model.upsample_initial_channel, upsample_kernel_sizes, resblock_kernel_sizes": decoder,
    }


def decoder_parameters(in_channels: int, sizes: Any) -> int:
    """Parameters of a waveform decoder with residual blocks of the first kind; `sizes` has `ModelConfig`'s keys."""
    channels, kernels = sizes.upsample_initial_channel, sizes.upsample_kernel_sizes
    blocks = zip(sizes.resblock_kernel_sizes, sizes.resblock_dilation_sizes)
    block = sum(2 * kernel * len(dilations) for kernel, dilations in blocks)
    total = in_channels * channels * 7
    for stage in range(min(len(sizes.upsample_rates), len(kernels))):
        before, after = channels >> stage, channels >> (stage + 1)
        total += before * after * kernels[stage] + after * after * block
    return total


def denoiser_parameters(n_layers: int, channels: int, hidden: int, units: int, speakers: int) -> int:
    """Parameters of a diffusion model."""
    return n_layers * channels * (9 * channels + 2 * hidden) + 8 * channels**2 + hidden * (units + speakers)


def _wavenet(model: ModelConfig, n_layers: int) -> int:
    hidden = model.hidden_channels
    taps = 5 * hidden if not model.use_depthwise_conv else hidden
    return n_layers * 2 * hidden * (taps + hidden + model.gin_channels)
