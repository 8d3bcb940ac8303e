"""cluster/train_cluster.py and train_index.py from made-up units to a file that blends."""

import json
import os
import pickle
import pickletools
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
import soundfile
import torch
from made_up_units import WIDTH, write_dataset, write_units

import train_index
from cluster import load_retriever, train_cluster
from cluster.kmeans import load_centres
from modules.config.io import parse_config, save_config
from modules.errors import ConfigError, DataError, UsageError
from modules.files import sha256_of
from modules.text import quote

ROOT = Path(__file__).resolve().parent.parent.parent
SPEAKERS = {"alto": 0, "bass": 1}


def write_config(speakers: dict[str, int] = SPEAKERS, width: int = WIDTH) -> None:
    model = {"ssl_dim": width, "n_speakers": 2, "speech_encoder": "fake"}
    save_config(parse_config({"model": model, "spk": speakers}), Path("configs/config.json"))


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    """A folder with units of two speakers and a config."""
    monkeypatch.chdir(tmp_path)
    write_dataset(Path("dataset/44k"), {"alto": 120, "bass": 5})
    Path("configs").mkdir()
    write_config()


def test_centres_are_made_and_blend(caplog, capsys):
    assert train_cluster.main(["--n_clusters", "10"]) == 0
    path = Path("logs/44k/kmeans_10000.pt")
    assert {name: rows.shape for name, rows in load_centres(path).items()} == {"alto": (10, 6), "bass": (5, 6)}
    retriever = load_retriever(path, SPEAKERS, WIDTH, feature_retrieval=False)
    assert retriever.blend(torch.zeros(WIDTH, 3), "bass", 0.5).shape == (WIDTH, 3)
    assert "bass has 5 frames only" in caplog.text and "alto has" not in caplog.text
    last = capsys.readouterr().out.strip()
    assert last.startswith("Next: python inference_main.py ") and "-cm logs/44k/kmeans_10000.pt -cr 0.5" in last


def test_an_index_is_made_and_blends(capsys):
    assert train_index.main([]) == 0
    path = Path("logs/44k/feature_and_index.json")
    content = json.loads(path.read_text("utf-8"))
    assert (content["encoder"], content["width"]) == ("fake", WIDTH)
    assert {name: entry["n_vectors"] for name, entry in content["speakers"].items()} == {"alto": 120, "bass": 5}
    retriever = load_retriever(path, SPEAKERS, WIDTH, feature_retrieval=True)
    assert retriever.blend(torch.zeros(WIDTH, 3), "alto", 0.5).shape == (WIDTH, 3)
    assert "-cm logs/44k/feature_and_index.json -fr -cr 0.5" in capsys.readouterr().out


def test_the_index_goes_back_to_so_vits_svc(caplog):
    """What faiss is called in the file must not depend on what this CPU can do."""
    Path("logs/44k").mkdir(parents=True)
    Path("logs/44k/feature_and_index.pkl").write_bytes(b"notes of mine")
    assert train_index.main(["--upstream"]) == 0 and "holds something else: it is now" in caplog.text
    path = Path("logs/44k/feature_and_index.pkl")
    names = [text for code, text, _ in pickletools.genops(path.read_bytes()) if code.name == "GLOBAL"]
    assert names == ["faiss IndexIVFFlat", "faiss IndexFlat"]
    theirs = pickle.loads(path.read_bytes())  # as so-vits-svc reads; the file is this test's own
    ours = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert list(theirs) == [0, 1]
    for entry in ours["speakers"].values():
        mine = faiss.deserialize_index(np.fromfile(path.with_name(entry["file"]), np.uint8))
        index = theirs[entry["id"]]
        assert np.array_equal(faiss.serialize_index(index), faiss.serialize_index(mine))
        assert np.array_equal(index.reconstruct_n(0, index.ntotal), mine.reconstruct_n(0, mine.ntotal))
    units = torch.randn(WIDTH, 3)
    blended = [
        load_retriever(file, SPEAKERS, WIDTH, feature_retrieval=True).blend(units, "alto", 0.5)
        for file in (path, path.with_suffix(".json"))
    ]
    assert torch.equal(*blended)
    assert train_index.main(["--upstream"]) == 0 and len(list(path.parent.glob("*.bak-*"))) == 1


@pytest.mark.parametrize("main", [train_cluster.main, train_index.main])
def test_a_second_run_replaces_what_the_first_made(main):
    assert main([]) == 0
    first = {path.name: path.read_bytes() for path in Path("logs/44k").iterdir()}
    assert main([]) == 0
    assert {path.name: path.read_bytes() for path in Path("logs/44k").iterdir()} == first
    write_dataset(Path("dataset/44k"), {"alto": 60, "bass": 7}, seed=1)
    assert main([]) == 0
    second = {path.name: path.read_bytes() for path in Path("logs/44k").iterdir()}
    assert len(second) == len(first) and second != first


@pytest.mark.parametrize("main", [train_cluster.main, train_index.main])
def test_a_damaged_clip_is_named_and_left_out(main, caplog):
    Path("dataset/44k/alto/a.wav.soft.pt").write_bytes(b"PK damaged")
    write_units(Path("dataset/44k/bass/c.wav"), np.full((4, WIDTH), np.nan, np.float32))
    assert main([]) == 1
    for name, problem in (("a.wav", "is damaged"), ("c.wav", "holds values that are not finite; delete it")):
        assert f"{name}.soft.pt: {problem}. Make it again with: python preprocess_hubert_f0.py" in caplog.text
    assert any(Path("logs/44k").iterdir())


@pytest.mark.parametrize("main", [train_cluster.main, train_index.main])
def test_a_speaker_without_units_is_named(main, caplog):
    for path in Path("dataset/44k/bass").glob("*.pt"):
        path.unlink()
    assert main([]) == 1
    assert "no units of bass: left out. Make them with: python preprocess_hubert_f0.py" in caplog.text
    for path in Path("dataset/44k/alto").glob("*.pt"):
        path.unlink()
    with pytest.raises(DataError, match=r"holds no units .*preprocess_hubert_f0\.py"):
        main([])


@pytest.mark.parametrize("main", [train_cluster.main, train_index.main])
def test_features_whose_clips_are_gone_are_named_and_not_used(main, caplog):
    assert main([]) == 0 and "gone" not in caplog.text
    before = {path.name: path.read_bytes() for path in Path("logs/44k").iterdir()}
    for index in range(4):
        gone = Path(f"dataset/44k/alto/gone {index}.wav")
        write_units(gone, np.full((9, WIDTH), 50.0, np.float32))
        gone.unlink()
    Path("dataset/44k/bass/only a spectrum.spec.pt").touch()
    assert main([]) == 0
    shown = "alto/gone 0.wav, alto/gone 1.wav, alto/gone 2.wav, and 2 more"
    assert f"44k: holds features of 5 clips that are gone ({shown}). They are not used: delete them" in caplog.text
    assert {path.name: path.read_bytes() for path in Path("logs/44k").iterdir()} == before


@pytest.mark.parametrize("main", [train_cluster.main, train_index.main])
def test_units_of_a_clip_that_was_replaced_are_named_and_not_used(main, caplog):
    clip = Path("dataset/44k/alto/a.wav")
    sidecar = {"wav_sha256": sha256_of(clip), "features": {"units": {"encoder": "fake:1"}}}
    Path(f"{clip}.features.json").write_text(json.dumps(sidecar))
    assert main([]) == 0
    soundfile.write(clip, np.full(320 * 60, 0.1), 16000)
    assert main([]) == 1
    assert "a.wav.soft.pt: is stale: a.wav has changed since it was made. Make it again with" in caplog.text


@pytest.mark.parametrize("main", [train_cluster.main, train_index.main])
@pytest.mark.parametrize("kind", ["broken link", "folder", "pipe", "not audio", "another length", "pipe of units"])
def test_a_clip_that_is_none_is_named_and_the_others_are_used(main, kind, caplog):
    if ("pipe" in kind and not hasattr(os, "mkfifo")) or ("link" in kind and os.name == "nt"):
        pytest.skip("no pipes here, or links need rights")
    clip = Path("dataset/44k/alto/a.wav")
    clip.unlink()
    if kind == "broken link":
        clip.symlink_to("nowhere")
    elif kind == "folder":
        clip.mkdir()
    elif kind == "pipe":
        os.mkfifo(clip)
    elif kind == "not audio":
        clip.write_bytes(b"none")
    else:
        soundfile.write(clip, np.zeros(320 * 90), 16000)
    if kind == "pipe of units":
        Path(f"{clip}.soft.pt").unlink()
        os.mkfifo(f"{clip}.soft.pt")
    assert main([]) == 1
    assert "alto/a.wav" in caplog.text and any(Path("logs/44k").iterdir())


@pytest.mark.parametrize("main", [train_cluster.main, train_index.main])
def test_a_speaker_without_one_usable_clip_costs_only_itself(main, caplog):
    for name in ("a", "b"):
        Path(f"dataset/44k/alto/{name}.wav.soft.pt").write_bytes(b"PK damaged")
    assert main([]) == 1
    assert "44k/alto: holds no usable units, left out" in caplog.text and any(Path("logs/44k").iterdir())
    for name in ("a", "b"):
        Path(f"dataset/44k/bass/{name}.wav.soft.pt").write_bytes(b"PK damaged")
    with pytest.raises(DataError, match=r"holds no usable units\. Make them with"):
        main([])


@pytest.mark.parametrize("main", [train_cluster.main, train_index.main])
def test_units_of_two_encoders_are_refused(main):
    write_units(Path("dataset/44k/bass/c.wav"), np.ones((4, WIDTH + 1), np.float32))
    with pytest.raises(DataError, match=r"c\.wav\.soft\.pt: units are 7 wide, but 6 is expected"):
        main([])


def test_units_that_are_known_to_be_another_encoders_do_not_enter_an_index(caplog):
    digest = sha256_of("dataset/44k/bass/a.wav")
    sidecar = {"wav_sha256": digest, "features": {"units": {"encoder": "other:123"}}}
    Path("dataset/44k/bass/a.wav.features.json").write_text(json.dumps(sidecar))
    assert train_index.main([]) == 1
    assert "a.wav.soft.pt: is stale: made with the encoder other, not fake" in caplog.text


def test_a_width_other_than_the_configs_is_refused():
    write_config(width=WIDTH + 2)
    with pytest.raises(DataError, match="units are 6 wide, but 8 is expected"):
        train_index.main([])


def test_flags_are_obeyed():
    folder = Path("elsewhere")
    Path("dataset").rename("data")
    Path("configs/config.json").rename("c.json")
    arguments = ["--dataset", "data/44k", "--output", str(folder), "--n_clusters", "3", "--seed", "1"]
    assert train_cluster.main(arguments) == 0
    one = load_centres(folder / "kmeans_10000.pt")["alto"]
    assert train_cluster.main([*arguments[:-1], "2"]) == 0
    assert one.shape == (3, WIDTH) and not np.array_equal(one, load_centres(folder / "kmeans_10000.pt")["alto"])
    arguments = ["--root_dir", "data/44k", "-c", "c.json", "--output_dir", str(folder), "--seed", "1"]
    assert train_index.main(arguments) == 0
    assert (folder / "feature_and_index.json").is_file() and not Path("logs").exists()


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_the_gpu_must_be_there():
    with pytest.raises(UsageError, match="--gpu: no GPU"):
        train_cluster.main(["--gpu"])


def test_unusable_arguments_are_refused():
    for main in (train_cluster.main, train_index.main):
        with pytest.raises(UsageError, match="--seed -1"):
            main(["--seed", "-1"])
    with pytest.raises(UsageError, match="--n_clusters 0"):
        train_cluster.main(["--n_clusters", "0"])
    with pytest.raises(DataError, match=r"nowhere: no such folder.*preprocess_hubert_f0\.py"):
        train_cluster.main(["--dataset", "nowhere"])
    with pytest.raises(ConfigError, match=r"none\.json: no such file"):
        train_index.main(["-c", "none.json"])
    write_config({})
    with pytest.raises(DataError, match=r"spk names no speaker.*preprocess_flist_config\.py"):
        train_index.main([])


@pytest.mark.parametrize("script", ["cluster/train_cluster.py", "train_index.py"])
def test_scripts_run_from_another_folder_by_their_path(script, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(ROOT / script), "--seed", "3"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Next: python inference_main.py") and "Traceback" not in done.stderr
    assert any((tmp_path / "logs/44k").iterdir())
    failed = subprocess.run([*command[:2], "--seed", "x"], cwd=tmp_path, capture_output=True, text=True)
    assert failed.returncode == 2


@pytest.mark.parametrize("script", ["cluster/train_cluster.py", "train_index.py"])
def test_help_imports_nothing_heavy(script, tmp_path):
    code = (
        f"import runpy, sys; sys.argv = ['x', '--help']; sys.path.insert(0, {str((ROOT / script).parent)!r})\n"
        f"try: runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n"
        "except SystemExit: print(sorted({'torch', 'numpy', 'faiss', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.stdout.startswith("usage: ") and done.stdout.rstrip().endswith("[]"), done.stderr


@pytest.mark.parametrize(
    "script, flags, text",
    [
        ("cluster/train_cluster.py", ["--dataset", "nowhere"], "nowhere: no such folder"),
        ("cluster/train_cluster.py", ["--dataset", "configs"], "configs: holds no units"),
        ("cluster/train_cluster.py", ["--n_clusters", "0"], "--n_clusters 0"),
        ("train_index.py", ["--seed", "-1"], "--seed -1"),
        ("train_index.py", ["-c", "none.json"], "none.json: no such file"),
        ("train_index.py", ["--root_dir", "nowhere"], "nowhere: holds no units (*.wav.soft.pt) of alto, bass"),
    ],
)
def test_cheap_mistakes_are_refused_before_torch_is_imported(tmp_path, script, flags, text):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise SystemError('torch was imported')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(ROOT / script), *flags]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2 and text in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_speaker_whose_name_is_a_command_is_printed_quoted(capsys):
    name = "$(touch PWNED) x"
    write_dataset(Path("dataset/44k"), {name: 4})
    write_config({"alto": 0, name: 1})
    assert train_cluster.main(["--n_clusters", "3"]) == 0
    Path("dataset/44k/alto").rename("dataset/44k/other")
    assert train_index.main([]) == 1
    shown = capsys.readouterr().out
    assert f"-s {quote(name)} -cm" in shown and shown.count("Next: ") == 2


@pytest.mark.parametrize(
    ("script", "name"), [(train_cluster, "kmeans_10000.pt"), (train_index, "feature_and_index.json")]
)
def test_a_folder_in_the_place_of_the_result_is_refused_before_any_work(script, name):
    Path("logs/44k", name).mkdir(parents=True)
    with pytest.raises(UsageError, match="is a folder, and a file of that name is to be written; move it away"):
        script.main([])


def test_a_file_that_is_no_index_is_set_aside(caplog):
    path = Path("logs/44k/feature_and_index.json")
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert train_index.main([]) == 0
    assert path.with_name(f"{path.name}.bak-1").read_text() == "mine" and "it is now" in caplog.text
    assert train_index.main([]) == 0
    assert not path.with_name(f"{path.name}.bak-2").exists()
