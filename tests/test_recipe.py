"""The whole recipe, each script's `main()` in turn, on real recordings with the embedded encoder.

A handful of training steps cannot make a voice; what is proved here is that each step reads what the one before wrote,
and that the song comes out with its exact length. That training goes on, and that running it all again makes nothing
twice, is proved by test_notebooks.py, which runs the same scripts as processes of their own.
"""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_diffusion import make_vocoder_files

ROOT = Path(__file__).resolve().parent.parent


def run(script: str, *flags: str) -> int:
    return importlib.import_module(script).main(list(flags)) or 0


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with a space and non-ASCII letters in its name, two short voices and a song."""
    folder = tmp_path_factory.mktemp("my голос")
    for speaker in ("be_ksenya_f", "it_carlo_m_16k"):
        (folder / "dataset_raw" / speaker).mkdir(parents=True)
        for path in sorted((ROOT / "samples" / "voices" / speaker).glob("*.flac"))[:3]:
            wav, rate = soundfile.read(path)
            soundfile.write(folder / "dataset_raw" / speaker / path.name, wav[: 3 * rate], rate)
    (folder / "raw").mkdir()
    song, rate = soundfile.read(ROOT / "samples" / "songs" / "sing_vocadito_14.flac", frames=5 * 44100)
    soundfile.write(folder / "raw" / "песня one.flac", song, rate)
    return folder


@pytest.mark.slow  # test_notebooks.py does the same with one voice and without diffusion
def test_raw_voices_in_a_converted_song_out(workspace, monkeypatch, capsys):
    monkeypatch.chdir(workspace)
    assert run("resample") == 0
    assert len(list(Path("dataset/44k").rglob("*.wav"))) == 6
    assert run("preprocess_flist_config", "--micro", "--speech_encoder", "whisper-ppg-base", "--vol_aug") == 0
    config = json.loads(Path("configs/config.json").read_text("utf-8"))
    assert config["spk"] == {"be_ksenya_f": 0, "it_carlo_m_16k": 1} and config["model"]["ssl_dim"] == 512
    assert run("preprocess_hubert_f0", "--f0_predictor", "dio") == 0
    f0, uv = np.load(next(Path("dataset/44k").rglob("*.f0.npy")), allow_pickle=False)
    assert f0.max() > 80 and set(np.unique(uv)) <= {0, 1}

    assert run("train", "-c", "configs/config.json", "-m", "44k", "--max_steps", "2") == 0
    assert Path("logs/44k/G_2.pth").is_file() and Path("logs/44k/D_2.pth").is_file()

    common = ["-m", "logs/44k/G_2.pth", "-c", "logs/44k/config.json", "-n", "песня one.flac", "-f0p", "dio"]
    assert run("inference_main", *common, "-s", "it_carlo_m_16k", "be_ksenya_f", "-t", "-12") == 0
    source = soundfile.info("raw/песня one.flac")
    for speaker in ("it_carlo_m_16k", "be_ksenya_f"):
        result, rate = soundfile.read(f"results/песня one.flac_-12key_{speaker}_sovits_dio.flac")
        assert rate == 44100 and len(result) == source.frames
        assert np.isfinite(result).all() and np.abs(result).max() > 1e-3

    assert run("preprocess_hubert_f0", "--f0_predictor", "dio", "--use_diff") == 0
    assert run("train_diff", "-c", "configs/diffusion.yaml", "--max_steps", "2") == 0
    make_vocoder_files(workspace / "pretrain/nsf_hifigan")
    assert run("train_diff", "-c", "configs/diffusion.yaml", "--max_steps", "3") == 0
    assert run("inference_main", *common, "-s", "be_ksenya_f", "-shd", "-ks", "30") == 0
    result, _ = soundfile.read("results/песня one.flac_0key_be_ksenya_f_sovdiff_dio.flac")
    assert len(result) == source.frames and np.isfinite(result).all() and np.abs(result).max() > 1e-4
    assert "Next: " in capsys.readouterr().out
