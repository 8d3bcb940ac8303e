"""Cluster centres: found, stored in so-vits-svc's layout, read without running anything, and blended."""

import pickle
import pickletools
import zipfile

import numpy as np
import pytest
import torch
from golden_rule import load_golden, relative_difference, tensor
from made_up_units import blobs, with_names_of_numpy_1

from cluster import load_retriever
from cluster.kmeans import KMeansRetriever, lloyd_centres, load_centres, save_centres, train_centres
from modules.errors import CheckpointError, UsageError

CPU = torch.device("cpu")


def gap(middles: np.ndarray, centres: np.ndarray) -> float:
    """The largest distance from a middle to the centre nearest to it."""
    return float(np.linalg.norm(middles[:, None] - centres[None], axis=-1).min(1).max())


def test_blending_gives_upstreams_numbers(tmp_path):
    golden = load_golden("rule/cluster_retrieval")
    save_centres(tmp_path / "kmeans_10000.pt", {"alto": golden["in_centers"]})
    retriever = load_retriever(tmp_path / "kmeans_10000.pt", {"alto": 0}, 24, feature_retrieval=False)
    units = tensor(golden["in_c"])
    for ratio in (0.3, 0.5, 1.0):
        blended = retriever.blend(units, "alto", ratio)
        assert blended.dtype == torch.float32 and relative_difference(blended, golden[f"mixed_{ratio}"]) < 1e-6
    assert np.array_equal(retriever.blend(units, "alto", 1).numpy(), golden["in_centers"][golden["cluster_ids"]].T)
    assert retriever.blend(units, "alto", 0).equal(units)
    assert retriever.blend(units[:, :0], "alto", 0.5).shape == (24, 0)


def test_many_centres_are_searched_in_pieces(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    save_centres(tmp_path / "k.pt", {"alto": random.standard_normal((500, 8)).astype(np.float32)})
    units = torch.from_numpy(random.standard_normal((8, 77)).astype(np.float32))
    whole = KMeansRetriever(tmp_path / "k.pt", {"alto": 0}, 8).blend(units, "alto", 0.5)
    monkeypatch.setattr("cluster.kmeans._CHUNK_NUMBERS", 3000)
    assert torch.allclose(KMeansRetriever(tmp_path / "k.pt", {"alto": 0}, 8).blend(units, "alto", 0.5), whole)


@pytest.mark.parametrize("n_blobs", [1, 5, 40])
@pytest.mark.parametrize("find", [train_centres, lloyd_centres], ids=["sklearn", "torch"])
def test_centres_of_separate_blobs_are_their_middles(find, n_blobs):
    units, middles = blobs(n_blobs, 60)
    centres = find(units, n_blobs, CPU, 1)
    assert centres.shape == middles.shape and centres.dtype == np.float32
    assert gap(middles, centres) < 0.1  # the mean of 60 frames is 0.05 * sqrt(6 / 60) = 0.016 off, mini-batches more


@pytest.mark.parametrize("find", [train_centres, lloyd_centres], ids=["sklearn", "torch"])
def test_the_same_seed_gives_the_same_centres(find):
    units = np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32)
    assert np.array_equal(find(units, 20, CPU, 3), find(units, 20, CPU, 3))
    assert not np.array_equal(find(units, 20, CPU, 3), find(units, 20, CPU, 4))


def test_both_ways_of_training_fit_as_well_as_full_k_means():
    from sklearn.cluster import KMeans

    units = np.random.default_rng(0).standard_normal((3000, 6)).astype(np.float32)

    def misfit(centres):
        return np.square(units[:, None] - centres[None]).sum(-1).min(1).mean()

    full = misfit(KMeans(50, n_init=1, random_state=0).fit(units).cluster_centers_)
    assert misfit(train_centres(units, 50, CPU)) < 1.1 * full
    assert misfit(lloyd_centres(units, 50, CPU)) < 1.05 * full


def test_frames_that_are_all_the_same_have_centres_too():
    units = np.ones((50, 4), np.float32)
    assert np.allclose(lloyd_centres(units, 5, CPU), 1)
    assert np.allclose(train_centres(units, 5, CPU), 1)


@pytest.mark.parametrize("device", [CPU, torch.device("meta")], ids=str)
def test_with_fewer_frames_than_clusters_each_frame_is_a_centre(device):
    units = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    assert np.array_equal(train_centres(units, 10, device), units)


def globals_in(path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    return {argument for opcode, argument, _ in pickletools.genops(data) if opcode.name == "GLOBAL"}


def test_the_file_names_nothing_that_numpy_1_lacks(tmp_path):
    save_centres(tmp_path / "k.pt", {"alto": np.ones((3, 4), np.float32)})
    assert globals_in(tmp_path / "k.pt") <= {"numpy ndarray", "__builtin__ bytearray", "_codecs encode"}


def test_so_vits_svc_reads_our_file(tmp_path):
    rows = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    save_centres(tmp_path / "k.pt", {"alto": rows, "bass": rows[:2]})
    content = torch.load(tmp_path / "k.pt", weights_only=False)  # as so-vits-svc reads; the file is this test's own
    assert list(content) == ["alto", "bass"]
    assert content["alto"]["n_features_in_"] == 4 and content["alto"]["_n_threads"] == 4
    centres = content["alto"]["cluster_centers_"]
    assert np.array_equal(centres, rows) and centres.dtype == np.float32 and centres.flags.writeable
    assert np.array_equal(load_centres(tmp_path / "k.pt")["alto"], rows)
    assert [path.name for path in tmp_path.iterdir()] == ["k.pt"]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_so_vits_svc_is_read(tmp_path, zipped, dtype, order):
    rows = np.asarray(np.arange(12).reshape(3, 4), dtype, order=order)
    content = {"alto": {"n_features_in_": 4, "_n_threads": 4, "cluster_centers_": rows}}
    torch.save(content, tmp_path / "k.pt", _use_new_zipfile_serialization=zipped)
    found = load_centres(tmp_path / "k.pt")["alto"]
    assert found.dtype == np.float32 and np.array_equal(found, rows)
    retriever = KMeansRetriever(tmp_path / "k.pt", {"alto": 0}, 4)
    assert retriever.blend(torch.zeros(4, 2), "alto", 1).equal(torch.tensor([[0.0, 1, 2, 3]] * 2).T)


def test_a_file_written_with_numpy_1_is_read(tmp_path):
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    torch.save({"alto": {"cluster_centers_": rows}}, tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as source, zipfile.ZipFile(tmp_path / "old.pt", "w") as target:
        for item in source.infolist():
            data = source.read(item)
            target.writestr(item.filename, with_names_of_numpy_1(data) if item.filename.endswith(".pkl") else data)
    assert globals_in(tmp_path / "old.pt") & {"numpy.core.multiarray _reconstruct"}
    assert np.array_equal(load_centres(tmp_path / "old.pt")["alto"], rows)


def test_centres_may_be_tensors(tmp_path):
    torch.save({"alto": {"cluster_centers_": torch.ones(3, 4, dtype=torch.float64)}}, tmp_path / "k.pt")
    assert load_centres(tmp_path / "k.pt")["alto"].dtype == np.float32


class Lies:
    """Pickles as an array whose bytes do not fill its shape."""

    def __reduce__(self):
        return np.ndarray, ((10**6, 10**6), "<f4", bytearray(8))


@pytest.mark.parametrize(
    "entry, message",
    [
        (5, "holds no cluster centres for 'alto'"),
        ({"cluster_centers_": "text"}, "holds a str where an array of numbers is expected"),
        ({"cluster_centers_": torch.ones(2, 2, dtype=torch.int64)}, "array of torch.int64"),
        ({"cluster_centers_": np.ones((2, 2), np.int32)}, "array of int32"),
        ({"cluster_centers_": np.ones((2, 2), "S3")}, "S3"),
        ({"cluster_centers_": np.ones(4, np.float32)}, r"the centres of alto have the shape \(4,\)"),
        ({"cluster_centers_": Lies()}, "damaged, 8 bytes for an array of the shape"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, entry, message):
    torch.save({"alto": entry}, tmp_path / "k.pt")
    with pytest.raises(CheckpointError, match=rf"k\.pt: .*{message}"):
        load_centres(tmp_path / "k.pt")


@pytest.mark.parametrize("n_in_file, n_wanted, is_fine", [(13, 12, True), (13, 13, True), (12, 13, False)])
def test_every_speaker_that_is_asked_for_must_be_there(tmp_path, n_in_file, n_wanted, is_fine):
    save_centres(tmp_path / "k.pt", {f"s{number}": np.full((2, 4), number, np.float32) for number in range(n_in_file)})
    speakers = {f"s{number}": number for number in range(n_wanted)}
    if is_fine:
        retriever = load_retriever(tmp_path / "k.pt", speakers, 4, feature_retrieval=False)
        assert retriever.blend(torch.zeros(4, 1), "s11", 1).eq(11).all()
    else:
        with pytest.raises(CheckpointError, match=r"holds no centres of s12 \(it has s0, .*train_cluster\.py"):
            load_retriever(tmp_path / "k.pt", speakers, 4, feature_retrieval=False)


def test_centres_of_another_width_or_not_finite_are_refused(tmp_path):
    save_centres(tmp_path / "k.pt", {"alto": np.ones((2, 4)), "bass": np.full((2, 4), np.nan)})
    with pytest.raises(CheckpointError, match=r"alto are 4 wide, but this model's units are 768: .*train_cluster\.py"):
        load_retriever(tmp_path / "k.pt", {"alto": 0}, 768, feature_retrieval=False)
    with pytest.raises(CheckpointError, match="bass are not finite"):
        load_retriever(tmp_path / "k.pt", {"bass": 1}, 4, feature_retrieval=False)


def test_a_missing_file_and_one_of_the_other_kind_name_the_command(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pt: no such file\. Make it with: python cluster/train_cluster"):
        load_retriever(tmp_path / "none.pt", {"alto": 0}, 4, feature_retrieval=False)
    with pytest.raises(CheckpointError, match=r"none\.json: no such file\. Make it with: python train_index\.py"):
        load_retriever(tmp_path / "none.json", {"alto": 0}, 4, feature_retrieval=True)
    save_centres(tmp_path / "k.pt", {"alto": np.ones((2, 4))})
    with pytest.raises(UsageError, match=r"k\.pt: holds cluster centres, .*train_index\.py"):
        load_retriever(tmp_path / "k.pt", {"alto": 0}, 4, feature_retrieval=True)
    for name, data in (("i.json", b"{}"), ("i.pkl", pickle.dumps({}))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError, match=rf"{name}: is a feature index, .*Add -fr, .*train_cluster\.py"):
            load_retriever(tmp_path / name, {"alto": 0}, 4, feature_retrieval=False)


def test_a_damaged_file_is_refused_by_name(tmp_path):
    save_centres(tmp_path / "k.pt", {"alto": np.ones((200, 4))})
    data = (tmp_path / "k.pt").read_bytes()
    (tmp_path / "k.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"k\.pt: damaged"):
        load_retriever(tmp_path / "k.pt", {"alto": 0}, 4, feature_retrieval=False)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_centres_are_found_and_blended_on_a_gpu(tmp_path):
    units, middles = blobs(40, 60)
    centres = train_centres(units, 40, torch.device("cuda"))
    assert gap(middles, centres) < 0.1
    save_centres(tmp_path / "k.pt", {"alto": centres})
    retriever = KMeansRetriever(tmp_path / "k.pt", {"alto": 0}, 6)
    rows = torch.from_numpy(units.T.copy())
    blended = retriever.blend(rows.cuda(), "alto", 0.5)
    assert blended.is_cuda and torch.allclose(blended.cpu(), retriever.blend(rows, "alto", 0.5), atol=1e-4)


def test_what_is_no_file_of_these_speakers_is_set_aside_and_their_own_is_replaced(tmp_path, caplog):
    path, rows = tmp_path / "kmeans_10000.pt", np.zeros((2, 3), np.float32)
    save_centres(path, {"alto": rows})
    save_centres(path, {"alto": rows, "bass": rows})
    assert not caplog.records
    save_centres(path, {"tenor": rows})
    assert load_centres(tmp_path / "kmeans_10000.pt.bak-1").keys() == {"alto", "bass"}
    path.write_text("mine")
    save_centres(path, {"tenor": rows})
    assert (tmp_path / "kmeans_10000.pt.bak-2").read_text() == "mine"
    assert "it is now kmeans_10000.pt.bak-2" in caplog.text


def test_centres_of_another_encoder_of_the_same_width_are_refused(tmp_path):
    path = tmp_path / "kmeans_10000.pt"
    rows = {"alto": np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)}
    save_centres(path, rows, "vec768l12")
    for encoder in ("vec768l12", "vec768l12-onnx", ""):
        KMeansRetriever(path, {"alto": 0}, 8, encoder)
    with pytest.raises(CheckpointError, match=r"are of units of vec768l12, but this model's are of dphubert\. Make"):
        KMeansRetriever(path, {"alto": 0}, 8, "dphubert")
    save_centres(path, rows)  # as so-vits-svc does
    KMeansRetriever(path, {"alto": 0}, 8, "dphubert")
