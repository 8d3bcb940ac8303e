"""Cheap mistakes end before torch is imported, in one line that says all that is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MISTAKES = [
    ("compress_model.py -i gone.pth", "-i/--input gone.pth: no such file"),
    ("compress_model.py -i folder.pth", "-i/--input folder.pth: is a folder"),
    ("compress_model.py -i G_1.pth --base new", "the discriminators beside it, D_1.pth: no such file"),
    ("mix_models.py -i gone.pth G_1.pth away.pth -w 1 2 3", "gone.pth: no such file or folder; -i/--input away.pth"),
    ("mix_models.py -i G_1.pth G_1.pth -w 1 2 -o G_1.pth", "inputs are never overwritten"),
    ("onnx_export.py -m gone.pth", "-m/--model gone.pth: no such file or folder; -c/--config config.json: no such"),
    ("onnx_export.py", "checkpoints/TransformerFlow/model.pth: no such file"),
    (
        "onnx_export.py --diffusion gone.pt",
        "--diffusion gone.pt: no such file or folder; --diffusion_config config.yaml",
    ),
    ("compare.py gone.wav away.wav", "gone.wav: no such file"),
    ("compare.py gone.wav away.wav -f0p nope", "unknown f0 predictor 'nope'"),
    ("evaluate.py -i gone.wav -m gone.pth -f0p nope", "(2) -m/--model_path gone.pth: no such file"),
    ("evaluate.py -i G_1.pth -m G_1.pth -c c.json", "G_1.pth: is empty (0 bytes)"),
    ("grid.py -n gone.wav -m gone.pth", "raw/gone.wav: no such file"),
    ("grid.py -n G_1.pth --seconds 0", "--seconds is 0; it must be 1 or more"),
    ("grid.py --votes gone.csv", "--votes gone.csv: no such file"),
    ("inspect_model.py gone.pth", "gone.pth: no such file"),
    ("preprocess_flist_config.py", "dataset/44k: no such folder"),
    ("preprocess_flist_config.py --speech_encoder vec768l", "Did you mean vec768l12?"),
    ("resample.py", "dataset_raw: no such folder"),
    ("doctor.py recordngs", "unknown section 'recordngs'. Did you mean recordings?"),
    ("doctor.py recordings --in_dir gone", "gone: no such folder"),
    ("doctor.py clips --html page.txt", "--html page.txt: expected a name that ends in .html"),
    ("resample.py --slice 15-5", "--slice 15-5: expected MIN-MAX in seconds"),
    ("separate.py gone.wav empty", "gone.wav: no such file or folder; empty: no such file or folder"),
    ("separate.py folder.pth", "folder.pth: holds no audio"),
    ("separate.py G_1.pth -m htdemux", "unknown model 'htdemux'. Did you mean htdemucs?"),
    ("separate.py G_1.pth -m gone.th", "-m/--model gone.th: no such file"),
    ("separate.py G_1.pth -m G_1.pth --config gone.yaml", "--config gone.yaml: no such file"),
    ("separate.py G_1.pth", "Get one with: python pretrain/download.py melband-roformer"),
    ("realtime.py --from gone.wav --to out.wav --block 9", "(2) gone.wav: no such file"),
    ("pretrain/download.py nonsense", "nonsense"),
    (
        "serve.py --host 0.0.0.0 -m gone.pth --queue 0 -d abacus",
        "(2) --queue is 0; expected more than 0 (3) -d/--device",
    ),
]


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages") / "torch"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('torch was imported')")
    return {**os.environ, "PYTHONPATH": str(folder.parent)}


@pytest.mark.parametrize(("command", "text"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_cheap_mistake_does_not_wait_for_torch(command, text, without_torch, tmp_path):
    (tmp_path / "G_1.pth").touch()
    (tmp_path / "folder.pth").mkdir()
    script, *words = command.split()
    done = subprocess.run(
        [sys.executable, ROOT / script, *words], cwd=tmp_path, env=without_torch, capture_output=True, text=True
    )
    said = done.stderr.strip() or done.stdout.strip()  # inspect_model.py reports on stdout
    assert text in said.replace("\\", "/") and len(said.splitlines()) == 1
    assert done.returncode == (1 if script == "inspect_model.py" else 2)
