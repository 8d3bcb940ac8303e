"""The system's "no" at any write of any script: one line, never a traceback, never success, and nothing lost."""

import errno
import logging
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from failing_writes import Plan, watched
from inference.fake_voice import fake_converter
from made_up_units import WIDTH, write_dataset
from signals import sung
from tiny_diffusion import make_diffusion_workspace
from tiny_training import SMALL_DECODER
from tiny_voices import make_workspace
from warm_start import finish

import assemble
import compare
import compress_model
import inference_main
import mix_models
import preprocess_flist_config
import preprocess_hubert_f0
import resample
import train
import train_diff
import train_index
from cluster import train_cluster
from models import build_synthesizer
from modules.cli import configure_logging, run
from modules.config.io import load_config, parse_config, save_config
from modules.config.schema import Config
from modules.weights.checkpoint import save_weights

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Case:
    """A script that has everything it needs."""

    main: Callable[[list[str]], int]
    flags: str
    prepare: Callable[[Path], object]
    tried: int = 12  # of its writes, evenly spread
    logs: tuple[str, ...] = ()  # files that may be missing in the end: logs, and checkpoints before the last


def write_sound(path: Path, pitch: float = 220.0, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sung(np.full(int(seconds * 44100), pitch), 44100), 44100)


def with_sounds(names: str, folder: Path) -> None:
    for index, name in enumerate(names.split()):
        write_sound(folder / name, 200.0 + 20 * index)


def with_a_long_take(folder: Path) -> None:
    write_sound(folder / "dataset_raw/a/1.wav", seconds=21)


def with_config(folder: Path) -> None:
    with_sounds("dataset/44k/alto/a.wav dataset/44k/alto/b.wav dataset/44k/bass/c.wav dataset/44k/bass/d.wav", folder)
    flags = ["--speech_encoder", "whisper-ppg-base", "--micro"]
    here = Path.cwd()
    os.chdir(folder)
    try:
        assert preprocess_flist_config.main(flags) == 0
    finally:
        os.chdir(here)


def with_units(folder: Path) -> None:
    here = Path.cwd()
    os.chdir(folder)
    try:
        write_dataset(Path("dataset/44k"), {"alto": 60, "bass": 20})
        model = {"ssl_dim": WIDTH, "n_speakers": 2, "speech_encoder": "fake"}
        save_config(parse_config({"model": model, "spk": {"alto": 0, "bass": 1}}), "configs/config.json")
    finally:
        os.chdir(here)


def with_models(folder: Path) -> None:
    make_workspace(folder, 2, model=SMALL_DECODER)
    config = load_config(folder / "configs/config.json")
    for name in "ab":
        save_weights(folder / f"{name}.pth", {"model": build_synthesizer(config).state_dict()})


def with_songs(folder: Path) -> None:
    with_sounds("raw/a.wav raw/b.wav", folder)
    save_config(Config(spk={"alto": 0, "tenor": 1}), folder / "config.json")
    (folder / "G.pth").touch()


CASES = {
    "resample": Case(
        resample.main, "--num_processes 1", partial(with_sounds, "dataset_raw/a/1.wav dataset_raw/a/2.wav")
    ),
    "resample a long take": Case(resample.main, "--num_processes 1", with_a_long_take, 30),
    "flist": Case(
        preprocess_flist_config.main,
        "--speech_encoder whisper-ppg-base",
        partial(with_sounds, "dataset/44k/a/1.wav dataset/44k/a/2.wav"),
    ),
    "features": Case(preprocess_hubert_f0.main, "--f0_predictor pm -d cpu", with_config, 4),
    "train": Case(
        train.main,
        "-c configs/config.json -m 44k -d cpu --max_steps 2",
        partial(make_workspace, n_clips=2, model=SMALL_DECODER, log_interval=1, eval_interval=1),
        8,
        ("train.log", "tfevents", "eval", "scores.csv", ".lock", "G_best.pth", "G_1.pth", "D_1.pth"),
    ),
    "train_diff": Case(
        train_diff.main,
        "-c configs/diffusion.yaml -d cpu --max_steps 2",
        partial(make_diffusion_workspace, n_clips=2, interval_val=1),
        6,
        ("log_info.txt", "tfevents", "logs/44k/diffusion/logs", ".lock", "model_1.pt", "state_1.pth"),
    ),
    "cluster": Case(train_cluster.main, "--n_clusters 5", with_units),
    "index": Case(train_index.main, "-c configs/config.json", with_units),
    "mix": Case(mix_models.main, "-i a.pth b.pth -w 50 50", with_models),
    "compress": Case(compress_model.main, "-i a.pth -c configs/config.json -hf -o small.pth", with_models, 4),
    "compress to safetensors": Case(
        compress_model.main, "-i a.pth -c configs/config.json -o small.safetensors", with_models, 4
    ),
    "compare": Case(compare.main, "a.wav b.wav -f0p pm", partial(with_sounds, "a.wav b.wav"), 3),
    "inference": Case(inference_main.main, "-m G.pth -c config.json -n a b -s alto", with_songs),
}


@pytest.fixture
def stand_ins(monkeypatch):
    monkeypatch.setattr(assemble, "load_converter", lambda request: fake_converter()[0])
    monkeypatch.setattr(inference_main, "require_parts", lambda *names, **named: None)


def ending(case: Case) -> int:
    """How `run` ends the script."""
    with pytest.raises(SystemExit) as ended:
        run(lambda _: case.main(case.flags.split()))
    configure_logging()  # closes the log of a run
    logging.shutdown()
    return ended.value.code


def files(folder: Path) -> dict[str, int]:
    hidden = (".lock", ".resample.json")
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in hidden and "tfevents" not in path.name
    }


# Of the training, the limit of file sizes below is the quicker one.
REFUSED = [pytest.param(name, marks=pytest.mark.slow) if name == "train" else name for name in CASES]


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_write_is_one_line_and_the_same_command_mends_it(name, tmp_path, monkeypatch, capsys, stand_ins):
    case = CASES[name]
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    case.prepare(prepared)

    def fresh(which: str) -> Path:
        folder = tmp_path / which
        shutil.copytree(prepared, folder)
        monkeypatch.chdir(folder)
        return folder

    with watched(Plan(fresh("good"))) as good:
        assert ending(case) == 0
    wanted = {file for file in files(tmp_path / "good") if not any(log in file for log in case.logs)}
    assert len(good.attempts) > 1
    for number in sorted({round(n) for n in np.linspace(0, len(good.attempts) - 1, case.tried)}):
        folder = fresh(f"failing at {number}")
        capsys.readouterr()
        with watched(Plan(folder, number, (errno.ENOSPC, errno.EACCES, errno.EIO)[number % 3])) as plan:
            code = ending(case)
        if number >= len(plan.attempts):  # a list that is saved by the clock was not due in this quicker run
            assert code == 0
            continue
        attempt, said = plan.attempts[number], capsys.readouterr().err
        assert "Traceback" not in said, attempt
        if code == 0:  # only a log failed, or it was tried again
            assert files(folder).keys() >= wanted, f"success although it could not {attempt}\n{said}"
        else:
            assert code in (1, 2) and said.strip(), attempt
        assert not list(folder.rglob("*.partial*")), attempt
        assert files(folder).items() >= files(prepared).items(), attempt
        assert ending(case) == 0, f"after {attempt}\n{capsys.readouterr().err}"
        assert files(folder).keys() >= wanted, attempt
        shutil.rmtree(folder)


@pytest.mark.skipif(os.name == "nt", reason="needs limits")
@pytest.mark.parametrize("name", sorted(CASES.keys() - {"inference"}))
def test_files_that_may_not_grow_end_every_script_in_one_line(name, tmp_path, monkeypatch):
    """libsndfile and torch write past Python; to them the system says "file too large"."""
    case = CASES[name]
    case.prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    script = Path(sys.modules[case.main.__module__].__file__)
    done = finish([script, *case.flags.split()], largest_file=1024, env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert "error: " in done.stderr or "skipped" in done.stdout
    assert not list(tmp_path.rglob("*.partial*"))
    assert files(tmp_path).items() >= before.items()
