"""All that is wrong with a request is said in one line, before torch is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from inference.fake_voice import sung

from modules.config.io import save_config
from modules.config.schema import Config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A workspace with a voice whose weights are nothing, songs, and a torch that must not be imported."""
    folder = tmp_path_factory.mktemp("workspace")
    save_config(Config(spk={"alto": 0, "tenor": 1}), folder / "logs/44k/config.json")
    for step in (800, 8000):
        (folder / f"logs/44k/G_{step}.pth").touch()
    (folder / "raw").mkdir()
    soundfile.write(folder / "raw/song.flac", sung(0.5, 16000), 16000)
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
