"""What trainings have left in logs/: whether each run can go on, with which config, and which step is the best."""

import csv
import itertools
import math
import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.doctor.findings import Finding
from modules.doctor.guard import from_text, guarded, listening
from modules.errors import FAILURES, CheckpointError, reason_of
from modules.text import counted, printable
from modules.weights.names import list_checkpoints, step_of

if TYPE_CHECKING:
    from modules.doctor.model_files import Reader

SECTION = "models"
_NEWEST = 5  # pairs of a run, and diffusion models, that are read: half a gigabyte each
# A run is called overtrained where even the best of its last evaluations is worse than the best of all by so many times
# the usual difference between neighbours. Of 20000 made runs of 20 to 60 evaluations whose scores fall, settle and then
# only scatter, 4 in 10000 are called so (with 2 times: 86); of such that rise again by 0.004 each, about half.
_LAST, _TIMES = 5, 3.0
_LEAST_SINCE = 8  # evaluations since the best


def check_models(logs_dir: Path, config_path: Path, show: bool = True) -> list[Finding]:
    """The runs in `logs_dir` against their own configs and `config_path`; `show` a bar where reading takes over 2 s."""
    voices, diffusions = _find_runs(logs_dir)
    if not voices and not diffusions:
        text = "no model yet" if logs_dir.is_dir() else "no such folder: nothing was trained yet"
        return [Finding(SECTION, "info", "beginning", printable(logs_dir), text)]
    from modules.doctor.model_files import Reader, load_now

    folders = [*voices, *diffusions]
    newest = max(folders, key=_last_change)
    found = []
    with Reader(sum(map(_count_files, folders)), show) as reader:
        now = load_now(config_path)
        for folder in voices:
            found += guarded(SECTION, printable(folder), _check_voice, reader, folder, now, folder == newest)
            found += guarded(SECTION, printable(folder), _check_scores, folder)
            found += guarded(SECTION, printable(folder), _check_centres, reader, folder, now)
        now = load_now(config_path.with_name("diffusion.yaml"))
        for folder in diffusions:
            found += guarded(SECTION, printable(folder), _check_diffusion, reader, folder, now, folder == newest)
    return found


def _find_runs(logs_dir: Path) -> tuple[list[Path], list[Path]]:
    """Folders below `logs_dir` with voices, and those with diffusion models; links to folders are followed once."""
    voices, diffusions, seen = [], [], set()
    for place, folders, _ in os.walk(logs_dir, followlinks=True):
        folder = Path(place)
        if (real := folder.resolve()) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(list_checkpoints(folder, prefix) for prefix in "GD"):
            voices.append(folder)
        if list_checkpoints(folder, "model"):
            diffusions.append(folder)
    return voices, diffusions


def _files(folder: Path) -> list[Path]:
    return [path for prefix in ("G", "D", "model") for path in list_checkpoints(folder, prefix)]


def _count_files(folder: Path) -> int:
    return min(len(_files(folder)), 2 * _NEWEST) + (folder / "G_best.pth").exists()


def _last_change(folder: Path) -> float:
    return max((path.lstat().st_mtime for path in _files(folder)), default=0.0)


def _check_voice(reader: "Reader", folder: Path, now: Any, is_newest: bool) -> Iterator[Finding]:
    """The pairs of a run: both halves, whole, of one save, of the config; and its base and its best voice."""
    from modules.doctor.model_files import compare_configs
    from modules.training.resume import BEST, find_pairs, require_one_save

    with listening() as said:
        try:
            pairs = find_pairs(folder)
        except CheckpointError as error:
            pairs = []
            yield from_text(SECTION, "error", "pair", str(error).partition(": ")[0], error)
    for text in said:
        yield from_text(SECTION, "warning", "pair", text.partition(": ")[0], text)
    usable = None  # the newest pair
    for g, d in pairs[:_NEWEST]:
        contents = [reader.read(path, kind) for path, kind in ((g, "voice model"), (d, "discriminator"))]
        yield from reader.findings()
        if None in contents:
            continue
        try:
            require_one_save(g, contents[0], d, contents[1])
        except CheckpointError as error:
            yield from_text(SECTION, "error", "pair", str(g), error, files=(g, d))
            continue
        usable = usable or (g, contents[0])
    if pairs and not usable:
        text = f"of {counted(len(pairs[:_NEWEST]), 'pair')}, the newest, none can be used: training cannot go on"
        remedy = "Restore them from a copy, or begin anew under another name (-m)"
        yield Finding(SECTION, "error", "pair", printable(folder), text, remedy)
    if (folder / BEST).exists():
        reader.read(folder / BEST, "voice model")
        yield from reader.findings()
    if not pairs:
        yield from _check_base(reader, folder, now)
    if usable:
        more = f", of which the newest {_NEWEST} were read" if len(pairs) > _NEWEST else ""
        text = f"{counted(len(pairs), 'pair')}{more}; training would go on from step {step_of(usable[0])}"
        yield Finding(SECTION, "info", "run", printable(folder), text, files=usable[:1])
        yield from compare_configs(*usable, folder / "config.json", now, is_newest)


def _check_base(reader: "Reader", folder: Path, now: Any) -> Iterator[Finding]:
    """G_0.pth and D_0.pth, from which a training would begin."""
    from modules.doctor.model_files import compare_base

    there = {prefix: path for prefix in "GD" for path in list_checkpoints(folder, prefix) if step_of(path) == 0}
    contents = {
        prefix: reader.read(path, "voice model" if prefix == "G" else "discriminator") for prefix, path in there.items()
    }
    yield from reader.findings()
    if len(there) == 1:
        ((prefix, path),) = there.items()
        text = f"has no {'D' if prefix == 'G' else 'G'}_0.pth beside it; that half of the model starts untrained"
        yield Finding(SECTION, "warning", "base", printable(path), text, "Put that file there", (path,))
    for prefix, content in contents.items():
        if content is not None and now is not None:
            yield from compare_base(there[prefix], content, now)
    if len(there) == 2 and None not in contents.values():
        yield Finding(SECTION, "info", "base", printable(folder), "holds a base model; training begins from it")


def _check_scores(folder: Path) -> Iterator[Finding]:
    """The best step of a run, and whether it has been getting worse since."""
    from modules.training.scores import read_table

    path = folder / "scores.csv"
    if not os.path.lexists(path):
        return
    if not path.is_file():
        text = "is no file; the scores of a training go there"
        yield Finding(SECTION, "warning", "scores", printable(path), text, "Remove it")
        return
    try:
        rows = sorted(read_table(path).items())
    except (OSError, ValueError, csv.Error) as error:
        text = f"is not a table of scores ({printable(reason_of(error, path))}); training would set it aside"
        yield Finding(SECTION, "warning", "scores", printable(path), text, "Restore it from a copy, or delete it")
        return
    scored = [(step, scores.mel) for step, (_, scores) in rows if math.isfinite(scores.mel)]
    if not scored:
        return
    step, mel = min(scored, key=lambda row: row[1])
    text = f"step {step} is the best so far (mel {mel:.3f}), {rows[-1][0]} the newest of {len(rows)} evaluations"
    if not is_worse_since([mel for _, mel in scored]):
        yield Finding(SECTION, "info", "scores", printable(folder), text)
        return
    text += f" (mel {scored[-1][1]:.3f}): the scores have been getting worse since"
    remedy = f"Stop, and use {folder / 'G_best.pth'}; more material, or a lower train.learning_rate, goes further"
    yield Finding(SECTION, "warning", "overtrained", printable(folder), text, remedy)


def is_worse_since(mels: list[float]) -> bool:
    """Whether a run's scores (lower is better), one for each evaluation in order, have clearly risen since the best."""
    if len(mels) - 1 - mels.index(min(mels)) < _LEAST_SINCE:
        return False
    scatter = statistics.median(abs(b - a) for a, b in itertools.pairwise(mels))
    return min(mels[-_LAST:]) > min(mels) + _TIMES * scatter


def _check_diffusion(reader: "Reader", folder: Path, now: Any, is_newest: bool) -> Iterator[Finding]:
    """The diffusion models of a folder: whole, and of diffusion.yaml."""
    from modules.doctor.model_files import compare_configs

    models = list_checkpoints(folder, "model")[::-1]
    usable = None
    for path in models[:_NEWEST]:
        content = reader.read(path, "diffusion model")
        yield from reader.findings()
        if content is None:
            continue
        step = content.get("global_step")
        if isinstance(step, int) and step_of(path) and step != step_of(path):
            text, remedy = f"was saved at step {step}", f"Give it its name model_{step}.pt back, or delete it"
            yield Finding(SECTION, "error", "pair", printable(path), text, remedy, (path,))
            continue
        usable = usable or (path, content)
    for path in list_checkpoints(folder, "state")[-1:]:
        reader.read(path, None)
        yield from reader.findings()
    if usable and step_of(usable[0]):
        text = f"{counted(len(models), 'diffusion model')}; training would go on from step {step_of(usable[0])}"
        yield Finding(SECTION, "info", "run", printable(folder), text, files=usable[:1])
        yield from compare_configs(*usable, folder / "config.yaml", now, is_newest)


def _check_centres(reader: "Reader", folder: Path, now: Any) -> Iterator[Finding]:
    """Cluster centres and the index of a run: of the encoder and the width of its config."""
    from modules.doctor.model_files import load_now, origin_of_centres, origin_of_index

    config = load_now(folder / "config.json") or now
    commands = {"kmeans*.pt": "python cluster/train_cluster.py", "feature_and_index.json": "python train_index.py"}
    for pattern, command in commands.items():
        for path in sorted(folder.glob(pattern)):
            try:
                encoder, width = (origin_of_index if path.suffix == ".json" else origin_of_centres)(path)
            except (*FAILURES, ValueError) as error:
                found = from_text(SECTION, "warning", "centres", str(path), error)
                yield Finding(SECTION, "warning", "centres", printable(path), found.text, command, (path,))
                continue
            if config is None:
                continue
            model = config.model
            is_other = bool(encoder) and encoder.split("-onnx")[0] != model.speech_encoder.split("-onnx")[0]
            if is_other or width not in (None, model.ssl_dim):
                text = (
                    f"is of {printable(encoder) or 'another encoder'}, {width or 'unknown'} wide, but the voice is of "
                )
                text += f"{model.speech_encoder}, {model.ssl_dim} wide"
                yield Finding(SECTION, "error", "centres", printable(path), text, command, (path,))
    for path in sorted(folder.glob("feature_and_index.pkl")):
        text = "is so-vits-svc's index, which does not say of which encoder it is; not looked at"
        yield Finding(SECTION, "info", "centres", printable(path), text, files=(path,))
