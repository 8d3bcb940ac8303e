"""Damaged files that once crashed a reader, or made it ask for gigabytes, are refused in words.

Most were found by `test_fuzz.py`, the others by reading what its readers call.
"""

import math
import struct
import zipfile
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from cluster.index_files import parse_index, read_pickled_index
from cluster.kmeans import load_centres
from cluster.retrieval import train_index
from models import build_synthesizer
from modules.config.diffusion import load_diffusion_config
from modules.config.io import load_config, parse_config
from modules.config.schema import voice_parts
from modules.errors import CheckpointError, ConfigError
from modules.weights.checkpoint import check_whole, load_weights
from modules.weights.families import voice_weights
from modules.weights.foreign import array_of, load_foreign, stand_in
from modules.weights.state_dict import fit, fit_in_part

WIDTH = 4


def serialized_index() -> bytes:
    """An IVF index of 120 vectors."""
    rows = np.random.default_rng(0).standard_normal((120, WIDTH)).astype(np.float32)
    return bytes(faiss.serialize_index(train_index(rows)))


def checkpoint(folder: Path) -> bytes:
    torch.save({"model": {"w": torch.zeros(2, 3)}, "iteration": 3}, folder / "whole.pth")
    return (folder / "whole.pth").read_bytes()


@pytest.mark.parametrize(("changes", "message"), [
    ({"hidden_channels": 10**9}, "model.hidden_channels is 1000000000; expected less than or equal to 65536"),
    ({"n_layers": 10**9}, "model.n_layers is 1000000000; expected less than or equal to 128"),
    ({"filter_channels": 65536, "hidden_channels": 4096}, r"describes a network of \d\S+ parameters.*filter_channels"),
    ({"upsample_initial_channel": 65536}, "describes a network of .*upsample_initial_channel"),
    ({"resblock_dilation_sizes": [[1, 3, 10**9]] * 3}, "less than or equal to 4096"),
    ({"gin_channels": 65536, "n_speakers": 65536}, "describes a network of .*n_speakers, gin_channels"),
])  # fmt: skip
def test_a_network_that_no_machine_holds_is_refused_before_it_is_built(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse_config({"model": changes})


def test_the_size_that_is_reckoned_is_the_size_that_is_built():
    config = parse_config({"model": {"n_speakers": 7, "use_depthwise_conv": True}})
    with torch.device("meta"):
        built = sum(parameter.numel() for parameter in build_synthesizer(config).parameters())
    assert sum(voice_parts(config).values()) == pytest.approx(built, rel=0.02)


@pytest.mark.parametrize(("text", "message"), [
    ('{"a": ' + "[" * 100_000, "not a config"), ('{"train": {"seed": ' + "9" * 5000 + "}}", "not a config"),
    ('{"train": {"learning_rate": 1e999}}', "learning_rate is Infinity; expected a finite number"),
    ('{"data": {"mel_fmin": NaN}}', "mel_fmin is NaN; expected a finite number"),
    ('{"spk": ["alto", "alto"]}', "spk lists 'alto' twice"),
])  # fmt: skip
def test_json_that_python_chokes_on_is_refused(tmp_path, text, message):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "c.json")


@pytest.mark.parametrize(("text", "message"), [
    ("model: {a: 2001-99-99}", "cannot be read as YAML"), ("[" * 5000, "cannot be read as YAML"),
    ("? [a, b]\n: 1", "cannot be read as YAML"), ("model: {1: 2}", "model.1 is not a name"),
    ("data: {encoder: [vec768l12]}", "data.encoder is"), ("model: {n_chans: 60000}", "describes a network of"),
    ("train: {lr: .inf}", "finite"),
])  # fmt: skip
def test_yaml_that_python_chokes_on_is_refused(tmp_path, text, message):
    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_diffusion_config(tmp_path / "d.yaml")


def test_speakers_whose_names_are_numbers_in_yaml_keep_their_names(tmp_path):
    (tmp_path / "d.yaml").write_text("model: {n_spk: 2}\nspk: {7: 0, alto: 1}")
    assert load_diffusion_config(tmp_path / "d.yaml").spk == {"7": 0, "alto": 1}


def test_a_zip_that_says_it_spans_disks_is_damaged(tmp_path):
    """Python's own test for a zip raises on such a byte."""
    torch.save({"model": {}}, tmp_path / "a.pth")
    data = bytearray((tmp_path / "a.pth").read_bytes())
    at = data.rindex(b"PK\x06\x07")  # locator of the 64-bit end; its last four bytes count the disks
    data[at + 16 : at + 20] = struct.pack("<I", 3)
    (tmp_path / "a.pth").write_bytes(data)
    for reader in (load_weights, load_foreign, check_whole):
        with pytest.raises(CheckpointError, match=r"a\.pth: damaged"):
            reader(tmp_path / "a.pth")


def test_a_zip_whose_parts_are_called_encrypted_is_damaged(tmp_path):
    data = bytearray(checkpoint(tmp_path))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    data[data.index(b"PK\x03\x04") + 6] |= 1
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a\.pth: damaged .*encrypted"):
        check_whole(tmp_path / "a.pth")


def test_a_checkpoint_cut_short_is_called_so(tmp_path):
    (tmp_path / "a.pth").write_bytes(checkpoint(tmp_path)[:-100])
    for reader in (load_weights, load_foreign):
        with pytest.raises(CheckpointError, match=r"a\.pth: .*cut short"):
            reader(tmp_path / "a.pth")


def test_a_pickle_that_names_its_memo_by_billions_takes_no_memory(tmp_path):
    """The unpickler in C makes a table of 2^31 entries for this one byte and its number: 32 GB."""
    (tmp_path / "i.pkl").write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")
    assert read_pickled_index(tmp_path / "i.pkl") == {}


def test_lists_of_an_index_that_claim_billions_of_vectors_never_reach_faiss(tmp_path):
    """faiss believes the size of a list and fills that much memory."""
    data = bytearray(serialized_index())
    at = data.index(b"ilar") + 24 + 8
    for size in (2**33, 2**40, 0):
        data[at : at + 8] = struct.pack("<Q", size)
        with pytest.raises(CheckpointError, match="its lists do not hold 120 vectors"):
            parse_index(bytes(data), WIDTH, tmp_path / "i.faiss")


def test_an_index_that_says_it_was_never_trained_is_damaged(tmp_path):
    data = bytearray(serialized_index())
    data[4 + 4 + 24] = 0
    with pytest.raises(CheckpointError, match="never trained"):
        parse_index(bytes(data), WIDTH, tmp_path / "i.faiss")


@pytest.mark.parametrize(("tensor", "message"), [
    (lambda: torch.zeros(1).expand(10**12), "of 1000000000000 numbers"),
    (lambda: torch.empty(10**12, device="meta"), "without data"),
    (lambda: torch.eye(3).to_sparse(), "sparse"),
    (lambda: torch.quantize_per_tensor(torch.ones(3), 1, 0, torch.qint8), "quantised"),
])  # fmt: skip
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_tensor_that_no_model_has_is_refused_at_once(tmp_path, tensor, message, zipped):
    torch.save({"model": {"emb_g.weight": tensor()}}, tmp_path / "G_1.pth", _use_new_zipfile_serialization=zipped)
    for reader in (load_weights, load_foreign):
        with pytest.raises(
            CheckpointError, match=rf"G_1\.pth: (holds a tensor that is|refused).*({message}|holds more)"
        ):
            reader(tmp_path / "G_1.pth")


def repack(path: Path, method: int, **members: bytes) -> None:
    """Writes an archive again, with some members replaced."""
    with zipfile.ZipFile(path) as archive:
        content = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, members.get(Path(name).stem, data))


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    checkpoint(tmp_path)
    repack(tmp_path / "whole.pth", zipfile.ZIP_DEFLATED, data=b"0" * 10**8)
    for reader in (load_weights, load_foreign, check_whole):
        with pytest.raises(CheckpointError, match=r"whole\.pth: damaged .*data\.pkl is (compressed|100000000)"):
            reader(tmp_path / "whole.pth")


def test_what_is_nested_a_hundred_thousand_deep_is_no_voice(tmp_path):
    checkpoint(tmp_path)
    deep = b"\x80\x02}X\x05\0\0\0model" + b"}X\1\0\0\0a" * 100_000 + b"N" + b"s" * 100_001 + b"."
    repack(tmp_path / "whole.pth", zipfile.ZIP_STORED, data=deep)
    for reader in (load_weights, load_foreign):
        with pytest.raises(CheckpointError, match=r"whole\.pth: not a voice"):
            voice_weights(reader(tmp_path / "whole.pth"), tmp_path / "whole.pth")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(bad, kind):
    wanted = {"w": torch.zeros(100, dtype=kind), "n": torch.zeros(2, dtype=torch.long)}
    assert fit(wanted, wanted, "G_1.pth") == wanted
    assert fit({**wanted, "w": torch.full((100,), torch.finfo(kind).max, dtype=kind)}, wanted, "G_1.pth")
    broken = {**wanted, "w": torch.tensor([0.0] * 99 + [bad], dtype=kind)}
    for refuse in (fit, fit_in_part):
        with pytest.raises(CheckpointError, match=r"G_1\.pth: w holds numbers that are not finite"):
            refuse(broken, wanted, "G_1.pth")


def test_settings_with_an_unspeakable_name_are_refused(tmp_path):
    torch.save({"cfg": np.float32(1)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a.pt").read_bytes()
    name = b"multiarray\nscalar"
    assert name in data
    (tmp_path / "a.pt").write_bytes(data.replace(name, b"multiarray\nscal\0r"))
    with pytest.raises(CheckpointError, match="refused"):
        load_foreign(tmp_path / "a.pt")


def test_an_array_with_an_endless_side_is_damaged():
    array = stand_in("numpy.ndarray")((math.inf, 2), "<f4", b"")
    with pytest.raises(CheckpointError, match="where an array of numbers is expected"):
        array_of(array, "k.pt")


def test_centres_without_any_are_named(tmp_path):
    torch.save({"alto": {"cluster_centers_": np.zeros((0, 4), np.float32)}}, tmp_path / "k.pt")
    with pytest.raises(CheckpointError, match=r"the centres of alto have the shape \(0, 4\)"):
        load_centres(tmp_path / "k.pt")
