"""The typed mirror of diffusion.yaml: field name = key = so-vits-svc's key; every default lives here."""

import logging
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from modules.config.io import read_text, report_unknown_keys, to_plain, validate
from modules.config.schema import Depth, Positive, Section, Width, denoiser_parameters, refuse_absurd
from modules.errors import ConfigError
from modules.files import write_text

logger = logging.getLogger(__name__)


class DiffusionData(Section):
    """`data`: rate, clips and units."""

    sampling_rate: Annotated[int, Field(gt=0, le=1_000_000)] = 44100
    block_size: Width = 512
    duration: Annotated[float, Field(gt=0)] = 2
    encoder: str = "vec768l12"
    cnhubertsoft_gate: int = 10  # other tools
    encoder_sample_rate: Positive = 16000  # other tools
    encoder_hop_size: Positive = 320  # other tools
    encoder_out_channels: Width = 768
    training_files: str = "filelists/train.txt"
    validation_files: str = "filelists/val.txt"
    extensions: list[str] = Field(default_factory=lambda: ["wav"])  # other tools
    unit_interpolate_mode: str = "left"


class DiffusionModel(Section):
    """`model`: the shape of the denoiser."""

    type: str = "Diffusion"  # other tools
    n_layers: Depth = 20
    n_chans: Width = 512
    n_hidden: Width = 256
    use_pitch_aug: bool = True
    timesteps: Annotated[int, Field(gt=0, le=100_000)] = 1000
    k_step_max: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = 0
    n_spk: Width = 1


class DiffusionVocoder(Section):
    """`vocoder`: the pretrained mel vocoder."""

    type: str = "nsf-hifigan"
    ckpt: str = "pretrain/nsf_hifigan/model"


class DiffusionInfer(Section):
    """`infer`: the sampler."""

    speedup: Annotated[int, Field(ge=0)] = 10
    method: str | None = "dpm-solver++"


class DiffusionEnv(Section):
    """`env`: where training writes."""

    expdir: str = "logs/44k/diffusion"
    gpu_id: int = 0


class DiffusionTrain(Section):
    """`train`: how the denoiser is trained."""

    num_workers: Annotated[int, Field(ge=0)] = 4
    amp_dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    batch_size: Positive = 48
    cache_all_data: bool = True
    cache_device: str = "cpu"
    cache_fp16: bool = True
    epochs: Positive = 100000
    interval_log: Positive = 10
    interval_val: Positive = 2000
    interval_force_save: Positive = 5000
    lr: Annotated[float, Field(gt=0)] = 1e-4
    decay_step: Positive = 100000
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.5
    weight_decay: Annotated[float, Field(ge=0)] = 0
    save_opt: bool = False
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 1234


class DiffusionConfig(Section):
    """A whole diffusion.yaml."""

    data: DiffusionData = Field(default_factory=DiffusionData)
    model: DiffusionModel = Field(default_factory=DiffusionModel)
    device: str = "cuda"
    vocoder: DiffusionVocoder = Field(default_factory=DiffusionVocoder)
    infer: DiffusionInfer = Field(default_factory=DiffusionInfer)
    env: DiffusionEnv = Field(default_factory=DiffusionEnv)
    train: DiffusionTrain = Field(default_factory=DiffusionTrain)
    spk: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)


_MOST_VALUES = 100_000
# What Diffusion-SVC and DDSP-SVC call the encoders that go by other names here.
ENCODER_ALIASES = {"contentvec768l12": "vec768l12", "contentvec": "vec256l9"}


class _Loader(yaml.SafeLoader):
    """Refuses a mapping that gives one key two values, of which the first would be lost."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<" and key.value in seen:
                raise yaml.composer.ComposerError(f"{key.value[:40]!r} is there twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return node


def load_diffusion_config(path: Path | str, content: bytes | None = None) -> DiffusionConfig:
    """A checked config from a YAML file, or its `content`; a ConfigError names the file and what is wrong in it."""
    path = Path(path)
    try:
        values = _Loader(read_text(path, content)).get_single_data()
        if _n_values(values, {}) > _MOST_VALUES:
            raise ConfigError(f"{path}: its aliases repeat more than {_MOST_VALUES} values. Restore it from a copy.")
    except (ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: 2001-99-99 for a date
        lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
        where = [line.partition("line ")[2] for line in lines[1:] if "line " in line]  # `in "x", line 3, column 1:`
        reason = lines[0][:160] + (f", line {where[-1].rstrip(':')}" if where else "")
        raise ConfigError(f"{path}: cannot be read as YAML ({reason}). Fix it.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds a {type(values).__name__}; expected sections data, model, train, ...")
    return parse_diffusion_config(values, path)


def _n_values(value: Any, known: dict[int, float]) -> float:
    """How many values there are with all aliases written out; each object is counted once."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf  # of one that contains itself
        items = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_n_values(item, known) for item in items)
    return known[id(value)]


def parse_diffusion_config(values: dict[str, Any], path: Path | None = None) -> DiffusionConfig:
    """A checked config from parsed YAML, with the errors of `load_diffusion_config`; `path` is for messages."""
    name = str(path) if path else "diffusion config"
    values = {key: value for key, value in values.items() if value is not None}
    if isinstance(values.get("spk"), dict):  # a name of digits is a number in YAML
        values["spk"] = {str(speaker): number for speaker, number in values["spk"].items()}
    data = values.get("data")
    if isinstance(data, dict) and isinstance(data.get("encoder"), str) and data["encoder"] in ENCODER_ALIASES:
        values["data"] = {**data, "encoder": ENCODER_ALIASES[data["encoder"]]}
        logger.info("%s: data.encoder %s is %s here", name, data["encoder"], values["data"]["encoder"])
    report_unknown_keys(DiffusionConfig, values, name)
    config = validate(DiffusionConfig, values, name)
    model, units = config.model, config.data.encoder_out_channels
    size = denoiser_parameters(model.n_layers, model.n_chans, model.n_hidden, units, model.n_spk)
    try:
        refuse_absurd({"n_layers, n_chans, n_hidden, n_spk": size}, "model")
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    return config


def dump_diffusion_config(config: DiffusionConfig) -> str:
    """The YAML text of a config: keys in the schema's order, names readable in any script."""
    return yaml.safe_dump(to_plain(config), allow_unicode=True, sort_keys=False)


def save_diffusion_config(config: DiffusionConfig, path: Path | str) -> None:
    """Writes plain YAML, whole or not at all."""
    write_text(path, dump_diffusion_config(config))
