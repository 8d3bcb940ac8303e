"""Lists: which clips count, a split that starves nobody and stays the same, and files that survive any name."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from modules.data.filelist import check_lists, read_list, scan, speaker_of, split_clips, write_list
from modules.errors import DataError, UsageError


def clip(path, seconds=1.0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(int(44100 * seconds)), 44100, **options)
    return path


def names(speaker, count):
    return [Path(f"dataset/44k/{speaker}/{index:03}.wav") for index in range(count)]


def clips_of(**counts):
    return {speaker: dict.fromkeys(names(speaker, count), 8.0) for speaker, count in counts.items()}


def test_speakers_and_clips_are_sorted_and_unusable_ones_named(tmp_path, caplog):
    for name in ("b/2.wav", "b/1.WAV", "a/x.wav", "b/.hidden.wav"):
        clip(tmp_path / name)
    clip(tmp_path / "b/float.wav", subtype="FLOAT", format="WAVEX")
    clip(tmp_path / "b/short.wav", 0.29)
    (tmp_path / "b/broken.wav").write_text("no audio")
    (tmp_path / "b/1.WAV.soft.pt").write_text("a feature")
    (tmp_path / "loose.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    clip(tmp_path / "loose.wav")
    clip(tmp_path / "b/song.flac")
    found, n_left_out = scan(tmp_path)
    assert {speaker: [path.name for path in paths] for speaker, paths in found.items()} == {
        "a": ["x.wav"], "b": ["1.WAV", "2.wav", "float.wav"],
    }  # fmt: skip
    assert "short.wav: is shorter than 0.3 s (0.29 s)" in caplog.text and n_left_out == 4
    assert "broken.wav: not an audio file" in caplog.text and sum(found["b"].values()) == pytest.approx(3)
    assert "loose.wav: lies outside any speaker folder" in caplog.text and "no .wav (song.flac)" in caplog.text


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_whatever_lies_among_the_clips_is_named_and_left_out(tmp_path, caplog):
    for name in ("a/1.wav", "a/2.wav", "b/1.wav"):
        clip(tmp_path / name)
    (tmp_path / "a/folder.wav").mkdir()
    os.mkfifo(tmp_path / "a/pipe.wav")
    (tmp_path / "a/link.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "c").symlink_to(tmp_path / "gone")
    clip(tmp_path / "a/back\\slash.wav")
    clip(tmp_path / "a/bar|line.wav")
    (tmp_path / os.fsdecode(b"a/\xff.wav")).write_bytes((tmp_path / "a/1.wav").read_bytes())
    found, n_left_out = scan(tmp_path)
    assert [path.name for clips in found.values() for path in clips] == ["1.wav", "2.wav", "1.wav"]
    assert n_left_out == len(caplog.messages) == 7
    for name in ("folder.wav", "pipe.wav", "link.wav", "/c:", "back\\slash.wav", "bar|line.wav", "Rename it"):
        assert name in caplog.text


def test_a_folder_that_may_not_be_read_is_named(tmp_path, caplog, monkeypatch):
    clip(tmp_path / "a/1.wav")
    (tmp_path / "b").mkdir()
    listed = Path.iterdir

    def iterdir(folder):
        if folder.name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert scan(tmp_path)[1] == 1 and f"{tmp_path / 'b'}: permission denied" in caplog.text


def test_two_clips_that_would_share_their_features_are_refused(tmp_path):
    for name in ("a/x.wav", "a/x.WAV", "b/x.wav"):
        clip(tmp_path / name)
    if len(list((tmp_path / "a").iterdir())) < 2:
        pytest.skip("this file system does not tell x.wav from x.WAV")
    with pytest.raises(DataError, match=r"x\.WAV and .*x\.wav: .* Rename one"):
        scan(tmp_path)


@pytest.mark.parametrize("make", ["nothing", "empty", "only a file"])
def test_a_dataset_without_clips_names_the_command(tmp_path, make):
    folder = tmp_path / "44k"
    if make != "nothing":
        folder.mkdir()
    if make == "only a file":
        clip(folder / "a.wav")
    with pytest.raises(DataError, match=r"python resample\.py"):
        scan(folder)


@pytest.mark.parametrize(("count", "validation"), [(2, 1), (3, 1), (9, 1), (10, 2), (500, 2)])
def test_validation_never_starves_a_speaker(count, validation):
    train, kept = split_clips(clips_of(a=count), 1)
    assert len(kept) == validation and len(train) == count - validation
    assert sorted(train + kept) == names("a", count)


def test_a_speaker_with_one_clip_is_refused_by_name():
    with pytest.raises(DataError, match=r"solo \(1\), none \(0\)\. Each speaker needs at least 2"):
        split_clips({**clips_of(a=5, solo=1), "none": {}}, 1)


def test_the_split_follows_from_the_seed_and_the_speakers_own_clips():
    clips = clips_of(a=30, b=30)
    assert split_clips(clips, 1) == split_clips(clips, 1)
    assert split_clips(clips, 1) != split_clips(clips, 2)
    more = split_clips({**clips, **clips_of(c=30)}, 1)[1]
    assert {path for path in more if speaker_of(path) != "c"} == set(split_clips(clips, 1)[1])


@pytest.mark.parametrize("seed", range(20))
def test_validation_never_takes_most_of_the_seconds(seed, caplog):
    a, b, *rest = names("a", 12)
    assert split_clips({"a": {a: 90.0, b: 60.0}}, seed) == ([a], [b])
    assert "a: 60.0 of its 150.0 s are kept for validation" in caplog.text
    caplog.clear()
    one_long = {a: 600.0, **dict.fromkeys([b, *rest], 4.0)}
    kept = split_clips({"a": one_long}, seed)[1]
    assert len(kept) == 2 and a not in kept and not caplog.messages


@given(st.lists(st.floats(0.3, 7200), min_size=2, max_size=30), st.integers(0, 100))
def test_a_split_loses_no_clip_and_keeps_at_most_a_quarter_or_the_shortest(lengths, seed):
    seconds = dict(zip(names("a", len(lengths)), lengths))
    train, kept = split_clips({"a": seconds}, seed)
    assert sorted(train + kept) == sorted(seconds) and kept and train
    total = sum(seconds[path] for path in kept)
    assert total <= 0.25 * sum(lengths) or (len(kept) == 1 and total == min(lengths))


def test_the_two_speakers_of_a_list_are_mixed():
    order = [speaker_of(path) for path in split_clips(clips_of(a=50, b=50), 1)[0]]
    assert order != sorted(order)


def test_lists_hold_any_name_and_read_windows_paths(tmp_path):
    clips = [Path("dataset/44k/голос 音/take 1.wav"), Path("dataset/44k/b/2.wav")]
    write_list(tmp_path / "new/train.txt", clips)
    assert read_list(tmp_path / "new/train.txt") == clips
    (tmp_path / "w.txt").write_bytes(b"\xef\xbb\xbfdataset\\44k\\b\\2.wav|text\r\n\r\n")
    assert read_list(tmp_path / "w.txt") == clips[1:]
    assert speaker_of(clips[0]) == "голос 音" and speaker_of(Path("dataset\\44k\\b\\2.wav")) == "b"


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"\n\n", "lists no clips"), (b"\xff\xfe", "UTF-8")]
)
def test_a_list_that_cannot_be_used_names_the_command(tmp_path, content, message):
    path = tmp_path / "train.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"train\.txt: .*{message}.*preprocess_flist_config\.py"):
        read_list(path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_a_list_that_never_ends_is_refused_at_once(tmp_path):
    with pytest.raises(DataError, match="/dev/zero: is no regular file"):
        read_list(Path("/dev/zero"))
    with pytest.raises(DataError, match="is a folder"):
        read_list(tmp_path)
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(DataError, match="1024 MB"):
        read_list(tmp_path / "large.txt")


def test_clips_in_a_folder_of_their_own_are_named(tmp_path, caplog):
    clip(tmp_path / "alto" / "a.wav")
    clip(tmp_path / "alto" / "day 2" / "b.wav")
    (tmp_path / "alto" / "notes").mkdir()
    found, n_left_out = scan(tmp_path)
    assert [path.name for path in found["alto"]] == ["a.wav"] and n_left_out == 1
    assert "day 2: holds 1 recordings, but clips lie in" in caplog.text


def test_a_list_replaces_lists_only(tmp_path):
    lists = tmp_path / "train.txt", tmp_path / "val.txt"
    check_lists(*lists)
    write_list(lists[0], names("a", 3))
    lists[1].write_text("\ndataset/44k/a/x.WAV|text\n")
    check_lists(*lists)
    with pytest.raises(UsageError, match="two lists"):
        check_lists(lists[0], tmp_path / "sub" / ".." / "train.txt")
    clip(tmp_path / "song.wav")
    (tmp_path / "notes.txt").write_text("buy milk")
    for other in (tmp_path / "song.wav", tmp_path / "notes.txt", tmp_path):
        with pytest.raises(UsageError, match="is no file list, so it is not replaced; remove it or give"):
            check_lists(lists[0], other)
