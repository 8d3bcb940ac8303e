"""Items of the diffusion model: where they are cut, what is augmented, what is refused, and that all of it repeats."""

import pytest
import torch
from tiny_diffusion import diffusion_config, make_diffusion_workspace
from tiny_voices import tiny_config

from diffusion.dataset import DiffusionDataset, collate, make_loader
from modules.config.vocoder import PUBLISHED_MEL
from modules.data.dataset import Draw
from modules.data.features import load_diffusion
from modules.errors import DataError

AUDIO = tiny_config().audio


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_diffusion_workspace(tmp_path)


def dataset(config, **options) -> DiffusionDataset:
    return DiffusionDataset("filelists/train.txt", config, AUDIO, PUBLISHED_MEL, **options)


def test_an_item_is_a_stretch_of_its_clip_plain_or_augmented(workspace):
    data = dataset(workspace)
    clip = load_diffusion(data.clips[3], AUDIO, PUBLISHED_MEL, "fake")
    seen = set()
    for epoch in range(1, 30):
        item = data.item(3, epoch)
        n = int(0.3 * 44100 / 512)
        assert item.mel.shape == (128, n) and item.units.shape == (6, n) and item.f0.shape == item.volume.shape == (n,)
        whole = clip.mel if item.aug_shift == 0 else clip.aug_mel
        starts = [s for s in range(whole.shape[1] - n + 1) if torch.equal(whole[:, s : s + n], item.mel)]
        assert len(starts) == 1
        seen.add((item.aug_shift != 0, starts[0]))
        if item.aug_shift:
            assert item.aug_shift == clip.aug_shift
            assert torch.allclose(item.f0, torch.full((n,), 220 * 2 ** (clip.aug_shift / 12)), rtol=1e-5)
            assert torch.equal(item.volume, clip.aug_volume[starts[0] : starts[0] + n])
        else:
            assert torch.allclose(item.f0, torch.full((n,), 220.0))
    assert {augmented for augmented, _ in seen} == {True, False} and len({start for _, start in seen}) > 5


def test_a_draw_repeats_whatever_came_before_it(workspace):
    first, second = dataset(workspace), dataset(workspace)
    second.item(0, 1)
    for index, epoch in ((0, 1), (2, 5), (0, 1)):
        for a, b in zip(first.item(index, epoch), second.item(index, epoch)):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_the_cache_holds_the_same_in_half_the_memory(workspace):
    plain, cached = dataset(workspace), dataset(workspace)
    cached.fill_cache(show_progress=False)
    workspace.train.cache_fp16 = True
    half = dataset(workspace)
    half.fill_cache(show_progress=False)
    for index in range(len(plain)):
        one, other, small = (data.item(index, 1) for data in (plain, cached, half))
        assert torch.equal(one.mel, other.mel) and torch.equal(one.units, other.units)
        assert small.mel.dtype == torch.float16 and small.f0.dtype == torch.float32
        assert torch.allclose(one.mel, small.mel.float(), atol=5e-3)
    batch = collate([half.item(0, 1), half.item(1, 1)]).to(torch.device("cpu"))
    assert batch.mel.dtype == torch.float32 and batch.speakers.tolist() == [0, 1]


def test_validation_clips_are_whole_and_plain(workspace):
    data = dataset(workspace, training=False)
    clip = load_diffusion(data.clips[1], AUDIO, PUBLISHED_MEL, "fake", with_augmented=False)
    item = data.item(1, 3)
    assert torch.equal(item.mel, clip.mel) and item.aug_shift == 0


def test_short_clips_are_left_out_and_all_short_is_an_error(workspace):
    workspace.data.duration = 0.48
    data = dataset(workspace)
    assert [path.name for path in data.too_short] == ["clip 0.wav", "clip 1.wav"] and len(data) == 2
    workspace.data.duration = 5
    with pytest.raises(DataError, match=r"data.duration \(5 s.*Lower data.duration"):
        dataset(workspace)


def test_what_does_not_fit_names_the_file_and_the_command(workspace):
    workspace.data.encoder_out_channels = 7
    with pytest.raises(DataError, match=r"units are 6 wide but data.encoder_out_channels is 7"):
        dataset(workspace).item(0)
    workspace.data.encoder = "other"
    found = dataset(workspace)[Draw(0, 1)]
    assert isinstance(found, DataError) and "--use_diff" in str(found)
    config = diffusion_config()
    del config.spk["bass"]
    with pytest.raises(DataError, match="'bass', who is not in the diffusion config"):
        dataset(config)
    dataset(diffusion_config()).clips[0].unlink()
    with pytest.raises(DataError, match="which does not exist"):
        dataset(diffusion_config())


def test_the_loader_gives_every_clip_once_an_epoch(workspace):
    loader = make_loader(dataset(workspace), torch.device("cpu"))
    loader.batch_sampler.set_epoch(2)
    paths = [path for batch in loader for path in batch.paths]
    assert len(paths) == 4 and len(set(paths)) == 4
