"""The stages of a training: their command lines, and that nothing a page sends leads out of the workspace."""

import re
import shlex
from pathlib import Path

import pytest

from modules.errors import UsageError
from modules.webui import forms, stages, workspace
from webUI import SCRIPTS

ROOT = Path(__file__).resolve().parents[2]
USUAL = [stage for stage, recipe in stages.RECIPES.items() if recipe.is_usual]


@pytest.fixture(scope="module")
def parsers():
    import importlib

    return {script: importlib.import_module(name).make_arguments() for script, name in SCRIPTS.items()}


@pytest.fixture(autouse=True)
def in_workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("dataset_raw", "takes"):
        Path(folder).mkdir()


def commands(parsers, chosen, settings):
    return [" ".join(stage.command) for stage in stages.plan(parsers, chosen, settings)]


def test_without_settings_the_scripts_run_with_their_own_defaults(parsers):
    assert commands(parsers, USUAL, {}) == [
        "doctor.py recordings --html doctor.html",
        "resample.py",
        "preprocess_flist_config.py",
        "preprocess_hubert_f0.py",
        "doctor.py --html doctor.html",
        "train.py -m 44k",
        "train_index.py",
    ]


def test_folder_and_run_reach_every_stage_that_has_to_know_them(parsers):
    settings = {"clips": {"in_dir": "takes"}, "training": {"model": "alto"}}
    found = commands(parsers, ["index", "centres", *USUAL, "diffusion"], settings)
    assert found == [
        "doctor.py recordings --in_dir takes --html doctor.html",
        "resample.py --in_dir takes",
        "preprocess_flist_config.py",
        "preprocess_hubert_f0.py --use_diff",
        "doctor.py --in_dir takes --html doctor.html",
        "train.py -m alto",
        "train_index.py --output_dir logs/alto",
        "cluster/train_cluster.py --output logs/alto",
        "train_diff.py",
    ]


def test_the_button_for_a_cpu_sets_what_the_walk_of_the_readme_says(parsers):
    walk = re.findall(r"^python (.*)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    settings = {stage: dict(values) for stage, values in stages.SMALL_ON_CPU.items()}
    settings["training"]["model"] = "alto"
    for stage in stages.plan(parsers, ["lists", "features", "training"], settings):
        script, *words = stage.command
        written = next(shlex.split(line) for line in walk if line.startswith(script))
        parser = parsers[script]
        ours, readmes = parser.parse_args(words), parser.parse_args(written[1:])
        if script == "train.py":
            assert ours.base.resolve() == workspace.INCLUDED and readmes.base == Path("pretrain/base-small")
            ours.base = readmes.base
        assert ours == readmes


def test_only_stages_that_leave_out_files_go_on_after_exit_code_one(parsers):
    planned = stages.plan(parsers, list(stages.RECIPES), {})
    assert [stage.command[0] for stage in planned if not stage.goes_on] == [
        "doctor.py",
        "doctor.py",
        "train.py",
        "train_diff.py",
    ]


def test_every_flag_is_a_setting_or_set_by_the_page_or_a_path_with_its_default(parsers):
    for stage, recipe in stages.RECIPES.items():
        known = forms.actions(parsers[recipe.script])
        assert not {*recipe.hidden, *recipe.fixed, *recipe.paths} - set(known)
        left_out = set(known) - set(stages.settings_of(stage, parsers))
        assert all(known[name].type is Path or name in recipe.hidden for name in left_out)


@pytest.mark.parametrize(
    "chosen, settings, message",
    [
        ([], {}, "no stage is chosen"),
        (["party"], {}, "party"),
        (["clips"], {"party": {}}, "party"),
        (["clips"], {"clips": {"out_dir2": "logs"}}, "out_dir2"),
        (["doctor"], {"doctor": {"html": "configs/config.json"}}, "html"),
        (["clips"], {"clips": "x"}, "expected names and values"),
        (["clips"], {"clips": {"in_dir": "../"}}, "outside the workspace"),
        (["clips"], {"clips": {"in_dir": "/etc"}}, "outside the workspace"),
        (["clips"], {"clips": {"in_dir": "nowhere"}}, "no such file or folder"),
        (["clips"], {"clips": {"slice": "--overwrite --in_dir=/"}}, None),
        (["lists"], {"lists": {"preset": "--help"}}, "preset"),
        (["training"], {"training": {"model": "../x"}}, "leads out of its folder"),
        (["training"], {"training": {"model": "/x"}}, "begins at the root"),
        (["index"], {"training": {"model": "<b>x"}}, "holds"),
        (["training"], {"training": {"base": "../base"}}, "outside the workspace"),
        (["training"], {"training": {"max_steps": "many"}}, "max steps"),
    ],
)
def test_what_no_training_can_have_is_refused(parsers, chosen, settings, message):
    if message is None:  # stays one word
        (line,) = stages.plan(parsers, chosen, settings)
        assert line.command == ("resample.py", "--slice=--overwrite --in_dir=/")
        return
    with pytest.raises(UsageError, match=message):
        stages.plan(parsers, chosen, settings)


def test_a_run_whose_folder_is_a_link_out_of_the_workspace_is_refused(parsers, tmp_path_factory):
    Path("logs").mkdir()
    Path("logs/alto").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(UsageError, match="outside the workspace"):
        stages.plan(parsers, ["index"], {"training": {"model": "alto"}})


def test_bases_are_the_included_one_and_those_of_the_workspace():
    for folder in ("pretrain/own", "logs/alto", "logs/empty"):
        Path(folder).mkdir(parents=True)
    for folder in ("pretrain/own", "logs/alto"):
        Path(folder, "G_0.pth").touch()
    assert workspace.bases() == [Path("pretrain/own"), workspace.INCLUDED, Path("logs/alto")]
