"""Checkpoints are read without running anything, written whole, found by step."""

import os
import pickle
import subprocess
import sys
import time

import pytest
import torch
from damage import Payload

from modules.errors import CheckpointError
from modules.weights.checkpoint import (
    list_checkpoints,
    load_weights,
    save_together,
    save_weights,
    step_of,
)


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
