"""Step 2: stable ids, widths from the encoder, and a user's edits that no run takes away."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

import preprocess_flist_config
from modules.config.io import load_config
from modules.data.filelist import read_list
from modules.encoders.base import encoder_dim
from modules.errors import DataError, UsageError


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add("tenor", 3)
    add("alto", 12)
    return tmp_path


def add(speaker, count):
    Path(f"dataset/44k/{speaker}").mkdir(parents=True)
    for index in range(count):
        soundfile.write(f"dataset/44k/{speaker}/{index:02}.wav", np.zeros(22050), 44100)


def go(*flags):
    return preprocess_flist_config.main(["--speech_encoder", "whisper-ppg-base", *flags])


def config():
    return json.loads(Path("configs/config.json").read_text("utf-8"))


def edit(**changes):
    values = config()
    for name, value in changes.items():
        section, _, key = name.partition("_")
        values[section][key] = value
    Path("configs/config.json").write_text(json.dumps(values), "utf-8")


def backups():
    return sorted(path.name for path in Path("configs").glob("*.bak*"))


def test_lists_config_and_diffusion_config_are_written(workspace, capsys):
    assert go() == 0
    train, validation = read_list(Path("filelists/train.txt")), read_list(Path("filelists/val.txt"))
    assert len(train) == 12 and len(validation) == 3 and not set(train) & set(validation)
    values = config()
    assert values["spk"] == {"alto": 0, "tenor": 1} and values["model"]["n_speakers"] == 2
    assert (values["model"]["ssl_dim"], values["model"]["speech_encoder"]) == (512, "whisper-ppg-base")
    assert list(values) == ["train", "data", "model", "card", "spk"]
    assert values["data"]["unit_interpolate_mode"] == "nearest"
    diffusion = yaml.safe_load(Path("configs/diffusion.yaml").read_text("utf-8"))
    assert diffusion["spk"] == values["spk"] and diffusion["model"]["n_spk"] == 2
    assert (diffusion["data"]["encoder"], diffusion["data"]["encoder_out_channels"]) == ("whisper-ppg-base", 512)
    printed = capsys.readouterr().out
    assert "alto: id 0, 12 clips" in printed and "Next: python preprocess_hubert_f0.py" in printed
    assert "\nBase model: none fits this config (whisper-ppg-base, 512 wide, without volume embedding" in printed
    assert go("--small", "--vol_aug") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-2].startswith("Base model: base-small (") and "give train.py --base " in said[-2]
    load_config("configs/config.json")


def test_running_it_again_changes_not_a_byte(workspace):
    def snapshot():
        files = [*Path("configs").iterdir(), *Path("filelists").iterdir()]
        return {path: path.read_bytes() for path in files}

    assert go("--micro") == 0
    first = snapshot()
    assert go("--micro") == 0
    assert snapshot() == first and backups() == []


def test_the_users_edits_stay_when_speakers_come(workspace):
    assert go("--micro") == 0
    edit(train_batch_size=2, train_my_note="mine", model_p_dropout=0.2)
    diffusion = yaml.safe_load(Path("configs/diffusion.yaml").read_text("utf-8"))
    diffusion["train"]["lr"] = 5e-4
    Path("configs/diffusion.yaml").write_text(yaml.safe_dump(diffusion))
    add("aaa first by name", 2)
    assert go("--micro") == 0
    values = config()
    assert values["spk"] == {"alto": 0, "tenor": 1, "aaa first by name": 2} and values["model"]["n_speakers"] == 3
    assert (values["train"]["batch_size"], values["train"]["my_note"], values["model"]["p_dropout"]) == (2, "mine", 0.2)
    diffusion = yaml.safe_load(Path("configs/diffusion.yaml").read_text("utf-8"))
    assert diffusion["train"]["lr"] == 5e-4 and diffusion["spk"] == values["spk"] and backups() == []


def test_a_speaker_that_is_gone_keeps_its_id(workspace):
    assert go() == 0
    shutil.rmtree("dataset/44k/alto")
    assert go() == 0
    assert config()["spk"] == {"alto": 0, "tenor": 1} and config()["model"]["n_speakers"] == 2


def test_another_network_keeps_the_old_config_beside_the_new(workspace, caplog):
    assert go("--micro") == 0
    edit(train_batch_size=3)
    assert go() == 0
    assert backups() == ["config.json.bak-1", "diffusion.yaml.bak-1"] and "config.json.bak-1" in caplog.text
    assert json.loads(Path("configs/config.json.bak-1").read_text())["train"]["batch_size"] == 3
    assert config()["model"]["hidden_channels"] == 192
    assert go("--micro") == 0 and backups()[:2] == ["config.json.bak-1", "config.json.bak-2"]


def test_one_more_flag_keeps_every_edit_and_names_what_is_reset(workspace, caplog):
    assert go() == 0
    edit(train_batch_size=3, train_learning_rate=5e-5, train_keep_ckpts=9, train_mine="x", model_p_dropout=0.3)
    edit(model_use_automatic_f0_prediction=False, model_n_layers=5)
    assert go("--vol_aug") == 0
    values = config()
    assert (values["train"]["batch_size"], values["train"]["learning_rate"], values["train"]["keep_ckpts"]) == (
        3,
        5e-5,
        9,
    )
    assert values["train"]["mine"] == "x" and values["model"]["p_dropout"] == 0.3 and values["model"]["n_layers"] == 5
    assert not values["model"]["use_automatic_f0_prediction"]
    assert values["model"]["vol_embedding"] and values["train"]["vol_aug"] and values["model"]["n_speakers"] == 2
    assert "(train.vol_aug False -> True, model.vol_embedding False -> True)" in caplog.text
    caplog.clear()
    assert go("--vol_aug", "--small") == 0
    values = config()
    assert (values["train"]["batch_size"], values["train"]["keep_ckpts"]) == (3, 9)
    assert values["model"]["n_layers"] == 4 and values["train"]["window_frames"] == 128
    assert "model.n_layers 5 -> 4" in caplog.text and "train.c_kl" in caplog.text
    assert load_config("configs/config.json").model.hidden_channels == 96


@pytest.mark.parametrize(
    "flags", [(), ("--tiny",), ("--small",), ("--micro",), ("--vol_aug",), ("--tf_flow", "--tiny")]
)
def test_an_edited_network_stays_when_the_same_flags_come_again(workspace, flags):
    assert go(*flags) == 0
    edit(model_n_layers=7, model_filter_channels=640, train_batch_size=3)
    before = config()
    assert go(*flags) == 0
    assert config() == before and backups() == []


def test_a_full_disk_loses_no_config(workspace, monkeypatch):
    assert go() == 0
    edit(train_batch_size=3)
    before = Path("configs/config.json").read_bytes()

    def write_json(path, *rest):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("modules.config.io.write_json", write_json)
    with pytest.raises(OSError, match="No space"):
        go("--vol_aug")
    assert Path("configs/config.json").read_bytes() == before


def test_lists_never_replace_a_recording_or_each_other(workspace):
    Path("raw").mkdir()
    soundfile.write("raw/song.wav", np.zeros(100), 44100)
    before = Path("raw/song.wav").read_bytes()
    for flags in (("--train_list", "raw/song.wav"), ("--train_list", "a.txt", "--val_list", "./a.txt")):
        with pytest.raises(UsageError):
            go(*flags)
    assert Path("raw/song.wav").read_bytes() == before and not Path("configs").exists()


def test_what_is_left_out_makes_the_code_one(workspace):
    Path("dataset/44k/alto/broken.wav").write_text("no audio")
    assert go() == 1 and len(read_list(Path("filelists/train.txt"))) == 12


def test_a_broken_config_is_set_aside_and_not_lost(workspace, caplog):
    Path("configs").mkdir()
    Path("configs/config.json").write_text('{"train": ')
    Path("configs/diffusion.yaml").write_text("[1")
    assert go() == 0
    assert Path("configs/config.json.bak-1").read_text() == '{"train": ' and "is kept as" in caplog.text
    assert backups() == ["config.json.bak-1", "diffusion.yaml.bak-1"] and config()["spk"] == {"alto": 0, "tenor": 1}


@pytest.mark.parametrize("encoder", [
    "vec768l12", "vec256l9", "hubertsoft", "whisper-ppg", "cnhubertlarge", "dphubert", "whisper-ppg-large",
    "wavlmbase+", "vec256l9-onnx", "vec256l12-onnx", "vec768l9-onnx", "vec768l12-onnx", "hubertsoft-onnx",
    "whisper-ppg-tiny", "whisper-ppg-small",
])  # fmt: skip
def test_every_encoders_width_reaches_both_configs(workspace, encoder):
    assert preprocess_flist_config.main(["--speech_encoder", encoder]) == 0
    model, width = config()["model"], encoder_dim(encoder)
    assert (model["ssl_dim"], model["gin_channels"], model["filter_channels"]) == (width, width, max(768, width))
    diffusion = yaml.safe_load(Path("configs/diffusion.yaml").read_text("utf-8"))
    assert diffusion["data"]["encoder_out_channels"] == width


def test_every_flag_reaches_the_config(workspace):
    assert go("--tiny", "--vol_aug", "--tf_flow", "--train_list", "l/t.txt", "--val_list", "l/v.txt") == 0
    values = config()
    assert values["model"]["filter_channels"] == 512 and values["model"]["upsample_initial_channel"] == 400
    assert values["model"]["vol_embedding"] and values["train"]["vol_aug"]
    assert values["model"]["use_transformer_flow"] and values["model"]["flow_share_parameter"]
    assert values["data"]["training_files"] == "l/t.txt" and len(read_list(Path("l/v.txt"))) == 3
    first = Path("l/t.txt").read_text()
    assert (
        go("--tiny", "--vol_aug", "--tf_flow", "--train_list", "l/t.txt", "--val_list", "l/v.txt", "--seed", "2") == 0
    )
    assert Path("l/t.txt").read_text() != first


def test_mistakes_are_refused_before_anything_is_written(workspace):
    with pytest.raises(UsageError, match="vec768l12"):
        preprocess_flist_config.main(["--speech_encoder", "vec768"])
    with pytest.raises(UsageError, match="choose one"):
        go("--tiny", "--micro")
    with pytest.raises(UsageError, match="choose one"):
        go("--small", "--micro")
    with pytest.raises(DataError, match=r"python resample\.py"):
        go("--source_dir", "nowhere")
    add("solo", 1)
    with pytest.raises(DataError, match=r"solo \(1\)"):
        go()
    assert not Path("configs").exists() and not Path("filelists").exists()
