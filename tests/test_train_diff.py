"""train_diff.py as a user meets it: what it says, where it goes on, and how it stops."""

import signal
import time
from pathlib import Path
from subprocess import PIPE

import pytest
from tiny_diffusion import make_diffusion_workspace, make_vocoder_files
from warm_start import start

import train_diff
from modules.config.diffusion import load_diffusion_config, save_diffusion_config
from modules.errors import ConfigError, DataError, UsageError

ROOT = Path(__file__).resolve().parent.parent
RUN = Path("logs/44k/diffusion")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_diffusion_workspace(tmp_path, interval_log=1)
    return tmp_path


def run(*flags: str) -> int:
    return train_diff.main(["-c", "configs/diffusion.yaml", "-d", "cpu", *flags])


def change(section: str, **values) -> None:
    config = load_diffusion_config("configs/diffusion.yaml")
    for key, value in values.items():
        setattr(getattr(config, section), key, value)
    save_diffusion_config(config, "configs/diffusion.yaml")


def test_a_run_says_what_it_does_and_ends_with_the_next_command(workspace, capsys):
    assert run("--max_steps", "2") == 0
    out, err = capsys.readouterr()
    assert "validation goes without sounds: pretrain/nsf_hifigan/model" in err and "download.py nsf-hifigan" in err
    assert "speakers: alto (2 clips), bass (2 clips)" in err and "noise levels 0 to 99 of 100" in err
    assert "step 1, epoch 1: loss" in err and "saved" in err
    assert "inference_main.py -m logs/44k/G_STEP.pth -n SONG.wav -s alto -shd" in out
    assert "-dm logs/44k/diffusion/model_2.pt -dc logs/44k/diffusion/config.yaml" in out
    assert "loss" in (RUN / "log_info.txt").read_text("utf-8")
    assert load_diffusion_config(RUN / "config.yaml") == load_diffusion_config("configs/diffusion.yaml")


def test_the_same_command_goes_on_and_one_that_is_done_says_so(workspace, capsys):
    run("--max_steps", "2")
    run("--max_steps", "3")
    assert "going on from" in capsys.readouterr().err and (RUN / "model_3.pt").is_file()
    assert run("--max_steps", "3") == 0
    assert "nothing to do: step 3 is reached already, --max_steps 3 asked for" in capsys.readouterr().err


def test_with_a_vocoder_validation_has_sounds(workspace, capsys):
    make_vocoder_files(workspace / "pretrain/nsf_hifigan")
    change("train", interval_val=1)
    assert run("--max_steps", "1") == 0
    err = capsys.readouterr().err
    assert "without sounds" not in err and "1 validation clips, loss" in err


def test_loading_without_a_cache_gives_the_same_run(workspace):
    run("--max_steps", "3")
    cached = (RUN / "log_info.txt").read_text("utf-8")
    change("train", cache_all_data=False)
    change("env", expdir="logs/other")
    run("--max_steps", "3")
    losses = [
        [line.split("loss ")[1].split(",")[0] for line in text.splitlines() if "epoch" in line and "loss " in line]
        for text in (cached, Path("logs/other/log_info.txt").read_text("utf-8"))
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 3


def test_what_is_wrong_is_one_line_that_names_the_remedy(workspace):
    with pytest.raises(UsageError, match="--max_steps 0: expected 1 or more"):
        run("--max_steps", "0")
    with pytest.raises(UsageError, match="'tpu': expected cpu, cuda"):
        train_diff.main(["-d", "tpu"])
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file.*preprocess_flist_config"):
        train_diff.main(["-c", "none.yaml", "-d", "cpu"])
    change("model", n_spk=1)
    with pytest.raises(ConfigError, match=r"model.n_spk is 1, but spk has the id 1"):
        run()
    change("model", n_spk=2)
    change("infer", method="euler")
    with pytest.raises(ConfigError, match=r"diffusion.yaml: infer.method: unknown sampler 'euler'.*Known: ddim"):
        run()
    change("infer", method="unipc")
    change("data", block_size=256)
    with pytest.raises(ConfigError, match=r"hop length 256.*published vocoder.*512"):
        run()
    change("data", block_size=512)
    next(Path("dataset/44k/alto").glob("*.aug_mel.npy")).unlink()
    with pytest.raises(DataError, match=r"aug_mel\.npy: is missing.*--use_diff"):
        run()
    Path("configs/diffusion.yaml").write_text("train: {amp_dtype: fp8}\n", "utf-8")
    with pytest.raises(ConfigError, match=r"train.amp_dtype"):
        run()


def test_an_absent_cuda_of_the_config_is_said_and_not_an_error(workspace, capsys, monkeypatch):
    import modules.device

    monkeypatch.setattr(modules.device, "available_devices", lambda: ["cpu"])
    assert train_diff.main(["--max_steps", "1"]) == 0
    assert "device cuda:0 of the config is not here: training on cpu" in capsys.readouterr().err


def test_ctrl_c_saves_and_says_where(workspace):
    process = start([ROOT / "train_diff.py", "-d", "cpu"], stdout=PIPE, stderr=PIPE)
    end = time.monotonic() + 120
    log = RUN / "log_info.txt"
    while not (log.is_file() and "step 3," in log.read_text("utf-8")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "run the same command again to go on" in err
    assert "Traceback" not in err and len(list(RUN.glob("model_*.pt"))) == 1
