"""The flags of a grid: those of inference_main.py, of which most take several values, and the product of these."""

import argparse
import glob
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.cli import make_parser
from modules.errors import UsageError
from modules.inference.arguments import conversion_arguments
from modules.inference.keyword_options import CURVES
from modules.weights.names import step_of

# One value for all: where sound comes from and goes to, and how it is cut.
HELD = (
    "clean_names wav_format no_metadata device use_spk_mix mix_path mix diffusion_config_path pad_seconds clip "
    "linear_gradient linear_gradient_retain max_segment"
).split()
SWITCHES = (
    "auto_predict_f0 feature_retrieval shallow_diffusion only_diffusion second_encoding enhance extend_range"
).split()
# A grid has its own, or always resumes; a curve is of a whole song, not of an excerpt.
_LEFT_OUT = ("help", "resume", "overwrite", "json", "f0_mean_pooling", *CURVES)
_PAIRED = "config_path"  # one for each model
_SWITCH = {"off": False, "on": True}
_HELP = {  # of flags that mean something else here
    "clean_names": "songs, each with players of its own: names under raw/, paths, folders or patterns",
    "spk_list": "target voices (default: the model's only one)",
    "trans": "semitones up (or down: -12). auto: what suits the voice's notes; auto-octave: by whole octaves only",
}


def grid_arguments(script: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of the script with that `__file__` and `__doc__`, without the flags that only a grid has."""
    parser = make_parser(script, description)
    for group in conversion_arguments(script, "")._action_groups:
        actions = [action for action in group._group_actions if _is_taken(action)]
        if actions:
            add = parser.add_argument_group(group.title).add_argument
            for action in actions:
                text = _HELP.get(action.dest, action.help)
                add(*action.option_strings, dest=action.dest, help=text, **_as_grid_takes_it(action))
    return parser


def _is_taken(action: argparse.Action) -> bool:
    return action.dest not in _LEFT_OUT and action.help is not argparse.SUPPRESS


def _as_grid_takes_it(action: argparse.Action) -> dict[str, Any]:
    if action.dest in HELD:
        if action.nargs == 0:
            return {"action": "store_true"}
        return {name: getattr(action, name) for name in ("nargs", "default", "type", "choices", "metavar")}
    if action.dest in SWITCHES:
        return {"nargs": "*", "choices": list(_SWITCH), "default": ["off"]}
    default = action.default if isinstance(action.default, list) else [action.default]
    given = {"nargs": "+", "type": action.type, "choices": action.choices, "metavar": action.metavar}
    return {**given, "default": None if default == [None] else default}


def find_models(given: Sequence[str] | None) -> list[str] | None:
    """The models that `-m` names, patterns such as `logs/alto/G_*.pth` (which no shell of Windows expands) by steps."""
    found: list[str] = []
    for name in given or ():
        path = Path(name)
        is_pattern = glob.has_magic(name) and not path.exists()
        matches = Path(path.anchor).glob(str(path.relative_to(path.anchor))) if is_pattern else ()
        ordered = sorted((match.as_posix() for match in matches), key=lambda match: (step_of(match) or 0, match))
        found += ordered or [name]
    return list(dict.fromkeys(found)) if given else None


def combinations(args: argparse.Namespace, dests: Sequence[str]) -> list[dict[str, Any]]:
    """Every combination of one value of each flag of inference_main.py in `dests`, the models outermost.

    Flags that hold for all are in each. A value that is named twice counts once. `-c` goes with `-m`: none, one for
    all, or one for each model.
    """
    held = {name: getattr(args, name) for name in HELD if name in dests}
    several = [name for name in dests if name not in HELD and name not in (*_LEFT_OUT, _PAIRED)]
    values = [list(dict.fromkeys(_values(args, name))) for name in several]
    models, configs = _values(args, "model_path"), _values(args, _PAIRED)
    if len(configs) not in (1, len(models)):
        raise UsageError(f"-c has {len(configs)} values and -m {len(models)}; give one for all, or one for each model")
    config_of = dict(zip(models, configs * len(models) if len(configs) == 1 else configs))
    found = []
    for combination in itertools.product(*values):
        one = {**held, **dict(zip(several, combination))}
        found.append({**one, _PAIRED: config_of[one["model_path"]]})
    return found


def _values(args: argparse.Namespace, name: str) -> list:
    given = getattr(args, name)
    if name in SWITCHES:
        return [_SWITCH[word] for word in given] or [True]  # without a word it is on, as in inference_main.py
    return [None] if given is None else given


def varied(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the flags that are not the same in all cells."""
    names = [name for name in cells[0] if name not in HELD and name != _PAIRED] if cells else []
    return [name for name in names if len({repr(cell[name]) for cell in cells}) > 1]


def as_text(name: str, value: Any, others: Sequence[Any]) -> str:
    """A value as the page and the tables show it; of paths as much as tells them from the `others`."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "default"
    if name.endswith("_path"):
        known = [Path(str(other)) for other in others if other]
        names = [path.name for path in known]
        return Path(str(value)).as_posix() if len(set(names)) < len(set(known)) else Path(str(value)).name
    return f"{value:g}" if isinstance(value, float) else str(value)
