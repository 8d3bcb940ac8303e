"""Songs taken apart: parts that add up to the song, made once, and never half there."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from modules.errors import AudioError, UsageError
from modules.separation import partial
from modules.separation.files import find_folder, plan, separate_file
from modules.separation.separator import Separator
from modules.separation.spec import Member, SeparatorSpec

RATE = 8000


class Gain(torch.nn.Module):
    """Gives its one stem the input times a factor, and counts; raises at one call."""

    def __init__(self, factor=0.5, stop_at=None):
        super().__init__()
        self.factor, self.n_calls, self.stop_at = factor, 0, stop_at

    def forward(self, sound):
        self.n_calls += 1
        if self.n_calls == self.stop_at:
            raise KeyboardInterrupt
        return self.factor * sound[:, None]


def model(factor=0.5, stem="vocals", stop_at=None, rate=RATE):
    spec = SeparatorSpec((stem,), rate, 2, 1000, 750, 500, is_normalised=False)
    network = Gain(factor, stop_at)
    return Separator([Member(network, (1.0,))], spec, torch.device("cpu"), f"{stem}.ckpt", f"{stem} {factor}")


def calls(separator):
    return separator._members[0].network.n_calls


def noise(n_samples=5000, channels=2, level=0.3):
    return np.random.default_rng(n_samples).uniform(-level, level, (n_samples, channels))


def save(path, wav, rate=RATE, subtype="PCM_16"):
    soundfile.write(path, wav, rate, subtype=subtype, format=path.suffix[1:].upper())
    return path


def read24(path):
    """(samples (n, C) as 24-bit integers, rate, subtype)."""
    info = soundfile.info(path)
    return soundfile.read(path, dtype="int32", always_2d=True)[0].astype(np.int64) >> 8, info.samplerate, info.subtype


@pytest.mark.parametrize(
    ("suffix", "subtype", "rate", "channels"),
    [
        ("wav", "PCM_16", RATE, 2),
        ("wav", "PCM_16", 44100, 2),
        ("wav", "PCM_24", 11025, 1),
        ("flac", "PCM_24", 6000, 2),
        ("wav", "FLOAT", RATE, 6),
        ("wav", "PCM_U8", RATE, 3),
    ],
)
def test_vocals_and_music_add_up_to_the_song(suffix, subtype, rate, channels, tmp_path):
    source = save(tmp_path / f"song.{suffix}", noise(channels=channels), rate, subtype)
    paths = separate_file(source, tmp_path / "out", model(), show=False)
    assert paths == {name: tmp_path / "out" / f"{name}.flac" for name in ("vocals", "music")}
    whole = np.rint(soundfile.read(source, dtype="float64", always_2d=True)[0] * (1 << 23))
    (vocals, *form), (music, *other) = read24(paths["vocals"]), read24(paths["music"])
    assert form == other == [rate, "PCM_24"]
    assert vocals.shape == (5000, channels) and np.array_equal(vocals + music, whole)
    assert 0.1 < np.abs(vocals).sum() / np.abs(whole).sum() < 0.8  # of 44100 Hz, only what the model can hear


@pytest.mark.parametrize("n_samples", [1, 2, 749, 750, 751, 1000, 1001, 1750])
@pytest.mark.parametrize("rate", [RATE, 44100])
def test_songs_of_any_length_keep_it(n_samples, rate, tmp_path):
    source = save(tmp_path / "song.wav", noise(n_samples), rate)
    paths = separate_file(source, tmp_path / "out", model(), show=False)
    parts = [read24(path)[0] for path in paths.values()]
    assert np.array_equal(sum(parts), read24(source)[0]) and len(parts[0]) == n_samples
    if rate == RATE:
        assert np.abs(parts[0] - parts[1]).max() <= 1, "half of it each"


def test_what_is_on_one_side_stays_there_at_its_level_and_its_time(tmp_path):
    time = np.arange(20000) / 44100
    wav = np.stack([0.5 * np.sin(2 * np.pi * 440 * time), np.zeros(20000)], axis=1)
    paths = separate_file(save(tmp_path / "a.wav", wav, 44100), tmp_path / "out", model(1.0, rate=32000), show=False)
    vocals = read24(paths["vocals"])[0] / (1 << 23)
    assert not vocals[:, 1].any()
    assert np.abs(vocals - wav)[1000:-1000].max() < 1e-3  # the resampling's ripple, and 16 bits


def test_the_part_gives_way_where_the_rest_would_clip(tmp_path):
    wav = np.tile([[0.9, -0.9], [1.4, -1.5]], (500, 1))  # beyond full scale, as files of floats may be
    paths = separate_file(save(tmp_path / "a.wav", wav, subtype="FLOAT"), tmp_path / "out", model(-0.5), show=False)
    vocals, music = (read24(path)[0] / (1 << 23) for path in paths.values())
    assert np.abs(vocals + music - wav).max() <= 2**-23
    assert np.abs(vocals[0] - [-0.1, 0.1]).max() < 1e-6


def test_what_is_there_is_not_made_again_and_other_things_are_not_replaced(tmp_path):
    source, folder, first = save(tmp_path / "a.wav", noise()), tmp_path / "out", model()
    paths = separate_file(source, folder, first, show=False)
    before, n_calls = paths["vocals"].stat().st_mtime_ns, calls(first)
    source.touch()
    assert separate_file(source, folder, first, show=False) == paths and calls(first) == n_calls
    for changed, separator in ((source, model(0.25)), (save(tmp_path / "b.wav", noise(4000)), first)):
        with pytest.raises(UsageError, match=r"vocals\.flac and music\.flac there are of another .* add --overwrite"):
            separate_file(changed, folder, separator, show=False)
    assert paths["vocals"].stat().st_mtime_ns == before
    separate_file(source, folder, model(0.25), overwrite=True, show=False)
    assert np.abs(read24(paths["vocals"])[0] - read24(source)[0] / 4).max() <= 1


def test_files_of_the_user_and_edited_ones_stay(tmp_path):
    source, folder = save(tmp_path / "a.wav", noise()), tmp_path / "out"
    folder.mkdir()
    (folder / "music.flac").write_text("mine")
    with pytest.raises(UsageError, match="by others"):
        separate_file(source, folder, model(), show=False)
    (folder / "music.flac").unlink()
    paths = separate_file(source, folder, model(), show=False)
    save(paths["vocals"], noise(100))
    with pytest.raises(UsageError, match="by others"):
        separate_file(source, folder, model(), show=False)
    paths["vocals"].unlink()
    separate_file(source, folder, model(), show=False)
    assert len(read24(paths["vocals"])[0]) == 5000, "a part that was deleted is made again"
    with pytest.raises(UsageError, match="would be replaced by its own part"):
        separate_file(paths["vocals"], folder, model(), show=False)


def test_a_killed_run_leaves_no_half_file_and_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(partial, "_SAVE_SECONDS", 0)
    source, straight = save(tmp_path / "a.wav", noise(20000), 44100), model()
    wanted = separate_file(source, tmp_path / "straight", straight, show=False)
    stopped, folder = model(stop_at=3), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        separate_file(source, folder, stopped, show=False)
    assert not list(folder.glob("*.flac")) and (folder / ".vocals.part").is_file()
    second = model()
    paths = separate_file(source, folder, second, show=False)
    assert calls(second) < calls(straight)
    assert all(paths[name].read_bytes() == wanted[name].read_bytes() for name in wanted)
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "music.flac", "separation.json", "vocals.flac"]


def test_what_a_killed_run_of_something_else_left_is_not_taken_up(tmp_path):
    source, folder = save(tmp_path / "a.wav", noise(20000)), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        separate_file(source, folder, model(0.25, stop_at=9), show=False)
    note = json.loads((folder / ".vocals.part.json").read_text())
    assert note["done"] == 8 * 750 and (folder / ".vocals.part").stat().st_size == 8 * 750 * 8
    paths = separate_file(source, folder, model(), show=False)
    assert np.abs(read24(paths["vocals"])[0] - read24(source)[0] / 2).max() <= 1


def test_a_note_that_is_damaged_costs_only_time(tmp_path):
    source, folder = save(tmp_path / "a.wav", noise(20000)), tmp_path / "out"
    for text in ("", "[]", '{"key": 1}', '{"done": 1e99}'):
        with pytest.raises(KeyboardInterrupt):
            separate_file(source, folder, model(stop_at=9), show=False)
        (folder / ".vocals.part.json").write_text(text)
    assert len(separate_file(source, folder, model(), show=False)) == 2


def test_a_crash_between_the_two_files_is_mended(tmp_path, monkeypatch):
    source, folder, rename = save(tmp_path / "a.wav", noise()), tmp_path / "out", Path.replace

    def fail(self, target):
        if Path(target).name == "vocals.flac":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        separate_file(source, folder, model(), show=False)
    monkeypatch.setattr(Path, "replace", rename)
    assert [path.name for path in folder.glob("*.flac")] == ["music.flac"]
    again = model()
    paths = separate_file(source, folder, again, show=False)
    assert calls(again) == 0, "what the network gave was complete"
    assert np.array_equal(sum(read24(path)[0] for path in paths.values()), read24(source)[0])


def test_lead_backing_and_dry_come_of_the_vocals(tmp_path):
    source, folder = save(tmp_path / "a.wav", noise()), tmp_path / "out"
    models = model(), model(0.5, "lead"), model(0.5, "noreverb")
    paths = separate_file(source, folder, *models, show=False)
    assert list(paths) == ["vocals", "music", "lead", "backing", "dry"]
    whole, parts = read24(source)[0], {name: read24(path)[0] for name, path in paths.items()}
    assert np.array_equal(parts["lead"] + parts["backing"], parts["vocals"])
    assert np.abs(parts["dry"] - whole / 8).max() <= 2
    n_calls = [calls(each) for each in models]
    separate_file(source, folder, *models, show=False)
    separate_file(source, folder, models[0], models[1], show=False)
    assert [calls(each) for each in models] == n_calls
    with pytest.raises(UsageError, match=r"dry\.flac there are of another"):  # of the lead, not of the vocals
        separate_file(source, folder, models[0], None, models[2], show=False)
    separate_file(source, folder, models[0], overwrite=True, show=False)
    assert all(path.is_file() for path in paths.values()), "of the same vocals"
    separate_file(source, folder, model(0.25), overwrite=True, show=False)
    assert sorted(path.name for path in folder.glob("*.flac")) == ["music.flac", "vocals.flac"], "of other vocals"


def test_the_dry_voice_of_another_lead_does_not_stay(tmp_path):
    source, folder, lead = save(tmp_path / "a.wav", noise()), tmp_path / "out", model(0.5, "lead")
    echo = model(0.5, "noreverb")
    dry = separate_file(source, folder, model(), lead, echo, show=False)["dry"]
    separate_file(source, folder, model(), model(0.25, "lead"), overwrite=True, show=False)
    assert not dry.exists()
    separate_file(source, folder, model(), None, echo, show=False)
    separate_file(source, folder, model(), lead, overwrite=True, show=False)
    assert dry.is_file(), "it is of the vocals, not of a lead"


def test_a_model_that_gives_something_else_is_refused_before_any_work(tmp_path):
    source = save(tmp_path / "a.wav", noise())
    with pytest.raises(UsageError, match=r"lead\.ckpt: gives lead, and dry is to be taken out"):
        separate_file(source, tmp_path / "out", model(), None, model(0.5, "lead"), show=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["truncated", "text", "empty", "nan", "no samples", "missing", "folder"])
def test_a_song_that_cannot_be_read_is_named_and_leaves_no_parts(kind, tmp_path):
    source = tmp_path / "a.wav"
    if kind == "folder":
        source.mkdir()
    elif kind == "nan":
        save(source, np.full((100, 2), np.nan), subtype="FLOAT")
    elif kind != "missing":
        data = save(source, noise(0 if kind == "no samples" else 20000)).read_bytes()
        source.write_bytes({"truncated": data[:20000], "text": b"no sound", "empty": b""}.get(kind, data))
    with pytest.raises(AudioError, match=r"a\.wav: "):
        separate_file(source, tmp_path / "out", model(), show=False)
    assert not list((tmp_path).glob("out/*.flac"))


def test_what_a_flac_cannot_hold_is_said_before_the_work(tmp_path):
    for source in (save(tmp_path / "a.wav", noise(100, 9)), save(tmp_path / "b.wav", noise(100), 768000)):
        separator = model()
        with pytest.raises(AudioError, match="a flac holds at most 8 channels and 655350 Hz"):
            separate_file(source, tmp_path / "out", separator, show=False)
        assert calls(separator) == 0


def test_a_song_that_changes_meanwhile_is_not_called_done(tmp_path):
    source, separator = save(tmp_path / "a.wav", noise()), model()
    network = separator._members[0].network
    network.register_forward_hook(lambda *_: save(source, noise() / 2) and None)
    with pytest.raises(AudioError, match="has changed while it was read"):
        separate_file(source, tmp_path / "out", separator, show=False)
    network._forward_hooks.clear()
    parts = [read24(path)[0] for path in separate_file(source, tmp_path / "out", model(), show=False).values()]
    assert np.array_equal(sum(parts), read24(source)[0])


def test_another_song_of_that_name_gets_the_next_folder(tmp_path, caplog):
    caplog.set_level("INFO")
    one, two, steps = save(tmp_path / "a.wav", noise()), save(tmp_path / "b.wav", noise(4000)), plan(model())
    wanted = tmp_path / "out"
    assert find_folder(wanted, one, steps) == (wanted, False)
    separate_file(one, wanted, model(), show=False)
    assert find_folder(wanted, one, steps) == (wanted, True)
    assert find_folder(wanted, two, steps) == (tmp_path / "out_2", False)
    assert "these go to out_2" in caplog.text
    assert find_folder(wanted, two, steps, overwrite=True) == (wanted, False)
    assert find_folder(wanted, two, steps, True, {wanted}) == (tmp_path / "out_2", False)
    (wanted / "separation.json").write_text("nonsense")
    assert find_folder(wanted, one, steps) == (tmp_path / "out_2", False)
    assert "what was separated before is not known" in caplog.text


def test_memory_does_not_grow_with_the_length(tmp_path):
    def peak(seconds):
        source = save(tmp_path / f"{seconds}.flac", np.tile(noise(RATE), (seconds, 1)), RATE)
        tracemalloc.start()
        separate_file(source, tmp_path / f"out{seconds}", model(rate=RATE), show=False)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1)  # what is imported and cached
    short, long = peak(15), peak(75)  # 4.8 MB as float32
    assert long < 1.2 * short + 1e6
