"""BS-RoFormer and MelBand RoFormer: a `.ckpt` with the yaml that Music-Source-Separation-Training made it with.

Source: Lu, Wang, Kong and Hung, "Music Source Separation with Band-Split RoPE Transformer", 2023, arXiv:2309.02612;
Wang, Lu and Won, "Mel-Band RoFormer for Music Source Separation", 2023, arXiv:2310.01809.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modules.errors import ConfigError
from modules.separation.settings import checked_number, read_yaml, section, stem_names
from modules.separation.spec import SeparatorSpec

_LABELS = ("type", "model_type", "architecture")  # names for people
_MASK_LAYER = re.compile(r"mask_estimators\.0\.to_freqs\.0\.0\.\d+\.weight")


def is_roformer(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether these are the weights of one."""
    return any(name.startswith("band_split.") for name in tensors)


def find_config(path: Path) -> Path:
    """The yaml that belongs to a checkpoint: of its name, or the only one in its folder."""
    same = [path.with_suffix(suffix) for suffix in (".yaml", ".yml")]
    others = sorted(other for other in path.parent.iterdir() if other.suffix.lower() in (".yaml", ".yml"))
    found = [config for config in same if config.is_file()] or (others if len(others) == 1 else [])
    if not found:
        text = f"{path}: a RoFormer needs the yaml that was published with it"
        raise ConfigError(f"{text}. Name it with --config, or save it as {path.with_suffix('.yaml').name} beside it.")
    return found[0]


def build(config: Path, tensors: Mapping[str, torch.Tensor]) -> tuple[torch.nn.Module, SeparatorSpec]:
    """The network that a yaml describes, without weights. `tensors`: those of the checkpoint, by name."""
    from pymss_core.modules.bs_roformer import BSRoformer, MelBandRoformer

    settings = read_yaml(config)
    model, audio, training = (section(settings, name, config) for name in ("model", "audio", "training"))
    inference = settings.get("inference") if isinstance(settings.get("inference"), Mapping) else {}
    stems = stem_names(training.get("instruments"), config)
    if training.get("target_instrument"):
        stems = stem_names([training["target_instrument"]], config)
    arguments = {str(key): _listed(value) for key, value in model.items() if key not in _LABELS}
    if arguments.get("num_stems", 1) != len(stems):
        text = f"{config}: num_stems is {str(arguments.get('num_stems', 1))[:20]}, and it names {', '.join(stems)[:80]}"
        raise ConfigError(f"{text}. Give the yaml that was published with the model.")
    if "num_bands" in arguments:
        # Trainings of several ages count the layers of `mask_estimator_depth` differently: the file has them.
        n_layers = sum(_MASK_LAYER.fullmatch(name) is not None for name in tensors)
        # What comes back is not cut to whole frames; and the lowest band is left as it is, as it was in training.
        fixed = {"match_input_audio_length": True, "mlp_hidden_layers": max(0, n_layers - 1)}
        network = MelBandRoformer(**{"zero_dc": False, **arguments, **fixed})
    else:
        arguments.pop("match_input_audio_length", None)
        network = BSRoformer(**arguments)
    for transformer in (transformer for block in network.layers for transformer in block):
        transformer.set_cuda_attention_backend("default")  # the usual one tries what float32 cannot have, and warns
    rate = audio.get("sample_rate", model.get("sample_rate", 44100))
    rate = int(checked_number(rate, "audio.sample_rate", 8000, 192000, config))
    chunk = inference.get("chunk_size") or audio.get("chunk_size")
    segment = int(checked_number(chunk, "audio.chunk_size", 4096, 60 * rate, config))
    n_overlap = int(checked_number(inference.get("num_overlap", 2), "inference.num_overlap", 1, 50, config))
    normalised = inference.get("normalize") is True
    hop, fade = segment // n_overlap, segment // 10
    return network, SeparatorSpec(stems, rate, network.audio_channels, segment, hop, fade, normalised)


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
