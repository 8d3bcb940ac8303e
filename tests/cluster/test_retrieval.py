"""Feature retrieval: the blend against upstream's numbers, indexes on disk in both forms, and what is refused."""

import copyreg
import json
import pickle
import struct

import faiss
import numpy as np
import pytest
import torch
from golden_rule import load_golden, relative_difference, tensor
from made_up_units import with_names_of_numpy_1

from cluster import load_retriever
from cluster.index_files import parse_index, read_pickled_index, write_indexes
from cluster.retrieval import list_count, train_index
from modules.errors import CheckpointError

WIDTH = 8


def made_up(n: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def write(folder, **units):
    """An index of ours of the given speakers, ids from 0."""
    indexes = {name: (number, train_index(rows)) for number, (name, rows) in enumerate(units.items())}
    width = next(iter(units.values())).shape[1]
    return write_indexes(folder, indexes, "vec768l12", width)


def test_blending_gives_upstreams_numbers(tmp_path):
    """IVF training depends on faiss, so upstream's centroids are given; everything after them must agree."""
    golden = load_golden("rule/cluster_retrieval")
    vectors = np.random.RandomState(int(golden["in_big_seed"])).standard_normal((3000, 24)).astype(np.float32)
    assert list_count(3000) == int(golden["fr_n_ivf"]) == len(golden["fr_centroids"])
    quantizer = faiss.IndexFlatL2(24)
    quantizer.add(golden["fr_centroids"])
    index = faiss.IndexIVFFlat(quantizer, 24, 76, faiss.METRIC_L2)
    index.train(vectors)
    index.add(vectors)
    units = tensor(golden["in_c"])
    scores, ids = index.search(np.ascontiguousarray(units.T), 8)
    assert np.array_equal(ids, golden["fr_ix"]) and relative_difference(scores, golden["fr_score"]) < 1e-5
    (tmp_path / "feature_and_index.pkl").write_bytes(pickle.dumps({7: index}))
    for path, number in [
        (tmp_path / "feature_and_index.pkl", 7),
        (write_indexes(tmp_path, {"alto": (0, index)}, "vec768l12", 24), 0),
    ]:
        retriever = load_retriever(path, {"alto": number}, 24, feature_retrieval=True)
        blended = retriever.blend(units, "alto", 0.5)
        assert blended.dtype == torch.float32
        assert relative_difference(blended, golden["fr_mixed_0p5"].T) < 1e-5


@pytest.mark.parametrize("n, wanted", [(3, 0), (38, 0), (39, 1), (77, 1), (78, 2), (10000, 256), (200000, 5128)])
def test_the_number_of_lists_follows_the_number_of_frames(n, wanted):
    assert list_count(n) == wanted


@pytest.mark.parametrize("n", [1, 3, 38, 39, 500])
def test_every_frame_of_the_speaker_is_found_exactly(tmp_path, n):
    rows = made_up(n) * 10
    retriever = load_retriever(write(tmp_path, alto=rows), {"alto": 0}, WIDTH, feature_retrieval=True)
    units = torch.from_numpy(rows.T.copy())
    blended = retriever.blend(units, "alto", 1.0)
    assert blended.isfinite().all() and blended.equal(units)
    assert retriever.blend(units[:, :0], "alto", 1.0).shape == (WIDTH, 0)


def test_a_speaker_of_three_frames_gives_their_weighted_mean(tmp_path):
    rows = np.zeros((3, WIDTH), np.float32)
    rows[:, 0] = 1, 2, 4
    retriever = load_retriever(write(tmp_path, alto=rows), {"alto": 0}, WIDTH, feature_retrieval=True)
    blended = retriever.blend(torch.zeros(WIDTH, 1), "alto", 0.5)
    weights = np.array([1, 1 / 16, 1 / 256])  # squared distances are 1, 4 and 16
    assert blended[0, 0].item() == pytest.approx(0.5 * (weights / weights.sum() * [1, 2, 4]).sum(), rel=1e-6)


@pytest.mark.parametrize("distance", [1e-30, 1e-18, 1e-10, 1e-3, 1e3])
def test_the_nearest_frames_mean_is_finite_at_any_distance(tmp_path, distance):
    rows = np.zeros((2, WIDTH), np.float32)
    rows[:, 0] = distance, -distance
    retriever = load_retriever(write(tmp_path, alto=rows), {"alto": 0}, WIDTH, feature_retrieval=True)
    blended = retriever.blend(torch.zeros(WIDTH, 1), "alto", 1.0)
    assert blended.isfinite().all() and blended.abs().max() <= 1e-6 * distance


def test_an_exact_hit_in_several_vectors_gives_that_vector(tmp_path):
    rows = np.concatenate([np.ones((3, WIDTH)), np.zeros((3, WIDTH))]).astype(np.float32)
    retriever = load_retriever(write(tmp_path, alto=rows), {"alto": 0}, WIDTH, feature_retrieval=True)
    assert retriever.blend(torch.ones(WIDTH, 2), "alto", 1.0).allclose(torch.ones(WIDTH, 2))


def test_a_list_with_fewer_than_eight_vectors_is_enough(tmp_path):
    """One probe finds only what lies in its list: the other hits are missing (-1)."""
    rows = np.concatenate([made_up(90) * 0.01, made_up(2) * 0.01 + 100]).astype(np.float32)
    index = train_index(rows)
    unit = torch.full((WIDTH, 1), 101.0)
    _, ids = index.search(unit.T.numpy(), 8)
    assert (ids == -1).any() and (ids >= 0).any()
    path = write_indexes(tmp_path, {"alto": (0, index)}, "e", WIDTH)
    blended = load_retriever(path, {"alto": 0}, WIDTH, feature_retrieval=True).blend(unit, "alto", 1.0)
    assert (blended - 100).abs().max() < 0.1


def test_long_audio_is_searched_in_pieces_with_the_same_result(tmp_path, monkeypatch):
    path = write(tmp_path, alto=made_up(500))
    units = torch.from_numpy(made_up(100, seed=1).T.copy())
    whole = load_retriever(path, {"alto": 0}, WIDTH, feature_retrieval=True).blend(units, "alto", 0.7)
    monkeypatch.setattr("cluster.retrieval._SEARCH_BLOCK", 7)
    assert load_retriever(path, {"alto": 0}, WIDTH, feature_retrieval=True).blend(units, "alto", 0.7).allclose(whole)


def test_half_precision_units_stay_half(tmp_path):
    path = write(tmp_path, alto=made_up(50))
    retriever = load_retriever(path, {"alto": 0}, WIDTH, feature_retrieval=True)
    assert retriever.blend(torch.zeros(WIDTH, 2, dtype=torch.float16), "alto", 0.5).dtype == torch.float16


def test_large_sets_are_reduced_to_centres(monkeypatch):
    monkeypatch.setattr("cluster.retrieval.MAX_VECTORS", 300)
    monkeypatch.setattr("cluster.retrieval.N_CENTRES", 80)
    index = train_index(made_up(400))
    assert index.ntotal == 80 and index.nlist == 2 and index.nprobe == 1


def test_the_same_units_and_seed_give_the_same_file(tmp_path):
    first = json.loads(write(tmp_path / "a", alto=made_up(500)).read_text("utf-8"))
    assert first == json.loads(write(tmp_path / "b", alto=made_up(500)).read_text("utf-8"))
    assert first["encoder"] == "vec768l12" and first["width"] == WIDTH
    entry = first["speakers"]["alto"]
    assert entry["id"] == 0 and entry["n_vectors"] == 500
    assert entry["file"] == f"feature_and_index_0_{entry['sha256'][:8]}.faiss"


def test_files_of_an_earlier_index_go_and_others_stay(tmp_path):
    write(tmp_path, alto=made_up(50), bass=made_up(60))
    (tmp_path / "G_0.pth").touch()
    (tmp_path / "feature_and_index_mine.faiss").touch()
    named = json.loads(write(tmp_path, alto=made_up(50, seed=2)).read_text("utf-8"))["speakers"]["alto"]["file"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "G_0.pth", "feature_and_index_mine.faiss", "feature_and_index.json", named
    }  # fmt: skip


@pytest.mark.parametrize("n_in_file, n_wanted, is_fine", [(13, 12, True), (13, 13, True), (12, 13, False)])
@pytest.mark.parametrize("form", ["json", "pkl"])
def test_every_speaker_that_is_asked_for_must_be_there(tmp_path, form, n_in_file, n_wanted, is_fine):
    units = {f"s{number}": np.full((2, WIDTH), number, np.float32) for number in range(n_in_file)}
    path = write(tmp_path, **units)
    if form == "pkl":
        path = tmp_path / "feature_and_index.pkl"
        path.write_bytes(pickle.dumps({number: train_index(rows) for number, rows in enumerate(units.values())}))
    speakers = {f"s{number}": number for number in range(n_wanted)}
    if is_fine:
        retriever = load_retriever(path, speakers, WIDTH, feature_retrieval=True)
        assert retriever.blend(torch.zeros(WIDTH, 1), "s11", 1).eq(11).all()
    else:
        with pytest.raises(CheckpointError, match=r"holds no index of s12.* \(it has .*train_index\.py"):
            load_retriever(path, speakers, WIDTH, feature_retrieval=True)


def test_only_the_speaker_that_sings_is_read(tmp_path):
    path = write(tmp_path, alto=made_up(50), bass=made_up(60))
    for other in tmp_path.glob("feature_and_index_1_*.faiss"):
        other.unlink()
    retriever = load_retriever(path, {"alto": 0, "bass": 1}, WIDTH, feature_retrieval=True)
    retriever.blend(torch.zeros(WIDTH, 1), "alto", 0.5)
    with pytest.raises(CheckpointError, match=r"feature_and_index_1_\w+\.faiss: no such file, .*train_index\.py"):
        retriever.blend(torch.zeros(WIDTH, 1), "bass", 0.5)


class OldIndex:
    """Pickles as a faiss index whose bytes are held in a numpy array."""

    __class__ = faiss.IndexIVFFlat

    def __init__(self, index):
        self.held = faiss.serialize_index(index)

    def __reduce_ex__(self, protocol):
        return copyreg.__newobj__, (faiss.IndexIVFFlat,), {"this": self.held}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("form", ["bytes", "array", "array of numpy 1"])
@pytest.mark.parametrize("n", [20, 100], ids=["flat", "ivf"])
def test_a_pickle_of_so_vits_svc_is_read(tmp_path, n, form, protocol):
    index, path = train_index(made_up(n)), tmp_path / "feature_and_index.pkl"
    if form == "bytes":
        path.write_bytes(pickle.dumps({3: index}, protocol))
    else:
        path.write_bytes(pickle.dumps({3: OldIndex(index)}, protocol))
        assert b"numpy" in path.read_bytes()
    if form == "array of numpy 1":
        path.write_bytes(with_names_of_numpy_1(path.read_bytes()))
        assert b"_core" not in path.read_bytes()
    assert bytes(read_pickled_index(path)[3]) == faiss.serialize_index(index).tobytes()
    retriever = load_retriever(path, {"alto": 3}, WIDTH, feature_retrieval=True)
    assert np.allclose(retriever.blend(torch.from_numpy(made_up(n).T.copy()), "alto", 1.0).T, made_up(n))


@pytest.mark.parametrize(
    "content, message",
    [
        ([1, 2], "is not a dictionary of speaker ids and faiss indexes"),
        ({"alto": 1}, "is not a dictionary of speaker ids and faiss indexes"),
        ({0: b"IwFl"}, "is not a dictionary of speaker ids and faiss indexes"),
        ({0: np.ones(3)}, "is not a dictionary"),
        ({0: faiss.IndexPQ}, r"refused, .*IndexPQ"),
        ({0: print}, r"refused, .*builtins\.print"),
        ({0: faiss.read_index}, r"refused, .*read_index"),
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, content, message):
    path = tmp_path / "feature_and_index.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=rf"feature_and_index\.pkl: {message}"):
        read_pickled_index(path)


def test_a_pickle_that_is_cut_short_is_refused_at_every_length(tmp_path):
    path, data = tmp_path / "feature_and_index.pkl", pickle.dumps({0: train_index(made_up(40))})
    for length in range(0, len(data), 37):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"feature_and_index\.pkl: damaged"):
            read_pickled_index(path)


@pytest.mark.parametrize("n", [20, 100], ids=["flat", "ivf"])
def test_an_index_that_is_cut_short_is_refused_at_every_length(tmp_path, n):
    data = faiss.serialize_index(train_index(made_up(n))).tobytes()
    for length in [*range(0, len(data), 41), len(data) - 1]:
        with pytest.raises(CheckpointError, match=r"x\.faiss: "):
            parse_index(data[:length], WIDTH, tmp_path / "x.faiss")
    assert parse_index(data, WIDTH, tmp_path / "x.faiss").ntotal == n


@pytest.mark.parametrize(
    "kind, metric",
    [
        ("PQ2x4", faiss.METRIC_L2),
        ("IVF2,SQ8", faiss.METRIC_L2),
        ("IVF2_HNSW4,Flat", faiss.METRIC_L2),
        ("IVF2,Flat", faiss.METRIC_INNER_PRODUCT),
        ("Flat", faiss.METRIC_INNER_PRODUCT),
        ("HNSW4", faiss.METRIC_L2),
        ("PCA4,Flat", faiss.METRIC_L2),
    ],
)
def test_other_kinds_of_index_never_reach_faiss(tmp_path, monkeypatch, kind, metric):
    index = faiss.index_factory(WIDTH, kind, metric)
    index.train(made_up(700))
    data = faiss.serialize_index(index).tobytes()
    monkeypatch.setattr(faiss, "deserialize_index", lambda data: pytest.fail("reached faiss"))
    with pytest.raises(CheckpointError, match=r"x\.faiss: (is|keeps) "):
        parse_index(data, WIDTH, tmp_path / "x.faiss")


def test_an_index_whose_lists_lie_in_another_file_never_reaches_faiss(tmp_path, monkeypatch):
    data = faiss.serialize_index(train_index(made_up(100))).tobytes()
    monkeypatch.setattr(faiss, "deserialize_index", lambda data: pytest.fail("reached faiss"))
    with pytest.raises(CheckpointError, match="keeps its lists in an unknown form"):
        parse_index(data.replace(b"ilar", b"ilod"), WIDTH, tmp_path / "x.faiss")


def test_sizes_that_the_bytes_cannot_hold_never_reach_faiss(tmp_path, monkeypatch):
    data = bytearray(faiss.serialize_index(train_index(made_up(20))).tobytes())
    monkeypatch.setattr(faiss, "deserialize_index", lambda data: pytest.fail("reached faiss"))
    struct.pack_into("<q", data, 8, 10**9)
    with pytest.raises(CheckpointError, match="cannot hold 1000000000 vectors"):
        parse_index(data, WIDTH, tmp_path / "x.faiss")


@pytest.mark.parametrize("form", ["json", "pkl"])
def test_vectors_of_another_width_are_refused_with_both_widths(tmp_path, form):
    path = write(tmp_path, alto=made_up(50))
    if form == "pkl":
        path = tmp_path / "feature_and_index.pkl"
        path.write_bytes(pickle.dumps({0: train_index(made_up(50))}))
    with pytest.raises(CheckpointError, match=r"8 wide, but this model's units are 256: .*train_index\.py"):
        load_retriever(path, {"alto": 0}, 256, feature_retrieval=True).blend(torch.zeros(256, 1), "alto", 0.5)


def test_an_index_of_another_encoder_of_the_same_width_is_refused(tmp_path):
    path = write(tmp_path, alto=made_up(50))
    for own in ("vec768l12", "vec768l12-onnx", ""):
        load_retriever(path, {"alto": 0}, WIDTH, True, own)
    with pytest.raises(
        CheckpointError, match=r"json: its vectors are of units of vec768l12, but .* of wavlmbase\+.*train_index\.py"
    ):
        load_retriever(path, {"alto": 0}, WIDTH, True, "wavlmbase+")


@pytest.mark.parametrize("name", ["../x.faiss", "/etc/passwd", "a/b.faiss", "a\\b.faiss", "C:x.faiss", "..", ""])
def test_a_json_that_points_elsewhere_is_refused(tmp_path, name):
    path = write(tmp_path, alto=made_up(50))
    content = json.loads(path.read_text("utf-8"))
    content["speakers"]["alto"]["file"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"feature_and_index\.json: names the file .*expected one beside it"):
        load_retriever(path, {"alto": 0}, WIDTH, feature_retrieval=True)


@pytest.mark.parametrize("text", ["{", "{}", '{"width": 8, "speakers": []}', '{"width": 8, "speakers": {"a": 1}}'])
def test_a_damaged_json_is_refused(tmp_path, text):
    (tmp_path / "feature_and_index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"feature_and_index\.json: not an index .*train_index\.py"):
        load_retriever(tmp_path / "feature_and_index.json", {"alto": 0}, WIDTH, feature_retrieval=True)


def test_a_changed_index_file_is_refused(tmp_path):
    path = write(tmp_path, alto=made_up(50))
    file = next(tmp_path.glob("*.faiss"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"\.faiss: is not the file that feature_and_index\.json names"):
        load_retriever(path, {"alto": 0}, WIDTH, feature_retrieval=True).blend(torch.zeros(WIDTH, 1), "alto", 0.5)
