"""Where a notebook runs and what lies where: platform, workspace, recordings, songs. Needs Python and Jupyter alone."""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

from IPython.display import Audio, display
from scripts import CODE, Stop

DRIVE = Path("/content/drive")  # where Colab mounts Google Drive
_LARGEST_PLAYER = 30_000_000  # bytes of a song that is put into the notebook


def platform() -> str:
    """Colab, Kaggle, SageMaker, JupyterHub or Jupyter: who runs this kernel."""
    marks = {
        "Colab": "google.colab" in sys.modules,
        "Kaggle": "KAGGLE_KERNEL_RUN_TYPE" in os.environ,
        "SageMaker": Path("/opt/ml/metadata/resource-metadata.json").is_file(),
        "JupyterHub": "JUPYTERHUB_SERVICE_PREFIX" in os.environ,
    }
    return next((name for name, is_here in marks.items() if is_here), "Jupyter")


def open_workspace(folder: str) -> Path:
    """The folder that keeps everything, made where it is not there; says whether the platform keeps it."""
    usual = {"Colab": "/content/workspace", "Kaggle": "/kaggle/working"}
    path = Path(folder or usual.get(platform(), "workspace")).expanduser().resolve()
    path.mkdir(parents=True, exist_ok=True)
    print(f"{platform()} · Python {sys.version.split()[0]} · workspace {path}")
    if platform() == "Colab" and DRIVE not in path.parents:
        print("warning: this folder is lost with the runtime. Set WORKSPACE to a folder below /content/drive/MyDrive")
    return path


def recordings(data: str, workspace: Path) -> Path:
    """The folder with one folder for each speaker: `data`, or what the zip `data` holds, or the included samples."""
    path = Path(data).expanduser().resolve() if data else CODE / "samples" / "voices"
    if path.is_file():
        path = _unpacked(path, workspace / "dataset_raw")
    if not path.is_dir():
        raise Stop(f"DATA: there is no {path}")
    return path


def _unpacked(archive: Path, folder: Path) -> Path:
    """Unpacks a zip once; returns the folder of speakers, which may lie in one that holds nothing else."""
    target = folder / archive.stem
    if not target.exists():
        part = folder / f"{archive.stem}.part"
        shutil.rmtree(part, ignore_errors=True)
        try:
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(part, [name for name in opened.namelist() if not name.startswith("__MACOSX/")])
        except zipfile.BadZipFile:
            raise Stop(f"DATA: {archive} is neither a folder nor a zip") from None
        part.rename(target)
    while len(inside := list(target.iterdir())) == 1 and all(path.is_dir() for path in inside[0].glob("*")):
        target = inside[0]
    return target


def existing(name: str) -> Path | str:
    """A file as a path from anywhere; a name that is no file here is one below raw/ in the workspace."""
    path = Path(name).expanduser()
    return path.resolve() if path.is_file() else name


def player(path: Path) -> None:
    """Shows a player with the sound in it; names the file alone where that would make the notebook too large."""
    print(path)
    if path.stat().st_size <= _LARGEST_PLAYER:
        display(Audio(filename=str(path)))


def server_path() -> str:
    """The path of the Jupyter server that looks after this kernel, such as /user/NAME/."""
    from jupyter_core.paths import jupyter_runtime_dir

    servers = sorted(Path(jupyter_runtime_dir()).glob("jpserver-*.json"), key=lambda path: path.stat().st_mtime)
    found = json.loads(servers[-1].read_text("utf-8")) if servers else {}
    return found.get("base_url") or os.environ.get("JUPYTERHUB_SERVICE_PREFIX") or "/"
