"""Step 3 as a user runs it: what is made, what is left alone, and what each mistake says."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
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
from modules.errors import ConfigError, DataError, MissingWeights, UsageError

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = ("*.soft.pt", "*.f0.npy", "*.spec.pt", "*.vol.npy", "*.features.json")


def run(*flags: str) -> int:
    return preprocess_hubert_f0.main(["-d", "cpu", "--f0_predictor", "dio", *flags])


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


@pytest.mark.slow
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


def test_use_diff_needs_a_diffusion_config_that_goes_with_the_config(workspace):
    with pytest.raises(ConfigError, match=r"diffusion\.yaml: no such file.*preprocess_flist_config\.py"):
        run("--use_diff")
    write_diffusion_config("vec768l12")
    with pytest.raises(ConfigError, match=r"data\.encoder vec768l12, but .*model\.speech_encoder whisper-ppg-base"):
        run("--use_diff")
    write_diffusion_config()
    vocoder = {"sampling_rate": 44100, "num_mels": 128, "n_fft": 1024, "win_size": 1024, "hop_size": 256, "fmin": 40}
    vocoder |= {"fmax": 16000, "upsample_rates": [8, 8, 4], "upsample_kernel_sizes": [16, 16, 8]}
    vocoder |= {"upsample_initial_channel": 8, "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]]}
    Path("pretrain/my_vocoder").mkdir(parents=True)
    Path("pretrain/my_vocoder/config.json").write_text(json.dumps(vocoder), "utf-8")
    with pytest.raises(
        ConfigError, match=r"config\.json has the hop length 512, but .*my_vocoder.config\.json has 256"
    ):
        run("--use_diff")
    assert not made()


def listed() -> dict[Path, list[str]]:
    """Clip -> the features that its sidecar lists."""
    sidecars = list(Path("dataset").rglob("*.features.json"))
    texts = {path: path.read_text("utf-8") for path in sidecars}
    return {
        Path(str(path).removesuffix(".features.json")): list(json.loads(text)["features"])
        for path, text in texts.items()
    }


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_run_resumes_and_leaves_nothing_half_written(workspace):
    for index in range(8):
        soundfile.write(f"dataset/44k/alto/more{index}.wav", sung(np.full(44100, 200.0 + index), 44100), 44100)
    command = [sys.executable, str(ROOT / "preprocess_hubert_f0.py"), "-d", "cpu", "--f0_predictor", "dio"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while sum("units" in names for names in listed().values()) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done, before = listed(), made()
    assert 3 <= sum("units" in names for names in done.values()) < 12
    assert run() == 0
    assert all(set(names) == {"units", "f0", "spec"} for names in listed().values()) and len(listed()) == 12
    kept = [path_of(clip, name) for clip, names in done.items() for name in names]
    assert all(made()[path] == before[path] for path in kept), "finished features are not made again"
    assert not list(Path("dataset").rglob(".*partial*"))


@pytest.mark.parametrize(
    "flags, text",
    [
        (["--f0_predictor", "fcpee"], "unknown f0 predictor 'fcpee'. Did you mean fcpe"),
        (["--num_processes", "-1"], "--num_processes -1"),
        (["-d", "cuda:9"], "device 'cuda:9' is not available here"),
        (["-d", "gpu"], "-d gpu: unknown device. Known: cpu, cuda"),
    ],
)
def test_flags_that_cannot_be_honoured_are_refused(workspace, flags, text):
    with pytest.raises(UsageError) as caught:
        run(*flags)
    assert text in str(caught.value) and not made()


def test_a_missing_folder_or_config_names_the_step_before(workspace):
    with pytest.raises(DataError, match=r"nowhere: no such folder\. Make it with: python resample\.py"):
        run("--in_dir", "nowhere")
    Path("empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no SPEAKER/clip\.wav"):
        run("--in_dir", "empty")
    with pytest.raises(ConfigError, match=r"no such file.*preprocess_flist_config\.py"):
        run("-c", "configs/other.json")


def test_a_config_whose_width_is_not_the_encoders_is_refused(workspace):
    write_config(ssl_dim=768)
    with pytest.raises(ConfigError, match=r"ssl_dim is 768, but whisper-ppg-base gives units 512 wide"):
        run()


def test_a_missing_encoder_or_predictor_is_said_before_anything_is_made(workspace, monkeypatch):
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", workspace / "nowhere")
    write_config(speech_encoder="vec768l12", ssl_dim=768)
    with pytest.raises(MissingWeights, match=r"python pretrain/download\.py contentvec"):
        run()
    monkeypatch.undo()
    monkeypatch.chdir(workspace)
    write_config()
    if not (ROOT / "pretrain" / "rmvpe.pt").is_file():
        with pytest.raises(MissingWeights, match=r"python pretrain/download\.py rmvpe"):
            run("--f0_predictor", "rmvpe")
        write_config(speech_encoder="hubertsoft", ssl_dim=256)
        with pytest.raises(MissingWeights, match=r"download\.py hubertsoft.*download\.py rmvpe"):
            run("--f0_predictor", "rmvpe")
    assert not made()


WITHOUT_TORCH = [
    ([], {}, "dataset/44k: no such folder"),
    (["-d", "cudda"], {}, "-d cudda: unknown device"),
    (["--num_processes", "-2"], {}, "--num_processes -2"),
    (["--f0_predictor", "fcpee"], {"clip": 1, "config": 1}, "unknown f0 predictor 'fcpee'. Did you mean fcpe?"),
    ([], {"clip": 1}, "configs/config.json: no such file"),
    ([], {"clip": 1, "config": 1, "encoder": "vec768l13"}, "unknown speech encoder 'vec768l13'. Did you mean"),
    (["--f0_predictor", "rmvpe"], {"clip": 1, "config": 1}, "pretrain/download.py rmvpe"),
]


@pytest.mark.parametrize("flags, parts, text", WITHOUT_TORCH)
def test_cheap_mistakes_are_refused_before_torch_is_imported(tmp_path, flags, parts, text):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise SystemError('torch was imported')")
    if "clip" in parts:
        (tmp_path / "dataset/44k/alto").mkdir(parents=True)
        (tmp_path / "dataset/44k/alto/a.wav").touch()
    if "config" in parts:
        (tmp_path / "configs").mkdir()
        model = {"speech_encoder": parts.get("encoder", "hubertsoft"), "ssl_dim": 256}
        (tmp_path / "configs/config.json").write_text(json.dumps({"model": model, "spk": {"alto": 0}}))
    command = [sys.executable, str(ROOT / "preprocess_hubert_f0.py"), *flags]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2 and text in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_clip_without_a_voice_is_named(workspace, caplog):
    noise = 0.05 * np.random.default_rng(0).standard_normal(44100)
    soundfile.write("dataset/44k/alto/a.wav", noise, 44100)
    assert run() == 0
    assert "a.wav: no pitch was found in it" in caplog.text and "b.wav: no pitch" not in caplog.text
    assert 20 < read_histograms(Path("dataset/44k/f0_histograms.json"))["alto"].frames < 60, "the other clip's"


def test_the_weights_identity_is_part_of_the_sidecar(workspace):
    assert run() == 0
    stored = json.loads(Path("dataset/44k/alto/a.wav.features.json").read_text("utf-8"))
    name, digest = stored["features"]["units"]["encoder"].split(":")
    assert name == "whisper-ppg-base" and len(digest) == 64


def test_whistling_is_named_and_followed_with_a_higher_limit(workspace, caplog):
    for name in ("c", "d"):
        path = workspace / "dataset/44k/bass" / f"{name}.wav"
        soundfile.write(path, sung(np.full(22050, 1400.0), 44100), 44100)
    assert run() == 0
    (said,) = [record.getMessage() for record in caplog.records if "Try:" in record.getMessage()]
    assert said.startswith("bass sings no note") and "--f0_predictor dio --f0_max 1500" in said
    caplog.clear()
    assert run("--f0_max", "1500", "--f0_min", "60") == 0
    assert not [record for record in caplog.records if "Try:" in record.getMessage()]
    f0, uv = np.load(path_of(path, "f0"))
    assert np.abs(1200 * np.log2(f0[uv > 0] / 1400)).max() < 50 and uv.mean() > 0.8
    with pytest.raises(UsageError, match="--f0_max 9000"):
        run("--f0_max", "9000")
