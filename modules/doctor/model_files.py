"""One file of weights: whole, of the expected kind, finite; and whether it goes with a config. Nothing in it is run."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from modules.config.diffusion import DiffusionConfig, load_diffusion_config
from modules.config.fit import DIFFUSION_TRAINED_WITH, TRAINED_WITH, changes, sizes_of, stored_config
from modules.config.io import load_config, read_json
from modules.config.schema import Config
from modules.doctor.findings import Finding
from modules.doctor.guard import from_text, listening
from modules.errors import FAILURES, CheckpointError, ConfigError
from modules.text import listing, printable

SECTION = "models"
_ENTRIES = ("model", "trained_model")  # where trainings keep weights: those to convert with, those to train on


class Reader:
    """Reads files of weights, under one progress bar, and collects what is wrong with them."""

    def __init__(self, n_files: int, show: bool) -> None:
        bar = {"unit": "file", "leave": False, "dynamic_ncols": True, "delay": 2}
        self._bar = tqdm(desc="check models", total=n_files, disable=not show, **bar)
        self._found: list[Finding] = []

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    def read(self, path: Path, kind: str | None) -> dict[str, Any] | None:
        """The content of a file of a kind of `modules.weights.families` (None: any); None where it is of no use."""
        from modules.weights.checkpoint import DamagedFile, load_weights
        from modules.weights.families import recognise
        from modules.weights.state_dict import fit, tensors_of

        self._bar.update()
        try:
            with listening():
                content = load_weights(path)
                found = recognise(content)
                if kind is not None and found.family.kind != kind:
                    raise CheckpointError(f"{path}: is no {kind}, but {found.title}. Move it elsewhere")
                for entry in _ENTRIES:
                    if isinstance(part := content.get(entry), dict):
                        weights = tensors_of({"model": part})
                        fit(weights, weights, path)
            return content
        except DamagedFile as error:
            self._add("damaged", path, error)
        except (*FAILURES, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            self._add("unusable", path, error)
        return None

    def _add(self, kind: str, path: Path, error: Exception) -> None:
        self._found.append(from_text(SECTION, "error", kind, str(path), error, files=(path,)))

    def findings(self) -> list[Finding]:
        """What was wrong with the files that were read since the last call."""
        found, self._found = self._found, []
        return found


def load_now(path: Path) -> Config | DiffusionConfig | None:
    """A config of either kind; None where there is none, or one that cannot be used."""
    try:
        with listening():
            return load_diffusion_config(path) if path.suffix == ".yaml" else load_config(path)
    except FAILURES:
        return None


def compare_configs(
    path: Path, content: dict[str, Any], own_path: Path, now: Any, is_newest: bool
) -> Iterator[Finding]:
    """The config inside a checkpoint against the one beside it, and against the one of the workspace: an error in the
    run that was trained last, while others may well be of other configs."""
    is_voice = own_path.suffix == ".json"
    keys = TRAINED_WITH if is_voice else DIFFUSION_TRAINED_WITH
    with listening() as said:
        before = stored_config(content.get("config"), Config if is_voice else DiffusionConfig, path)
    for text in said:
        yield from_text(SECTION, "info", "config", str(path), text)
    own = load_now(own_path)
    if own_path.exists() and own is None:
        try:
            (load_config if is_voice else load_diffusion_config)(own_path)
        except ConfigError as error:
            yield from_text(SECTION, "warning", "config", str(own_path), error)
    for config, place, is_own in ((own, own_path, True), (now, getattr(now, "path", None) or "diffusion.yaml", False)):
        if config is None:
            continue
        if before is not None:
            wrong = list(changes(before, config, keys))
        elif is_voice:
            wrong = _other_sizes(content, config)
        else:
            continue
        if wrong:
            yield _mismatch(path, place, wrong, is_own, is_newest)


def _mismatch(path: Path, place: Path | str, wrong: list[str], is_own: bool, is_newest: bool) -> Finding:
    text = f"was trained with another config than {printable(place)}: {listing(wrong, 6)}"
    if is_own:
        remedy = f"Restore these values in {printable(place)}, which belongs to this model"
        return Finding(SECTION, "error", "config", printable(path), text, remedy, (path,))
    remedy = f"Restore these values in {printable(place)} to go on, or start a new run with another name (-m)"
    level = "error" if is_newest else "info"
    return Finding(
        SECTION, level, "config", printable(path), f"{text}; training would refuse to go on", remedy, (path,)
    )


def _other_sizes(content: dict[str, Any], config: Config) -> list[str]:
    """The sizes that the weights of a published model have and a config has not, as `changes` words them."""
    from modules.weights.state_dict import tensors_of

    found = sizes_of(tensors_of(content))
    sizes = {key: (size, getattr(config.model, key.removeprefix("model."))) for key, size in found.items()}
    return [f"{key} was {was}, now {is_now}" for key, (was, is_now) in sizes.items() if was != is_now]


def compare_base(path: Path, content: dict[str, Any], config: Config) -> Iterator[Finding]:
    """Whether a base model is of the sizes of the config, and was trained alike."""
    from modules.training.checkpoints import report_other_base
    from modules.training.resume import HEARD

    if other := _other_sizes(content, config):
        text = (
            f"is a base of another shape than the config, and what does not fit starts untrained: {listing(other, 6)}"
        )
        remedy = "Use a base of the config's preset and encoder, or those of the base (preprocess_flist_config.py)"
        yield Finding(SECTION, "warning", "base", printable(path), text, remedy, (path,))
    with listening() as said:
        report_other_base(path, content.get("config"), config, HEARD)
    for text in said:
        yield from_text(SECTION, "warning", "base", str(path), text, files=(path,))


def origin_of_centres(path: Path) -> tuple[str, int | None]:
    """The encoder that cluster centres say they are of, "" where they do not, and the width of their units."""
    from modules.weights.foreign import array_of, load_foreign

    content = load_foreign(path)
    entries = [entry for entry in content.values() if isinstance(entry, dict) and "cluster_centers_" in entry]
    if not entries:
        raise CheckpointError(f"{path}: holds no cluster centres. Make them again")
    widths = {array_of(entry["cluster_centers_"], path).shape[-1:] for entry in entries} - {()}
    encoder = content.get("speech_encoder")
    return encoder if isinstance(encoder, str) else "", widths.pop()[0] if len(widths) == 1 else None


def origin_of_index(path: Path) -> tuple[str, int | None]:
    """The same of a feature index."""
    content = read_json(path)
    width = content.get("width")
    return str(content.get("encoder") or ""), width if isinstance(width, int) else None
