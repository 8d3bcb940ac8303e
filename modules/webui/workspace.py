"""What the web page reads and writes: files of the workspace, which is the folder that the server stands in.

Every path that comes from the page goes through `inside`, every upload through `keep_sounds` or `keep_model`.
"""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from modules.audio.io import AUDIO_SUFFIXES, probe
from modules.errors import FAILURES, UsageError, UserError, reason_of
from modules.f0.curve_files import read_curve
from modules.files import atomic_path, make_folder
from modules.inference.requests import read_config
from modules.inference.results import RESULTS
from modules.pretrained.find import CODE_ROOT
from modules.text import printable
from modules.webui.jobs import PRIVATE
from modules.weights.names import list_checkpoints, step_of

UPLOADS = PRIVATE / "uploads"  # where gradio puts what a browser sends
RECORDINGS, SONGS, LOGS, TRAINED = Path("dataset_raw"), Path("raw"), Path("logs"), Path("trained")
CURVES = RESULTS / "curves"  # a folder for each conversion that writes some
SAMPLE_SONG = CODE_ROOT / "samples" / "songs" / "sing_vocadito_14.flac"
SAMPLE_VOICES = CODE_ROOT / "samples" / "voices"
INCLUDED = CODE_ROOT / "pretrain" / "base-small"  # the voice that comes with the code
MODEL_SUFFIXES = (".pth", ".safetensors", ".onnx")
# What a folder `trained/NAME` may get: a voice, its config, a diffusion model and its config, centres or an index.
MODEL_FILES = (*MODEL_SUFFIXES, ".json", ".pt", ".yaml", ".pkl", ".faiss")
_WITH_CODE = (CODE_ROOT / "pretrain", CODE_ROOT / "samples")  # readable from every workspace
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no names of files on Windows


def inside(path: str | Path, must_exist: bool = True) -> Path:
    """A path of the page, relative to the workspace; a UsageError where it leads out of it, also by a link, or to a
    hidden file. The included voice and the samples are readable from every workspace."""
    text, root = str(path), Path.cwd().resolve()
    shown = printable(text)
    if not text.strip() or "\0" in text:
        raise UsageError("no file is named")
    try:
        resolved = (root / text).resolve()
        exists = resolved.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"{shown}: {reason_of(error, text)}") from None
    home = next((place for place in (root, *_WITH_CODE) if resolved == place or place in resolved.parents), None)
    if home is None:
        remedy = "Copy it there, or start webUI.py in a folder that holds it"
        raise UsageError(f"{shown}: lies outside the workspace {root}. {remedy}")
    if any(part.startswith(".") for part in resolved.relative_to(home).parts):
        raise UsageError(f"{shown}: is hidden, and the page leaves hidden files alone")
    if must_exist and not exists:
        raise UsageError(f"{shown}: no such file or folder in {root}")
    return resolved.relative_to(root) if home == root else resolved


def models() -> list[Path]:
    """Voices of logs/ and trained/, in each folder the newest first, then the included one."""
    found = []
    for folder in _folders():
        steps = list_checkpoints(folder, "G")[::-1]
        best = [path for path in folder.glob("G_best.p*t*")]
        others = [path for path in sorted(folder.glob("*")) if path.suffix in MODEL_SUFFIXES and not step_of(path)]
        others = [path for path in others if not path.name.startswith("D_") and path not in best + steps]
        found += best + steps + others if folder.parent == LOGS else steps + best + others
    return _usable([*found, INCLUDED / "G_0.pth"])


def config_of(model: Path) -> Path:
    """The config beside a voice: config.json, else the only .json there, as so-vits-svc's `trained/NAME` has it."""
    beside = model.with_name("config.json")
    others = [path for path in model.parent.glob("*.json") if path.name != "feature_and_index.json"]
    return others[0] if not beside.is_file() and len(others) == 1 else beside


def speakers_of(config: Path) -> list[str]:
    """The speakers of a voice's config; a UserError where it is none."""
    return list(read_config(config).spk)


def diffusion_models() -> list[Path]:
    """Diffusion models, the newest of each folder first."""
    folders = [place for folder in _folders() for place in (folder / "diffusion", folder)]
    return _usable(path for folder in folders for path in list_checkpoints(folder, "model")[::-1])


def retrievals() -> list[Path]:
    """Cluster centres and feature indexes."""
    names = ("kmeans*.pt", "feature_and_index.json", "*.pkl")
    return _usable(path for folder in _folders() for name in names for path in sorted(folder.glob(name)))


def bases() -> list[Path]:
    """Folders with a base model, G_0.pth: of pretrain/, then of logs/."""
    places = (Path("pretrain"), INCLUDED.parent, LOGS)
    found = _usable(path for place in places for path in sorted(place.glob("*/G_0.pth")))
    return list(dict.fromkeys(path.parent for path in found))


def previews(run: str) -> list[Path]:
    """What was sung at the evaluations of a run (train.py --preview), the newest first."""
    found = _usable((LOGS / run / "preview").glob("*.flac"))
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def songs() -> list[Path]:
    """Audio in raw/."""
    return sounds_below(SONGS)


def sounds_below(folder: Path) -> list[Path]:
    """Audio below a folder of the workspace, by its names."""
    return _usable(path for path in sorted(folder.rglob("*")) if path.suffix.lower() in AUDIO_SUFFIXES)


def speakers_in(folder: Path = RECORDINGS) -> dict[str, int]:
    """The speakers with recordings, and how many each has."""
    places = sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
    return {place.name: len(sounds_below(place)) for place in places}


def keep_sounds(uploads: Sequence[str], folder: Path) -> tuple[list[Path], list[str]]:
    """Copies uploads that are audio into a folder of the workspace; returns the copies, and what is wrong with the
    others. A file of that name that is there with other content stays, and the new one gets a number."""
    kept, problems = [], []
    for upload in uploads:
        name = printable(Path(upload).name)
        try:
            probe(_uploaded(upload))
            kept.append(_copy(_uploaded(upload), folder))
        except FAILURES as error:
            problems.append(f"{name}: {reason_of(error, upload)}".replace(f"{upload}: ", ""))
    return kept, problems


def curves() -> list[Path]:
    """F0 curves of songs: in raw/, and those that conversions wrote."""
    places = [path for folder in (SONGS, CURVES) for path in folder.rglob("*")]
    return _usable(path for path in sorted(places) if path.suffix.lower() == ".csv")


def keep_curve(upload: str) -> Path:
    """Copies an F0 curve into raw/; a UsageError where it is none."""
    source = _uploaded(upload)
    try:
        read_curve(source)
    except UsageError as error:
        raise UsageError(str(error).replace(str(source), printable(source.name))) from None
    return _copy(source, SONGS)


def keep_model(uploads: Sequence[str], name: str) -> list[Path]:
    """Copies the files of a voice into `trained/NAME`; what they are, reading them says, which runs nothing in them."""
    folder = TRAINED / safe_name(name)
    for upload in uploads:
        if Path(upload).suffix.lower() not in MODEL_FILES:
            raise UsageError(f"{printable(Path(upload).name)}: expected a file that ends in {', '.join(MODEL_FILES)}")
    return [_copy(_uploaded(upload), folder) for upload in uploads]


def copy_samples() -> None:
    """Copies the included recordings into dataset_raw/; what is there already stays."""
    for path in sorted(SAMPLE_VOICES.glob("*/*.flac")):
        _copy(path, RECORDINGS / path.parent.name)


def copy_sample_song() -> Path:
    """The included song in raw/."""
    return _copy(SAMPLE_SONG, SONGS)


def safe_name(name: str) -> str:
    """A name for a file or folder on every system; a UsageError where none can be made of it."""
    text = re.sub(r'[\x00-\x1f\x7f<>:"|?*\\/]', "_", name).strip(" .").lstrip("-")
    if not text or _DEVICES.fullmatch(text):
        raise UsageError(f"{printable(name)!r} is no name of a file or folder; use letters and digits")
    return text[-150:]


def _folders() -> list[Path]:
    """Folders that may hold models, the one that changed last first."""
    found = [path for place in (LOGS, TRAINED) for path in place.glob("*") if path.is_dir()]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _usable(paths: Iterable[Path]) -> list[Path]:
    """Those that the page may use, as it writes them."""
    found = []
    for path in paths:
        try:
            found.append(inside(path))
        except UserError:
            continue
    return [path for path in dict.fromkeys(found) if path.is_file()]


def _uploaded(upload: str) -> Path:
    """A file that gradio says was uploaded, if it was."""
    path, home = Path(upload).resolve(), UPLOADS.resolve()
    if home not in path.parents or not path.is_file():
        raise UsageError(f"{printable(path.name)}: was not uploaded here")
    return path


def _copy(source: Path, folder: Path) -> Path:
    """A copy in a folder of the workspace, or the equal file that is there."""
    make_folder(folder)
    inside(folder)
    name = safe_name(source.name)
    for number in range(1, 10_000):
        target = folder / name if number == 1 else folder / f"{Path(name).stem}_{number}{Path(name).suffix}"
        if not os.path.lexists(target):
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)
            return target
        if target.is_file() and not target.is_symlink() and _are_equal(source, target):
            return target
    raise UsageError(f"{folder}: holds too many files named {name}")


def _are_equal(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        while block := a.read(1 << 20):
            if block != b.read(1 << 20):
                return False
    return True
