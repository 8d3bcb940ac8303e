"""One check for all readers: what is wrong with a file of features, training refuses and preprocessing mends."""

import dataclasses
import io
import os
import pickle
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from damage import Payload
from signals import sung
from tiny_voices import FakeEncoder, FakePredictor, tiny_config

from modules.config.vocoder import PUBLISHED_MEL
from modules.data import features
from modules.data.extraction import extract
from modules.data.features import COMMAND, FeatureRecipe, load, load_diffusion, load_units, missing, path_of
from modules.errors import DataError

AUDIO = tiny_config().audio
DIFFUSION_RECIPE = FeatureRecipe("fake:1", "dio", AUDIO, mel=PUBLISHED_MEL, seed=1234)
AUGMENTED = ("aug_mel", "aug_volume", "aug_shift")
FILES = ("units", "f0", "spec", "volume", "mel", *AUGMENTED)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """A clip with all of its features, which tests copy."""
    path = tmp_path_factory.mktemp("data") / "alto" / "a.wav"
    path.parent.mkdir()
    soundfile.write(path, sung(np.full(44100, 220.0), 44100), 44100)
    make(path)
    return path


@pytest.fixture
def clip(pristine, tmp_path) -> Path:
    folder = tmp_path / "alto"
    folder.mkdir()
    for path in pristine.parent.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
        stat = path.stat()
        os.utime(folder / path.name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return folder / "a.wav"


def make(clip: Path) -> list[str]:
    return extract(clip, DIFFUSION_RECIPE, FakeEncoder(), FakePredictor()).names


def read_all(clip: Path) -> None:
    """Everything that training, k-means and the index read."""
    load(clip, AUDIO, "fake", with_volume=True)
    load_diffusion(clip, AUDIO, PUBLISHED_MEL, "fake")
    load_units(clip, "fake")


def save(path: Path, value: object) -> None:
    if path.suffix == ".pt":
        torch.save(value, path)
    else:
        value = value.detach().to_dense().numpy() if isinstance(value, torch.Tensor) else value
        with path.open("wb") as file:
            np.save(file, value, allow_pickle=True)  # a test's own attack; the product never reads such a file


def npy_header(shape: tuple[int, ...], kind: str = "<f4", version: int = 1) -> bytes:
    text = str({"descr": kind, "fortran_order": False, "shape": shape}).encode() + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text


def announce(path: Path, shape: tuple[int, ...]) -> None:
    """A file of a few bytes whose header says that it holds `shape` numbers."""
    if path.suffix == ".npy":
        path.write_bytes(npy_header(shape) + bytes(64))
    else:
        torch.save(torch.zeros(1).expand(shape), path)


def rewrite_zip(path: Path, change) -> None:
    with zipfile.ZipFile(path) as archive:
        content = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in change(content).items():
            archive.writestr(name, data)


def spoil(path: Path, fault: str) -> None:
    content = path.read_bytes()
    value = torch.load(path, weights_only=True) if path.suffix == ".pt" else torch.from_numpy(np.load(path))
    shape = tuple(value.shape)
    spoilt = value.clone()
    if fault in ("nan", "inf", "huge"):
        spoilt.view(-1)[-1] = {"nan": np.nan, "inf": -np.inf, "huge": 3e38}[fault]
        save(path, spoilt)
    elif fault == "longer":
        save(path, torch.cat([value] * 9, 0 if "mel" in path.name else -1))
    elif fault == "shorter":
        save(path, value[..., :0])
    elif fault == "another axis":
        save(path, value[None])
    elif fault == "scalar":
        save(path, value.flatten()[0])
    elif fault in ("int64", "complex64", "bool"):
        save(path, value.to(getattr(torch, fault)))
    elif fault == "big-endian":
        save(path, value.numpy().astype(">f4") if path.suffix == ".npy" else value.numpy())
    elif fault == "text":
        save(path, np.full(shape, "a") if path.suffix == ".npy" else "a")
    elif fault == "dictionary":
        save(path, {"units": value})
    elif fault == "sparse":
        save(path, value.to_sparse() if path.suffix == ".pt" else np.array({"a": 1}))
    elif fault == "meta":
        save(path, value.to("meta") if path.suffix == ".pt" else np.array([None, 1]))
    elif fault == "parameter":
        save(path, torch.nn.Parameter(value) if path.suffix == ".pt" else np.array([value.numpy(), 3.0], object))
    elif fault == "announces":
        announce(path, (*shape[:-1], 10**12))
    elif fault == "announces its shape":
        announce(path, shape if len(shape) > 1 else (max(shape[0], 99),))
    elif fault == "announces negative":
        path.write_bytes(npy_header((-5,)) + bytes(64)) if path.suffix == ".npy" else path.write_bytes(b"PK\x05\x06")
    elif fault == "long header":
        header = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1)
        path.write_bytes(header + b" " * 4096)
    elif fault == "pickle":
        path.write_bytes(pickle.dumps(Payload(Path.touch, path.with_name("PWNED"))))
    elif fault == "pickle inside":
        payload = Payload(Path.touch, path.with_name("PWNED"))
        if path.suffix == ".npy":
            save(path, np.array([payload], object))
        else:
            rewrite_zip(path, lambda old: {n: pickle.dumps(payload) if "data.pkl" in n else d for n, d in old.items()})
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault in ("half", "cut"):
        path.write_bytes(content[: len(content) // 2] if fault == "half" else content[:-3])
    elif fault == "brackets":
        path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", 60000) + b"[" * 60000)
    elif fault == "archive":
        buffer = io.BytesIO()
        np.savez(buffer, value.numpy())
        path.write_bytes(buffer.getvalue())
    elif fault == "missing":
        path.unlink()
    elif fault == "link to nothing":
        path.unlink()
        path.symlink_to("nowhere")
    elif fault == "pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        raise AssertionError(fault)


FAULTS = """nan, inf, huge, longer, shorter, another axis, scalar, int64, complex64, bool, big-endian, text, dictionary,
sparse, meta, parameter, announces, announces its shape, announces negative, long header, pickle, pickle inside, empty,
half, cut, brackets, archive, missing, link to nothing, pipe""".replace("\n", " ").split(", ")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FILES)
def test_what_training_refuses_preprocessing_makes_again(clip, name, fault):
    if (fault == "pipe" and not hasattr(os, "mkfifo")) or ("link" in fault and os.name == "nt"):
        pytest.skip("no pipes here, or links need rights")
    path = path_of(clip, name)
    spoil(path, fault)
    with pytest.raises(DataError) as caught:
        read_all(clip)
    text = str(caught.value)
    assert str(path) in text and COMMAND in text and "\n" not in text and len(text) < 400
    feature = "augmented" if name in AUGMENTED else name
    assert missing(clip, DIFFUSION_RECIPE) == [feature] and make(clip) == [feature]
    read_all(clip)
    assert missing(clip, DIFFUSION_RECIPE) == [] and not (clip.parent / "PWNED").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_the_place_of_a_file_is_named_by_both(clip, name):
    path = path_of(clip, name)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="is a folder; remove it"):
        read_all(clip)
    with pytest.raises(DataError, match="is a folder, where a file of features belongs; remove it") as caught:
        make(clip)
    assert str(path) in str(caught.value)
    path.rmdir()
    make(clip)
    read_all(clip)


@pytest.mark.parametrize("kind", ["float64", "float16"])
def test_other_float_types_are_read_as_float32(clip, kind):
    path = path_of(clip, "units")
    save(path, torch.load(path, weights_only=True).to(getattr(torch, kind)))
    assert load(clip, AUDIO, "fake").units.dtype == torch.float32 and "units" not in missing(clip, DIFFUSION_RECIPE)


def test_negative_values_where_there_can_be_none_are_refused(clip):
    for name in ("f0", "spec", "volume"):
        path = path_of(clip, name)
        before = path.read_bytes()
        value = torch.load(path, weights_only=True) if name == "spec" else np.load(path)
        save(path, value * -1)
        with pytest.raises(DataError, match=rf"{path.name}: holds values from -.* which it never does"):
            read_all(clip)
        path.write_bytes(before)
    read_all(clip)


def test_units_of_another_width_than_the_config_are_made_again(clip):
    assert missing(clip, dataclasses.replace(DIFFUSION_RECIPE, unit_width=6)) == []
    assert missing(clip, dataclasses.replace(DIFFUSION_RECIPE, unit_width=7)) == ["units"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"features": {}, "files": 3}', "{" + " " * (1 << 20) + "}", "\x00"])
def test_a_sidecar_that_is_none_means_everything_is_made_again(clip, text):
    clip.with_name(clip.name + ".features.json").write_text(text, "utf-8")
    assert len(missing(clip, DIFFUSION_RECIPE)) == 6


def test_files_as_they_were_written_are_not_read_again(clip, monkeypatch):
    monkeypatch.setattr(features, "read_numbers", lambda *arguments: pytest.fail("the numbers were read"))
    started = time.monotonic()
    for _ in range(20):
        assert missing(clip, DIFFUSION_RECIPE) == []
    assert time.monotonic() - started < 2, "1000 clips take seconds"
