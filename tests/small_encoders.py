"""Small speech encoders in the layout of published files, rebuilt from lists of their tensors.

The folders `fairseq`, `wavlm` and `whisper` of `tests/goldens/` hold each tensor's name and shape, what surrounds the
tensors, and in features.npz what the reference implementation computed. The weights follow the rule of `golden_rule`.
Those folders are made by make_fairseq_fixture.py, make_wavlm_fixture.py and make_whisper_fixture.py.
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from golden_rule import GOLDENS, rule_value

_LONGEST = 33333  # samples of the longest clip


def noise(length: int) -> np.ndarray:
    """The clip that the references of HuBERT and WavLM were computed on: (length,) float32."""
    return (0.1 * np.random.RandomState(0).standard_normal(_LONGEST))[:length].astype(np.float32)


def tone(length: int) -> np.ndarray:
    """The clip that the reference of Whisper was computed on: (length,) float32, noise and 220 Hz at 16 kHz."""
    return noise(length) + (0.2 * np.sin(2 * np.pi * 220 / 16000 * np.arange(length))).astype(np.float32)


def write_small_encoders(folder: Path) -> None:
    """Writes fairseq/base.pt, fairseq/large.pt, wavlm/small.pt and whisper/small.pt, about 6 MB.

    Args:
        folder: it exists; the three folders in it do not.
    """
    for publisher in ("fairseq", "wavlm", "whisper"):
        (folder / publisher).mkdir()
    for name in ("base", "large"):
        join_fairseq_file(GOLDENS / "fairseq" / f"{name}.zip", folder / "fairseq" / f"{name}.pt")
    for publisher, key in (("wavlm", "model"), ("whisper", "model_state_dict")):
        content = json.loads((GOLDENS / publisher / "small.json").read_text("utf-8"))
        content[key] = rule_values(content[key])
        torch.save(content, folder / publisher / "small.pt")


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Each tensor's name -> its shape as `16x16x3`."""
    return {name: "x".join(map(str, value.shape)) for name, value in tensors.items()}


def rule_values(shapes: dict[str, str]) -> dict[str, torch.Tensor]:
    """Each tensor's name -> its float32 value under the rule, of what `shapes_of` gave."""
    return {name: torch.from_numpy(rule_value(name, tuple(map(int, text.split("x"))))) for name, text in shapes.items()}


def split_fairseq_file(source: Path, target: Path, shapes: dict[str, str]) -> None:
    """A file of torch.save without its tensors' numbers; the pickle with fairseq's settings stays as it is.

    Args:
        source: its tensors have the values of the rule.
        target: a zip, shapes.json added; the folder of the records is called as this file.
        shapes: what `shapes_of` gives for its tensors.
    """
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(target, "w") as rest:
        for index, value in enumerate(rule_values(shapes).values()):
            assert whole.read(f"{source.stem}/data/{index}") == _record(value)
        for name in whole.namelist():
            if not name.startswith(f"{source.stem}/data/"):
                rest.writestr(zipfile.ZipInfo(name), whole.read(name), zipfile.ZIP_DEFLATED)
        rest.writestr(zipfile.ZipInfo("shapes.json"), json.dumps(shapes), zipfile.ZIP_DEFLATED)


def join_fairseq_file(source: Path, target: Path) -> None:
    """The file that `split_fairseq_file` took apart, byte for byte what fairseq saved in each record.

    torch.save numbers the records of tensors in the order of the state dictionary.
    """
    with zipfile.ZipFile(source) as rest, zipfile.ZipFile(target, "w") as whole:
        shapes = json.loads(rest.read("shapes.json"))
        for name in rest.namelist():
            if name != "shapes.json":
                whole.writestr(name, rest.read(name))
        for index, value in enumerate(rule_values(shapes).values()):
            whole.writestr(f"{source.stem}/data/{index}", _record(value))


def _record(value: torch.Tensor) -> bytes:
    return value.numpy().astype("<f4").tobytes()
