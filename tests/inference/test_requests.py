"""All that is wrong with a request is said in one line, before torch is imported."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
from inference.fake_voice import sung

from modules.config.io import save_config
from modules.config.schema import Config
from modules.errors import UsageError
from modules.inference import requests

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A workspace with a voice whose weights are nothing, songs, and a torch that must not be imported."""
    folder = tmp_path_factory.mktemp("workspace")
    config = Config(spk={"alto": 0, "tenor": 1})
    config.model.speech_encoder, config.model.ssl_dim = "whisper-ppg-base", 512  # which is in the repository
    save_config(config, folder / "logs/44k/config.json")
    for step in (800, 8000):
        (folder / f"logs/44k/G_{step}.pth").touch()
    (folder / "raw").mkdir()
    soundfile.write(folder / "raw/song.flac", sung(0.5, 16000), 16000)
    (folder / "raw/notes.txt").write_text("no audio")
    (folder / "d").mkdir()
    (folder / "d/model_1.pt").touch()
    (folder / "d/config.yaml").write_text("data: {encoder: whisper-ppg-base, encoder_out_channels: 256}")
    (folder / "no_torch/torch").mkdir(parents=True)
    (folder / "no_torch/torch/__init__.py").write_text("raise SystemExit('torch was imported')")
    return folder


def convert(workspace: Path, *flags: str) -> tuple[int, list[str]]:
    environment = {**os.environ, "PYTHONPATH": str(workspace / "no_torch"), "PYTHONUTF8": "1"}
    command = [sys.executable, str(ROOT / "inference_main.py"), "-n", "song", *flags]
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["-t", "100"], ["-t/--trans is 100"]),
        (["-t", "0", "3", "-99"], ["-t/--trans is -99"]),
        (["-f0p", "pitchy"], ["'pitchy'", "fcpe", "harvest"]),
        (["-wf", "xyz", "-sd", "40"], ["-sd/", "'xyz'", "flac"]),
        (["-s", "soprano", "bass"], ["'soprano', 'bass'", "alto, tenor"]),
        (["-d", "abacus"], ["'abacus'", "cuda"]),
        (["-n", "sonk"], ["raw/sonk: no such file", "song.flac"]),
        (["-m", "logs/44k"], ["is a folder", "logs/44k/G_8000.pth"]),
        (["-m", "G_1.pth", "-c", "no.json"], ["G_1.pth: no such file", "no.json: no such file"]),
        (["-usm"], ["configs/spkmix.json: no such file"]),
        (["--mix", "alto=1", "-t", "auto"], ["-t auto needs one target voice"]),
        (["-cr", "0.5"], ["kmeans_10000.pt: no such file", "train_cluster.py"]),
        (["-eh"], ["nsf_hifigan/model: no such vocoder", "download.py nsf-hifigan"]),
        (["-shd"], ["model_0.pt: no such file", "config.yaml: no such file", "nsf_hifigan/model"]),
        (["-c", "raw"], ["-c/--config_path raw: is not a file"]),
        (["-m", "x\nG.pth"], ["no such file"]),
        (["-n", "notes.txt"], ["raw/notes.txt: ", "not an audio file"]),
        (
            ["-shd", "-dm", "d/model_1.pt", "-ks", "0"],
            ["-ks/--k_step is 0", "nsf_hifigan", "data.encoder_out_channels"],
        ),
    ],
)
def test_a_mistake_is_refused_before_torch_is_imported(workspace, flags, named):
    code, said = convert(workspace, *(["-s", "alto"] if "-s" not in flags else []), *flags)
    errors = [line for line in said if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1, said
    for text in named:
        assert text in errors[0]


def test_everything_that_is_wrong_is_said_at_once(workspace):
    wrong = ["-t", "100", "-m", "G_1.pth", "-c", "no.json", "-f0p", "pitchy", "-n", "sonk", "-shd", "-d", "abacus"]
    code, said = convert(workspace, *wrong, "-cr", "0.5", "-lea", "2")
    assert code == 2
    for text in ("-t/", "-lea/", "G_1.pth", "no.json", "pitchy", "sonk", "model_0.pt", "config.yaml", "nsf_hifigan"):
        assert text in said[-1]
    assert "abacus" in said[-1] and "kmeans_10000.pt" in said[-1] and "(1) " in said[-1] and "(1) (" not in said[-1]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="who may read everything sees no refusal")
def test_a_file_that_may_not_be_read_is_not_called_damaged(workspace):
    path = workspace / "logs/44k/G_800.pth"
    path.chmod(0)
    code, said = convert(workspace, "-s", "alto", "-m", "logs/44k/G_800.pth")
    path.chmod(0o600)
    assert code == 2 and "permission denied" in said[-1]


def test_a_right_request_goes_on_to_torch(workspace):
    code, said = convert(workspace, "-s", "alto")
    assert code == 1 and said[-1] == "torch was imported"


def test_a_file_in_the_place_of_the_results_is_named(workspace):
    (workspace / "results").rmdir()
    (workspace / "results").touch()
    code, said = convert(workspace, "-s", "alto")
    (workspace / "results").unlink()
    assert code == 2 and "results: the folder cannot be made" in said[-1]


@pytest.mark.parametrize(
    ("name", "rate", "held"),
    [("opus", 44100, False), ("OPUS", 32000, False), ("opus", 48000, True), ("ogg", 44100, True)],
)
def test_a_format_that_cannot_hold_the_voices_rate_is_refused_before_the_work(name, rate, held):
    if held:
        requests.check_format(name, rate)
    else:
        with pytest.raises(UsageError, match=f"-wf.* 48000 Hz.*{rate} Hz. Use ogg or flac"):
            requests.check_format(name, rate)


def test_automatic_pitch_of_a_voice_without_it_is_refused_before_it_is_loaded():
    config = SimpleNamespace(model=SimpleNamespace(use_automatic_f0_prediction=False))
    with pytest.raises(UsageError, match=r"-a/--auto_predict_f0.*leave -a out"):
        requests.check_pitch_decoder(config)
