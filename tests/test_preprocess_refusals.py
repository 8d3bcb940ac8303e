"""Step 3: what cannot be honoured is refused before anything is loaded, what is doubtful is named."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from signals import sung
from test_preprocess_hubert_f0 import ROOT, made, run, write_config, write_diffusion_config
from test_preprocess_hubert_f0 import workspace as workspace
from warm_start import start

from modules.data.features import path_of
from modules.data.pitch import read_histograms
from modules.errors import ConfigError, DataError, MissingWeights, UsageError


def test_use_diff_needs_a_diffusion_config_that_goes_with_the_config(workspace):
    with pytest.raises(ConfigError, match=r"diffusion\.yaml: no such file.*preprocess_flist_config\.py"):
        run("--use_diff")
    write_diffusion_config("vec768l12")
    with pytest.raises(ConfigError, match=r"data\.encoder vec768l12, but .*model\.speech_encoder whisper-ppg-base"):
        run("--use_diff")
    write_diffusion_config()
    vocoder = {"sampling_rate": 44100, "num_mels": 128, "n_fft": 1024, "win_size": 1024, "hop_size": 256, "fmin": 40}
    vocoder |= {"fmax": 16000, "upsample_rates": [8, 8, 4], "upsample_kernel_sizes": [16, 16, 8]}
    vocoder |= {"upsample_initial_channel": 8, "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]]}
    Path("pretrain/my_vocoder").mkdir(parents=True)
    Path("pretrain/my_vocoder/config.json").write_text(json.dumps(vocoder), "utf-8")
    with pytest.raises(
        ConfigError, match=r"config\.json has the hop length 512, but .*my_vocoder.config\.json has 256"
    ):
        run("--use_diff")
    assert not made()


def listed() -> dict[Path, list[str]]:
    """Clip -> the features that its sidecar lists."""
    sidecars = list(Path("dataset").rglob("*.features.json"))
    texts = {path: path.read_text("utf-8") for path in sidecars}
    return {
        Path(str(path).removesuffix(".features.json")): list(json.loads(text)["features"])
        for path, text in texts.items()
    }


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_run_resumes_and_leaves_nothing_half_written(workspace):
    for index in range(8):
        soundfile.write(f"dataset/44k/alto/more{index}.wav", sung(np.full(44100, 200.0 + index), 44100), 44100)
    command = [ROOT / "preprocess_hubert_f0.py", "-d", "cpu", "--f0_predictor", "dio"]
    process = start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while sum("units" in names for names in listed().values()) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done, before = listed(), made()
    assert 3 <= sum("units" in names for names in done.values()) < 12
    assert run() == 0
    assert all(set(names) == {"units", "f0", "spec"} for names in listed().values()) and len(listed()) == 12
    kept = [path_of(clip, name) for clip, names in done.items() for name in names]
    assert all(made()[path] == before[path] for path in kept), "finished features are not made again"
    assert not list(Path("dataset").rglob(".*partial*"))


@pytest.mark.parametrize(
    "flags, text",
    [
        (["--f0_predictor", "fcpee"], "unknown f0 predictor 'fcpee'. Did you mean fcpe"),
        (["--num_processes", "-1"], "--num_processes -1"),
        (["-d", "cuda:9"], "device 'cuda:9' is not available here"),
        (["-d", "gpu"], "-d gpu: unknown device. Known: cpu, cuda"),
    ],
)
def test_flags_that_cannot_be_honoured_are_refused(workspace, flags, text):
    with pytest.raises(UsageError) as caught:
        run(*flags)
    assert text in str(caught.value) and not made()


def test_a_missing_folder_or_config_names_the_step_before(workspace):
    with pytest.raises(DataError, match=r"nowhere: no such folder\. Make it with: python resample\.py"):
        run("--in_dir", "nowhere")
    Path("empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no SPEAKER/clip\.wav"):
        run("--in_dir", "empty")
    with pytest.raises(ConfigError, match=r"no such file.*preprocess_flist_config\.py"):
        run("-c", "configs/other.json")


def test_a_config_whose_width_is_not_the_encoders_is_refused(workspace):
    write_config(ssl_dim=768)
    with pytest.raises(ConfigError, match=r"ssl_dim is 768, but whisper-ppg-base gives units 512 wide"):
        run()


def test_a_missing_encoder_or_predictor_is_said_before_anything_is_made(workspace, monkeypatch):
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", workspace / "nowhere")
    write_config(speech_encoder="vec768l12", ssl_dim=768)
    with pytest.raises(MissingWeights, match=r"python pretrain/download\.py contentvec"):
        run()
    monkeypatch.undo()
    monkeypatch.chdir(workspace)
    write_config()
    if not (ROOT / "pretrain" / "rmvpe.pt").is_file():
        with pytest.raises(MissingWeights, match=r"python pretrain/download\.py rmvpe"):
            run("--f0_predictor", "rmvpe")
        write_config(speech_encoder="hubertsoft", ssl_dim=256)
        with pytest.raises(MissingWeights, match=r"download\.py hubertsoft.*download\.py rmvpe"):
            run("--f0_predictor", "rmvpe")
    assert not made()


WITHOUT_TORCH = [
    ([], {}, "dataset/44k: no such folder"),
    (["-d", "cudda"], {}, "-d cudda: unknown device"),
    (["--num_processes", "-2"], {}, "--num_processes -2"),
    (["--f0_predictor", "fcpee"], {"clip": 1, "config": 1}, "unknown f0 predictor 'fcpee'. Did you mean fcpe?"),
    ([], {"clip": 1}, "configs/config.json: no such file"),
    ([], {"clip": 1, "config": 1, "encoder": "vec768l13"}, "unknown speech encoder 'vec768l13'. Did you mean"),
    (["--f0_predictor", "rmvpe"], {"clip": 1, "config": 1}, "pretrain/download.py rmvpe"),
]


@pytest.mark.parametrize("flags, parts, text", WITHOUT_TORCH)
def test_cheap_mistakes_are_refused_before_torch_is_imported(tmp_path, flags, parts, text):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise SystemError('torch was imported')")
    if "clip" in parts:
        (tmp_path / "dataset/44k/alto").mkdir(parents=True)
        (tmp_path / "dataset/44k/alto/a.wav").touch()
    if "config" in parts:
        (tmp_path / "configs").mkdir()
        model = {"speech_encoder": parts.get("encoder", "hubertsoft"), "ssl_dim": 256}
        (tmp_path / "configs/config.json").write_text(json.dumps({"model": model, "spk": {"alto": 0}}))
    command = [sys.executable, str(ROOT / "preprocess_hubert_f0.py"), *flags]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2 and text in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_clip_without_a_voice_is_named(workspace, caplog):
    noise = 0.05 * np.random.default_rng(0).standard_normal(44100)
    soundfile.write("dataset/44k/alto/a.wav", noise, 44100)
    assert run() == 0
    assert "a.wav: no pitch was found in it" in caplog.text and "b.wav: no pitch" not in caplog.text
    assert 20 < read_histograms(Path("dataset/44k/f0_histograms.json"))["alto"].frames < 60, "the other clip's"


def test_the_weights_identity_is_part_of_the_sidecar(workspace):
    assert run() == 0
    stored = json.loads(Path("dataset/44k/alto/a.wav.features.json").read_text("utf-8"))
    name, digest = stored["features"]["units"]["encoder"].split(":")
    assert name == "whisper-ppg-base" and len(digest) == 64


def test_whistling_is_named_and_followed_with_a_higher_limit(workspace, caplog):
    for name in ("c", "d"):
        path = workspace / "dataset/44k/bass" / f"{name}.wav"
        soundfile.write(path, sung(np.full(22050, 1400.0), 44100), 44100)
    assert run() == 0
    (said,) = [record.getMessage() for record in caplog.records if "Try:" in record.getMessage()]
    assert said.startswith("bass sings no note") and "--f0_predictor dio --f0_max 1500" in said
    caplog.clear()
    assert run("--f0_max", "1500", "--f0_min", "60") == 0
    assert not [record for record in caplog.records if "Try:" in record.getMessage()]
    f0, uv = np.load(path_of(path, "f0"))
    assert np.abs(1200 * np.log2(f0[uv > 0] / 1400)).max() < 50 and uv.mean() > 0.8
    with pytest.raises(UsageError, match="--f0_max 9000"):
        run("--f0_max", "9000")
