"""What can be said of a file of weights: whose it is, what it was trained on, what it needs, whether that is there.

A report is a dictionary of plain values, the same for people and for JSON. Indexes and other files that hold no weights
are not read here.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modules.config.diffusion import DiffusionConfig, load_diffusion_config, parse_diffusion_config
from modules.config.io import parse_config, read_json
from modules.config.schema import Config
from modules.config.vocoder import load_vocoder_config, vocoder_config_path
from modules.encoders.base import ENCODERS
from modules.errors import CheckpointError, ConfigError
from modules.files import is_zip
from modules.pretrained.catalogue import Weights, package, package_with
from modules.pretrained.find import find
from modules.weights.checkpoint import check_whole, safetensors_metadata, step_of
from modules.weights.families import DIFFUSION, ENCODER, VOICE, ModelFile, encoder_depth, recognise
from modules.weights.foreign import array_of, is_settings_name, load_foreign
from modules.weights.pickle_names import asked_names, is_tensor_name

Report = dict[str, Any]

# What a voice can do that others cannot, and the tensor that shows it.
_OPTIONS = {
    "volume embedding": r"emb_vol\.",
    "automatic f0": r"f0_decoder\.cond\.",
    "transformer flow": r"flow\..*self_attn",
    "shared flow": r"flow\.wn\.",
    "depthwise convolutions": r".*depth_conv",
    "snake decoder": r"dec\..*(snake|activations)",
}


class AsksForCode(CheckpointError):
    """A file whose pickles name more than tensors and settings; `names` are those."""

    def __init__(self, path: Path, names: list[str]) -> None:
        super().__init__(
            f"{path}: asks for {', '.join(names[:8])}: reading it could run code, so it was not read. "
            "Get the file from its original source."
        )
        self.names = names


def report_on_weights(path: Path) -> tuple[Report, ModelFile]:
    """What is to be said of a file, and its content as far as it was recognised.

    Args:
        path: `.pth`, `.pt`, `.safetensors` or without ending.

    Raises:
        AsksForCode: it holds more than tensors and settings.
        CheckpointError: damaged, or no weights.
    """
    is_pickle = path.suffix != ".safetensors"
    names = asked_names(path) if is_pickle else []
    others = [name for name in names if not is_tensor_name(name)]
    code = [name for name in others if not is_settings_name(name)]
    settings = sorted({name.split(".")[0] for name in others if not name.startswith("builtins.")})
    if code:
        raise AsksForCode(path, code)
    check_whole(path)
    content = load_foreign(path)
    about = content if is_pickle else safetensors_metadata(path)
    found = recognise(content)
    family = found.family
    report: Report = {"kind": family.kind, "family": found.package or family.name, "details": [*found.details]}
    report["carries"] = "tensors and plain values" + (f", inert settings of {', '.join(settings)}" if settings else "")
    if found.weights:
        report |= _sizes(found.weights)
    if found.family.kind in (VOICE, DIFFUSION, "discriminator"):
        report |= {"step": _step(about, path), "epoch": about.get("iteration"), "card": about.get("card")}
    report |= _kind_report(path, about, found, content)
    if is_pickle and not is_zip(path):
        report["layout"] = "torch before 1.6: holds no checksums"
    return report, found


def _kind_report(path: Path, about: Mapping[str, Any], found: ModelFile, content: Mapping[str, Any]) -> Report:
    kind, weights = found.family.kind, found.weights
    if kind == VOICE and found.family.is_ours:
        return _voice(path, about, weights)
    if kind == DIFFUSION:
        return _diffusion(path, about, weights)
    if kind == "cluster centres":
        return _centres(path, content)
    report: Report = {}
    if kind == ENCODER:
        report["layers"] = encoder_depth(weights)
    if kind == "mel vocoder":
        try:
            config = load_vocoder_config(vocoder_config_path(path))
        except ConfigError as error:
            report["config_problem"] = str(error)
        else:
            report |= {"sampling_rate": config.sampling_rate, "hop_length": config.hop_size, "mels": config.num_mels}
    if found.package:
        report |= _place(path, found.package)
    return report


def _place(path: Path, name: str) -> Report:
    """Where a pretrained file is looked for and what uses it."""
    first, used_by = package(name).files[0], package(name).needed_by
    encoders = [key for key in ENCODERS.names() if first in ENCODERS.get(key).weights]
    places = [weights.path for key in encoders for weights in ENCODERS.get(key).weights] or [first.path]
    place = next((place for place in places if Path(place).name == path.name), places[0])
    return {"encoder": encoders, "used_by": used_by, "belongs_in": place, "is_in_place": find(place) is not None}


def _voice(path: Path, about: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> Report:
    report: Report = {
        "n_speakers": len(weights["emb_g.weight"]) if "emb_g.weight" in weights else None,
        "options": [name for name, pattern in _OPTIONS.items() if any(re.match(pattern, key) for key in weights)],
        "is_compressed": not any(name.startswith("enc_q.") for name in weights),
        "is_averaged": "trained_model" in about or "n_averaged" in about or None,
    }
    width = weights["pre.weight"].shape[1] if "pre.weight" in weights else None
    try:
        values, where = _stored_or_beside(about, path.with_name("config.json"), read_json)
        config = None if values is None else parse_config(values, None if where == "in the file" else Path(where))
    except ConfigError as error:
        values, config, report["config_problem"] = None, None, str(error)
    if config is None:
        report.setdefault("config_problem", f"no config in the file and no {path.with_name('config.json')}")
        return report | {"units_width": width, "encoder_may_be": encoders_of_width(width)}
    if about.get("config") is None:
        named = "speech_encoder" in values.get("model", {})
        report["family"] = f"so-vits-svc {'4.1' if named or config.model.ssl_dim != 256 else '4.0'}"
    else:
        report["family"] = "this toolkit"
    model = config.model
    report |= {"config": where, "encoder": model.speech_encoder, "units_width": width}
    report["encoder_problem"] = _encoder_problem(model.speech_encoder, width)
    report |= {"sampling_rate": config.data.sampling_rate, "hop_length": config.data.hop_length}
    return report | {"speakers": config.spk, "needs": encoder_needs(model.speech_encoder)}


def read_voice_config(path: Path, content: Mapping[str, Any]) -> Config | None:
    """The config in a voice's file or beside it, or None.

    Raises:
        ConfigError: it is wrong.
    """
    values, where = _stored_or_beside(content, path.with_name("config.json"), read_json)
    return None if values is None else parse_config(values, None if where == "in the file" else Path(where))


def _diffusion(path: Path, about: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> Report:
    report: Report = {
        "mels": weights["decoder.denoise_fn.input_projection.weight"].shape[1],
        "n_speakers": len(weights["spk_embed.weight"]) if "spk_embed.weight" in weights else 1,
    }
    width = weights["unit_embed.weight"].shape[1] if "unit_embed.weight" in weights else None
    try:
        config, where = _diffusion_config(path, about)
    except ConfigError as error:
        config, report["config_problem"] = None, str(error)
    if config is None:
        report.setdefault("config_problem", f"no config in the file and no {path.with_name('config.yaml')}")
        return report | {"units_width": width, "encoder_may_be": encoders_of_width(width)}
    model, data = config.model, config.data
    trained = model.k_step_max if model.k_step_max and model.k_step_max < model.timesteps else model.timesteps
    report |= {"config": where, "encoder": data.encoder, "units_width": width, "noise_levels": trained}
    report["encoder_problem"] = _encoder_problem(data.encoder, width)
    report |= {"sampling_rate": data.sampling_rate, "hop_length": data.block_size, "speakers": config.spk}
    vocoder = Weights(config.vocoder.ckpt, "python pretrain/download.py nsf-hifigan")
    return report | {"needs": [*encoder_needs(data.encoder), *_needs((vocoder,))]}


def _diffusion_config(path: Path, about: Mapping[str, Any]) -> tuple[DiffusionConfig | None, str | None]:
    if isinstance(about.get("config"), dict):
        return parse_diffusion_config(about["config"]), "in the file"
    for name in ("config.yaml", "diffusion.yaml"):
        beside = path.with_name(name)
        if beside.is_file():
            return load_diffusion_config(beside), beside.as_posix()
    return None, None


def _stored_or_beside(about: Mapping[str, Any], beside: Path, read: Any) -> tuple[dict | None, str | None]:
    if isinstance(about.get("config"), dict):
        return about["config"], "in the file"
    return (read(beside), beside.as_posix()) if beside.is_file() else (None, None)


def _centres(path: Path, content: Mapping[str, Any]) -> Report:
    shapes = {}
    for name, entry in content.items():
        if not isinstance(entry, dict) or "cluster_centers_" not in entry:
            raise CheckpointError(f"{path}: holds no cluster centres for {str(name)[:40]!r}")
        shapes[str(name)] = array_of(entry["cluster_centers_"], path).shape
    widths = {shape[-1] for shape in shapes.values() if shape}
    width = next(iter(widths)) if len(widths) == 1 else None
    return {
        "speakers": {name: f"{shape[0]} centres" for name, shape in shapes.items() if shape},
        "units_width": width,
        "encoder_may_be": encoders_of_width(width),
    }


def encoders_of_width(width: int | None) -> list[str]:
    """Names of the speech encoders whose units are that wide."""
    return [name for name in ENCODERS.names() if ENCODERS.get(name).dim == width]


def encoder_needs(name: str) -> list[dict[str, Any]]:
    """The file that an encoder takes its weights from, whether it is there, and how to get it."""
    return _needs(ENCODERS.get(name).weights) if name in ENCODERS else []


def _encoder_problem(name: str, width: int | None) -> str | None:
    """Why the units of a config's encoder are not what the weights want, or None."""
    if name not in ENCODERS:
        return f"this version knows no speech encoder {name!r}"
    dim = ENCODERS.get(name).dim
    return None if width in (None, dim) else f"its units are {dim} wide, this model takes {width}"


def _needs(alternatives: tuple[Weights, ...]) -> list[dict[str, Any]]:
    """The first of some equally good files that is there, else the first of all with the way to get it."""
    for weights in alternatives:
        if find(weights.path) is not None:
            return [{"path": weights.path, "present": True}]
    if not alternatives:
        return []
    wanted = alternatives[0]
    known = package_with(wanted.path)
    return [
        {
            "path": wanted.path,
            "present": False,
            "get": f"python pretrain/download.py {known.name}" if known else wanted.url,
        }
    ]


def _sizes(weights: Mapping[str, torch.Tensor]) -> Report:
    floating = {str(tensor.dtype).removeprefix("torch.") for tensor in weights.values() if tensor.is_floating_point()}
    return {
        "tensors": len(weights),
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "numbers": ", ".join(sorted(floating)),
        "is_half": bool(floating) and floating <= {"float16", "bfloat16"},
    }


def _step(about: Mapping[str, Any], path: Path) -> int | None:
    stored = next((about[key] for key in ("step", "global_step") if isinstance(about.get(key), int)), None)
    return stored if stored is not None else step_of(path)
