"""Which published base model goes with a config, and how a training begins from it."""

from pathlib import Path

from modules.config.edits import Design
from modules.config.fit import TRAINED_WITH
from modules.config.schema import Config
from modules.pretrained.catalogue import PACKAGES
from modules.pretrained.find import find
from modules.text import quote

# Preset, encoder, volume embedding -> its name: in the catalogue, or of the folder in pretrain/ that is included.
_BASES = {
    ("base", "vec768l12", False): "base-vec768l12",
    ("base", "vec768l12", True): "base-vec768l12-vol",
    ("small", "whisper-ppg-base", True): "base-small",
}
_ANY = ("n_speakers", "clamp_f0_high", "speech_encoder")  # keys in which a base may differ; ONNX encoders are the same


def base_of(config: Config) -> str:
    """The published base model of which every tensor fits the voice of a config, by name; "" where there is none."""
    model = config.model.model_dump()
    design = Design.of(model)
    made = design.config()["model"]
    fits = not design.with_transformer and all(
        made[key] == model[key] for key in TRAINED_WITH["model"] if key not in _ANY
    )
    return _BASES.get((design.preset, design.encoder.removesuffix("-onnx"), design.with_volume), "") if fits else ""


def way_to_base(name: str) -> str:
    """The command that brings a base, where it is not there, and the flag of train.py that begins from it."""
    path = next((each.files[0].path for each in PACKAGES if each.name == name), f"pretrain/{name}/G_0.pth")
    found = find(path)
    folder = found.parent if found and not Path(path).is_file() else Path(path).parent
    fetch = "" if found else f"Get it with: python pretrain/download.py {name}, then "
    return f"{fetch or 'It is here: '}give train.py --base {quote(folder.as_posix())}"


def advise_base(config: Config) -> str:
    """One line: the base model for a config and the way to it, or what to do where none is published."""
    design = Design.of(config.model.model_dump())
    volume = "with" if design.with_volume else "without"
    size = "default size" if design.preset == "base" else f"--{design.preset}"
    shape = f"{design.encoder}, {design.encoder_dim} wide, {volume} volume embedding, {size}"
    if name := base_of(config):
        return f"Base model: {name} ({shape}). {way_to_base(name)}"
    known = (
        "There are some for vec768l12 in the default size, and for --small --vol_aug --speech_encoder whisper-ppg-base"
    )
    own = "any other with G_0.pth and D_0.pth goes with train.py --base FOLDER"
    return f"Base model: none fits this config ({shape}) as a whole. {known}; {own}"
