"""The stages of a training, from recordings to an index: their scripts and settings, and the job that they make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.config.presets import PRESETS
from modules.errors import UsageError
from modules.registry import unknown_name
from modules.text import printable
from modules.training.command import check_run_name
from modules.webui import forms, jobs, workspace
from modules.webui.jobs import Job, Stage

if TYPE_CHECKING:
    from modules.webui.page import Parsers

KIND = "train"
DOCTOR_PAGE = Path("doctor.html")
DEFAULT_RUN = "44k"  # logs/44k is where the other scripts look
PRESET = "preset"  # of the lists: one setting for the flags --tiny, --small and --micro
Settings = Mapping[str, Mapping[str, Any]]  # stage -> name of a flag (`dest` of argparse) -> value


@dataclass(frozen=True)
class Recipe:
    """A stage that can be chosen."""

    title: str
    script: str
    paths: tuple[str, ...] = ()  # those of its flags for files that are settings; the others keep their defaults
    hidden: tuple[str, ...] = ()  # flags that are no settings
    fixed: Mapping[str, Any] = field(default_factory=dict)  # flags that the page sets
    goes_on: bool = False  # after exit code 1: some files were left out
    is_usual: bool = True  # ticked at first


_DOCTOR = {"hidden": ("sections", "json", "overwrite"), "fixed": {"html": DOCTOR_PAGE}}
RECIPES = {
    "recordings": Recipe("Doctor: recordings", "doctor.py", **_DOCTOR),
    "clips": Recipe("Clips", "resample.py", paths=("in_dir",), goes_on=True),
    "lists": Recipe(
        "Lists and configuration",
        "preprocess_flist_config.py",
        hidden=tuple(name for name in PRESETS if name != "base"),
        goes_on=True,
    ),
    "features": Recipe("Features", "preprocess_hubert_f0.py", goes_on=True),
    "doctor": Recipe("Doctor: everything", "doctor.py", **_DOCTOR),
    "training": Recipe("Training", "train.py", paths=("base", "preview"), hidden=("dry_run",)),
    "index": Recipe("Feature index", "train_index.py", goes_on=True),
    "centres": Recipe("Cluster centres", "cluster/train_cluster.py", goes_on=True, is_usual=False),
    "diffusion": Recipe("Diffusion model", "train_diff.py", is_usual=False),
}
# What the README's walk sets: a small voice on a CPU, with nothing to download.
SMALL_ON_CPU = {
    "lists": {PRESET: "small", "vol_aug": True, "speech_encoder": "whisper-ppg-base"},
    "features": {"f0_predictor": "fcpe"},
    "training": {"base": workspace.INCLUDED, "max_steps": 2000},
}


def settings_of(stage: str, parsers: "Parsers") -> list[str]:
    """Names of the flags of a stage that are settings; of the lists `PRESET` too."""
    recipe = RECIPES[stage]
    known = forms.actions(parsers[recipe.script])
    usual = [name for name in known if known[name].type is not Path and name not in recipe.hidden]
    return [*([PRESET] if stage == "lists" else []), *recipe.paths, *usual]


def plan(parsers: "Parsers", chosen: Sequence[str], settings: Settings) -> list[Stage]:
    """The command lines of the chosen stages, in the order in which they must run.

    Raises:
        UsageError: a stage or a setting does not exist, or a value is unusable; nothing here is trusted.
    """
    for name in [*chosen, *settings]:
        if name not in RECIPES:
            raise UsageError(unknown_name("stage", printable(name), list(RECIPES)))
    if not chosen:
        raise UsageError("no stage is chosen. Tick what is to run")
    given = {stage: _verified(stage, settings.get(stage, {}), parsers) for stage in RECIPES}
    linked = _linked(run_of(settings), given["clips"].get("in_dir"), "diffusion" in chosen)
    found = []
    for stage, recipe in RECIPES.items():
        if stage in chosen:
            values = {**given[stage], **recipe.fixed, **linked.get(stage, {})}
            command = forms.command(recipe.script, parsers[recipe.script], values)
            found.append(Stage(recipe.title, command, recipe.goes_on))
    return found


def run_of(settings: Settings) -> str:
    """The name of the run, whose folder is logs/NAME; a UsageError where no folder can have it."""
    name = str(settings.get("training", {}).get("model") or DEFAULT_RUN).strip()
    check_run_name(name)
    workspace.inside(workspace.LOGS / name, must_exist=False)
    return name.removesuffix("/")


def _verified(stage: str, values: Mapping[str, Any], parsers: "Parsers") -> dict[str, Any]:
    """The settings of a stage as flags, its paths inside of the workspace."""
    if not isinstance(values, Mapping):
        raise UsageError(f"settings of {stage}: expected names and values, found {printable(values)}")
    if strangers := [name for name in values if name not in settings_of(stage, parsers)]:
        text = unknown_name("setting", printable(strangers[0]), settings_of(stage, parsers))
        raise UsageError(f"{RECIPES[stage].title}: {text}")
    found = dict(values)
    for name in RECIPES[stage].paths:
        if given := found.get(name):
            is_list = isinstance(given, list)
            found[name] = [workspace.inside(one) for one in given] if is_list else workspace.inside(given)
    if preset := found.pop(PRESET, None):
        if preset not in RECIPES["lists"].hidden:
            raise UsageError(unknown_name("preset", printable(preset), list(RECIPES["lists"].hidden)))
        found[preset] = True
    return found


def _linked(run: str, recordings: Path | None, with_diffusion: bool) -> dict[str, dict[str, Any]]:
    """What one stage must know of another."""
    folder = workspace.LOGS / run
    return {
        "recordings": {"sections": ["recordings"], "in_dir": recordings},
        "features": {"use_diff": True} if with_diffusion else {},
        "doctor": {"in_dir": recordings},
        "training": {"model": run},
        "index": {"output_dir": folder},
        "centres": {"output": folder},
    }


def start(parsers: "Parsers", chosen: Sequence[str], settings: Settings) -> Job:
    """Starts a training; a UsageError where one runs, or as `plan`."""
    stages = plan(parsers, chosen, settings)
    kept = {stage: {name: _plain(value) for name, value in values.items()} for stage, values in settings.items()}
    return jobs.start(KIND, stages, run=run_of(settings), chosen=list(chosen), settings=kept)


def _plain(value: Any) -> Any:
    return value.as_posix() if isinstance(value, Path) else value


def newest() -> Job | None:
    """The training that was started last."""
    return next(iter(jobs.find(KIND)), None)


def stop() -> Job:
    """Asks the training to stop, which saves; asked again, it is killed. A UsageError where none runs."""
    job = jobs.running(KIND)
    if job is None:
        raise UsageError("no training is running")
    job.stop()
    return job


def resume() -> Job:
    """Goes on with the newest training; a UsageError where there is nothing to go on with."""
    job = newest()
    if job is None or job.status == "done":
        raise UsageError("there is no training to go on with. Start one")
    job.resume()
    return job


def is_refused_by_doctor(job: Job) -> bool:
    """Whether it ended because the doctor found what would spoil a training."""
    if job.status != "failed" or not job.codes:
        return False
    return job.codes[-1] == 1 and job.stages[len(job.codes) - 1].command[0] == "doctor.py"
