"""Hybrid Transformer Demucs: the files of facebookresearch/demucs (`.th`), bags of them (`.yaml`) and `.safetensors`.

A `.th` file is a pickled package {klass, args, kwargs, state}. It is read without running anything: the class is known
by its name only, and its settings are plain values.

Source: Rouard, Massa and Défossez, "Hybrid Transformers for Music Source Separation", 2022, arXiv:2211.08553.
"""

import inspect
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from modules.errors import CheckpointError
from modules.separation.settings import checked_number, stem_names
from modules.separation.spec import SeparatorSpec
from modules.weights.foreign import StandIn

CLASSES = ("demucs.htdemucs.HTDemucs", "demucs_infer.htdemucs.HTDemucs")
SETTINGS = (
    *CLASSES,
    *("demucs.hdemucs.HDemucs", "demucs.demucs.Demucs", "demucs.wdemucs.WDemucs"),  # to name what it is
    "fractions.Fraction",
)
OVERLAP = 0.25  # of a segment, as Demucs separates by default
_PLAIN = (bool, int, float, str, Fraction, type(None))


def is_package(content: Mapping[Any, Any]) -> bool:
    """Whether the content of a file is a Demucs package."""
    return {"klass", "kwargs"} <= content.keys()


def read_package(content: Mapping[Any, Any], path: Path) -> tuple[dict[str, Any], Mapping[str, torch.Tensor]]:
    """The settings and the weights in a package, of a `.th` file or of what `load_checkpoint` makes of .safetensors."""
    klass = content["klass"]
    name = klass if isinstance(klass, str) else getattr(klass, "class_name", type(klass).__name__)
    if name not in CLASSES:
        raise CheckpointError(f"{path}: is a {name[:80]}, expected an HTDemucs. Use htdemucs or htdemucs_ft.")
    args, kwargs, state = content.get("args", ()), content["kwargs"], content.get("state", content.get("model"))
    if args or not isinstance(kwargs, Mapping) or not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: is no package of Demucs as its makers write it. Get it again.")
    if state.get("__quantized"):
        raise CheckpointError(f"{path}: its weights are packed by diffq. Use a file that is not quantised.")
    return {str(key): _plain(value, path) for key, value in kwargs.items()}, state


def build(settings: Mapping[str, Any], path: Path) -> tuple[torch.nn.Module, SeparatorSpec]:
    """The network of these settings, without weights."""
    from pymss_core.modules.demucs4ht import HTDemucs

    stems = stem_names(settings.get("sources"), path)
    rate = int(checked_number(settings.get("samplerate", 44100), "samplerate", 8000, 192000, path))
    segment = int(checked_number(settings.get("segment", 10), "segment", 0.1, 60, path) * rate)
    known = inspect.signature(HTDemucs).parameters
    # As its makers do, what this version of the network does not know is left out. Files of theirs are trained on one
    # length, and name it only where it is not the usual choice.
    wanted = {"use_train_segment": True, **{name: value for name, value in settings.items() if name in known}}
    network = HTDemucs(**{**wanted, "sources": list(stems)})
    if not network.use_train_segment:
        network.use_train_segment = True  # every segment is given at this length here
    hop = max(1, int((1 - OVERLAP) * segment))
    channels = int(checked_number(network.audio_channels, "audio_channels", 1, 2, path))
    return network, SeparatorSpec(stems, rate, channels, segment, hop, segment // 2, is_normalised=True)


def _plain(value: Any, path: Path) -> Any:
    """A setting: plain values, lists of them, and fractions as the file's classes stand for them."""
    if isinstance(value, StandIn) and value.class_name == "fractions.Fraction":
        return _fraction("/".join(map(str, value.args)), path)  # "39/5", or 39 and 5 from Python 3.11 on
    if isinstance(value, Mapping) and value.get("_type") == "fraction":  # in .safetensors
        return _fraction(f"{value.get('numerator')}/{value.get('denominator')}", path)
    if isinstance(value, (list, tuple)):
        return [_plain(item, path) for item in value]
    if isinstance(value, _PLAIN):
        return value
    raise CheckpointError(f"{path}: holds a {type(value).__name__} among its settings. Get it again.")


def _fraction(text: str, path: Path) -> Fraction:
    try:
        return Fraction(text[:40])
    except (ValueError, ZeroDivisionError):
        raise CheckpointError(f"{path}: holds a fraction that is none among its settings. Get it again.") from None
