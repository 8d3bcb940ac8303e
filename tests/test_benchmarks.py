"""The benchmarks: help and import cost nothing, sides are run in turn, and a micro training measures what it says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from warm_start import finish

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
SCRIPTS = ["inference", "train_step", "features", "diffusion"]


@pytest.fixture
def timing(monkeypatch):
    """The shared module, importable as in the scripts."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import timing

    return timing


def python(folder, *arguments):
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_works_in_an_empty_folder_and_imports_nothing_heavy(script, tmp_path):
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(FOLDER)!r}); sys.argv = ['x', '--help']\n"
        f"try: runpy.run_path({str(FOLDER / script)!r} + '.py', run_name='__main__')\n"
        "except SystemExit: print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = python(tmp_path, "-c", code)
    assert done.stdout.startswith("usage: ") and done.stdout.rstrip().endswith("[]"), done.stderr
    assert "--compare FOLDER" in done.stdout and not list(tmp_path.iterdir())


def checkout(folder: Path, script: str) -> Path:
    folder.mkdir()
    (folder / "inference_main.py").write_text(script)
    return folder


def test_sides_are_run_in_turn_each_in_its_own_workspace(timing, tmp_path, monkeypatch, capsys):
    log = tmp_path / "log"
    script = (
        "import sys, pathlib; name = sys.argv[1]; pathlib.Path('mine').write_text(name); print('took', sys.argv[2])\n"
    )
    script += f"open({str(log)!r}, 'a').write(name + ' ')"
    monkeypatch.setattr(timing, "ROOT", checkout(tmp_path / "here", script))
    seconds = {"this": iter([9, 1, 2, 3]), "other": iter([9, 4, 4, 4])}

    def work(side):
        done = side.run("inference_main.py", side.name, next(seconds[side.name]))
        assert (side.workspace / "mine").read_text() == side.name and done.seconds > 0
        return {"seconds": float(done.output.split()[1])}

    with timing.sides(checkout(tmp_path / "there", script)) as found:
        medians = timing.alternate(found, work, 3)
    assert medians == [{"seconds": 2}, {"seconds": 4}], "the first round only warms up"
    assert log.read_text().split() == ["this", "other", "other", "this"] * 2
    assert not found[0].workspace.exists()
    timing.show("song", found, medians)
    assert capsys.readouterr().out == "song, seconds: this 2, other 4; this / other 0.500\n"


def test_a_patch_runs_before_the_script(timing, tmp_path):
    root = checkout(tmp_path / "here", "import json, sys; print(json.dumps('patched'), sys.argv[1:], __name__)")
    side = timing.Side("x", tmp_path, root, "import json\njson.dumps = str.upper")
    assert side.run("inference_main.py", "--flag").output == "PATCHED ['--flag'] __main__\n"


def test_a_script_that_fails_ends_the_benchmark_with_its_last_words(timing, tmp_path):
    side = timing.Side("x", tmp_path, checkout(tmp_path / "here", "raise SystemExit('no such file')"))
    with pytest.raises(SystemExit, match=r"(?s)inference_main\.py ended with 1:.*no such file"):
        side.run("inference_main.py")
    with pytest.raises(SystemExit, match="is no checkout"), timing.sides(tmp_path):
        pass


def test_the_made_encoder_is_read(timing, tmp_path):
    from modules.encoders._networks.hubert import HubertNetwork, rename
    from modules.weights.checkpoint import load_weights

    timing.write_contentvec(tmp_path)
    path = tmp_path / "pretrain/checkpoint_best_legacy_500.pt"
    assert HubertNetwork(rename(load_weights(path)["model"], "fairseq"), path).final_proj is not None


@pytest.mark.slow
def test_a_micro_training_gives_the_seconds_of_a_step_with_and_without_winograd(tmp_path):
    flags = ["--device", "cpu", "--size", "micro", "--batch_size", "2", "--steps", "1", "--rounds", "1"]
    done = python(tmp_path, str(FOLDER / "train_step.py"), *flags, "--seconds", "20", "--without", "winograd")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir()), "only a temporary folder is written to"
    pattern = r"^step of the micro size, seconds: this [\d.]+, without winograd [\d.]+; this / other [\d.]+$"
    assert re.search(pattern, done.stdout, re.MULTILINE), done.stdout


@pytest.mark.slow
def test_a_micro_diffusion_training_gives_the_seconds_of_a_step(tmp_path):
    flags = ["--diffusion", "--device", "cpu", "--size", "micro", "--batch_size", "2", "--steps", "1", "--rounds", "1"]
    done = python(tmp_path, str(FOLDER / "train_step.py"), *flags, "--seconds", "20")
    assert done.returncode == 0, done.stderr
    pattern = r"^diffusion step of the micro size, seconds: this [\d.]+$"
    assert re.search(pattern, done.stdout, re.MULTILINE), done.stdout


@pytest.mark.slow  # nothing but the table rests on it
def test_the_table_of_predictors_names_each_recording_and_the_worst(tmp_path):
    import numpy as np
    import soundfile
    from signals import sung

    for name, pitch in (("alto", 300.0), ("bass", 110.0)):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", sung(np.full(44100, pitch), 44100), 44100)
    np.save(tmp_path / "alto" / "a.f0.npy", np.full(201, 300.0))
    flags = [".", "--predictors", "pm", "dio", "--gains", "1", "0.1"]
    done = finish([FOLDER / "pitch.py", *flags], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    assert [row[:2] for row in rows] == [
        [f"| `{predictor}`", name] for predictor in ("pm", "dio") for name in ("alto", "bass", "the worst of them")
    ]
    assert all(float(row[2]) < 5 and row[3:] == ["0.0", "0.0 |"] for row in rows), done.stdout


@pytest.mark.slow  # tests/doctor has each damage alone
def test_each_damage_is_found_by_its_name_and_clean_takes_are_clean(tmp_path):
    (tmp_path / "alto").mkdir()
    shutil.copy(FOLDER.parent / "samples/voices/be_ksenya_f/be_ksenya_f_004.flac", tmp_path / "alto/a.flac")
    done = finish([FOLDER / "recordings.py", ".", "--files", "1"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {cells[0][2:]: cells[1:] for line in done.stdout.splitlines()[2:] if (cells := line[:-2].split(" | "))}
    assert rows.pop("none")[-1] == "none" and all(row[-1] == "none" for row in rows.values()), done.stdout
    missed = {name for name, row in rows.items() if row[1] != "1/1"}
    assert missed == {"reverb 0.3 s, direct +0 dB", "reverb 0.8 s, direct +10 dB", "music 20 dB"}, "known limits"
