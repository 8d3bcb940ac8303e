"""Which models for separation are there. Without torch, so that a wrong name is refused at once."""

import importlib.util
from pathlib import Path

from modules.errors import MissingWeights, UsageError
from modules.pretrained.catalogue import PACKAGES, Package
from modules.pretrained.find import CODE_ROOT, find, require
from modules.registry import unknown_name

FOLDER = "pretrain/separation"
INSTALL = "pip install -r requirements-separation.txt"
_VOCALS = ("melband-roformer", "htdemucs-ft", "htdemucs")  # the best first


def require_networks() -> None:
    """Refuses to go on where the optional package with the networks is not installed."""
    if importlib.util.find_spec("pymss_core") is None:
        raise UsageError(f"separation needs the package pymss-core, which is not installed: {INSTALL}")


def find_model(given: str | None, flag: str) -> Path:
    """The file of a model; a UserError where there is none.

    Args:
        given: a path, a name for download.py, or the name of a file in pretrain/separation; None for the best one for
            vocals that is there.
    """
    known = {package.name: package for package in PACKAGES if package.files[0].path.startswith(FOLDER + "/")}
    if given is None:
        return _best(known, flag)
    path = Path(given)
    if path.is_file():
        return path
    if given in known:
        for weights in known[given].files:
            require(weights)
        return require(known[given].files[0])
    if path.name == given:
        for root in (Path.cwd(), CODE_ROOT):
            files = sorted((root / FOLDER).glob("*")) if (root / FOLDER).is_dir() else []
            # A yaml with the name of a checkpoint is its settings; one alone is a bag of models.
            files = [file for file in files if file.is_file()]
            for file in sorted(files, key=lambda file: file.suffix in (".yaml", ".yml")):
                if given in (file.name, file.stem):
                    return file
    if path.suffix or path.name != given:
        raise UsageError(f"{flag} {given}: {'is a folder; name a file' if path.is_dir() else 'no such file'}")
    raise UsageError(f"{flag}: {unknown_name('model', given, list(known))}")


def _best(known: dict[str, Package], flag: str) -> Path:
    for name in _VOCALS:
        paths = [find(weights.path) for weights in known[name].files]
        if all(paths):
            return paths[0]
    remedy = f"Get one with: python pretrain/download.py {_VOCALS[0]}"
    raise MissingWeights(
        f"{FOLDER}: there is no model that takes vocals out of music. {remedy} (or {_VOCALS[-1]}, which is smaller and "
        f"quicker), or name a file with {flag}"
    )
