"""The tools for models as jobs: what the page gave becomes a command line, every path in it one of the workspace."""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.errors import UsageError
from modules.text import printable
from modules.webui import forms, jobs, workspace
from modules.webui.forms import Values

if TYPE_CHECKING:
    from modules.webui.page import Parsers

KIND = "tools"
PICTURES = Path("results") / "pictures"
REPORT = "report.html"  # of evaluate.py, in its folder
GRIDS, PAGE = Path("results") / "grid", "index.html"  # of grid.py
_EXAMPLE = '{"logs/a/G_8000.pth": 60, "logs/b/G_8000.pth": 40}'


@dataclass(frozen=True)
class Tool:
    """A script of the tab Tools."""

    name: str
    script: str
    fill: Callable[[Values], Values]  # values of the page -> values of the script's flags
    goes_on: bool = False  # is done although some files failed
    hidden: tuple[str, ...] = ()  # flags that the page has not


def start(tool: Tool, parsers: "Parsers", values: Values) -> jobs.Job:
    """Starts the job; a UsageError where a value is no value of a flag, or a path leads out of the workspace."""
    parser = parsers[tool.script]
    given = tool.fill(values)
    stage = jobs.Stage(tool.name, forms.command(tool.script, parser, given), tool.goes_on)
    about = {"tool": tool.name}
    if tool.name == "compare":
        about["picture"] = str(given["output"])
    if tool.name == "evaluate":
        about["report"] = (Path(given["output"] or parser.get_default("output")) / REPORT).as_posix()
    if tool.name == "grid":
        about["page"] = (GRIDS / workspace.safe_name(given["name"] or given["clean_names"][0].stem) / PAGE).as_posix()
    return jobs.start(KIND, [stage], **about)


def result_of(job: jobs.Job) -> str:
    """What the script of a job said, without the command line."""
    return "\n".join(line for line in job.log().splitlines() if not line.startswith("$ "))


def weights_text(models: list[str]) -> str:
    """Models with equal weights in whole percents, as the JSON that `read_weights` takes."""
    share, rest = divmod(100, max(len(models), 1))
    return json.dumps({path: share + (i < rest) for i, path in enumerate(models)}, indent=2, ensure_ascii=False)


def read_weights(text: str) -> dict[str, float]:
    """Path and percent of each model, from JSON that somebody typed."""
    try:
        found = json.loads(str(text), object_pairs_hook=_pairs_once)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"weights: this is no JSON ({error}). Expected {_EXAMPLE}") from None
    if not isinstance(found, dict):
        raise UsageError(f"weights: expected paths with their percents, as in {_EXAMPLE}")
    for path, weight in found.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise UsageError(f"weights: {printable(path)} has {printable(weight)}, expected a number of percents")
    return found


def _pairs_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{printable(twice[0])} is there twice")
    return dict(pairs)


def _mix(values: Values) -> Values:
    weights = read_weights(values["weights"])
    paths = [workspace.inside(path) for path in weights]
    return {**values, "input": paths, "weights": list(weights.values()), "output": _target(values.get("output"))}


def _compress(values: Values) -> Values:
    model, output, base = _chosen(values["input"], "a model"), _target(values.get("output")), values.get("base")
    if model.is_absolute() and not (output or base):
        raise UsageError(f"{model}: lies outside the workspace, and the result would too. Name an output")
    config = _source(values.get("config"))
    return {**values, "input": model, "config": config, "output": output, "base": _target(base)}


def _inspect(values: Values) -> Values:
    return {**values, "paths": _sources(values["paths"], "a model")}


def _compare(values: Values) -> Values:
    source, result = (_chosen(values[name], f"a {name}") for name in ("source", "result"))
    name = workspace.safe_name(f"{source.stem}_{result.stem}") + ".png"
    output = _target(values.get("output")) or PICTURES / name
    return {**values, "source": source, "result": result, "output": output}


def _evaluate(values: Values) -> Values:
    model = _chosen(values["model_path"], "a model")
    songs = _sources(values["input"], "a song or a folder") if values.get("input") or not values.get("range") else None
    given: dict[str, Any] = {**values, "model_path": model, "input": songs}
    given["config_path"] = _source(values.get("config_path")) or workspace.inside(workspace.config_of(model))
    for name in ("targets", "parallel", "whisper"):
        given[name] = _source(values.get(name))
    return {**given, "output": _target(values.get("output"))}


def _grid(values: Values) -> Values:
    models = _sources(values["model_path"], "a model")
    songs = _sources(values["clean_names"], "a song")
    given: dict[str, Any] = {**values, "model_path": models, "clean_names": songs, "name": values.get("name")}
    given["config_path"] = [workspace.inside(workspace.config_of(model)) for model in models]
    for name in ("mix_path", "diffusion_config_path"):
        given[name] = _source(values.get(name))
    for name in ("cluster_model_path", "diffusion_model_path"):
        typed = values.get(name) or []
        words = shlex.split(typed) if isinstance(typed, str) else typed
        given[name] = [workspace.inside(word) for word in words]
    return given


def _chosen(path: Any, what: str) -> Path:
    if not path:
        raise UsageError(f"choose {what} first")
    return workspace.inside(path)


def _sources(paths: Any, what: str) -> list[Path]:
    return [_chosen(path, what) for path in (paths if isinstance(paths, list) and paths else [paths])]


def _source(path: str | None) -> Path | None:
    return workspace.inside(path) if path else None


def _target(path: str | None) -> Path | None:
    """Where a result may be written; None where the script shall choose."""
    if not path:
        return None
    target = workspace.inside(path, must_exist=False)
    if target.is_absolute():
        raise UsageError(f"{printable(path)}: lies outside the workspace. Results are written inside of it")
    return target


TOOLS: Mapping[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool("mix", "mix_models.py", _mix),
        Tool("compress", "compress_model.py", _compress),
        Tool("inspect", "inspect_model.py", _inspect),
        Tool("compare", "compare.py", _compare),
        Tool("evaluate", "evaluate.py", _evaluate, goes_on=True),
        Tool("grid", "grid.py", _grid, goes_on=True, hidden=("votes", "config_path")),
    )
}
