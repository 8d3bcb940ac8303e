"""Sizes in headers that are not true: all that is there is read, or one line says what is not."""

import io
import struct

import numpy as np
import pytest
import soundfile

from modules.audio.io import probe, read
from modules.audio.mono import MonoFile
from modules.errors import AudioError

RATE, N = 8000, 8000
NOISE = (np.random.default_rng(3).standard_normal(N) * 0.2).astype(np.float32)
# Container -> (what stands before a field, bytes from there to it, its format).
FIELDS = {
    "WAV": [(b"RIFF", 4, "<I"), (b"fmt ", 4, "<I"), (b"data", 4, "<I")],
    "WAVEX": [(b"RIFF", 4, "<I"), (b"fmt ", 4, "<I"), (b"fmt ", 24, "<H"), (b"data", 4, "<I")],
    "RF64": [(b"ds64", 4, "<I"), *((b"ds64", at, "<Q") for at in (8, 16, 24)), (b"ds64", 32, "<I"), (b"data", 4, "<I")],
    "RIFX": [(b"RIFX", 4, ">I"), (b"data", 4, ">I")],
    "W64": [(b"riff", 16, "<Q"), (b"fmt ", 16, "<Q"), (b"data", 16, "<Q")],
    "AIFF": [(b"FORM", 4, ">I"), (b"COMM", 4, ">I"), (b"COMM", 10, ">I"), *((b"SSND", at, ">I") for at in (4, 8, 12))],
    "AU": [(b".snd", 4, ">I"), (b".snd", 8, ">I")],
    "CAF": [(b"desc", 4, ">q"), (b"data", 4, ">q")],
}
VALUES = [
    "zero",
    "less",
    "a frame less",
    "a frame more",
    "more",
    "pipe",
    "killed",
    "unknown less header",
    "all ones",
]


def encoded(container: str, subtype: str = "PCM_16", wav: np.ndarray = NOISE) -> bytes:
    file = io.BytesIO()
    form = {"format": "WAV", "endian": "BIG"} if container == "RIFX" else {"format": container}
    soundfile.write(file, wav, RATE, subtype, **form)
    return file.getvalue()


def with_field(data: bytes, field: tuple, value: str) -> bytes:
    name, offset, form = field
    at, ones = data.index(name) + offset, (1 << (8 * struct.calcsize(form))) - 1
    (true,) = struct.unpack_from(form, data, at)
    new = {
        "zero": 0, "less": true // 2, "a frame less": true - 2, "a frame more": true + 2, "more": 2 * true + 16,
        "pipe": 0x7FFFF000, "killed": 0x80000000, "unknown less header": 0xFFFFFFFF - 44, "all ones": ones,
    }[value] & ones  # fmt: skip
    width = struct.calcsize(form)
    return data[:at] + new.to_bytes(width, "little" if form[0] == "<" else "big") + data[at + width :]


def read_with_notes(path):
    file = MonoFile(path)
    return np.concatenate(list(file.blocks())), file.notes


@pytest.mark.parametrize(("container", "field"), [(name, field) for name, fields in FIELDS.items() for field in fields])
@pytest.mark.parametrize("value", VALUES)
def test_no_size_in_a_header_loses_samples_in_silence(tmp_path, container, field, value):
    path = tmp_path / f"a.{container.lower()}"
    path.write_bytes(with_field(encoded(container), field, value))
    try:
        wav, _ = read_with_notes(path)
    except AudioError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        return
    assert len(wav) >= N and np.allclose(wav[:N], NOISE, atol=1e-4)
    assert probe(path).n_samples == len(wav)


SIZES_OF_SAMPLES = [(name, fields[-1]) for name, fields in FIELDS.items() if name not in ("RF64", "AIFF")]
SIZES_OF_SAMPLES += [("RF64", FIELDS["RF64"][2]), ("AIFF", FIELDS["AIFF"][3])]


@pytest.mark.parametrize(("container", "field"), SIZES_OF_SAMPLES)
@pytest.mark.parametrize("value", [value for value in VALUES if value not in ("more", "all ones")])
def test_samples_of_untrue_size_are_read_with_a_note(tmp_path, container, field, value):
    path = tmp_path / f"a.{container.lower()}"
    path.write_bytes(with_field(encoded(container), field, value))
    wav, notes = read_with_notes(path)
    assert len(wav) == N and np.allclose(wav, NOISE, atol=1e-4) and len(notes) == 1 and "header" in notes[0]


@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM"]
)
@pytest.mark.parametrize("value", ["true", "zero", "pipe", "a frame more"])
def test_every_coding_of_samples_is_found_behind_an_untrue_size(tmp_path, subtype, value):
    path, data = tmp_path / "a.wav", encoded("WAV", subtype)
    path.write_bytes(data)
    expected = soundfile.read(path, dtype="float32")[0]
    if value != "true":
        path.write_bytes(with_field(data, (b"data", 4, "<I"), value))
    if "ADPCM" in subtype and value == "a frame more":
        with pytest.raises(AudioError, match="its header announces"):
            read(path)
        return
    wav, notes = read_with_notes(path)
    assert len(wav) >= N and np.allclose(wav[:N], expected[:N], atol=0.01) and bool(notes) == (value != "true")


@pytest.mark.parametrize("container", [name for name in FIELDS if name != "AU"])
def test_a_header_without_samples_says_so(tmp_path, container):
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(container, wav=NOISE[:0]))
    with pytest.raises(AudioError, match="holds no samples"):
        read(path)


@pytest.mark.parametrize("behind", [
    b"LIST\x1a\0\0\0INFOISFT\x0e\0\0\0Lavf58.76.100\0", b"id3 \x04\0\0\0abcd", b"TAG" + bytes(125),
    b"ID3\x03\0\0\0\0\0\x04abcd", b"LIST\xff\0\0\0cut off", b"bext\x02\0\0\0abcue \x02\0\0\0cd",
])  # fmt: skip
def test_what_lies_behind_the_samples_is_not_read_as_sound(tmp_path, behind):
    path = tmp_path / "a.wav"
    path.write_bytes(encoded("WAV") + behind)
    wav, notes = read_with_notes(path)
    assert len(wav) == N and not notes


@pytest.mark.parametrize("container", ["WAV", "AIFF", "AU", "CAF", "W64"])
def test_recordings_joined_byte_by_byte_are_read_one_after_the_other(tmp_path, container):
    path = tmp_path / "a.wav"
    path.write_bytes(2 * encoded(container))
    wav, notes = read_with_notes(path)
    assert np.allclose(wav, np.tile(NOISE, 2), atol=1e-4) and "2 recordings are joined" in notes[0]
    assert probe(path).n_samples == 2 * N


def test_joined_recordings_of_two_rates_are_refused_with_both(tmp_path):
    path = tmp_path / "a.wav"
    data = encoded("WAV")
    soundfile.write(path, NOISE, 16000)
    path.write_bytes(data + path.read_bytes())
    with pytest.raises(AudioError, match="8000 Hz, 1 channels, then 16000 Hz"):
        read(path)


def test_a_size_beyond_four_gigabytes_that_wrapped_is_found_out(tmp_path):
    path, true = tmp_path / "a.wav", (1 << 32) + 8_000_000
    header = bytearray(encoded("WAV")[:44])
    header[40:44] = (true & 0xFFFFFFFF).to_bytes(4, "little")
    with path.open("wb") as file:  # sparse: takes no room
        file.write(header)
        file.write(b"\1\2" * 4000)
        file.truncate(44 + true)
    assert probe(path).n_samples == true // 2


def test_a_wrapped_size_is_read_to_the_end(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(with_field(encoded("WAV"), (b"data", 4, "<I"), "less"))
    wav, notes = read_with_notes(path)
    assert len(wav) == N and "announces 0.50 s, but 1.00 s are there" in notes[0]


@pytest.mark.parametrize("container", ["WAV", "RF64", "AIFF", "RIFX"])
def test_a_tag_in_front_of_a_container_is_passed_over(tmp_path, container):
    path = tmp_path / "tagged.wav"
    path.write_bytes(b"ID3\3\0\0\0\0\2\1" + bytes(257) + encoded(container))
    wav, notes = read_with_notes(path)
    assert not notes and probe(path).n_samples == N
    np.testing.assert_allclose(wav, NOISE, atol=1 / 32768)


def test_bw64_is_read(tmp_path):
    """The form of radio stations, which libsndfile does not know."""
    path = tmp_path / "radio.wav"
    path.write_bytes(encoded("RF64").replace(b"RF64", b"BW64", 1))
    wav, notes = read_with_notes(path)
    assert not notes
    np.testing.assert_allclose(wav, NOISE, atol=1 / 32768)


def test_a_sphere_file_that_lost_its_end_is_refused(tmp_path):
    path = tmp_path / "corpus.wav"
    path.write_bytes(encoded("NIST")[: 1024 + N])
    with pytest.raises(AudioError, match=r"corpus.wav: truncated or damaged: 0.5 s of the 1.0 s"):
        read(path)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html>", b"RIFF\0\0\0\0WAVE", encoded("WAV").replace(b"fmt ", b"fmx ")])
def test_what_cannot_be_read_comes_with_advice(tmp_path, content):
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(AudioError, match=r"x.wav: .* Copy or download it again, or save it as wav or flac"):
        read(tmp_path / "x.wav")
