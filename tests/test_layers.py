"""The arrows of the house go one way, heavy packages are imported where they are used, and files stay readable."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Folder or file -> layer. A higher layer may import any lower one; the same layer only where SAME_LAYER says so.
LAYERS = {
    "modules/errors.py": 0,  # what a user can mend
    "modules/text.py": 0,  # foreign text on a terminal and in a shell
    "modules/registry.py": 0,  # names -> classes
    "modules/contracts.py": 0,  # the interfaces and the shape of every tensor
    "modules/files.py": 0,  # atomic writes, checksums
    "modules/cli.py": 0,  # what all scripts share
    "modules/listening.py": 0,  # what programs that listen on a port share
    "modules/device.py": 0,  # device and precision
    "modules/batching.py": 0,  # items of different length at once
    "modules/parallel.py": 0,  # one pool of workers with a progress bar
    "modules/pretrained": 0,  # files of others: the catalogue, finding and downloading them
    "modules/config": 0,  # config.json, diffusion.yaml, presets
    "modules/weights": 0,  # bytes of checkpoints to tensors
    "modules/audio": 0,  # files to samples to spectrograms
    "modules/nn": 1,  # layers of networks
    "modules/encoders": 1,  # content encoders
    "modules/f0": 1,  # F0 predictors
    "modules/metrics": 1,  # numbers that compare two recordings
    "modules/data": 2,  # recordings to training items
    "modules/training": 2,  # losses, optimizers, checkpoints of runs, ranks
    "modules/inference": 2,  # a song through a voice
    "modules/realtime": 2,  # a microphone through a voice
    "modules/evaluation": 2,  # many songs through a voice, measured
    "modules/separation": 2,  # vocals out of music, by models of others
    "modules/doctor": 2,  # what is wrong with recordings, clips, features, settings and models
    "modules/webui": 3,  # the web page: controls from flags, jobs that run the scripts, tabs
    "modules/server": 3,  # the HTTP service: routes, the queue of songs, who may speak to it
    "vdecoder": 3,  # waveform decoders
    "diffusion": 3,  # the diffusion model and its training
    "cluster": 3,  # k-means and retrieval
    "models.py": 4,  # the voice
    "modules/grid": 4,  # one song with many settings: their product, the page to compare them, votes
    "assemble.py": 5,  # builds finished objects from files and flags
    "inference_main.py": 6,  # a script, whose reading of a request cover.py shares
    "cover.py": 7,
    "grid.py": 7,
}
SCRIPT_LAYER = 6

# Within one layer: who may use whom.
SAME_LAYER = {
    "modules/registry.py": {"modules/errors.py"},
    "modules/files.py": {"modules/errors.py"},
    "modules/cli.py": {"modules/errors.py", "modules/text.py"},
    "modules/device.py": {"modules/errors.py"},
    "modules/listening.py": {"modules/errors.py"},
    "modules/parallel.py": {"modules/errors.py"},
    "modules/pretrained": {"modules/errors.py", "modules/files.py", "modules/registry.py"},
    "modules/config": {"modules/errors.py", "modules/files.py", "modules/text.py", "modules/pretrained"},
    "modules/weights": {
        "modules/errors.py",
        "modules/files.py",
        "modules/text.py",
        "modules/config",
        "modules/pretrained",
    },
    "modules/audio": {"modules/errors.py", "modules/files.py", "modules/text.py", "modules/config"},
    "modules/encoders": {"modules/nn"},
    "modules/training": {"modules/data"},
    "modules/realtime": {"modules/inference"},
    "modules/evaluation": {"modules/data", "modules/inference"},
    "modules/doctor": {"modules/data", "modules/training"},
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
HEAVY |= {"gradio", "sklearn", "parselmouth", "pyworld", "transformers", "faster_whisper", "speechmos", "jinja2"}
HEAVY |= {"pymss_core"}
TOP_LEVEL = {"modules", "vdecoder", "diffusion", "cluster", "models", "assemble", "inference_main"}


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
            assert path.name == "torchaudio_compat.py", f"{path.name}: use modules/audio/torchaudio_compat.py"


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
