"""Lists: which clips count, a split that starves nobody and stays the same, and files that survive any name."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from modules.data.filelist import read_list, scan, speaker_of, split_clips, write_list
from modules.errors import DataError


def clip(path, seconds=1.0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(int(44100 * seconds)), 44100, **options)
    return path


def names(speaker, count):
    return [Path(f"dataset/44k/{speaker}/{index:03}.wav") for index in range(count)]


def test_speakers_and_clips_are_sorted_and_unusable_ones_named(tmp_path, caplog):
    for name in ("b/2.wav", "b/1.WAV", "a/x.wav", "b/.hidden.wav"):
        clip(tmp_path / name)
    clip(tmp_path / "b/float.wav", subtype="FLOAT", format="WAVEX")
    clip(tmp_path / "b/short.wav", 0.29)
    (tmp_path / "b/broken.wav").write_text("no audio")
    (tmp_path / "b/1.WAV.soft.pt").write_text("a feature")
    (tmp_path / "loose.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    found = scan(tmp_path)
    assert {speaker: [path.name for path in paths] for speaker, paths in found.items()} == {
        "a": ["x.wav"], "b": ["1.WAV", "2.wav", "float.wav"],
    }  # fmt: skip
    assert "short.wav: is shorter than 0.3 s (0.29 s), left out" in caplog.text
    assert "broken.wav: not an audio file" in caplog.text and sum(found["b"].values()) == pytest.approx(3)


@pytest.mark.parametrize("make", ["nothing", "empty", "only a file"])
def test_a_dataset_without_clips_names_the_command(tmp_path, make):
    folder = tmp_path / "44k"
    if make != "nothing":
        folder.mkdir()
    if make == "only a file":
        clip(folder / "a.wav")
    with pytest.raises(DataError, match=r"python resample\.py"):
        scan(folder)


def test_a_name_that_a_list_cannot_hold_is_refused(tmp_path):
    clip(tmp_path / "a/x|y.wav")
    with pytest.raises(DataError, match=r"x\|y\.wav: .* Rename it"):
        scan(tmp_path)


@pytest.mark.parametrize(("count", "validation"), [(2, 1), (3, 1), (9, 1), (10, 2), (500, 2)])
def test_validation_never_starves_a_speaker(count, validation):
    train, kept = split_clips({"a": names("a", count)}, 1)
    assert len(kept) == validation and len(train) == count - validation
    assert sorted(train + kept) == names("a", count)


def test_a_speaker_with_one_clip_is_refused_by_name():
    with pytest.raises(DataError, match=r"solo \(1\), none \(0\)\. Each speaker needs at least 2"):
        split_clips({"a": names("a", 5), "solo": names("solo", 1), "none": []}, 1)


def test_the_split_follows_from_the_seed_and_the_speakers_own_clips():
    clips = {"a": names("a", 30), "b": names("b", 30)}
    assert split_clips(clips, 1) == split_clips(clips, 1)
    assert split_clips(clips, 1) != split_clips(clips, 2)
    more = split_clips({**clips, "c": names("c", 30)}, 1)[1]
    assert {path for path in more if speaker_of(path) != "c"} == set(split_clips(clips, 1)[1])


def test_the_two_speakers_of_a_list_are_mixed():
    order = [speaker_of(path) for path in split_clips({"a": names("a", 50), "b": names("b", 50)}, 1)[0]]
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
