"""The arrows of the house go one way, heavy packages are imported where they are used, and files stay readable."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Folder or file -> layer. A higher layer may import any lower one; the same layer only where SAME_LAYER says so.
LAYERS = {
    "modules/config": 0,
    "modules/audio": 0,
    "modules/contracts.py": 0,
    "modules/registry.py": 0,
    "modules/errors.py": 0,
    "modules/checkpoint.py": 0,
    "modules/card.py": 0,
    "modules/files.py": 0,
    "modules/cli.py": 0,
    "modules/pretrain.py": 0,
    "modules/catalogue.py": 0,
    "modules/foreign.py": 0,
    "modules/model_files.py": 0,
    "modules/pickle_names.py": 0,
    "modules/packed.py": 0,
    "modules/download.py": 0,
    "modules/device.py": 0,
    "modules/parallel.py": 0,
    "modules/torchaudio_compat.py": 0,
    "modules/onnx_files.py": 0,
    "modules/encoders": 1,
    "modules/f0": 1,
    "modules/nn": 1,
    "modules/losses.py": 1,
    "modules/speaker_encoder.py": 1,
    "modules/model_report.py": 2,
    "modules/data": 2,
    "modules/training": 2,
    "modules/inference": 2,
    "modules/evaluation": 2,
    "vdecoder": 3,
    "diffusion": 3,
    "cluster": 3,
    "models.py": 4,
    "assemble.py": 5,
}
SCRIPT_LAYER = 6

# Within one layer: who may use whom. Everything in layer 0 may use what is listed for it; the rest see only themselves.
SAME_LAYER = {
    "modules/registry.py": {"modules/errors.py"},
    "modules/files.py": {"modules/errors.py"},
    "modules/cli.py": {"modules/errors.py"},
    "modules/device.py": {"modules/errors.py"},
    "modules/checkpoint.py": {"modules/errors.py", "modules/files.py", "modules/packed.py"},
    "modules/card.py": {"modules/errors.py", "modules/checkpoint.py", "modules/config", "modules/onnx_files.py"},
    "modules/pretrain.py": {"modules/errors.py", "modules/files.py", "modules/catalogue.py"},
    "modules/download.py": {"modules/errors.py", "modules/files.py", "modules/catalogue.py"},
    "modules/foreign.py": {
        "modules/errors.py",
        "modules/checkpoint.py",
        "modules/files.py",
        "modules/pickle_names.py",
    },
    "modules/model_files.py": {"modules/errors.py", "modules/catalogue.py"},
    "modules/pickle_names.py": {"modules/errors.py", "modules/files.py"},
    "modules/catalogue.py": {"modules/errors.py", "modules/registry.py"},
    "modules/parallel.py": {"modules/errors.py"},
    "modules/onnx_files.py": {"modules/errors.py", "modules/files.py"},
    "modules/config": {"modules/errors.py", "modules/files.py"},
    "modules/audio": {"modules/errors.py", "modules/files.py", "modules/config", "modules/torchaudio_compat.py"},
    "modules/training": {"modules/data"},
    "modules/evaluation": {"modules/inference"},
}

HEAVY = {
    "fairseq",
    "faiss",
    "onnx",
    "onnxruntime",
    "torchaudio",
    "torchcrepe",
    "torchfcpe",
    "librosa",
    "tensorboard",
    "matplotlib",
}
HEAVY |= {"gradio", "sklearn", "parselmouth", "pyworld", "transformers", "faster_whisper", "speechmos"}
TOP_LEVEL = {"modules", "vdecoder", "diffusion", "cluster", "models", "assemble"}


def source_files() -> list[Path]:
    folders = ["modules", "vdecoder", "diffusion", "cluster"]
    nested = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted([*ROOT.glob("*.py"), *(ROOT / "pretrain").glob("*.py"), *nested])


def place_of(path: Path) -> str:
    """The row of LAYERS that a file belongs to, or the file's own name for a script."""
    relative = path.relative_to(ROOT).as_posix()
    for row in LAYERS:
        if relative == row or relative.startswith(row + "/"):
            return row
    return relative


def imports_of(tree: ast.AST) -> list[tuple[str, bool]]:
    """(dotted module, at module level) of every import, `from a.b import c` giving `a.b.c` and `a.b`."""
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the arrows; write the full name"
            found += [(f"{node.module}.{alias.name}", id(node) in top) for alias in node.names]
    return found


def place_of_module(name: str) -> str | None:
    """The row that a dotted import points to, or None for something that is not ours."""
    parts = name.split(".")
    if parts[0] not in TOP_LEVEL:
        return None
    for end in range(len(parts), 0, -1):
        stem = ROOT.joinpath(*parts[:end])
        if stem.with_suffix(".py").is_file():
            return place_of(stem.with_suffix(".py"))
        if stem.is_dir():
            return place_of(stem / "__init__.py")
    return None


def layer_of(place: str) -> int:
    return LAYERS.get(place, SCRIPT_LAYER)


@pytest.mark.parametrize("path", source_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down_the_layers(path):
    place = place_of(path)
    if path.name == "__init__.py" and place.endswith("__init__.py"):
        assert not path.read_text("utf-8").strip(), "the top package holds nothing"
        return
    for name, _ in imports_of(ast.parse(path.read_text("utf-8"))):
        target = place_of_module(name)
        if target is None or target == place or target == "modules/__init__.py":
            continue
        allowed = layer_of(target) < layer_of(place) or target in SAME_LAYER.get(place, ())
        assert allowed, f"{path.name} ({place}) must not import {name} ({target})"


@pytest.mark.parametrize("path", source_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_heavy_packages_are_imported_where_they_are_used(path):
    for name, at_top in imports_of(ast.parse(path.read_text("utf-8"))):
        package = name.split(".")[0]
        assert not (at_top and package in HEAVY), f"{path.name} imports {package} at module level"
        if package in {"torchaudio", "torchcrepe", "torchfcpe"}:
            assert path.name == "torchaudio_compat.py", f"{path.name}: use modules/torchaudio_compat.py"


@pytest.mark.parametrize("path", source_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_is_longer_than_450_lines(path):
    if "_networks" not in path.parts:
        assert len(path.read_text("utf-8").splitlines()) <= 450


@pytest.mark.parametrize("path", source_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_read_from_disk_can_run_code(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Unpickler") for base in node.bases):
            methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            assert "find_class" in methods, f"{path.name}:{node.lineno}: an unpickler that finds any class"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called == "torch.load":
            assert keywords.get("weights_only") == "True", f"{path.name}:{node.lineno}: unrestricted torch.load"
        if called == "np.load":
            assert keywords.get("allow_pickle", "False") == "False", f"{path.name}:{node.lineno}: np.load with pickle"
        runs_code = {"pickle.load", "pickle.loads", "pickle.Unpickler", "eval", "exec", "yaml.load", "joblib.load"}
        assert called not in runs_code, f"{path.name}:{node.lineno}: {called} can run code"


def test_quickstart_needs_nothing_but_python():
    tree = ast.parse((ROOT / "quickstart.py").read_text("utf-8"))
    for name, at_top in imports_of(tree):
        if at_top:
            assert name.split(".")[0] in sys.stdlib_module_names, f"quickstart.py imports {name}"


def test_every_folder_of_code_has_a_layer():
    for path in source_files():
        place = place_of(path)
        known = place in LAYERS or "/" not in place or place == "modules/__init__.py" or place.startswith("pretrain/")
        assert known, f"{place} has no row in LAYERS: say which layer it is in"
