"""Checkpoints are read without running anything, written whole, found by step."""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from damage import Payload, flip_a_bit

from modules.errors import CheckpointError
from modules.weights.checkpoint import (
    checksum_of,
    list_checkpoints,
    load_checkpoint,
    load_weights,
    save_together,
    save_weights,
    step_of,
)
from modules.weights.foreign import load_foreign


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", ["torch", "pickle"])
def test_a_file_that_wants_to_run_code_is_refused_and_does_not(tmp_path, save):
    path, proof = tmp_path / "G_1.pth", tmp_path / "ran"
    if save == "torch":
        torch.save({"model": Payload(os.mkdir, str(proof))}, path)
    else:
        path.write_bytes(pickle.dumps({"model": Payload(os.mkdir, str(proof))}))
    with pytest.raises(CheckpointError, match=r"G_1\.pth"):
        load_weights(path)
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"hello", b"broken", b"\x80\x02}"])
def test_a_damaged_file_is_one_line_with_its_name(tmp_path, content):
    path = tmp_path / "G_2.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"G_2\.pth") as caught:
        load_weights(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "G_3.pth"
    save_weights(path, {"model": {"w": torch.randn(1000)}})
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(CheckpointError, match="damaged"):
        load_weights(path)


def test_a_flipped_bit_is_refused_whoever_reads(tmp_path):
    path = tmp_path / "G_3.pth"
    save_weights(path, {"model": {"w": torch.randn(1000)}})
    flip_a_bit(path)
    for read in (load_weights, load_checkpoint, load_foreign):
        with pytest.raises(CheckpointError, match=r"G_3\.pth: damaged: .* does not match its checksum"):
            read(path)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.int8, torch.bool])
def test_a_flipped_bit_in_our_safetensors_is_refused(tmp_path, kind):
    from safetensors.torch import save_file

    path = tmp_path / "voice.safetensors"
    tensors = {"b": torch.ones(3, 5).to(kind), "a": torch.zeros((), dtype=kind), "none": torch.zeros(0, dtype=kind)}
    save_file(tensors, path, {"crc32": checksum_of(tensors)})
    content = load_checkpoint(path)
    assert torch.equal(content["model"]["b"], tensors["b"]) and "crc32" not in content
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"voice\.safetensors: damaged: .*checksum"):
        load_weights(path)


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="nothing is forbidden to them")
@pytest.mark.parametrize("name", ["G_3.pth", "G_3.safetensors"])
def test_what_may_not_be_read_is_not_called_damaged(tmp_path, name):
    path = tmp_path / name
    save_weights(path, {"model": {}})
    path.chmod(0)
    for read in (load_weights, load_foreign):
        with pytest.raises(CheckpointError, match=r"cannot be read \(permission denied\)") as caught:
            read(path)
        assert "delete" not in str(caught.value) and "damaged" not in str(caught.value)


def test_the_true_cause_is_named_where_opening_fails(tmp_path, monkeypatch):
    """As the test before, where tests run as root."""
    path = tmp_path / "G_3.pth"
    save_weights(path, {"model": {}})
    monkeypatch.setattr(Path, "open", lambda self, *_: (_ for _ in ()).throw(PermissionError(13, "no", str(self))))
    for read in (load_weights, load_foreign):
        with pytest.raises(CheckpointError, match=r"G_3\.pth: cannot be read \(permission denied\)") as caught:
            read(path)
        assert "delete" not in str(caught.value) and "damaged" not in str(caught.value)


def test_a_folder_is_called_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder; name a file in it"):
        load_weights(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="no such limit")
def test_a_disk_that_takes_no_more_is_named_as_the_cause(tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"G_3\.pth: could not be written \(the file system allows no file"):
            save_weights(tmp_path / "G_3.pth", {"model": {"w": torch.zeros(100_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_what_was_saved_is_loaded(tmp_path):
    for name in ("G_4.pth", "空 имя.pth"):
        save_weights(tmp_path / name, {"model": {"w": torch.arange(4.0)}, "iteration": 3})
        loaded = load_weights(tmp_path / name)
        assert loaded["iteration"] == 3 and loaded["model"]["w"].tolist() == [0, 1, 2, 3]


def test_files_that_belong_together_appear_together_or_not_at_all(tmp_path):
    paths = [tmp_path / "G_7.pth", tmp_path / "D_7.pth"]
    with pytest.raises(TypeError):
        save_together({paths[0]: {"w": torch.ones(2)}, paths[1]: {"w": (x for x in "no generator can be saved")}})
    assert list(tmp_path.iterdir()) == []
    save_together({path: {"w": torch.ones(2)} for path in paths})
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_checkpoints_are_ordered_by_step(tmp_path):
    for step in (0, 800, 10000, 9000):
        save_weights(tmp_path / f"G_{step}.pth", {"model": {}})
    (tmp_path / "G_old.pth").touch()
    assert [step_of(path) for path in list_checkpoints(tmp_path, "G")] == [0, 800, 9000, 10000]


def test_a_kill_while_writing_leaves_the_previous_file_whole(tmp_path):
    path = tmp_path / "G_5.pth"
    save_weights(path, {"model": {"w": torch.ones(10)}})
    code = (
        "import sys, torch; from modules.weights.checkpoint import save_weights\n"
        "big = {'model': {'w': torch.zeros(20_000_000)}}\n"
        "print('go', flush=True)\n"
        "while True: save_weights(sys.argv[1], big)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    writer.stdout.readline()
    time.sleep(0.05)
    writer.kill()
    writer.wait()
    assert load_weights(path)["model"]["w"].numel() in (10, 20_000_000)
