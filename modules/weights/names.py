"""Files of weights by their names, `PREFIX_STEP.pth`; nothing here reads one or imports torch."""

import re
from pathlib import Path

from modules.errors import CheckpointError


def step_of(path: Path | str) -> int | None:
    """The step in a name like `G_1600.pth` or `model_2000.pt`, or None where the name has none."""
    match = re.fullmatch(r"[A-Za-z]+_(\d+)\.(?:pth|pt)", Path(path).name)
    return int(match[1]) if match else None


def list_checkpoints(folder: Path | str, prefix: str) -> list[Path]:
    """Files `PREFIX_STEP.pth` or `.pt` in `folder`, oldest step first."""
    found = [path for path in Path(folder).glob(f"{prefix}_*.p*t*") if step_of(path) is not None]
    return sorted(found, key=step_of)


def check_card_target(path: Path) -> None:
    """Refuses a model whose card cannot be changed."""
    if path.suffix.lower() not in (".pth", ".pt"):
        made = "onnx_export.py" if path.suffix.lower() == ".onnx" else "compress_model.py"
        remedy = f"Change that of the G_*.pth that it was made from, then make it again: python {made}"
        raise CheckpointError(f"{path}: only the card of a .pth file can be changed. {remedy}")
