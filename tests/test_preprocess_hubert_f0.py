"""Step 3 as a user runs it: what is made, what is left alone, and what each mistake says."""

import contextlib
import errno
import functools
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from signals import sung

import preprocess_hubert_f0
from modules.config.diffusion import DiffusionConfig, save_diffusion_config
from modules.config.io import save_config
from modules.config.schema import Config
from modules.config.vocoder import PUBLISHED_MEL
from modules.data import features
from modules.data.features import load_diffusion, path_of
from modules.data.pitch import read_histograms
from modules.encoders.base import build_encoder
from modules.errors import DataError, UsageError

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = ("*.soft.pt", "*.f0.npy", "*.spec.pt", "*.vol.npy", "*.features.json")


def run(*flags: str) -> int:
    return preprocess_hubert_f0.main(["-d", "cpu", "--f0_predictor", "dio", *flags])


# The same encoder for all runs in this process: loading it takes longer than what it does to these clips.
loaded_once = functools.cache(build_encoder)


def write_config(**model) -> None:
    config = Config()
    config.spk = {"alto": 0, "bass": 1}
    for key, value in {"speech_encoder": "whisper-ppg-base", "ssl_dim": 512, "gin_channels": 512, **model}.items():
        setattr(config.model, key, value)
    save_config(config, Path("configs/config.json"))


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """Two speakers with two clips of half a second each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modules.encoders.base.build_encoder", loaded_once)
    for index, (speaker, name) in enumerate([("alto", "a"), ("alto", "b"), ("bass", "c"), ("bass", "d")]):
        folder = tmp_path / "dataset" / "44k" / speaker
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{name}.wav", sung(np.full(22050, 150.0 + 30 * index), 44100), 44100)
    write_config()
    return tmp_path


def made() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for pattern in PATTERNS for path in Path("dataset").rglob(pattern)}


def test_features_are_made_once_and_the_next_command_is_printed(workspace, capsys, caplog):
    caplog.set_level("INFO")
    assert run() == 0
    assert len(list(Path("dataset").rglob("*.soft.pt"))) == 4 and not list(Path("dataset").rglob("*.vol.npy"))
    assert torch.load("dataset/44k/alto/a.wav.soft.pt", weights_only=True).shape == (1, 512, 25)
    f0, uv = np.load("dataset/44k/bass/c.wav.f0.npy")
    assert uv.mean() > 0.8 and np.abs(f0 - 210).max() < 8
    assert capsys.readouterr().out.endswith("Next: python train.py -c configs/config.json -m 44k\n")
    assert "4 clips: 4 made (4 units, 4 f0, 4 spec), 0 up to date, 0 skipped" in caplog.text
    before = made()
    assert run() == 0 and made() == before
    assert "4 clips: 0 made, 4 up to date, 0 skipped" in caplog.text


def test_the_notes_of_each_speaker_are_counted_once(workspace):
    path = Path("dataset/44k/f0_histograms.json")
    assert run() == 0
    found = read_histograms(path)
    assert set(found) == {"alto", "bass"}
    # alto sings at 150 and 180 Hz, bass at 210 and 240; half a semitone is 3 %
    for speaker, (low, high) in {"alto": (150, 180), "bass": (210, 240)}.items():
        hz = 440 * 2 ** ((found[speaker].median - 69) / 12)
        assert found[speaker].frames > 60 and low * 0.97 < hz < high * 1.03
    content, stamp = path.read_bytes(), path.stat().st_mtime_ns
    assert run() == 0 and path.read_bytes() == content and path.stat().st_mtime_ns == stamp
    path.unlink()
    assert run() == 0 and path.read_bytes() == content, "also when all features are up to date"


def test_nothing_is_loaded_when_nothing_is_missing(workspace, monkeypatch):
    assert run() == 0

    def refuse(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr("modules.encoders.base.build_encoder", refuse)
    monkeypatch.setattr("modules.f0.base.build_predictor", refuse)
    assert run() == 0
    Path("dataset/44k/alto/a.spec.pt").unlink()
    assert run() == 0 and Path("dataset/44k/alto/a.spec.pt").is_file()


def test_volume_is_added_when_the_config_asks_for_it(workspace):
    assert run() == 0
    before = made()
    write_config(vol_embedding=True)
    assert run() == 0
    after = made()
    assert len(list(Path("dataset").rglob("*.vol.npy"))) == 4
    assert all(after[path] == stamp for path, stamp in before.items() if path.suffix != ".json")


@pytest.mark.parametrize("native", [True, False])
def test_auto_precision_is_bf16_where_the_processor_computes_it(workspace, monkeypatch, native):
    monkeypatch.setattr("modules.device.computes_bf16", lambda device: native)
    run()
    exact = {path: torch.load(path, weights_only=True) for path in workspace.rglob("*.soft.pt")}
    run("--precision", "auto")
    assert all(torch.equal(torch.load(path, weights_only=True), units) for path, units in exact.items())  # up to date
    for path in exact:
        path.unlink()
    assert run("--precision", "auto") == 0
    for path, units in exact.items():
        error = (torch.load(path, weights_only=True) - units).norm() / units.norm()
        assert 1e-4 < error < 0.02 if native else error == 0


def test_another_predictor_changes_only_the_pitch(workspace):
    assert run() == 0
    before = made()
    assert run("--f0_predictor", "pm") == 0
    changed = {path.suffix for path, stamp in made().items() if stamp != before[path]}
    assert changed == {".npy", ".json"}


def test_a_bad_clip_is_named_and_the_others_are_made(workspace, caplog, capsys):
    Path("dataset/44k/alto/bad.wav").write_bytes(b"not audio")
    soundfile.write("dataset/44k/bass/slow.wav", np.full(22050, 0.1), 22050)
    assert run() == 1
    assert "alto/bad.wav" in caplog.text and "slow.wav: has 22050 Hz" in caplog.text
    assert "python resample.py --sr2 44100" in caplog.text
    assert len(list(Path("dataset").rglob("*.soft.pt"))) == 4
    assert "Next:" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["broken link", "link to itself", "folder", "pipe", "unreadable", "empty"])
@pytest.mark.parametrize("with_features", [False, True])
def test_what_is_no_clip_is_named_and_the_others_are_made(workspace, caplog, monkeypatch, kind, with_features):
    if "link" in kind and os.name == "nt":
        pytest.skip("links need rights on Windows")
    path = Path("dataset/44k/alto/a.wav")
    if with_features:
        assert run() == 0
    path.unlink()
    if kind == "broken link":
        path.symlink_to("nowhere.wav")
    elif kind == "link to itself":
        path.symlink_to("a.wav")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no pipes here")
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    else:
        soundfile.write(path, np.zeros(22050), 44100)
        plain = Path.open
        denied = PermissionError(13, "Permission denied", str(path))

        def deny(self, *arguments, **named):
            if self.name == "a.wav":
                raise denied
            return plain(self, *arguments, **named)

        monkeypatch.setattr(Path, "open", deny)
    assert run() == 1
    named = [record.message for record in caplog.records if "alto/a.wav" in record.message]
    assert len(named) == 1, caplog.text
    reason = {"unreadable": "permission denied", "folder": "is a folder", "pipe": "is not a regular file"}
    assert reason.get(kind, "a.wav: ") in named[0]
    assert (Path("dataset/44k/alto/b.wav.soft.pt").is_file() and "3 made" in caplog.text) or with_features
    assert read_histograms(Path("dataset/44k/f0_histograms.json"))["bass"].frames > 60
    assert read_histograms(Path("dataset/44k/f0_histograms.json"))["alto"].frames < 50, "only of the clip that is left"


def test_a_folder_that_cannot_be_listed_is_named(workspace, caplog, monkeypatch):
    plain = Path.iterdir

    def deny(self):
        if self.name == "alto":
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self)

    monkeypatch.setattr(Path, "iterdir", deny)
    assert run() == 1
    assert "44k/alto: cannot be listed (permission denied), left out" in caplog.text
    assert len(list(Path("dataset/44k/bass").glob("*.soft.pt"))) == 2


@pytest.mark.parametrize("name", [".soft.pt", ".f0.npy", ".features.json"])
def test_a_folder_in_the_place_of_a_feature_costs_only_its_clip(workspace, caplog, name):
    Path(f"dataset/44k/alto/a.wav{name}").mkdir()
    assert run() == 1
    named = [record.message for record in caplog.records if "alto/a.wav" in record.message]
    assert len(named) == 1 and f"a.wav{name}" in named[0] and "folder" in named[0]
    assert len(list(Path("dataset").rglob("*.spec.pt"))) >= 3


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_ends_the_run_with_one_line(workspace, caplog, monkeypatch, number):
    plain, calls = features.write_file, []

    def fill(path, name, value):
        calls.append(path)
        if len(calls) > 4:
            raise OSError(number, "no", str(path_of(path, name)))
        plain(path, name, value)

    monkeypatch.setattr(features, "write_file", fill)
    reasons = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "quota is used up", errno.EROFS: "cannot be written"}
    remedy = "allow writing there" if number == errno.EROFS else "free some space"
    with pytest.raises(DataError, match=rf"wav.*{reasons[number]}\. What is made stays; {remedy}, then") as caught:
        run()
    assert "\n" not in str(caught.value) and not [r for r in caplog.records if r.levelname == "WARNING"]
    monkeypatch.undo()
    monkeypatch.chdir(workspace)
    assert run() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["units", "f0"])
def test_a_full_disk_is_seen_whatever_library_writes(tmp_path, monkeypatch, name):
    value = torch.ones(1, 4, 9000) if name == "units" else np.ones((2, 9000))

    @contextlib.contextmanager
    def full(path):
        yield Path("/dev/full")

    monkeypatch.setattr("modules.data.feature_files.atomic_path", full)
    with pytest.raises(OSError) as caught:
        features.write_file(tmp_path / "a.wav", name, value)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RecursionError()])
def test_a_clip_that_memory_does_not_suffice_for_costs_only_itself(workspace, caplog, monkeypatch, error):
    from modules.data import extraction

    plain = extraction.spectrogram

    def fail(wav, audio):
        if len(wav) == 30000:
            raise error
        return plain(wav, audio)

    soundfile.write("dataset/44k/alto/a.wav", sung(np.full(30000, 220.0), 44100), 44100)
    monkeypatch.setattr(extraction, "spectrogram", fail)
    assert run() == 1
    named = [record.message for record in caplog.records if "alto/a.wav" in record.message]
    assert len(named) == 1 and ("memory" in named[0] or "nested" in named[0])
    assert len(list(Path("dataset").rglob("*.spec.pt"))) == 3


def test_a_clip_of_an_hour_is_refused_before_anything_is_read(workspace, caplog, monkeypatch):
    monkeypatch.setattr("modules.data.features.read", lambda path: pytest.fail("read"))
    for path in Path("dataset").rglob("?.wav"):
        path.unlink()
    with soundfile.SoundFile("dataset/44k/alto/long.wav", "w", 8000, 1, "PCM_U8") as file:
        for _ in range(60):
            file.write(np.zeros(60 * 8000, np.int16))
    assert run() == 1
    assert "alto/long.wav: lasts 60 minutes, a clip may last 10" in caplog.text and "Cut it into clips" in caplog.text


def test_features_of_clips_that_are_gone_and_clips_that_no_list_has_are_named(workspace, caplog):
    assert run() == 0 and "gone" not in caplog.text and "neither" not in caplog.text
    Path("filelists").mkdir()
    Path("filelists/train.txt").write_text("dataset/44k/alto/a.wav\ndataset/44k/bass/c.wav\n")
    Path("filelists/val.txt").write_text("./dataset/44k/bass/d.wav\n")
    Path("dataset/44k/alto/b.wav").unlink()
    assert run() == 0 and "do not exist" not in caplog.text
    assert "44k: holds features of 1 clips that are gone (alto/b.wav). They are not used" in caplog.text
    assert "neither" not in caplog.text
    Path("filelists/val.txt").write_text("other.wav\n")
    assert run() == 0
    text = "1 clips are in neither filelists/train.txt nor filelists/val.txt (bass/d.wav): training does not hear them"
    assert text in caplog.text
    assert "1 clips of filelists/train.txt and filelists/val.txt do not exist (other.wav)" in caplog.text


def test_features_of_another_clip_are_named_and_stay_until_they_are_deleted(workspace, caplog):
    assert run() == 0
    for clip in Path("dataset/44k").rglob("*.wav"):  # a copied data set
        for path in clip.parent.glob(f"{clip.stem}.*"):
            os.utime(path, (1, 1))
    assert run() == 0 and "not as they were made" not in caplog.text
    copied = Path("dataset/44k/alto/a.wav.f0.npy")
    shutil.copy("dataset/44k/alto/b.wav.f0.npy", copied)
    assert run() == 0 and "1 files of features are not as they were made for their clips (alto/a.wav.f0" in caplog.text
    copied.unlink()
    caplog.clear()
    assert run() == 0 and copied.is_file() and "not as they were made" not in caplog.text


def test_clips_listed_twice_are_named_and_skipped_ones_are_not_called_unlisted(workspace, caplog):
    Path("filelists").mkdir()
    clips = [f"dataset/44k/{name}.wav\n" for name in ("alto/a", "alto/b", "bass/c")]
    Path("filelists/train.txt").write_text("".join([*clips, f"./{clips[1]}"]))
    Path("filelists/val.txt").write_text(f"{workspace}/{clips[2]}")
    Path("dataset/44k/bass/d.wav").write_text("no audio")
    assert run() == 1 and "neither" not in caplog.text
    assert "filelists/train.txt: lists 1 clips more than once (b.wav)" in caplog.text
    assert "1 clips are in both filelists/train.txt and filelists/val.txt (c.wav)" in caplog.text


def test_leftovers_of_killed_runs_are_removed(workspace):
    leftover = Path("dataset/44k/alto/.a.wav.soft.pt.999999999.partial.pt")
    leftover.write_bytes(b"half")
    assert run() == 0 and not leftover.exists()


def write_diffusion_config(encoder: str = "whisper-ppg-base") -> None:
    config = DiffusionConfig()
    config.data.encoder = encoder
    config.vocoder.ckpt = "pretrain/my_vocoder/model"
    save_diffusion_config(config, Path("configs/diffusion.yaml"))


def test_use_diff_makes_what_the_diffusion_model_needs(workspace, capsys, caplog):
    caplog.set_level("INFO")
    write_diffusion_config()
    assert run() == 0
    before = made()
    caplog.clear()
    assert run("--use_diff") == 0
    assert "4 clips: 4 made (4 volume, 4 mel, 4 augmented), 0 up to date, 0 skipped" in caplog.text
    assert "pretrain/my_vocoder/model: no config.json beside it yet; mels are made for the published" in caplog.text
    assert all(made()[path] == stamp for path, stamp in before.items() if path.suffix != ".json")
    assert capsys.readouterr().out.endswith(
        "Next: python train.py -c configs/config.json -m 44k\nNext: python train_diff.py -c configs/diffusion.yaml\n"
    )
    shifts = set()
    for clip in Path("dataset").rglob("*.wav"):
        found = load_diffusion(clip, Config().audio, PUBLISHED_MEL, "whisper-ppg-base")
        assert found.mel.shape == found.aug_mel.shape == (128, 43)
        shifts.add(found.aug_shift)
    assert len(shifts) == 4, "each clip has a key shift of its own"
    before = {path: path.stat().st_mtime_ns for path in Path("dataset").rglob("*") if path.is_file()}
    assert run() == 0 and run("--use_diff") == 0
    assert {path: path.stat().st_mtime_ns for path in Path("dataset").rglob("*") if path.is_file()} == before


def test_features_of_diffusion_go_back_to_so_vits_svc(workspace, caplog):
    """Read as its diffusion/data_loaders.py does, with names that numpy 1.23 has; then made again for this toolkit."""
    caplog.set_level("INFO")
    write_diffusion_config()
    assert run("--use_diff", "--upstream") == 0 and "4 aug_mel.npy are in so-vits-svc 4.1's form now" in caplog.text
    clips = sorted(Path("dataset").rglob("*.wav"))
    kept = {}
    for clip in clips:
        content = Path(f"{clip}.aug_mel.npy").read_bytes()
        assert b"numpy.core.multiarray" in content and b"numpy._core" not in content
        aug_mel, keyshift = np.load(f"{clip}.aug_mel.npy", allow_pickle=True)  # as so-vits-svc; the test's own file
        (f0, _), mel = np.load(f"{clip}.f0.npy"), np.load(f"{clip}.mel.npy")
        assert np.array(f0, dtype=float).shape == np.load(f"{clip}.vol.npy").shape == (43,) and type(keyshift) is float
        assert np.load(f"{clip}.aug_vol.npy").shape == (43,) and aug_mel.shape == mel.shape == (43, 128)
        assert aug_mel.dtype == np.float32
        kept[clip] = np.array(aug_mel, dtype=float), keyshift
    caplog.clear()
    assert (
        run("--use_diff") == 0 and "4 made (4 augmented)" in caplog.text and "not as they were made" not in caplog.text
    )
    for clip, (aug_mel, keyshift) in kept.items():
        found = load_diffusion(clip, Config().audio, PUBLISHED_MEL, "whisper-ppg-base")
        assert found.aug_shift == keyshift and np.array_equal(found.aug_mel.T.numpy(), aug_mel)
    with pytest.raises(UsageError, match="Add --use_diff"):
        run("--upstream")


def test_the_predictor_is_so_vits_svcs_where_its_file_is_and_else_the_one_with_the_fewest_wrong_octaves(
    workspace, monkeypatch, caplog
):
    caplog.set_level("INFO")
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", workspace)
    assert preprocess_hubert_f0.make_arguments().parse_args([]).f0_predictor is None
    best = preprocess_hubert_f0._usual_predictor()
    assert "F0 predictor: fcpe, as rmvpe's file is not here (python pretrain/download.py rmvpe)" in caplog.text
    table = (ROOT / "docs/encoders-and-f0.md").read_text("utf-8").split("before the repair")[1]
    wrong = {name: float(share) for name, share in re.findall(r"^\| `(\w+)` \| \d+ \| ([\d.]+) \|", table, re.M)}
    assert len(wrong) == 6 and best == min(wrong, key=wrong.get) == "fcpe"
    Path("pretrain").mkdir()
    Path("pretrain/rmvpe.pt").touch()
    assert preprocess_hubert_f0._usual_predictor() == "rmvpe"
    assert "F0 predictor: rmvpe, so-vits-svc's default, as " in caplog.text


def test_two_workers_make_the_same_as_one(workspace):
    write_config(vol_embedding=True)
    write_diffusion_config()
    found = []
    for workers in ("2", "1"):
        assert run("--use_diff", "--num_processes", workers) == 0
        paths = [path for kind in ("*.npy", "*.soft.pt", "*.spec.pt") for path in Path("dataset").rglob(kind)]
        load = {".npy": np.load, ".pt": lambda path: torch.load(path, weights_only=True).numpy()}
        found.append({path: load[path.suffix](path) for path in paths})
        for path in paths:
            path.unlink()
    two, one = found
    assert len(one) == 4 * 8 and two.keys() == one.keys()
    for path in one:
        # A matrix product on another number of threads may add in another order: some 5e-7 in a log mel.
        tolerance = {"mel": 1e-5, "aug_mel": 1e-5, "soft": 1e-3, "spec": 1e-5}.get(path.name.split(".")[-2], 0)
        np.testing.assert_allclose(two[path], one[path], rtol=tolerance, atol=tolerance)
