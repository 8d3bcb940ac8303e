"""Foreign checkpoints: settings turn inert, weights are found however they are wrapped, nothing in a file runs."""

import argparse
import functools
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from damage import Payload

from modules.errors import CheckpointError
from modules.weights.foreign import StandIn, load_foreign, plain
from modules.weights.state_dict import state_dict

FIXTURES = Path(__file__).resolve().parents[1] / "goldens" / "fairseq"


@pytest.mark.parametrize("name, key", [("base", "cfg"), ("dict", "cfg"), ("namespace", "args")])
def test_fairseqs_settings_are_read_in_all_three_forms(small_encoders, name, key):
    folder = small_encoders / "fairseq" if name == "base" else FIXTURES
    content = load_foreign(folder / f"{name}.pt")
    settings = plain(content[key])
    if name == "namespace":
        assert settings == {"arch": "hubert", "layers": 3, "nested": {"rate": 16000}}
        assert isinstance(content[key], StandIn) and content[key].class_name == "argparse.Namespace"
    else:
        model = settings["model"]
        assert (model["encoder_layers"], model["label_rate"], model["latent_temp"]) == (3, 50.0, [2, 0.5, 0.999995])
    assert "encoder.layers.0.fc1.weight" in state_dict(content, name)


WEIGHTS = {"conv.weight": torch.arange(6.0).view(2, 3), "conv.bias": torch.zeros(2)}


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_found_beside_settings(tmp_path, zipped):
    path = tmp_path / "weights.pt"
    content = {"model": WEIGHTS, "args": argparse.Namespace(rate=1), "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = state_dict(load_foreign(path), path)
    assert found.keys() == WEIGHTS.keys() and found["conv.weight"].equal(WEIGHTS["conv.weight"])


def test_what_was_saved_on_a_gpu_is_read_on_the_cpu(tmp_path):
    """torch writes the device's name beside each tensor; here it is put in by hand."""
    torch.save({"model": WEIGHTS}, tmp_path / "cpu.pt")
    with zipfile.ZipFile(tmp_path / "cpu.pt") as source, zipfile.ZipFile(tmp_path / "cuda.pt", "w") as target:
        for item in source.infolist():
            data = source.read(item)
            if item.filename.endswith("data.pkl"):
                tagged = data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
                assert tagged != data
                data = tagged
            target.writestr(item.filename, data)
    found = state_dict(load_foreign(tmp_path / "cuda.pt"), "cuda.pt")["conv.weight"]
    assert found.device.type == "cpu" and found.equal(WEIGHTS["conv.weight"])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "make, name",
    [
        (lambda marker: Payload(os.system, f"touch {marker}"), r"(posix|nt)\.system"),
        (lambda marker: Payload(exec, f"open({str(marker)!r}, 'w')"), r"builtins.exec|__builtin__.exec"),
        (lambda marker: Payload(getattr, Path(marker), "touch"), r"builtin.*\.getattr"),
        (lambda marker: Payload(functools.partial, os.mkdir, str(marker)), r"functools\.partial"),
        (lambda marker: Payload(torch.load, str(marker)), r"torch\.\S*load"),
    ],
)
def test_a_file_that_wants_to_run_something_is_refused_and_nothing_runs(tmp_path, make, name, zipped):
    marker = tmp_path / "ran"
    path = tmp_path / "evil.pt"
    content = {"model": WEIGHTS, "cfg": {"deep": [argparse.Namespace(inner=make(marker))]}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=rf"evil\.pt: refused.*({name})"):
        load_foreign(path)
    assert not marker.exists()


def test_the_payload_of_these_tests_would_run_otherwise(tmp_path):
    marker = tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(exec, f"open({str(marker)!r}, 'w')")))  # the attack itself
    assert marker.exists()


def test_a_bare_pickle_and_damage_are_refused(tmp_path):
    marker = tmp_path / "ran"
    for content in (pickle.dumps(Payload(os.mkdir, str(marker))), b"", b"<html>", b"PK\x03\x04 cut short"):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"bad\.pt: "):
            load_foreign(tmp_path / "bad.pt")
    assert not marker.exists()
    whole = (FIXTURES / "dict.pt").read_bytes()
    for cut in (100, len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut.pt").write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"cut\.pt: "):
            load_foreign(tmp_path / "cut.pt")
    with pytest.raises(CheckpointError, match="no such file"):
        load_foreign(tmp_path / "absent.pt")
