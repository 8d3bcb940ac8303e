"""The card of a checkpoint is read without its tensors, and nothing in a file is run."""

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from modules.weights.about import peek_card
from modules.weights.card import read_card
from modules.weights.checkpoint import save_weights

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "pretrain" / "base-small" / "G_0.pth"


def test_it_is_the_card_that_torch_reads():
    assert peek_card(BASE) == read_card(BASE) and "ranges" in peek_card(BASE)


def test_no_torch_is_needed():
    code = (
        "import pathlib, sys; from modules.webui import pickers; card = pickers.peek_card(pathlib.Path(sys.argv[1])); "
    )
    code += "assert card['name'] == 'base-small' and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(BASE)], cwd=ROOT, check=True)


class Harmful:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    "content", [{"model": Harmful(), "card": {"name": "x"}}, {"card": Harmful()}, [1], {"card": [1]}, Harmful()]
)
def test_nothing_is_run_and_what_is_no_card_is_none(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("G_1.pth", "w") as archive:
        archive.writestr("G_1/data.pkl", pickle.dumps(content, 2))
    assert peek_card(Path("G_1.pth")) in ({}, {"name": "x"}) and not Path("ran").exists()


def test_damaged_old_and_missing_files_have_no_card(tmp_path):
    path = tmp_path / "G_1.pth"
    assert peek_card(path) == {}
    save_weights(path, {"model": {"x": torch.zeros(9)}, "card": {"name": "x"}})
    whole = path.read_bytes()
    assert peek_card(path) == {"name": "x"}
    at = whole.index(b"data.pkl") + 60
    for damaged in (
        whole[:200],
        whole[:at] + b"\xff" * 40 + whole[at + 40 :],
        b"",
        b"PK\x03\x04",
        pickle.dumps({"card": {}}),
    ):
        path.write_bytes(damaged)
        assert peek_card(path) == {}


@pytest.mark.skipif(os.name == "nt", reason="measures as Unix does")
def test_a_large_number_in_a_file_takes_no_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "G_1.pth", "w") as archive:
        archive.writestr("G_1/data.pkl", b"\x80\x02}r\xff\xff\xff\x7f.")  # place 2**31 - 1 of a table
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peek_card(tmp_path / "G_1.pth") == {}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
