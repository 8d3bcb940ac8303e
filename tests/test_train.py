"""train.py as a user meets it: what it says, where it goes on, and how it stops."""

import hashlib
import json
import shutil
import signal
import time
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
import torch
from tiny_training import SMALL_DECODER
from tiny_voices import make_workspace
from warm_start import Script, start

import train
from modules.audio.io import read
from modules.audio.loudness import frame_volume
from modules.config.io import load_config, save_config
from modules.data.pitch import read_histograms, voice_histograms, write_histograms
from modules.errors import CheckpointError, ConfigError, DataError, UsageError
from modules.evaluation.scale import Measured
from modules.f0.voice_range import VoiceRange
from modules.training.resume import require_one_save
from modules.weights.card import config_hash, read_card
from modules.weights.checkpoint import load_weights

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_workspace(tmp_path, model=SMALL_DECODER, log_interval=1)
    return tmp_path


def run(*flags: str) -> int:
    return train.main(["-c", "configs/config.json", "-m", "44k", "-d", "cpu", *flags])


def names(folder: Path = Path("logs/44k")) -> list[str]:
    return sorted(path.name for path in folder.glob("[GD]_[0-9]*.pth"))


def change_config(**model) -> None:
    config = load_config("configs/config.json")
    for key, value in model.items():
        setattr(config.model, key, value)
    save_config(config, "configs/config.json")


def start_training() -> Script:
    return start([ROOT / "train.py", "-m", "44k", "-d", "cpu"], stdout=PIPE, stderr=PIPE)


def wait_for(condition, process: Script, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def test_a_run_says_what_it_does_and_ends_with_the_next_command(workspace, capsys):
    assert run("--max_steps", "2") == 0
    out, err = capsys.readouterr()
    assert names() == ["D_2.pth", "G_2.pth"]
    assert err.count("training begins from nothing") == err.count("Base model: none fits this config (") == 1
    assert "speakers: alto (2 clips), bass (2 clips)" in err and "device cpu" in err
    assert "4 clips" in err and "2 steps per epoch" in err and "M parameters" in err and "step 2, epoch 1" in err
    assert out == (
        "Next: python inference_main.py -m logs/44k/G_2.pth -c logs/44k/config.json -n SONG.wav -s alto -t 0\n"
    )
    assert "step 2, epoch 1" in Path("logs/44k/train.log").read_text("utf-8")
    assert Path("logs/44k/config.json").read_bytes() == Path("configs/config.json").read_bytes()


def test_the_same_command_goes_on_and_one_that_is_done_says_so(workspace, capsys):
    assert run("--max_steps", "1") == 0
    assert run("--max_steps", "3") == 0
    err = capsys.readouterr().err
    assert "going on from logs/44k/G_1.pth: step 1, epoch 1" in err
    assert err.count("training begins from nothing") == 1, "only where it begins"
    stamps = {path: path.stat().st_mtime_ns for path in Path("logs/44k").glob("*.pth")}
    assert run("--max_steps", "3") == 0
    out, err = capsys.readouterr()
    assert "nothing to do: step 3 is reached already" in err
    assert "Next: python inference_main.py -m logs/44k/G_3.pth " in out
    assert {path: path.stat().st_mtime_ns for path in Path("logs/44k").glob("*.pth")} == stamps


def test_checkpoints_carry_the_notes_of_their_voices(workspace):
    data = Path("dataset/44k")
    assert run("--max_steps", "1") == 0 and load_weights("logs/44k/G_1.pth")["card"]["f0_histograms"] == {}
    Path("dataset/44k/tenor").mkdir()
    shutil.copyfile(data / "bass/clip 1.wav.f0.npy", data / "tenor/clip 9.wav.f0.npy")
    write_histograms(data, [*data.glob("*/*.wav"), data / "tenor/clip 9.wav"])
    assert run("--max_steps", "2") == 0, "a run whose checkpoints have none yet goes on"
    content = load_weights("logs/44k/G_2.pth")
    assert {"model", "iteration", "optimizer", "learning_rate", "card"} <= set(content)
    assert "card" not in load_weights("logs/44k/D_2.pth")
    found = voice_histograms(Path("logs/44k/G_2.pth"), Path("nowhere"))
    assert set(found) == {"alto", "bass"}, "the tenor is none of this model's speakers"
    assert found["alto"] == read_histograms(data / "f0_histograms.json")["alto"]
    assert found["alto"].median == pytest.approx(57)  # A3, 220 Hz
    assert run("--max_steps", "3") == 0 and voice_histograms(Path("logs/44k/G_3.pth")) == found


def test_checkpoints_carry_the_papers_of_their_voice(workspace):
    config = load_config("configs/config.json")
    config.card.author, config.card.licence = "Åsa", "CC BY 4.0"
    save_config(config, "configs/config.json")
    assert run("--max_steps", "1") == 0
    for prefix in "GD":
        shutil.move(f"logs/44k/{prefix}_1.pth", f"logs/44k/{prefix}_0.pth")
    base = {"file": "G_0.pth", "sha256": hashlib.sha256(Path("logs/44k/G_0.pth").read_bytes()).hexdigest()}
    for steps in (1, 2):
        assert run("--max_steps", str(steps)) == 0
        card = read_card(f"logs/44k/G_{steps}.pth")
        assert json.loads(json.dumps(card)) == card, "plain JSON"
        assert card["steps"] == steps and card["base"] == base and card["name"] == "44k"
        assert card["speakers"] == ["alto", "bass"] and card["sampling_rate"] == 44100
        assert (card["author"], card["licence"], card["speech_encoder"]) == ("Åsa", "CC BY 4.0", "fake")
        assert card["hours"] == pytest.approx(4 * 0.575 / 3600, abs=1e-4)
    assert card["config_sha256"] == config_hash(load_config("configs/config.json"))


def test_a_run_that_does_not_fit_is_refused_and_its_config_stays(workspace):
    run("--max_steps", "1")
    kept = Path("logs/44k/config.json").read_bytes()
    change_config(hidden_channels=16)
    with pytest.raises(CheckpointError, match=r"model\.hidden_channels was 8, now 16"):
        run("--max_steps", "2")
    assert names() == ["D_1.pth", "G_1.pth"] and Path("logs/44k/config.json").read_bytes() == kept


def test_a_damaged_checkpoint_is_refused_not_overwritten(workspace):
    run("--max_steps", "1")
    Path("logs/44k/G_1.pth").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"G_1\.pth"):
        run("--max_steps", "2")
    assert Path("logs/44k/G_1.pth").read_bytes() == b"broken" and names() == ["D_1.pth", "G_1.pth"]


def test_a_base_model_is_started_from_and_never_written(workspace, capsys):
    run("--max_steps", "1")
    Path("logs/44k").rename("logs/old")
    Path("logs/44k").mkdir()
    for prefix in "GD":
        shutil.copyfile(f"logs/old/{prefix}_1.pth", f"logs/44k/{prefix}_0.pth")
    before = [Path(f"logs/44k/{prefix}_0.pth").read_bytes() for prefix in "GD"]
    assert run("--max_steps", "1") == 0
    assert "starting from the weights of logs/44k/G_0.pth" in capsys.readouterr().err
    assert [Path(f"logs/44k/{prefix}_0.pth").read_bytes() for prefix in "GD"] == before
    assert names() == ["D_0.pth", "D_1.pth", "G_0.pth", "G_1.pth"]


def test_a_base_may_lie_in_a_folder_of_its_own(workspace, capsys):
    with pytest.raises(CheckpointError, match=r"--base nowhere: holds no G_0\.pth"):
        run("--base", "nowhere", "--max_steps", "1")
    assert run("--max_steps", "1") == 0
    Path("bases").mkdir()
    for prefix in "GD":
        shutil.move(f"logs/44k/{prefix}_1.pth", f"bases/{prefix}_0.pth")
    capsys.readouterr()
    assert run("--base", "bases", "--max_steps", "1") == 0
    assert "starting from the weights of bases/G_0.pth" in capsys.readouterr().err and names() == ["D_1.pth", "G_1.pth"]
    assert read_card("logs/44k/G_1.pth")["base"]["file"] == "G_0.pth"
    assert run("--base", "bases", "--max_steps", "2") == 0, "and goes on from its own from then on"
    assert "going on from logs/44k/G_1.pth" in capsys.readouterr().err


def test_a_training_in_stages_goes_on_from_one_to_the_next(workspace, capsys):
    for step, stage in enumerate(("generator", "prior", "all"), start=1):
        assert run("--max_steps", str(step), "--stage", stage) == 0
        err = capsys.readouterr().err
        assert (f"stage {stage}: " in err) == (stage != "all") and f"step {step}, epoch" in err
    for prefix, part in (("G", "dec."), ("D", "discriminators.")):
        first, second, third = (load_weights(f"logs/44k/{prefix}_{step}.pth")["model"] for step in (1, 2, 3))
        names_of_part = [name for name in first if name.startswith(part)]
        assert all(first[name].equal(second[name]) for name in names_of_part)
        assert not all(second[name].equal(third[name]) for name in names_of_part)
    assert read_card("logs/44k/G_3.pth")["volume_peak"] == pytest.approx(loudest_frame(), abs=1e-4)


def loudest_frame() -> float:
    """What the card should say: the median over the clips of the list of their loudest frame."""
    clips = Path("filelists/train.txt").read_text("utf-8").split("\n")[:-1]
    volumes = [frame_volume(torch.from_numpy(read(path)[0]), 512) for path in clips]
    return float(np.median([volume.max() for volume in volumes]))


def test_the_config_of_a_run_can_be_used_in_place(workspace):
    run("--max_steps", "1")
    assert train.main(["-c", "logs/44k/config.json", "-m", "44k", "-d", "cpu", "--max_steps", "2"]) == 0
    assert load_config("logs/44k/config.json").spk == {"alto": 0, "bass": 1}


@pytest.mark.parametrize(
    "break_it, error, message",
    [
        (lambda: Path("configs/config.json").unlink(), ConfigError, "preprocess_flist_config"),
        (lambda: Path("filelists/train.txt").unlink(), DataError, r"train\.txt.*preprocess_flist_config"),
        (lambda: Path("filelists/val.txt").write_text("\n"), DataError, r"val\.txt.*preprocess_flist_config"),
        (lambda: Path("dataset/44k/bass/clip 1.wav").unlink(), DataError, r"clip 1\.wav, which does not exist"),
        (lambda: Path("dataset/44k/bass/clip 1.spec.pt").unlink(), DataError, r"clip 1\.spec\.pt.*preprocess_hubert"),
        (lambda: Path("dataset/44k/f0_histograms.json").write_text("{"), DataError, r"f0_hist.*preprocess_hubert_f0"),
        (lambda: Path("dataset/44k/alto").rename("dataset/44k/tenor"), DataError, "which does not exist"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_makes_it(workspace, break_it, error, message):
    break_it()
    with pytest.raises(error, match=message) as caught:
        run("--max_steps", "1")
    assert "\n" not in str(caught.value) and not names()


def test_a_bandwidth_of_nobody_is_refused(workspace):
    config = load_config("configs/config.json")
    config.train.bandwidth = {"gone": 7500}
    save_config(config, "configs/config.json")
    with pytest.raises(
        DataError, match=r"config\.json: train\.bandwidth names 'gone', who is not in spk \(alto, bass\)"
    ):
        run("--max_steps", "1")


@pytest.mark.parametrize("flags", [["--max_steps", "0"], ["-d", "tpu"], ["-m", " "]])
def test_flags_that_make_no_sense_are_refused(workspace, flags):
    with pytest.raises(UsageError):
        run(*flags)


def test_ctrl_c_saves_and_says_where(workspace):
    process = start_training()
    log = Path("logs/44k/train.log")
    wait_for(lambda: log.is_file() and "step 2," in log.read_text("utf-8"), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130 and "Traceback" not in err
    step = load_weights(next(Path("logs/44k").glob("G_*.pth")))["step"]
    assert step >= 2 and names() == [f"D_{step}.pth", f"G_{step}.pth"]
    assert f"stopped at step {step}: saved logs/44k/G_{step}.pth" in err


@pytest.mark.parametrize("delay", [0.03, 0.3])
def test_a_kill_at_any_moment_leaves_a_run_that_goes_on(workspace, delay):
    config = load_config("configs/config.json")
    config.train.eval_interval, config.train.keep_ckpts = 1, 1
    save_config(config, "configs/config.json")
    process = start_training()
    wait_for(lambda: len(names()) >= 2, process)
    time.sleep(delay)
    process.kill()
    process.communicate()
    for name in names():
        assert load_weights(Path("logs/44k") / name)["step"] == int(name[2:-4]), "whole, or not there"
    reached = max(int(name[2:-4]) for name in names() if name.startswith("G_"))
    assert run("--max_steps", str(reached + 1)) == 0
    assert {f"D_{reached + 1}.pth", f"G_{reached + 1}.pth"} <= set(names())
    assert not list(Path("logs/44k").glob(".*.partial*")), "temporary files of the killed run are gone"


@pytest.fixture
def measured(workspace, monkeypatch):
    """A training that is worth measuring, however short; gives what the measurement was asked for."""
    asked = []

    def measure(seconds, test, vowels):
        asked.append((seconds, test, list(vowels)))
        return {"bass": Measured(VoiceRange((41, 81), (45, 76), "2026-12-01", ("fcpe", "pm"), "x"), (), "x")}

    monkeypatch.setattr("modules.evaluation.ranges.measure_within", measure)
    monkeypatch.setattr("modules.f0.base.build_predictor", lambda name, audio, **how: name)
    monkeypatch.setattr(train, "LEAST_RANGE_SECONDS", 0.0)
    return asked


def test_a_finished_training_writes_the_range_into_the_card_and_can_go_on(measured, capsys):
    assert run("--max_steps", "1") == 0
    err = capsys.readouterr().err
    assert "bass: comfortable A2-E5" in err and "not measured for want of time or of a steady vowel: alto" in err
    ((seconds, test, vowels),) = measured
    assert 0 < seconds <= 60 and test.predictors == ["fcpe", "pm"] and test.volume is not None
    assert [(name, number) for name, number, _ in vowels] == [("alto", 0), ("bass", 1)]
    assert vowels[0][2].units.shape == (6, 2) and vowels[0][2].origin.startswith("clip ")
    card = read_card("logs/44k/G_1.pth")
    assert card["ranges"]["bass"]["sings"] == [41, 81] and card["steps"] == 1
    pair = [Path(f"logs/44k/{prefix}_1.pth") for prefix in "GD"]
    require_one_save(pair[0], load_weights(pair[0]), pair[1], load_weights(pair[1]))


def test_a_range_that_cannot_be_measured_is_a_warning(workspace, caplog):
    config = load_config("configs/config.json")
    train._measure_range(config, None, Path("logs/44k/G_1.pth"), 1.0, torch.device("cpu"))
    assert not caplog.records, "what is trained in a second is not worth it"
    train._measure_range(config, None, Path("logs/44k/G_1.pth"), 1000.0, torch.device("cpu"))
    assert "the voice's range was not measured (logs/44k/G_1.pth: no such file" in caplog.text
    assert "python evaluate.py --range --card -m logs/44k/G_1.pth" in caplog.text
