"""Controls say what --help says, and no value of them becomes a flag of its own."""

import argparse
import importlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import webUI
from modules.errors import UsageError
from modules.inference.options import BOUNDS, ConversionOptions
from modules.webui import forms

PARSERS = {script: importlib.import_module(name).make_arguments() for script, name in webUI.SCRIPTS.items()}
CONVERT = PARSERS["inference_main.py"]
by_script = pytest.mark.parametrize("script", PARSERS)


def convert(**values) -> tuple[str, ...]:
    return forms.command("inference_main.py", CONVERT, values)[1:]


@by_script
def test_every_flag_has_a_control_with_its_help_default_and_range(script):
    pytest.importorskip("gradio")
    for name, action in forms.actions(PARSERS[script]).items():
        control = forms.control(action)
        assert control.info and "%(" not in control.info and name.replace("_", " ") in control.label.replace("-", " ")
        if action.nargs == 0:
            assert control.value is False
        elif isinstance(action.default, (int, float, str)):
            assert str(control.value) == str(action.default)
        if name in BOUNDS and hasattr(control, "minimum"):
            assert (control.minimum, control.maximum) == BOUNDS[name]


def test_what_the_page_lets_in_is_what_conversion_takes():
    names = {"retrieval_ratio": "cluster_infer_ratio", "noise_scale": "noise_scale", "pad_seconds": "pad_seconds"}
    for field, flag in names.items():
        for value in BOUNDS[flag]:
            ConversionOptions("alto", **{field: value})
        with pytest.raises(UsageError, match=f"--{flag}"):
            ConversionOptions("alto", **{field: BOUNDS[flag][1] + 1})


@by_script
def test_groups_hold_each_flag_of_help_once(script):
    listed = [name for names in forms.groups(PARSERS[script]).values() for name in names]
    assert sorted(listed) == sorted(forms.actions(PARSERS[script]))


def test_defaults_are_left_out_of_the_command_line():
    assert convert(noise_scale=0.4, k_step=100, shallow_diffusion=False, model_path="", f0_predictor="pm") == ()


def test_values_become_the_words_that_one_would_type():
    line = convert(
        model_path="logs/a b/G_1.pth", clean_names=["x.wav", "y z.wav"], trans="auto -12", slice_db=-30, enhance=True
    )
    assert line == ("-m", "logs/a b/G_1.pth", "-n", "x.wav", "y z.wav", "-t", "auto", "-12", "-sd", "-30", "-eh")


def test_positional_words_come_before_flags_that_would_swallow_them():
    line = forms.command("compare.py", PARSERS["compare.py"], {"source": "a", "result": "b", "output": "c.png"})
    assert line == ("compare.py", "a", "b", "-o", "c.png")


def test_a_name_that_begins_with_a_dash_is_a_name():
    assert convert(spk_list=["-rf"]) == ("--spk_list=-rf",)
    with pytest.raises(UsageError, match="spk list --json: begins with a dash"):
        convert(spk_list=["alto", "--json"])
    with pytest.raises(UsageError, match="begins with a dash"):
        forms.command("compare.py", PARSERS["compare.py"], {"source": "--overwrite", "result": "b"})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"no_such": 1}, "inference_main.py has no flag 'no_such'"),
        ({"k_step": float("nan")}, "k step nan"),
        ({"k_step": "many"}, "k step many"),
        ({"trans": "up"}, "trans up: 'up' is not a whole number"),
        ({"precision": "fp8"}, "invalid choice: 'fp8'"),
        ({"mix": "alto='0.5"}, "mix .*quotation"),
    ],
)
def test_a_value_that_is_none_of_the_flag_is_refused_in_words(values, said):
    with pytest.raises(UsageError, match=said):
        convert(**values)


def test_a_missing_required_flag_is_named():
    with pytest.raises(UsageError, match="required: -m/--model"):
        forms.command("train.py", PARSERS["train.py"], {})


@settings(max_examples=200, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "model_path": st.text(max_size=12),
            "spk_list": st.lists(st.text(max_size=8), max_size=3),
            "clean_names": st.lists(st.sampled_from(["a", "--json", "-n", "-m", "x y", "=", "-1", "--"]), max_size=3),
            "trans": st.text("0123456789 -auto", max_size=6),
            "noise_scale": st.floats() | st.text(max_size=3),
            "enhance": st.booleans(),
        },
    )
)
def test_whatever_is_given_only_those_flags_are_set(values):
    try:
        line = convert(**values)
    except UsageError:
        return
    parsed = vars(CONVERT.parse_args(list(line)))
    default = vars(CONVERT.parse_args([]))
    given_names = {name for name, value in values.items() if value is not False and value not in ("", [])}
    assert {name for name in parsed if repr(parsed[name]) != repr(default[name])} <= given_names


def test_paths_are_written_with_slashes():
    parser = argparse.ArgumentParser()
    parser.add_argument("--in_dir", type=Path)
    assert forms.command("x.py", parser, {"in_dir": "a/b"}) == ("x.py", "--in_dir", "a/b")
