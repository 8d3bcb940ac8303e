"""grid.py from the command line to its cells and its page, with stand-in networks."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import soundfile
from inference.fake_voice import FakeEncoder, FakePredictor, fake_converter, sung

import assemble
import grid
import inference_main
from modules.config.io import save_config
from modules.config.schema import Config
from modules.errors import UsageError
from modules.grid import scores
from modules.grid.flags import combinations, find_models
from modules.grid.sheet import read_sheet
from modules.inference import features

FOLDER = Path("results/grid/song")


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """A workspace with a song of 2 s and two models; gives the requests that were loaded, and calls of the encoder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        save_config(Config(spk={"alto": 0, "tenor": 1}), f"logs/{name}/config.json")
        Path(f"logs/{name}/G_1.pth").write_text(name)
    Path("raw").mkdir()
    soundfile.write("raw/song.wav", sung(2, 16000), 16000)
    made, calls = [], []

    def load(request, make_encoder=lambda *_: FakeEncoder(calls), make_predictor=lambda *_, **__: FakePredictor(calls)):
        made.append(request)
        parts = {"encoder": make_encoder("fake", "cpu"), "predictor": make_predictor(request.f0_predictor, None)}
        return fake_converter(**parts, identity=assemble.request_identity(request))[0]

    monkeypatch.setattr(assemble, "load_converter", load)
    monkeypatch.setattr(assemble, "check_encoder", lambda config: None)
    monkeypatch.setattr(inference_main, "require_parts", lambda *names, **named: None)
    monkeypatch.setattr(features, "build_encoder", lambda *_: FakeEncoder(calls))
    monkeypatch.setattr(features, "build_predictor", lambda *_, **__: FakePredictor(calls))
    monkeypatch.setattr(scores, "find_speaker_encoder", lambda: None)
    return argparse.Namespace(requests=made, calls=calls)


def run(*flags: str) -> int:
    models = ["-m", "logs/a/G_1.pth", "logs/b/G_1.pth"]
    return grid.main([*models, "-n", "song", "-s", "alto", "-d", "cpu", *flags])


def sound_of(path) -> np.ndarray:
    return soundfile.read(path)[0]


def test_a_cell_is_what_inference_main_writes_with_its_command_and_the_song_is_encoded_once(loaded):
    assert run("-t", "0", "-12", "-lea", "1", "0.5") == 0
    cells = read_sheet(FOLDER).cells
    assert len(cells) == 8 and len(loaded.requests) == 2, "each model is loaded once"
    assert [kind for kind, _ in loaded.calls].count("encode") == 1
    assert {cell.settings["-m"] for cell in cells.values()} == {"logs/a/G_1.pth", "logs/b/G_1.pth"}
    for cell in list(cells.values())[::3]:
        for old in Path("results").glob("*.flac"):
            old.unlink()
        assert inference_main.main([*cell.command.split()[2:], "-d", "cpu"]) == 0
        (made,) = Path("results").glob("*.flac")
        assert np.array_equal(sound_of(made), sound_of(FOLDER / cell.file))


def test_finished_cells_are_not_made_again_and_a_larger_grid_makes_only_what_is_new(loaded):
    assert run("-t", "0") == 0
    before = {path: path.stat().st_mtime_ns for path in (FOLDER / "cells").iterdir()}
    loaded.requests.clear()
    assert run("-t", "0") == 0 and not loaded.requests
    assert run("-t", "0", "-12") == 0 and len(list((FOLDER / "cells").iterdir())) == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(read_sheet(FOLDER).shown) == 4
    with pytest.raises(UsageError, match="its page shows 2 cells that this grid has not"):
        run("-t", "-12")
    assert run("-t", "-12", "--overwrite") == 0 and len(read_sheet(FOLDER).cells) == 4


def test_a_bad_cell_is_reported_and_the_others_go_on(loaded, caplog, monkeypatch):
    Path("logs/b/G_1.pth").unlink()
    assert run("-t", "0", "-12") == 1
    assert "logs/b/G_1.pth: no such file" in caplog.text and "2 cells failed" in caplog.text
    assert len(read_sheet(FOLDER).shown) == 2
    with pytest.raises(UsageError, match="-ns/--noise_scale is 11"):
        run("-ns", "11", "--name", "other")


def test_a_stopped_grid_goes_on_with_what_is_left(loaded, monkeypatch):
    make_cell, made = grid.make_cell, []

    def interrupted(cell, *rest):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(make_cell(cell, *rest))

    monkeypatch.setattr(grid, "make_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(grid, "make_cell", lambda *all_: made.append(make_cell(*all_)))
    assert run() == 0 and len(made) == 2


def test_combinations_that_give_the_same_sound_are_made_once(loaded, caplog):
    caplog.set_level("INFO")
    assert run("-ks", "50", "100") == 0
    assert len(read_sheet(FOLDER).shown) == 2 and caplog.text.count("gives the same as") == 2


def test_an_excerpt_is_sung_and_the_command_names_the_whole_song(loaded):
    assert run("--start", "0.5", "--seconds", "1") == 0
    cell = next(iter(read_sheet(FOLDER).cells.values()))
    assert cell.seconds == 1 and len(sound_of(FOLDER / cell.file)) == 16000
    assert "-n song.wav" in cell.command
    with pytest.raises(UsageError, match=r"--start 9: raw.song.wav ends at 2.0 s"):
        run("--start", "9", "--name", "late")


def test_a_key_that_was_chosen_is_told_and_is_the_one_that_inference_main_chooses(loaded, monkeypatch):
    monkeypatch.setattr(grid.inference_main, "make_chooser", lambda *_: argparse.Namespace(choose=lambda *_: -12))
    for _ in range(2):  # also of cells that are there already
        assert run("-t", "auto", "-7") == 0
        keys = [cell.settings["-t"] for cell in read_sheet(FOLDER).cells.values()]
        assert sorted(keys) == ["-7", "-7", "auto (-12)", "auto (-12)"]


def test_too_many_cells_and_too_much_sound_are_refused(loaded):
    with pytest.raises(
        UsageError, match=r"26 cells \(26 combinations of settings, 1 song\) are more than 24.*--max_cells 26"
    ):
        run("-t", *map(str, range(13)))
    with pytest.raises(UsageError, match="-c has 3 values and -m 2"):
        run("-c", "x", "y", "z")


def test_patterns_name_models_by_their_steps_and_configs_go_with_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for step in (200, 1000, 30):
        Path(f"G_{step}.pth").touch()
    assert find_models(["G_*.pth", "G_30.pth"]) == ["G_30.pth", "G_200.pth", "G_1000.pth"]
    args = grid.make_arguments().parse_args(["-m", "a", "b", "-c", "x", "y", "-shd", "off", "on", "-a"])
    found = combinations(args, ["model_path", "config_path", "shallow_diffusion", "auto_predict_f0"])
    assert [(one["model_path"], one["config_path"], one["shallow_diffusion"]) for one in found] == [
        ("a", "x", False), ("a", "x", True), ("b", "y", False), ("b", "y", True)
    ]  # fmt: skip
    assert all(one["auto_predict_f0"] is True for one in found), "a flag of inference_main.py alone is on"
