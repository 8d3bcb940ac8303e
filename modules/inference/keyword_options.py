"""Options of the Python API (docs/api.md): flags of inference_main.py by their long names, with its defaults."""

import argparse
from collections.abc import Collection, Mapping
from typing import Any

from modules.errors import UsageError
from modules.inference.arguments import conversion_arguments
from modules.registry import unknown_name

# What is loaded depends on these, so they belong to load_voice alone.
LOADED = (
    "config_path device precision f0_predictor f0_filter_threshold f0_min f0_max shallow_diffusion only_diffusion "
    "diffusion_model_path diffusion_config_path k_step enhance formant_key"
).split()
# These may be other ones for each song.
CONVERTED = (
    "auto_predict_f0 noise_scale keep_consonants loudness_envelope_adjustment use_spk_mix mix_path cluster_infer_ratio "
    "cluster_model_path feature_retrieval second_encoding slice_db pad_seconds clip linear_gradient "
    "linear_gradient_retain max_segment enhancer_adaptive_key extend_range no_metadata f0_in f0_out autotune scale "
    "tuning formant"
).split()
# Of these, those that name files: of the voice, and of one song.
PLACES, CURVES = ("cluster_model_path", "mix_path"), ("f0_in", "f0_out")
_EXPECTED = {int: "a whole number", float: "a number"}


def loading_options(model_path: object, options: Mapping[str, Any]) -> argparse.Namespace:
    """All flags as the command line would have them; those in CONVERTED are what this voice usually sings with."""
    parser = conversion_arguments("load_voice", "")
    args = _changed(parser, parser.parse_args([]), options, [*LOADED, *CONVERTED], "load_voice")
    args.model_path = None if model_path is None else str(model_path)
    return args


def song_options(args: argparse.Namespace, options: Mapping[str, Any]) -> argparse.Namespace:
    """The flags with what a single conversion changes of them."""
    for name in options:
        if name in LOADED:
            raise UsageError(f"{name} is an option of load_voice: what is loaded depends on it. Give it there.")
    return _changed(conversion_arguments("convert", ""), args, options, CONVERTED, "convert")


def _changed(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    options: Mapping[str, Any],
    known: Collection[str],
    function: str,
) -> argparse.Namespace:
    """A copy of the flags with the values of the options, each checked by what the parser says of its flag."""
    actions = {action.dest: action for action in parser._actions if action.help is not argparse.SUPPRESS}
    values = vars(args).copy()
    for name, value in options.items():
        if name not in known:
            raise UsageError(unknown_name(f"option of {function}", name, list(known)))
        values[name] = _checked(actions[name], value)
    return argparse.Namespace(**values)


def _checked(action: argparse.Action, value: Any) -> Any:
    """An option's value as argparse would give it; None stands for the default."""
    if value is None:
        return action.default
    if action.nargs == 0:
        kind, expected, is_one = bool, "True or False", value in (True, False)
    else:
        kind, expected, is_one = action.type or str, _EXPECTED.get(action.type, "a text"), True
    if action.choices is not None:
        expected, is_one = f"one of: {', '.join(action.choices)}", value in action.choices
    try:
        given = kind(value)
        is_one = is_one and (kind is not int or given == float(value))
    except (TypeError, ValueError, OverflowError):
        is_one = False
    if not is_one:
        raise UsageError(f"{action.dest} is {value!r}; expected {expected}")
    return given
