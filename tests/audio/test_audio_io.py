"""Audio files: every format in and out, every kind of damage named, nothing half-written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from signals import sung

from modules.audio.decoding import open_sound
from modules.audio.io import StreamWriter, load, probe, read, read_blocks, resample, write
from modules.errors import AudioError, UsageError

ROOT = Path(__file__).resolve().parent.parent.parent
FORMATS = [
    ("wav", "WAV", "PCM_U8"), ("wav", "WAV", "PCM_16"), ("wav", "WAVEX", "PCM_24"), ("wav", "WAV", "DOUBLE"),
    ("flac", "FLAC", "PCM_24"), ("ogg", "OGG", "VORBIS"), ("opus", "OGG", "OPUS"), ("mp3", "MP3", "MPEG_LAYER_III"),
    ("aiff", "AIFF", "PCM_16"), ("aifc", "AIFF", "FLOAT"), ("au", "AU", "PCM_16"), ("caf", "CAF", "PCM_16"),
    ("w64", "W64", "PCM_16"), ("wav", "RF64", "PCM_16"),
]  # fmt: skip


def noise(seconds=1.0, rate=48000, channels=1):
    shape = (int(seconds * rate), channels) if channels > 1 else int(seconds * rate)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 0.1


@pytest.mark.parametrize(("suffix", "container", "subtype"), FORMATS)
def test_every_format_comes_back_as_the_mean_of_its_channels(tmp_path, suffix, container, subtype):
    path, stereo = tmp_path / f"Ünï 音.{suffix}", noise(channels=2)
    soundfile.write(path, stereo, 48000, subtype, format=container)
    wav, rate = read(path)
    assert (wav.dtype, wav.ndim, rate) == (np.float32, 1, 48000) and probe(path).channels == 2
    assert abs(len(wav) - 48000) < 3000 and probe(path).seconds == pytest.approx(1, abs=0.06)
    if container not in ("OGG", "MP3"):
        assert np.allclose(wav, stereo.mean(axis=1), atol=0.01 if subtype == "PCM_U8" else 1e-4)


@pytest.mark.parametrize(("suffix", "container", "subtype"), FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_file_that_lost_its_end_is_refused(tmp_path, suffix, container, subtype, share):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(4), 48000, subtype, format=container)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(AudioError, match=r"truncated|not an audio file") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_sizes_left_open_by_a_program_that_streamed_are_no_truncation(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(), 48000)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(read(path)[0]) == 48000


def test_blocks_are_the_whole_file_in_pieces(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(2.5), 48000)
    blocks = list(read_blocks(path, block_seconds=1.0))
    assert [len(block) for block in blocks] == [48000, 48000, 24000]
    assert np.array_equal(np.concatenate(blocks), read(path)[0])


@pytest.mark.parametrize(("name", "content", "reason"), [
    ("a.wav", b"", "is empty"), ("a.wav", b"just text " * 50, "not an audio file"),
    ("a.mp3", bytes(5000), "not an audio file"), ("a.au", bytes(range(256)) * 20, "not an audio file"),
    ("a.m4a", b"\0\0\0\x20ftypM4A " + bytes(500), "not an audio file"),
    ("a.flac", b"fLaC" + bytes(100), "not an audio file"), ("a.wav", b"RIFF\0\0\0\0WAVE" + bytes(5000), "not an audio"),
])  # fmt: skip
def test_what_is_not_audio_is_named_in_one_line(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AudioError, match=reason) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_placed(tmp_path, value):
    path, wav = tmp_path / "a.wav", noise(2, channels=2)
    wav[60000, 1] = value
    soundfile.write(path, wav, 48000, "FLOAT")
    with pytest.raises(AudioError, match=r"not numbers .* at 1\.25 s"):
        read(path)


def test_missing_files_folders_pipes_and_headers_without_samples_are_refused(tmp_path):
    (tmp_path / "folder.wav").mkdir()
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 48000)
    soundfile.write(tmp_path / "slow.wav", noise(), 1)
    reasons = {"gone.wav": "no such file", "folder.wav": "a folder", "none.wav": "no samples", "slow.wav": "says 1 Hz"}
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.wav")
        reasons["pipe.wav"] = "not a regular file"
    for name, reason in reasons.items():
        with pytest.raises(AudioError, match=reason):
            read(tmp_path / name)


def test_loading_resamples_a_tone_to_the_same_tone(tmp_path):
    path, times = tmp_path / "a.wav", np.arange(16000) / 16000
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 440 * times), 16000, "FLOAT")
    wav = load(path, 44100)
    assert len(wav) == 44100 and wav.dtype == np.float32
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    assert np.allclose(wav[2000:-2000], wanted[2000:-2000], atol=1e-4)
    assert resample(wav, 44100, 44100) is wav


def test_writing_rounds_clips_and_never_wraps(tmp_path):
    wanted = [32767, -32768, 1, -1, 0]
    wav = np.array([1.7, -1.7, 0.6 / 32767, -0.6 / 32767, 0.4 / 32767], dtype=np.float32)
    write(tmp_path / "a.wav", wav, 44100)
    assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tolist() == wanted
    with StreamWriter(tmp_path / "b.flac", 44100, "flac") as writer:
        writer.write(wav)
    assert soundfile.read(tmp_path / "b.flac", dtype="int16")[0].tolist() == wanted


@pytest.mark.parametrize("name", ["wav", "FLAC", "ogg", "mp3", "aiff", "opus", "caf", "m4a"])
def test_a_stream_of_pieces_becomes_one_file(tmp_path, name):
    wav, path = noise(3), tmp_path / f"out.{name.lower()}"
    with StreamWriter(path, 48000, name) as writer:
        for piece in np.array_split(wav, 7):
            writer.write(piece)
        assert not path.exists()
    found, rate = read(path)
    assert rate == 48000 and writer.n_samples == len(wav) and abs(len(found) - len(wav)) < 3000
    if name in ("wav", "FLAC", "aiff", "caf"):
        assert np.allclose(found, wav, atol=1e-4)


def test_an_m4a_begins_with_its_sound_and_has_its_tags(tmp_path):
    import av

    wav = np.stack([sung(np.full(50_000, 220.0), 48000), np.zeros(50_000, np.float32)], axis=1)
    with StreamWriter(tmp_path / "out.m4a", 48000, "m4a", {"title": "Lied ü"}, channels=2) as writer:
        for piece in np.array_split(wav, 5):
            writer.write(piece)
    found = np.concatenate(list(open_sound(tmp_path / "out.m4a").blocks()))
    assert 0 <= len(found) - len(wav) < 1024, "AAC comes in packets"
    # The encoder's delay of 1024 samples is taken off, to the sample.
    errors = [np.abs(np.roll(found[: len(wav)], lag, 0) - wav)[2048:-2048].mean() for lag in range(-3, 4)]
    assert np.argmin(errors) == 3
    with av.open(str(tmp_path / "out.m4a")) as container:
        assert container.metadata["title"] == "Lied ü"
    with pytest.raises(AudioError, match="12345 Hz"), StreamWriter(tmp_path / "b.m4a", 12345, "m4a"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out.m4a"]


def test_a_failed_stream_keeps_the_older_result_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "out.wav"
    path.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt), StreamWriter(path, 48000, "wav") as writer:
        writer.write(noise())
        raise KeyboardInterrupt
    assert path.read_bytes() == b"older" and list(tmp_path.iterdir()) == [path]


def test_formats_that_cannot_be_written_are_refused_with_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match=r"unknown output format 'xyz'\. Known: .*flac.*wav.*m4a"):
        StreamWriter(tmp_path / "a.xyz", 44100, "xyz")
    with pytest.raises(AudioError, match="44100 Hz"), StreamWriter(tmp_path / "a.opus", 44100, "opus"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_wav_beyond_four_gigabytes_is_refused_instead_of_damaged(tmp_path):
    with pytest.raises(AudioError, match="at most 4 GB"), StreamWriter(tmp_path / "a.wav", 44100, "wav") as writer:
        writer.n_samples = 2**31 - 1000
        writer.write(noise())


@pytest.mark.skipif(os.name == "nt", reason="limits the size of files the POSIX way")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    code = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[1]); import numpy as np\n"
        "from modules.audio.io import StreamWriter; from modules.errors import AudioError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (200_000,) * 2)\n"
        "try:\n"
        "    with StreamWriter('out.wav', 44100, 'wav') as writer:\n"
        "        for _ in range(10): writer.write(np.zeros(44100))\n"
        "except AudioError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT)], cwd=tmp_path, capture_output=True, text=True)
    assert "out.wav: cannot be written" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are Unicode there")
@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_a_name_that_is_no_unicode_is_read_and_written(tmp_path, suffix):
    path = tmp_path / os.fsdecode(b"b\xff\xfe." + suffix.encode())
    with StreamWriter(path, 22050, suffix) as writer:
        writer.write(np.full(22050, 0.1, np.float32))
    assert probe(path).seconds == pytest.approx(1, abs=0.05)
    assert np.abs(read(path)[0][5000:15000] - 0.1).max() < 0.01
