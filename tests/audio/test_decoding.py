"""Files that people have: phones, films, stream rips, joined and damaged ones. All that is there, where it was."""

from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from modules.audio.io import AUDIO_SUFFIXES, probe, read
from modules.audio.mono import MonoFile
from modules.errors import AudioError

RATE = 44100
TAKE = np.convolve(np.random.default_rng(7).standard_normal(2 * RATE), np.ones(8) / 8, "same").astype(np.float32) * 0.3
# Suffix -> (container and codec of ffmpeg, samples that the last packet may be longer).
KINDS = {
    "m4a": ("ipod", "aac", 1024), "m4b": ("mp4", "aac", 1024), "mp4": ("mp4", "aac", 1024), "mov": ("mov", "alac", 0),
    "3gp": ("3gp", "aac", 1024), "mkv": ("matroska", "aac", 1024), "mka": ("matroska", "flac", 0),
    "aac": ("adts", "aac", 1024),
    "webm": ("webm", "libopus", 1000), "opus": ("ogg", "libopus", 1000), "mp3": ("mp3", "libmp3lame", 1152),
    "ac3": ("ac3", "ac3", 1536), "wv": ("wv", "wavpack", 0), "tta": ("tta", "tta", 0),
    "m4v": ("mov", "pcm_s24le", 0),
    "ts": ("mpegts", "aac", 1024), "flv": ("flv", "aac", 1024), "avi": ("avi", "pcm_s16le", 0),
    "mp2": ("mp2", "mp2", 1152),
}  # fmt: skip


def encode(path, container, codecs, wavs=(TAKE,), rate=RATE, picture=False):
    """Writes tracks (T,) or (2, T) with ffmpeg's encoders."""
    with av.open(str(path), "w", format=container) as file:
        if picture:
            film = file.add_stream("mpeg4", rate=25)
            film.width = film.height = 64
            film.pix_fmt = "yuv420p"
        tracks = []
        for codec, wav in zip(codecs, wavs):
            layout = "stereo" if wav.ndim == 2 else "mono"
            track = file.add_stream(codec, rate=rate, layout=layout)
            track.bit_rate = 128_000
            tracks.append((track, np.atleast_2d(wav), layout))
        if picture:
            image = av.VideoFrame(64, 64, "yuv420p")
            image.pts, image.time_base = 0, Fraction(1, 25)
            for packet in [*film.encode(image), *film.encode(None)]:
                file.mux(packet)
        for track, wav, layout in tracks:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wav), format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, 0
            for packet in [*track.encode(frame), *track.encode(None)]:
                file.mux(packet)
    return path


def shift(wav, original):
    """Samples by which `wav` comes later than `original`."""
    n = 1 << (len(wav) + len(original)).bit_length()
    product = np.fft.irfft(np.fft.rfft(wav, n) * np.conj(np.fft.rfft(original, n)), n)
    at = int(product.argmax())
    return at if at < n // 2 else at - n


def read_with_notes(path):
    file = MonoFile(path)
    return np.concatenate(list(file.blocks())), file.notes


@pytest.mark.parametrize("suffix", KINDS)
def test_every_kind_is_read_whole_and_where_it_was(tmp_path, suffix, capfd):
    container, codec, slack = KINDS[suffix]
    rate = 48000 if codec == "libopus" else RATE
    path = encode(tmp_path / f"Ünï 音.{suffix}", container, [codec], rate=rate)
    wav, notes = read_with_notes(path)
    assert shift(wav, TAKE) == 0 and 0 <= len(wav) - len(TAKE) <= slack and not notes
    info = probe(path)
    assert (info.rate, info.channels, info.n_samples) == (rate, 1, len(wav)) and f".{suffix}" in AUDIO_SUFFIXES
    assert "".join(capfd.readouterr()) == "", "ffmpeg keeps its messages to itself"


def test_alac_in_caf_says_what_is_missing(tmp_path):
    """This ffmpeg takes the padding of the last packet off twice."""
    wav, notes = read_with_notes(encode(tmp_path / "a.caf", "caf", ["alac"]))
    assert shift(wav, TAKE) == 0
    assert len(wav) == len(TAKE) or "more than is there" in notes[0]


def test_wma_is_read(tmp_path):
    """Microsoft's encoders put two frames in front, which ffmpeg's decoder takes off; its encoder puts one."""
    wav, notes = read_with_notes(encode(tmp_path / "a.wma", "asf", ["wmav2"]))
    assert shift(wav, TAKE) == -2048 and abs(len(wav) - len(TAKE)) <= 2048 and not notes


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_an_mp3_of_lame_is_the_take_to_the_sample(tmp_path, mode):
    path = tmp_path / "a.mp3"
    soundfile.write(path, TAKE, RATE, format="MP3", bitrate_mode=mode)
    wav, notes = read_with_notes(path)
    assert shift(wav, TAKE) == 0 and len(wav) == len(TAKE) and not notes


def mp3(tmp_path, wav, mode="VARIABLE"):
    soundfile.write(tmp_path / "one.mp3", wav, RATE, format="MP3", bitrate_mode=mode, compression_level=0.2)
    return (tmp_path / "one.mp3").read_bytes()


@pytest.mark.parametrize("levels", [(0.01, 1.0), (1.0, 0.002)])
def test_an_mp3_without_its_length_frame_is_read_to_the_end(tmp_path, levels):
    """Length estimated from the first frames is off by a factor of two either way."""
    data = mp3(tmp_path, np.concatenate([TAKE * level for level in levels for _ in range(2)]))
    first = data.index(b"\xff\xfb", 4)  # the frame behind the one that tells the length
    path = tmp_path / "a.mp3"
    path.write_bytes(data[first:])
    wav, notes = read_with_notes(path)
    assert 4 * len(TAKE) <= len(wav) < 4 * len(TAKE) + 3000 and not notes and probe(path).n_samples == len(wav)


@pytest.mark.parametrize(("before", "behind"), [
    (b"ID3\3\0\0\0\0\x07\x68" + b"APIC" + bytes(996), b"TAG" + bytes(125)),
    (b"", b"APETAGEX\xd0\x07\0\0\x84\0\0\0\1\0\0\0" + bytes(112)),
])  # fmt: skip
def test_tags_and_covers_are_no_sound(tmp_path, before, behind):
    path = tmp_path / "a.mp3"
    path.write_bytes(before + mp3(tmp_path, TAKE) + behind)
    wav, notes = read_with_notes(path)
    assert len(wav) == len(TAKE) and shift(wav, TAKE) == 0 and not notes


def test_two_mp3_files_joined_are_both_read(tmp_path):
    path = tmp_path / "a.mp3"
    path.write_bytes(mp3(tmp_path, TAKE) + mp3(tmp_path, TAKE[:RATE]))
    wav, _ = read_with_notes(path)
    assert 0 <= len(wav) - len(TAKE) - RATE < 4 * 1152


def ogg(tmp_path, wav, subtype="VORBIS", rate=48000):
    soundfile.write(tmp_path / "one.ogg", wav, rate, subtype, format="OGG")
    return (tmp_path / "one.ogg").read_bytes()


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg_streams_are_read_to_the_sample(tmp_path, subtype):
    path, parts = tmp_path / "a.ogg", (TAKE, TAKE[:RATE], TAKE[:5000])
    path.write_bytes(b"".join(ogg(tmp_path, part, subtype) for part in parts))
    wav, notes = read_with_notes(path)
    assert len(wav) == sum(map(len, parts)) == probe(path).n_samples and "3 recordings are joined" in notes[0]
    assert shift(wav[len(TAKE) : len(TAKE) + RATE], TAKE[:RATE]) == 0


def test_mp3_files_of_two_kinds_joined_are_refused_with_the_place(tmp_path):
    path, data = tmp_path / "a.mp3", mp3(tmp_path, TAKE)
    path.write_bytes(data + mp3(tmp_path, np.stack([TAKE, TAKE[::-1]], axis=1)))
    with pytest.raises(AudioError, match=r"from 2\.0 s on it has 44100 Hz with 2 channels.*Cut it in two"):
        read(path)


def test_what_no_decoder_knows_is_named(tmp_path):
    path = encode(tmp_path / "a.mkv", "matroska", ["aac"])
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_XYZ"))
    with pytest.raises(AudioError, match=r"a\.mkv: its sound cannot be decoded.*protected"):
        read(path)


def test_chained_streams_of_two_rates_are_refused_with_both(tmp_path):
    path = tmp_path / "a.ogg"
    path.write_bytes(ogg(tmp_path, TAKE) + ogg(tmp_path, TAKE, rate=22050))
    with pytest.raises(AudioError, match="48000 Hz, 1 channels, then 22050 Hz"):
        read(path)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_damaged_and_missing_pages_of_ogg_are_told(tmp_path, subtype):
    path, data = tmp_path / "a.ogg", ogg(tmp_path, TAKE, subtype)
    pages = [at for at in range(len(data)) if data[at : at + 4] == b"OggS"]
    middle = pages[2]
    flipped = bytearray(data)
    flipped[middle + 200] ^= 16
    for damaged in (flipped, data[:middle] + data[pages[3] :]):
        path.write_bytes(damaged)
        assert "1 damaged or missing pages, the first at" in read_with_notes(path)[1][0]
    path.write_bytes(data[: pages[-1]])
    assert "without the mark of its end" in read_with_notes(path)[1][-1]


def flac(tmp_path, wav=TAKE, rate=RATE):
    soundfile.write(tmp_path / "one.flac", wav, rate)
    return (tmp_path / "one.flac").read_bytes()


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_flac_is_exact(tmp_path, subtype):
    path, stereo = tmp_path / "a.flac", np.stack([TAKE, TAKE[::-1]], axis=1)
    soundfile.write(path, stereo, RATE, subtype)
    assert np.array_equal(read(path)[0], soundfile.read(path, dtype="float32")[0].mean(axis=1, dtype=np.float32))


@pytest.mark.parametrize("announced", [0, 1000, len(TAKE) - 1, len(TAKE) + 1000, (1 << 36) - 1])
def test_a_flac_header_with_another_length_loses_nothing(tmp_path, announced):
    path, data = tmp_path / "a.flac", bytearray(flac(tmp_path))
    data[21:26] = ((data[21] & 0xF0) << 32 | announced).to_bytes(5, "big")
    path.write_bytes(data)
    wav, notes = read_with_notes(path)
    assert len(wav) == len(TAKE) == probe(path).n_samples and bool(notes) == (announced > 0)


def test_tags_in_another_encoding_do_no_harm(tmp_path):
    path, data = tmp_path / "a.flac", flac(tmp_path)
    at = data.index(b"libFLAC") if b"libFLAC" in data else data.index(b"reference")
    path.write_bytes(data[:at] + b"\xe9\xff\xfe" + data[at + 3 :])
    assert len(read(path)[0]) == len(TAKE)


def test_joined_flac_files_are_both_read_and_two_rates_are_refused(tmp_path):
    path, data = tmp_path / "a.flac", flac(tmp_path)
    path.write_bytes(2 * data)
    wav, notes = read_with_notes(path)
    assert len(wav) == 2 * len(TAKE) and "2 recordings are joined" in notes[0]
    path.write_bytes(data + flac(tmp_path, rate=22050))
    with pytest.raises(AudioError, match="44100 Hz, 1 channels, then 22050 Hz"):
        read(path)


@pytest.mark.parametrize("make", ["mp3", "flac", "aac"])
def test_damage_in_the_middle_is_told(tmp_path, make):
    path = tmp_path / f"a.{make}"
    if make == "aac":
        encode(path, "ipod", ["aac"], [np.tile(TAKE, 2)])
    else:
        path.write_bytes((mp3 if make == "mp3" else flac)(tmp_path, np.tile(TAKE, 2)))
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at : at + 600] = np.random.default_rng(1).bytes(600)
    path.write_bytes(data)
    try:
        wav, notes = read_with_notes(path)
    except AudioError as error:
        assert "damaged" in str(error)
    else:
        assert make == "aac" or (notes and 0 <= 2 * len(TAKE) - len(wav) < 10_000)


def test_what_a_film_says_is_taken_and_one_without_sound_is_named(tmp_path):
    path = encode(tmp_path / "a.mp4", "mp4", ["aac"], picture=True)
    assert shift(read(path)[0], TAKE) == 0
    encode(path, "mp4", [], [], picture=True)
    with pytest.raises(AudioError, match="holds no sound"):
        read(path)


def test_one_of_two_tracks_is_taken_and_told(tmp_path):
    path = encode(tmp_path / "a.mka", "matroska", ["flac", "flac"], [TAKE, TAKE[::-1]])
    wav, notes = read_with_notes(path)
    assert shift(wav, TAKE) == 0 and notes == ("it has 2 audio tracks; only number 1 was taken",)


@pytest.mark.parametrize("suffix", ["m4a", "mkv", "wv", "mp3"])
def test_a_file_that_lost_its_end_is_refused(tmp_path, suffix):
    container, codec, _ = KINDS[suffix]
    path = encode(tmp_path / f"a.{suffix}", container, [codec])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"truncated|not an audio file"):
        read(path)


@pytest.mark.parametrize(("name", "content"), [
    ("a.m4a", b"this is text\n" * 100), ("a.m3u8", b"#EXTM3U\n#EXTINF:10,\nsecret.wav\n"), ("a.mp4", bytes(5000)),
    ("a.ffconcat", b"ffconcat version 1.0\nfile secret.wav\n"), ("a.mkv", b"\x1aE\xdf\xa3" + bytes(500)),
    ("a.ogg", b"OggS"),
])  # fmt: skip
def test_other_files_are_refused_and_playlists_are_not_followed(tmp_path, name, content, capfd):
    soundfile.write(tmp_path / "secret.wav", TAKE, RATE)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError) as caught:
        read(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(caught.value)
    assert "".join(capfd.readouterr()) == ""
