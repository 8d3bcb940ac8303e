"""Config, lists and clips that disagree, each made on purpose in a workspace without a fault."""

import json
import os
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
from doctor_workspaces import CONFIG, DATA, RATE, bad, by_kind, change_config, make_workspace, the_one, write_clip

from modules.config.diffusion import DiffusionConfig, save_diffusion_config
from modules.config.edits import command_of
from modules.config.io import parse_config
from modules.config.presets import PRESETS, preset_values
from modules.data.filelist import read_list, write_list
from modules.doctor import choices
from modules.doctor.findings import Finding
from modules.doctor.settings import check_settings

TRAIN, VAL = Path("filelists/train.txt"), Path("filelists/val.txt")
ESCAPE = "\x1b[31mred.wav"


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A workspace that tests copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("workspace"))
        make_workspace(with_features=False)
        return Path.cwd()


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch, original):
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def check() -> list[Finding]:
    found = check_settings(CONFIG, DATA, show=False)
    assert all("\x1b" not in str(finding) for finding in found)
    return found


def only(kind: str) -> Finding:
    return the_one(check(), kind)


def test_a_clean_workspace_is_one_fact():
    (found,) = check()
    assert (found.level, found.kind) == ("info", "config") and "alto (id 0), bass (id 1); 8 clips" in found.text


def test_no_config_yet_says_what_comes_first():
    CONFIG.unlink()
    (found,) = check()
    assert found.level == "info" and found.remedy == "python preprocess_flist_config.py"
    shutil.rmtree(DATA)
    assert check()[0].remedy.startswith("python resample.py")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000, b'{"train": {"batch_size": 0}}'])
def test_a_config_that_cannot_be_read_is_one_line(content):
    CONFIG.write_bytes(content)
    (found,) = check()
    assert (found.level, found.kind) == ("error", "config") and found.remedy and "\n" not in str(found)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("place", ["configs/config.json", "filelists/train.txt", "configs/diffusion.yaml"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "broken link"])
def test_what_is_no_file_is_named_and_nothing_hangs(place, kind):
    path = Path(place)
    path.unlink(missing_ok=True)
    {"pipe": os.mkfifo, "folder": os.mkdir, "broken link": lambda at: path.symlink_to("nowhere")}[kind](path)
    found = check()
    if path.name == "diffusion.yaml" and kind == "broken link":
        return  # as if there were none
    assert any(path.name in finding.subject and finding.level != "info" for finding in found), found


def test_keys_that_nothing_reads_are_a_fact_and_a_misspelt_one_an_error():
    change_config("train", strange=1)
    (found,) = by_kind(check(), "keys")
    assert found.level == "info" and "train.strange" in found.text
    content = json.loads(CONFIG.read_text())
    del content["train"]["batch_size"]
    CONFIG.write_text(json.dumps({**content, "train": {**content["train"], "batchsize": 4}}))
    assert "Did you mean train.batch_size?" in str(only("config"))


def test_a_list_that_is_missing_or_empty_is_an_error():
    TRAIN.unlink()
    assert only("list").level == "error"
    TRAIN.write_text("\n")
    found = only("list")
    assert "lists no clips" in found.text and found.remedy.endswith(
        command_of(parse_config(json.loads(CONFIG.read_text())))
    )


def test_a_listed_clip_that_is_gone_is_an_error_with_the_command_that_keeps_the_network():
    (DATA / "alto/3.wav").unlink()
    found = only("list")
    assert found.level == "error" and "1 of its 8 lines" in found.text and found.files == (DATA / "alto/3.wav",)
    assert "preprocess_flist_config.py --tiny --vol_aug --speech_encoder whisper-ppg-base" in found.remedy


def test_listed_clips_of_a_speaker_without_id_are_an_error():
    (DATA / "alto").rename(DATA / "new")
    for path in (TRAIN, VAL):
        path.write_text(path.read_text().replace("/alto/", "/new/"))
    kinds = {(finding.kind, finding.level, finding.subject) for finding in check() if finding.level != "info"}
    assert kinds == {
        ("list", "error", "filelists/train.txt"),
        ("list", "error", "filelists/val.txt"),
        ("speakers", "warning", "configs/config.json"),
    }
    assert [finding.text.split(",")[0] for finding in by_kind(check(), "speakers")] == [
        "spk names alto",
        "spk has no id for new",
    ]


def test_clips_that_no_list_has_are_a_warning_with_all_of_them():
    new = [write_clip(DATA / "alto" / name, 300.0) for name in ("8.wav", ESCAPE)]
    found = only("unlisted")
    assert found.level == "warning" and set(found.files) == set(new) and "2 clips" in found.text


def test_clips_in_both_lists_and_twice_in_one_are_warnings():
    clips = read_list(TRAIN)
    write_list(TRAIN, [*clips, clips[0], DATA / "alto/0.wav"])
    found = {finding.kind: finding for finding in check() if finding.level != "info"}
    assert set(found) == {"repeated", "shared"}
    assert [path.name for path in found["shared"].files] == ["0.wav"] and "known by heart" in found["shared"].text
    assert "1 clip more than once" in found["repeated"].text


def test_a_speaker_of_whom_most_is_kept_for_validation_is_named_by_its_seconds():
    write_clip(DATA / "alto/0.wav", 300.0, 1.5)  # of 3.5 s
    found = only("validation")
    assert (found.level, found.subject) == ("warning", "alto") and "1.5 of 3.5 s (43 %)" in found.text
    write_clip(DATA / "alto/0.wav", 300.0, 4.0)
    assert only("validation").level == "error"


def test_a_speaker_without_validation_is_named():
    write_list(VAL, [DATA / "alto/0.wav"])
    write_list(TRAIN, [*read_list(TRAIN), DATA / "bass/0.wav"])
    found = only("validation")
    assert found.subject == "bass" and "never scored" in found.text


def test_a_speaker_without_clips_would_be_noise():
    change_config("model", n_speakers=3)
    change_config("", spk={"alto": 0, "bass": 1, "ghost": 2})
    assert "ghost" in only("speakers").text


def test_a_folder_of_clips_that_the_config_does_not_know_is_named():
    write_clip(DATA / "tenor ü/a.wav", 200.0)
    kinds = sorted(finding.kind for finding in check() if finding.level != "info")
    assert kinds == ["speakers", "unlisted"]
    change_config("", spk={})
    assert "spk names no speaker" in by_kind(check(), "speakers")[0].text


def test_clips_of_another_rate_are_an_error_with_the_command():
    soundfile.write(DATA / "alto/2.wav", soundfile.read(DATA / "alto/2.wav")[0], 22050)
    found = only("rate")
    assert found.level == "error" and found.files == (DATA / "alto/2.wav",) and "22050 Hz" in found.text
    assert found.remedy == f"python resample.py --sr2 {RATE}"


@pytest.mark.parametrize("content", [b"", b"RIFF and then nothing", bytes(5000)])
def test_a_listed_clip_that_is_no_audio_is_named(content):
    (DATA / "bass/2.wav").write_bytes(content)
    found = only("unreadable")
    assert found.level == "error" and found.files == (DATA / "bass/2.wav",)


def test_clips_that_are_shorter_than_a_slice_of_training_are_named():
    change_config("train", segment_size=512 * 50)  # 0.58 s
    found = only("short")
    assert found.level == "error" and "10 of 10" in found.text
    write_clip(DATA / "bass/2.wav", 120.0, 1.0)
    assert only("short").level == "warning"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"learning_rate": 0.05}, "learning_rate"),
        ({"learning_rate": 1e-7}, "learning_rate"),
        ({"eval_interval": 30_000}, "eval_interval"),
        ({"eval_interval": 1}, "eval_interval"),
        ({"batch_size": 9}, "batch_size"),
        ({"epochs": 3}, "epochs"),
        ({"keep_ckpts": 1}, "keep_ckpts"),
        ({"half_type": "fp32", "fp16_run": True}, "precision"),
    ],
)
def test_a_value_that_is_far_from_sense_is_a_warning_that_names_it(values, kind):
    change_config("train", **values)
    found = by_kind(check(), kind)
    assert found and all(finding.level == "warning" and finding.remedy for finding in found)
    assert {finding.kind for finding in check() if finding.level != "info"} == {kind}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("encoder", ["vec768l12", "whisper-ppg-base"])
def test_a_config_as_step_2_writes_it_has_no_value_to_complain_of(preset, encoder):
    config = parse_config(preset_values(preset, encoder, 512))
    assert list(choices.check_training(config, CONFIG, 30)) == []


def test_fp16_without_cuda_and_bf16_on_an_old_card_are_warnings(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    change_config("train", fp16_run=True)
    assert "needs CUDA" in only("precision").text
    change_config("train", half_type="bf16")
    assert bad(check()) == [], "bf16 works on a CPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "RTX 2080")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for capability, n_found in (((7, 5), 1), ((8, 6), 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index, it=capability: it)
        assert len(by_kind(check(), "precision")) == n_found


def test_clips_in_memory_that_the_machine_does_not_have_are_an_error(monkeypatch):
    change_config("train", all_in_mem=True)
    assert bad(check()) == []
    monkeypatch.setattr(choices, "memory", lambda: (10**7, 10**6))
    assert only("memory").level == "error"
    monkeypatch.setattr(choices, "memory", lambda: (None, None))
    assert bad(check()) == []


def test_volumes_that_no_part_of_the_network_hears_are_named():
    change_config("model", vol_embedding=False)
    change_config("train", vol_aug=True)
    found = only("vol_aug")
    assert "has no effect" in found.text and "--vol_aug" in found.remedy


def test_a_width_that_is_not_the_encoders_is_an_error():
    change_config("model", ssl_dim=768)
    found = only("encoder")
    assert found.level == "error" and "768" in found.text and "512" in found.text


def test_an_unknown_encoder_is_an_error_that_names_the_known_ones():
    change_config("model", speech_encoder="whisper-ppg-bse")
    assert "Did you mean whisper-ppg-base" in only("encoder").text


def test_a_diffusion_config_that_disagrees_is_a_warning_with_each_value():
    config = DiffusionConfig()
    config.data.encoder, config.data.encoder_out_channels = "whisper-ppg-base", 512
    config.spk = {"alto": 0, "bass": 1}
    path = CONFIG.with_name("diffusion.yaml")
    save_diffusion_config(config, path)
    assert bad(check()) == []
    config.data.encoder, config.data.block_size, config.spk = "vec768l12", 441, {"alto": 0}
    save_diffusion_config(config, path)
    found = only("diffusion")
    assert found.level == "warning"
    assert all(key in found.text for key in ("data.encoder is vec768l12", "data.block_size is 441", "spk is"))
    path.write_text("train: [")
    assert "cannot be read as YAML" in only("diffusion").text


def test_a_folder_that_may_not_be_listed_costs_only_itself(monkeypatch):
    plain = Path.iterdir

    def deny(self):
        if self.name == "alto":
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self)

    monkeypatch.setattr(Path, "iterdir", deny)
    assert bad(check()) == [], "its clips are listed, and can be read"
