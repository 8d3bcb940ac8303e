"""Training items: aligned, cut, augmented and joined, the same for the same seed, epoch and number."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pool_tasks import size_and_speaker
from tiny_voices import make_clip, make_workspace

from modules.audio.loudness import frame_volume
from modules.audio.mel import spectrogram
from modules.data import features
from modules.data.dataset import (
    WINDOW_SLACK,
    Draw,
    EpochBatches,
    VoiceDataset,
    change_volume,
    collate,
    draw_gain,
    make_loader,
)
from modules.data.filelist import write_list
from modules.errors import DataError, UserError

CPU = torch.device("cpu")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_workspace(tmp_path)


def test_an_item_holds_as_many_frames_of_everything(workspace):
    dataset = VoiceDataset("filelists/train.txt", workspace)
    item = dataset.item(1)
    n = int(0.55 * 44100) // 512
    assert item.units.shape == (6, n) and item.spec.shape == (1025, n) and item.wav.shape == (n * 512,)
    assert item.f0.shape == item.uv.shape == item.volume.shape == (n,)
    assert item.speaker == 1 and item.path == "dataset/44k/bass/clip 1.wav"
    assert dataset.n_seconds == pytest.approx(0.5 + 0.55 + 0.6 + 0.65, abs=0.01)


@pytest.mark.parametrize("window", [790, 64])  # so-vits-svc's, and a short one
def test_a_long_clip_is_cut_to_a_window_that_moves_from_epoch_to_epoch(tmp_path, monkeypatch, window):
    monkeypatch.chdir(tmp_path)
    config = make_workspace(tmp_path, 1)
    config.train.window_frames = window
    n_frames = window + WINDOW_SLACK + 60
    make_clip(tmp_path / "dataset/44k/alto/clip 0.wav", n_frames * 512 / 44100)
    dataset = VoiceDataset("filelists/train.txt", config)
    whole = VoiceDataset("filelists/train.txt", config, training=False).item(0)
    starts = set()
    for epoch in range(1, 6):
        item = dataset.item(0, epoch)
        assert item.f0.shape == (window,) and item.wav.shape == (window * 512,)
        start = next(s for s in range(71) if torch.equal(whole.spec[:, s : s + window], item.spec))
        assert torch.equal(whole.wav[start * 512 :][: window * 512], item.wav)
        assert torch.equal(whole.units[:, start : start + window], item.units)
        assert torch.equal(dataset.item(0, epoch).spec, item.spec), "the same epoch draws the same window"
        starts.add(start)
    assert len(starts) > 1 and whole.f0.shape[0] == n_frames


def test_volume_augmentation_equals_features_made_from_the_louder_wave(workspace):
    item = VoiceDataset("filelists/train.txt", workspace).item(0)
    gains = []
    for seed in range(20):
        louder = change_volume(item, draw_gain(item, np.random.default_rng(seed)))
        gains.append(float(louder.wav.abs().max() / item.wav.abs().max()))
        wav = item.wav * gains[-1]
        torch.testing.assert_close(louder.wav, wav, atol=1e-5, rtol=1e-4)
        assert louder.wav.abs().max() <= 1
        # The stored spectrum saw the end of the clip, which the last frames of the cut wave do not have.
        torch.testing.assert_close(louder.spec[:, :-3], spectrogram(wav, workspace.audio)[:, :-3], atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(louder.volume[:-1], frame_volume(wav, 512)[:-1], atol=1e-5, rtol=1e-4)
    assert min(gains) < 0.3 and max(gains) > 1
    assert torch.equal(louder.f0, item.f0)


def test_volume_is_changed_for_about_half_of_the_training_items_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = make_workspace(tmp_path, 1, vol_aug=True)
    dataset = VoiceDataset("filelists/train.txt", config)
    plain = VoiceDataset("filelists/train.txt", config, training=False).item(0)
    changed = [not torch.equal(dataset.item(0, epoch).volume, plain.volume) for epoch in range(60)]
    assert 15 < sum(changed) < 45


def test_a_batch_is_padded_and_sorted_longest_first(workspace):
    dataset = VoiceDataset("filelists/train.txt", workspace)
    items = [dataset.item(index) for index in range(4)]
    batch = collate(items)
    longest = len(items[3].f0)
    assert batch.lengths.tolist() == sorted((len(item.f0) for item in items), reverse=True)
    assert batch.units.shape == (4, 6, longest) and batch.wav.shape == (4, 1, longest * 512)
    assert batch.spec.shape == (4, 1025, longest) and batch.volume.shape == (4, longest)
    assert batch.speakers.tolist() == [1, 0, 1, 0] and batch.paths[3] == "dataset/44k/alto/clip 0.wav"
    n = len(items[0].f0)
    assert torch.equal(batch.units[3, :, :n], items[0].units) and (batch.units[3, :, n:] == 0).all()
    assert torch.equal(batch.wav[3, 0, : n * 512], items[0].wav) and (batch.spec[3, :, n:] == 0).all()


def test_a_batch_with_an_item_without_volume_has_none(workspace):
    item = VoiceDataset("filelists/train.txt", workspace).item(0)
    assert collate([item, item._replace(volume=None)]).volume is None


def test_evenly_spaced_clips_are_of_all_speakers(workspace):
    dataset = VoiceDataset("filelists/train.txt", workspace, training=False)
    dataset.clips.sort()
    assert [item.speaker for item in dataset.evenly_spaced(2)] == [0, 1]
    assert [item.path for item in dataset.evenly_spaced(9)] == [path.as_posix() for path in dataset.clips]


def test_every_epoch_has_all_items_in_an_order_of_its_own():
    batches = EpochBatches(7, 3, seed=5)
    seen = []
    for epoch in (1, 2, 3):
        batches.set_epoch(epoch)
        drawn = list(batches)
        assert len(drawn) == len(batches) == 3
        assert sorted(draw.index for batch in drawn for draw in batch) == list(range(7))
        assert {draw.epoch for batch in drawn for draw in batch} == {epoch}
        seen.append(drawn)
    assert seen[0] != seen[1] != seen[2]
    batches.set_epoch(2, 1)
    assert list(batches) == seen[1][1:], "a resumed epoch goes on where it stopped"
    batches.set_epoch(1, 2, last=3)
    assert list(batches) == [*seen[0][2:], *seen[1], *seen[2]], "a pass may go on through later epochs"
    assert list(EpochBatches(7, 3, seed=6)) != seen[0]
    assert len(list(EpochBatches(7, 3, seed=-1))) == 3


@pytest.mark.parametrize("n_items", [1, 3, 7, 12])
def test_ranks_share_the_batches_of_one_process(n_items):
    whole = EpochBatches(n_items, 6, seed=5)
    shares = [EpochBatches(n_items, 2, seed=5, rank=rank, world_size=3) for rank in range(3)]
    for epoch in (1, 2):
        for batches in (whole, *shares):
            batches.set_epoch(epoch)
        together = list(zip(*shares, strict=True))
        assert len(together) == len(whole) == len(shares[0])
        for batch, parts in zip(whole, together):
            drawn = [draw for part in parts for draw in part]
            assert set(drawn) >= set(batch) and all(parts), "no rank has nothing to do"
            assert len(drawn) == max(len(batch), 3) and len(set(drawn)) >= min(n_items, len(drawn))


def test_the_cache_gives_the_same_items(workspace):
    plain = VoiceDataset("filelists/train.txt", workspace)
    workspace.train.all_in_mem = True
    cached = VoiceDataset("filelists/train.txt", workspace)
    for path in features.NAMES:
        features.path_of(cached.clips[0], path).unlink()
    for index in (1, 2):
        for a, b in zip(cached.item(index), plain.item(index)):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    assert isinstance(cached[Draw(0, 1)].units, torch.Tensor), "nothing is read any more"


def test_loading_leaves_the_global_random_state_alone(workspace):
    loader = make_loader(VoiceDataset("filelists/train.txt", workspace), CPU)
    before = torch.get_rng_state()
    assert sum(len(batch.paths) for batch in loader) == 4
    assert torch.equal(torch.get_rng_state(), before)


def test_a_dataset_can_be_sent_to_a_worker(workspace):
    dataset = VoiceDataset("filelists/train.txt", workspace)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(size_and_speaker, (dataset,)) == (4, 0)


def test_an_unknown_speaker_is_named_with_the_known_ones(workspace):
    workspace.spk = {"tenor": 0, "bass": 1}
    with pytest.raises(DataError, match=r"'alto'.*Known speakers: tenor, bass"):
        VoiceDataset("filelists/train.txt", workspace)


def test_a_missing_clip_or_feature_is_refused_before_training(workspace, tmp_path):
    (tmp_path / "dataset/44k/alto/clip 0.wav.f0.npy").unlink()
    with pytest.raises(DataError, match=r"clip 0\.wav\.f0\.npy: is missing.*preprocess_hubert_f0"):
        VoiceDataset("filelists/train.txt", workspace)
    (tmp_path / "dataset/44k/alto/clip 0.wav").unlink()
    with pytest.raises(DataError, match=r"clip 0\.wav, which does not exist"):
        VoiceDataset("filelists/train.txt", workspace)


@pytest.mark.parametrize(
    "kind, text",
    [
        ("missing", "which does not exist"),
        ("broken link", "which does not exist"),
        ("folder", "which cannot be used: is a folder"),
        ("pipe", "which cannot be used: is no regular file"),
        ("long name", "which cannot be used: the name is too long"),
        ("NUL", "which "),
        ("escape", r"\\x1b\[31m"),
        ("not audio", "not an audio file"),
        ("comment", r"lists # by hand, expected SPEAKER/clip.wav. Remove that line"),
    ],
)
def test_an_entry_of_a_list_that_is_no_clip_is_one_line(workspace, tmp_path, kind, text):
    if "link" in kind and os.name == "nt":
        pytest.skip("links need rights on Windows")
    path = tmp_path / "dataset/44k/alto/clip 0.wav"
    path.unlink()
    entry = "dataset/44k/alto/clip 0.wav"
    if kind == "broken link":
        path.symlink_to("nowhere")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no pipes here")
        os.mkfifo(path)
    elif kind == "comment":
        entry = "# by hand"
    elif kind == "not audio":
        path.write_bytes(b"none")
    entry = {"long name": f"dataset/44k/alto/{'a' * 999}.wav", "NUL": "alto/\0.wav", "escape": "alto/\x1b[31m.wav"}.get(
        kind, entry
    )
    write_list(tmp_path / "filelists/train.txt", [Path(entry)])
    with pytest.raises(UserError, match=text) as caught:
        VoiceDataset("filelists/train.txt", workspace)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("error", [OSError(5, "no"), MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_an_item_that_the_system_refuses_is_named(workspace, monkeypatch, error):
    dataset = VoiceDataset("filelists/train.txt", workspace)

    def fail(*arguments):
        raise error

    monkeypatch.setattr(features, "load", fail)
    found = dataset[Draw(0, 1)]
    assert isinstance(found, DataError) and str(found).startswith("dataset/44k/alto/clip 0.wav: ")
    error = KeyError("ours")
    with pytest.raises(KeyError):
        dataset[Draw(0, 1)]


def test_an_error_in_a_worker_reaches_the_trainer_as_it_is(workspace, tmp_path):
    dataset = VoiceDataset("filelists/train.txt", workspace)
    (tmp_path / "dataset/44k/alto/clip 0.spec.pt").write_bytes(b"broken")
    found = [batch for batch in make_loader(dataset, CPU) if isinstance(batch, DataError)]
    assert len(found) == 1 and "clip 0.spec.pt: is damaged" in str(found[0])


def test_units_narrower_than_the_config_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = VoiceDataset("filelists/train.txt", make_workspace(tmp_path, 1, {"ssl_dim": 7}))
    with pytest.raises(DataError, match=r"units are 6 wide but model\.ssl_dim is 7"):
        dataset.item(0)


def test_clips_shorter_than_a_training_segment_are_left_out(workspace, tmp_path):
    short = make_clip(tmp_path / "dataset/44k/alto/short.wav", 4000 / 44100).relative_to(tmp_path)
    write_list(tmp_path / "filelists/train.txt", [short, *VoiceDataset("filelists/train.txt", workspace).clips])
    dataset = VoiceDataset("filelists/train.txt", workspace)
    assert len(dataset) == 4 and dataset.too_short == [short]
    write_list(tmp_path / "filelists/train.txt", [short])
    with pytest.raises(DataError, match=r"no clip is as long as train\.segment_size \(0\.09 s\)"):
        VoiceDataset("filelists/train.txt", workspace)
