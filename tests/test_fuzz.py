"""Whatever bytes or values stand in a file: a reader gives what it holds or one clear line, in no time and no memory.

Files are cut, bits are flipped, sizes are overwritten; configs get wrong values, keys and numbers. The examples are the
same in every run. What was found once has a test of its own in `test_damaged_files.py`.
"""

import json
import math
import pickle
import struct
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
import soundfile
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cluster import load_retriever
from cluster.index_files import parse_index, read_pickled_index, write_indexes
from cluster.kmeans import save_centres
from cluster.retrieval import train_index
from inspect_model import inspect
from models import build_synthesizer
from modules.audio.io import probe, read
from modules.config.diffusion import DiffusionConfig, load_diffusion_config
from modules.config.io import load_config, save_config, to_plain
from modules.config.schema import MOST_PARAMETERS, Config
from modules.config.vocoder import load_vocoder_config
from modules.errors import UserError
from modules.inference.speaker_mix import load_mix
from modules.weights.checkpoint import check_whole, load_weights
from modules.weights.foreign import load_foreign

WIDTH = 4
SECONDS = 5.0  # for one example, on a busy machine; they take milliseconds
MEMORY = 6 << 30  # bytes beyond what the process has: torch and faiss reserve some, none of it is used
SPEAKERS = {"alto": 0, "бас": 1}
VOCODER = {
    "sampling_rate": 44100, "num_mels": 8, "n_fft": 64, "win_size": 64, "hop_size": 8, "fmin": 40, "fmax": 16000,
    "upsample_rates": [4, 2], "upsample_kernel_sizes": [8, 4], "upsample_initial_channel": 4,
    "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1]],
}  # fmt: skip
MIX = {"unit": "seconds", "tracks": {"alto": [[0, 1, 1, 0.5], [1, 2, 0.5, 0]], "1": [[0, 2, 0, 1]]}}


def fuzz(n_examples: int):
    """Settings of a test: the same examples in every run, none of them kept on disk."""
    return settings(
        max_examples=n_examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


@pytest.fixture(autouse=True, scope="module")
def little_memory():
    """A reader that asks for gigabytes does not get them."""
    resource = pytest.importorskip("resource") if sys.platform == "linux" else None
    if resource is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def survives(reader, path: Path) -> bool:
    """Whether the reader gave something; else it raised an error of ours, in one line, with the file's name."""
    started = time.perf_counter()
    try:
        reader(path)
    except UserError as error:
        text = str(error)
        assert path.name in text and "\n" not in text and len(text) < 2000
        return False
    finally:
        assert time.perf_counter() - started < SECONDS
    return True


# --- bytes -----------------------------------------------------------------------------------------------------------


@st.composite
def damage(draw, size: int) -> list[tuple[str, int, bytes]]:
    """What is done to a file of that size: ("cut", where, b"") or ("put", where, bytes) or ("flip", where, mask)."""
    anywhere = st.integers(0, size - 1)
    number = st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**40, 2**62, 2**64 - 1]).map(
        lambda value: struct.pack("<Q", value)
    )
    change = st.one_of(
        st.tuples(st.just("flip"), anywhere, st.integers(0, 7).map(lambda bit: bytes([1 << bit]))),
        st.tuples(st.just("put"), anywhere, st.one_of(number, st.binary(min_size=1, max_size=12))),
        st.tuples(st.just("cut"), anywhere, st.just(b"")),
    )
    return draw(st.lists(change, min_size=1, max_size=3))


def damaged(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    found = bytearray(data)
    for kind, where, value in changes:
        if kind == "cut":
            del found[where:]
        elif kind == "put":
            found[where : where + len(value)] = value
        elif where < len(found):
            found[where] ^= value[0]
    return bytes(found)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> SimpleNamespace:
    """A small whole file of each kind, and a place for damaged ones."""
    folder = tmp_path_factory.mktemp("whole")
    weights = {"w": torch.arange(6.0).view(2, 3), "emb_g.weight": torch.zeros(2, 4).half()}
    torch.save({"model": weights, "iteration": 3, "card": {"name": "x"}}, folder / "zip.pth")
    torch.save({"model": weights}, folder / "old.pth", _use_new_zipfile_serialization=False)
    save_file(weights, folder / "bare.safetensors", {"card": "{}"})
    rows = np.random.default_rng(0).standard_normal((120, WIDTH)).astype(np.float32)
    save_centres(folder / "centres.pt", {"alto": rows[:5]})
    torch.save({"alto": {"cluster_centers_": rows[:5], "n_features_in_": WIDTH}}, folder / "published.pt")
    index = train_index(rows)
    (folder / "index.pkl").write_bytes(pickle.dumps({0: index}))
    write_indexes(folder, {"alto": (0, index)}, "vec256l9", WIDTH)
    (folder / "flat.faiss").write_bytes(bytes(faiss.serialize_index(train_index(rows[:20]))))
    (folder / "lists.faiss").write_bytes(bytes(faiss.serialize_index(index)))
    song = np.sin(np.arange(2000) / 9).astype(np.float32)
    for suffix in ("wav", "flac", "aiff", "au", "ogg", "caf", "w64", "mp3"):
        soundfile.write(folder / f"song.{suffix}", song, 44100)
    (folder / "spkmix.json").write_text(json.dumps(MIX), "utf-8")
    (folder / "spkmix.py").write_text("spk_mix_map = {0: [[0, 1, 1, 0]], 1: [[0, 0.5, 0, 1], [0.5, 1, 1, 1]]}")
    (folder / "config.json").write_text(json.dumps(to_plain(Config())), "utf-8")
    (folder / "diffusion.yaml").write_text(yaml.safe_dump(to_plain(DiffusionConfig())), "utf-8")
    return SimpleNamespace(whole=folder, broken=tmp_path_factory.mktemp("broken"))


def use_centres(path: Path) -> None:
    load_retriever(path, {"alto": 0}, WIDTH, False).blend(torch.ones(WIDTH, 3), "alto", 0.5)


def use_index(path: Path) -> None:
    load_retriever(path, {"alto": 0}, WIDTH, True).blend(torch.ones(WIDTH, 3), "alto", 0.5)


def use_faiss(path: Path) -> None:
    index = parse_index(path.read_bytes(), WIDTH, path)
    index.search_and_reconstruct(np.ones((2, WIDTH), np.float32), 3)


def use_audio(path: Path) -> None:
    assert probe(path).n_samples >= 0
    assert np.isfinite(read(path)[0]).all()


READERS = [
    ("zip.pth", load_weights), ("zip.pth", load_foreign), ("zip.pth", check_whole), ("old.pth", load_weights),
    ("old.pth", load_foreign), ("bare.safetensors", load_weights), ("centres.pt", use_centres),
    ("published.pt", use_centres), ("index.pkl", use_index), ("feature_and_index.json", use_index),
    ("flat.faiss", use_faiss), ("lists.faiss", use_faiss), ("spkmix.json", lambda path: load_mix(path, SPEAKERS)),
    ("spkmix.py", lambda path: load_mix(path, SPEAKERS)), ("config.json", load_config),
    ("diffusion.yaml", load_diffusion_config),
    *[(f"song.{suffix}", use_audio) for suffix in ("wav", "flac", "aiff", "au", "ogg", "caf", "w64", "mp3")],
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:Defining your")
@pytest.mark.parametrize(("name", "reader"), READERS, ids=lambda value: getattr(value, "__name__", value))
def test_a_damaged_file_is_read_or_refused(files, name, reader):
    data = (files.whole / name).read_bytes()
    assert survives(reader, files.whole / name)

    @fuzz(60)
    @given(damage(len(data)))
    def check(changes):
        path = files.broken / name
        path.write_bytes(damaged(data, changes))
        survives(reader, path)

    check()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:Defining your")
@pytest.mark.parametrize("name", ["zip.pth", "old.pth", "bare.safetensors", "centres.pt", "index.pkl", "lists.faiss"])
def test_the_inspector_reports_on_any_bytes(files, name):
    data = (files.whole / name).read_bytes()

    @fuzz(40)
    @given(damage(len(data)))
    def check(changes):
        path = files.broken / name
        path.write_bytes(damaged(data, changes))
        found = inspect(path)
        assert ("error" in found) != ("kind" in found) and json.dumps(found)

    check()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".json", ".yaml", ".wav", ".pkl", ".faiss", ".onnx"])
def test_any_bytes_at_all_are_refused(files, suffix):
    reader = {".json": load_config, ".yaml": load_diffusion_config, ".wav": use_audio, ".pkl": read_pickled_index}
    reader = reader.get(suffix, load_weights if suffix in (".pth", ".safetensors") else inspect)

    @fuzz(60)
    @given(st.binary(max_size=200))
    def check(data):
        path = files.broken / f"any{suffix}"
        path.write_bytes(data)
        survives(reader, path)

    check()


# --- values ----------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2, 3, 10**9, 2**31, 2**63, 10**400, 0.5, 1e308, math.inf, -math.inf, math.nan]),
    st.integers(),
    st.floats(),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=6), inner, max_size=3),
        st.lists(NUMBERS, max_size=9),
    ),
    max_leaves=6,
)


def places(values: dict) -> list[tuple[str, ...]]:
    """Every key of a config, with the keys above it."""
    below = [(key, *rest) for key, value in values.items() if isinstance(value, dict) for rest in places(value)]
    return [(key,) for key in values] + below


@st.composite
def changed(draw, values: dict) -> dict:
    """A config with up to three values replaced, keys dropped, or keys renamed."""
    found = json.loads(json.dumps(values))
    for place in draw(st.lists(st.sampled_from(places(values)), min_size=1, max_size=3)):
        section = found
        for key in place[:-1]:
            section = section.get(key) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            continue
        what = draw(st.sampled_from(["value", "number", "drop", "rename"]))
        value = section.pop(place[-1], None)
        if what == "rename":
            section[draw(st.one_of(st.text(max_size=12), st.just(place[-1][:-1]), st.just(place[-1].upper())))] = value
        elif what != "drop":
            section[place[-1]] = draw(NUMBERS if what == "number" else VALUES)
    return found


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_config_with_any_values_is_refused_or_kept_and_never_asks_for_a_huge_network(tmp_path):
    n_built = 0

    @fuzz(250)
    @given(changed({**to_plain(Config()), "spk": SPEAKERS}))
    def check(values):
        nonlocal n_built
        path = tmp_path / "config.json"
        path.write_text(json.dumps(values), "utf-8")
        if not survives(load_config, path):
            return
        config = load_config(path)
        save_config(config, path)
        assert repr(to_plain(load_config(path))) == repr(to_plain(config))
        if config.model != Config().model and n_built < 8:  # which takes longer than all else
            n_built += 1
            with torch.device("meta"):
                network = build_synthesizer(config)
            assert sum(parameter.numel() for parameter in network.parameters()) < 1.1 * MOST_PARAMETERS

    check()
    assert n_built > 5


def test_a_diffusion_config_with_any_values_is_refused_or_kept(tmp_path):
    @fuzz(150)
    @given(changed({**to_plain(DiffusionConfig()), "spk": SPEAKERS}))
    def check(values):
        path = tmp_path / "diffusion.yaml"
        path.write_text(yaml.safe_dump(values, allow_unicode=True), "utf-8")
        survives(load_diffusion_config, path)

    check()


def test_a_vocoders_config_with_any_values_is_refused_or_kept(tmp_path):
    @fuzz(150)
    @given(changed(VOCODER))
    def check(values):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(values), "utf-8")
        survives(load_vocoder_config, path)

    check()


def test_a_mix_with_any_values_is_refused_or_sums_to_one(tmp_path):
    @fuzz(200)
    @given(
        st.one_of(changed(MIX), st.dictionaries(st.sampled_from(["alto", "бас", "0", "1", "x"]), VALUES, max_size=2))
    )
    def check(values):
        path = tmp_path / "spkmix.json"
        path.write_text(json.dumps(values), "utf-8")
        if survives(lambda path: load_mix(path, SPEAKERS), path):
            weights = load_mix(path, SPEAKERS).weights(np.linspace(-1, 3, 9), 2.0)
            assert np.allclose(weights.sum(0), 1) and (weights >= 0).all()

    check()
