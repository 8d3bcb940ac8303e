"""Whatever file a user has, the inspector says what it is, runs nothing in it, and goes on after a broken one."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import Payload, flip_a_bit
from published import published, repeated, write_config
from tiny_diffusion import diffusion_config
from tiny_voices import tiny_config
from warm_start import finish

import inspect_model
from cluster.index_files import write_indexes
from cluster.kmeans import save_centres
from cluster.retrieval import train_index
from diffusion.unit2mel import build_unit2mel
from models import build_synthesizer
from modules.config.io import to_plain
from modules.errors import UsageError
from modules.f0.voice_range import VoiceRange
from modules.files import sha256_of
from modules.weights.checkpoint import save_weights

ROOT = Path(__file__).resolve().parent.parent
GENERATORS = published("generators")
KNOWN = VoiceRange((41, 81), (45, 76), "2026-12-01", ("pm",), "a.wav").to_plain()


@pytest.fixture
def look(capsys, tmp_path, monkeypatch):
    """Runs the script on files of an empty workspace; gives the exit code and the reports."""
    monkeypatch.chdir(tmp_path)

    def run(*paths):
        code = inspect_model.main(["--json", *map(str, paths)])
        return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def ours(path: Path, **extra) -> Path:
    config = tiny_config({"speech_encoder": "whisper-ppg-base"})
    config.spk = {"альт": 0, "bass": 1}
    config.model.ssl_dim = 512
    content = {"model": build_synthesizer(config).state_dict(), "iteration": 3, "step": 800, "config": to_plain(config)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, {**content, **extra})
    return path


def test_a_voice_of_ours_says_all_that_is_in_it(look, tmp_path):
    path = ours(tmp_path / "G_900.pth", card={"name": "x", "licence": "CC0"}, trained_model={}, n_averaged=2)
    code, [found] = look(path)
    assert code == 0
    assert (found["kind"], found["family"], found["encoder"]) == ("voice model", "this toolkit", "whisper-ppg-base")
    assert (found["step"], found["epoch"], found["sampling_rate"], found["hop_length"]) == (800, 3, 44100, 512)
    assert found["speakers"] == {"альт": 0, "bass": 1} and found["n_speakers"] == 2
    assert found["options"] == ["volume embedding", "automatic f0", "depthwise convolutions"]
    assert found["size_bytes"] == path.stat().st_size and found["sha256"] == sha256_of(path)
    assert (found["is_half"], found["is_compressed"], found["is_averaged"]) == (False, False, True)
    assert found["carries"] == "tensors and plain values" and found["card"] == {"name": "x", "licence": "CC0"}
    [need] = found["needs"]
    assert need["present"] and need["path"].endswith("whisper_base_encoder_int8.safetensors")
    assert "problem" not in found and "encoder_problem" not in found


def test_what_a_voice_needs_and_has_not_is_told_with_the_command(look, tmp_path, monkeypatch):
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", tmp_path)
    _, [found] = look(ours(tmp_path / "G_900.pth"))
    assert found["needs"] == [
        {"path": "pretrain/base.pt", "present": False, "get": "python pretrain/download.py whisper-base"}
    ]


@pytest.mark.parametrize(("name", "model", "family", "encoder"), [
    ("G_40_vec256", {"speech_encoder": None}, "so-vits-svc 4.0", "vec256l9"),
    ("G_41_snake", {"speech_encoder": "vec768l12"}, "so-vits-svc 4.1", "vec768l12"),
])  # fmt: skip
def test_a_published_voice_is_told_by_the_config_beside_it(look, tmp_path, name, model, family, encoder):
    values = {**GENERATORS[name]["model"], **model}
    write_config(tmp_path, {key: value for key, value in values.items() if value is not None})
    tensors = {key: value for key, value in repeated(GENERATORS[name]["shapes"], torch.float16).items()}
    save_weights(tmp_path / "G_1.pth", {"model": {key: tensors[key] for key in tensors if "enc_q" not in key}})
    code, [found] = look(tmp_path / "G_1.pth")
    assert (code, found["family"], found["encoder"]) == (0, family, encoder)
    assert found["is_half"] and found["is_compressed"] and "problem" not in found
    assert ("snake decoder" in found["options"]) == ("snake" in name)
    assert found["needs"][0]["path"] == "pretrain/checkpoint_best_legacy_500.pt"


def test_a_voice_that_does_not_fit_its_config_is_told_why(look, tmp_path):
    write_config(tmp_path, {**GENERATORS["G_41_tiny"]["model"], "n_speakers": 3})
    save_weights(tmp_path / "G_1.pth", {"model": repeated(GENERATORS["G_41_tiny"]["shapes"])})
    code, [found] = look(tmp_path / "G_1.pth")
    assert code == 0 and "emb_g.weight is [200, 768]" in found["problem"]
    (tmp_path / "config.json").unlink()
    _, [found] = look(tmp_path / "G_1.pth")
    assert "no config in the file" in found["config_problem"] and "vec768l12" in found["encoder_may_be"]


@pytest.mark.parametrize(("group", "name", "kind", "family"), [
    ("discriminators", "D", "discriminator", "so-vits-svc 4.0 or 4.1"),
    ("diffusion", "unit2mel_default_nspk3", "diffusion model", "so-vits-svc 4.1 or Diffusion-SVC"),
    ("generators", "nsf_hifigan_44k128", "mel vocoder", "nsf-hifigan"),
    ("encoders", "hubert_soft", "speech encoder", "hubertsoft"), ("f0_networks", "rmvpe_E2E0", "f0 network", "rmvpe"),
    ("f0_networks", "fcpe_default", "f0 network", "fcpe"),
])  # fmt: skip
def test_other_weights_are_told(look, tmp_path, group, name, kind, family):
    shapes = published(group)[name]
    save_weights(tmp_path / "x.pt", {"model": repeated(shapes.get("shapes", shapes))})
    code, [found] = look(tmp_path / "x.pt")
    assert (code, found["kind"], found["family"]) == (0, kind, family)


def test_a_diffusion_model_of_ours_says_what_it_needs(look, tmp_path):
    config = diffusion_config()
    save_weights(
        tmp_path / "model_20.pt",
        {"global_step": 20, "model": build_unit2mel(config, 8).state_dict(), "config": to_plain(config)},
    )
    _, [found] = look(tmp_path / "model_20.pt")
    assert (found["step"], found["mels"], found["encoder"]) == (20, 8, config.data.encoder)
    assert found["needs"][-1]["path"] == config.vocoder.ckpt and not found["needs"][-1]["present"]


def test_settings_of_other_tools_are_inert_and_named(look, small_encoders):
    code, [found] = look(small_encoders / "fairseq/base.pt")
    assert code == 0 and found["kind"] == "speech encoder" and found["layers"] == 3
    assert found["carries"] == "tensors and plain values, inert settings of collections, omegaconf, typing"


def test_the_embedded_encoder_is_the_published_one(look):
    _, reports = look(ROOT / "pretrain")
    [found] = [report for report in reports if report["kind"] == "speech encoder"]
    assert found["family"] == "whisper-base" and found["is_published_file"] and found["is_in_place"]
    assert found["encoder"] == ["whisper-ppg-base"]


def test_the_files_of_the_base_say_what_they_are(look):
    code, reports = look(ROOT / "pretrain/base-small")
    found = {Path(report["path"]).name: report for report in reports}
    assert code == 0 and found["D_0.pth"]["kind"] == "discriminator"
    voice = found["G_0.pth"]
    assert (voice["kind"], voice["encoder"], voice["n_speakers"]) == ("voice model", "whisper-ppg-base", 7)
    assert voice["is_compressed"] is False and voice["card"]["steps"] > 5000


def test_centres_and_indexes_of_both_forms_are_told(look, tmp_path):
    rows = np.random.default_rng(0).standard_normal((200, 256)).astype(np.float32)
    index = train_index(rows)
    save_centres(tmp_path / "kmeans_10000.pt", {"альт": rows[:20]})
    write_indexes(tmp_path, {"alto": (0, index)}, "vec256l9", 256)
    (tmp_path / "old.pkl").write_bytes(pickle.dumps({3: index}))
    code, reports = look(tmp_path)
    found = {Path(report["path"]).suffix: report for report in reports}
    assert code == 0 and all(report["units_width"] == 256 for report in reports)
    assert found[".pt"]["speakers"] == {"альт": "20 centres"} and "vec256l9" in found[".pt"]["encoder_may_be"]
    assert found[".json"]["speakers"] == {"alto": "id 0, 200 vectors"} and found[".json"]["encoder"] == "vec256l9"
    assert found[".pkl"]["speakers"] == {"id 3": "200 vectors"} and found[".faiss"]["vectors"] == 200


def test_a_graph_is_told_by_its_name(look, tmp_path):
    (tmp_path / "vec-768-layer-12.onnx").write_bytes(b"\x08\x07rest")
    (tmp_path / "bad.onnx").write_bytes(b"<html>")
    code, [bad, good] = look(tmp_path)
    assert code == 1 and "not an ONNX graph" in bad["error"]
    assert good["kind"] == "ONNX graph" and good["family"].startswith("vec768l12-onnx")


@pytest.mark.parametrize("name", ["evil.pth", "evil.pt", "evil.pkl", "evil"])
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle 2", "pickle 4"])
def test_what_a_file_would_run_is_named_and_does_not_run(look, tmp_path, name, form):
    marker, path = tmp_path / "ran", tmp_path / name
    content = {"model": {"w": torch.zeros(2)}, "x": [Payload(os.mkdir, str(marker))]}
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps({0: Payload(os.mkdir, str(marker))}, int(form[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    code, [found] = look(path)
    assert code == 1 and f"{os.mkdir.__module__}.mkdir" in found["asks_for"]
    assert "could run code, so it was not read" in found["error"] and not marker.exists()


def test_a_name_that_is_put_together_in_the_memo_is_found(look, tmp_path):
    """Module and function are texts of their own, remembered, dropped, and taken up again just before the call."""
    remembered = b"\x8c\x05posix\x94\x8c\x06system\x9400"
    (tmp_path / "sly.pkl").write_bytes(b"\x80\x04" + remembered + b"h\x00h\x01\x93\x8c\x02ls\x85R.")
    code, [found] = look(tmp_path / "sly.pkl")
    assert code == 1 and found["asks_for"] == ["posix.system"]


def test_a_broken_file_is_one_line_and_the_others_follow(tmp_path, capsys):
    whole = ours(tmp_path / "b/G_1.pth")
    data = whole.read_bytes()
    (tmp_path / "a.pth").write_bytes(data[:5000])
    (tmp_path / "c.pth").write_bytes(data)
    flip_a_bit(tmp_path / "c.pth")
    (tmp_path / ".hidden.pth").write_bytes(b"")
    (tmp_path / "song.wav.soft.pt").write_bytes(b"")
    assert inspect_model.main([str(tmp_path), str(tmp_path / "none.pth")]) == 1
    out = capsys.readouterr().out
    errors = [line for line in out.splitlines() if line.startswith("error: ")]
    assert [Path(line.split(": ")[1]).name for line in errors] == ["a.pth", "c.pth", "none.pth"]
    assert "cut short" in errors[0] and "does not match its checksum" in errors[1] and "no such file" in errors[2]
    assert "G_1.pth: voice model (this toolkit)" in out and "encoder            whisper-ppg-base" in out


def test_a_config_is_no_broken_index(look, tmp_path):
    (tmp_path / "config.json").write_text('{"model": {}}')
    code, (report,) = look("config.json")
    assert code == 1 and report["error"].startswith("config.json: is a config, not a feature index. Name a ")


def test_an_empty_folder_is_said(tmp_path):
    with pytest.raises(UsageError, match="no model files in"):
        inspect_model.main([str(tmp_path)])


def test_the_console_gets_a_report_and_the_exit_code(tmp_path):
    ours(tmp_path / "G_1.pth", card={"name": "alto", "f0_histograms": {"alto": [1]}, "ranges": {"alto": KNOWN}})
    done = finish([ROOT / "inspect_model.py", "G_1.pth", "none.pth"], cwd=tmp_path)
    assert done.returncode == 1 and not done.stderr
    assert "card: name         alto" in done.stdout and "f0_histograms" not in done.stdout
    assert "range              alto: comfortable A2-E5, sings F2-A5 (measured 2026-12-01 by pm)" in done.stdout
    assert "ranges" not in done.stdout
