"""Checkpoints as they are published, at their real size, in a few kB: each tensor is one number, repeated by stride 0.

Names and shapes are those of `tests/goldens/statedicts`; the number is what the tensor's name implies.
"""

import json
import lzma
import zlib
from pathlib import Path
from typing import Any

import golden_rule
import torch

STATEDICTS = golden_rule.GOLDENS / "statedicts"


def published(group: str) -> dict[str, Any]:
    """The content of `tests/goldens/statedicts/GROUP.json.xz`."""
    return json.loads(lzma.decompress((STATEDICTS / f"{group}.json.xz").read_bytes()))


def repeated(shapes: dict[str, list[int]], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A state dictionary of those shapes; every tensor is one small number, the same in each run."""
    return {name: _number(name, shape).to(dtype).expand(shape) for name, shape in shapes.items()}


def _number(name: str, shape: list[int]) -> torch.Tensor:
    if name.endswith(("weight_g", "gamma")):
        return torch.tensor(1.0)
    spread = zlib.crc32(name.encode()) / 2**32 - 0.5  # -0.5 to 0.5
    return torch.tensor(spread / max(1, len(shape)) / 10)


def write_config(folder: Path, model: dict[str, Any], **top: Any) -> Path:
    """A config.json with that `model` section; other sections as so-vits-svc 4.1's defaults."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    values = {"train": {}, "data": {}, "model": model, "spk": {"alto": 0}, **top}
    path.write_text(json.dumps(values, ensure_ascii=False), "utf-8")
    return path
