"""The same recording twice is found through codecs, levels, rates and cuts; the same words or notes twice are not."""

import time
from pathlib import Path

import numpy as np
import pytest
from damaged_sounds import noisy, through_codec
from measured import measure, measure_voice, voice
from signals import formant_voice, sung

from modules.audio.io import resample
from modules.doctor.duplicates import Fingerprint, FingerprintMeter, find_duplicates

FULL, WIDE = "be_ksenya_f", "it_carlo_m_16k"


@pytest.fixture(scope="module")
def clean() -> dict[Path, Fingerprint]:
    return measure_voice(FingerprintMeter, FULL) | measure_voice(FingerprintMeter, WIDE)


def test_clean_voices_have_no_duplicates(clean):
    assert find_duplicates("recordings", clean) == []


COPIES = {
    "equal": lambda wav, rate: (wav, rate),
    "quiet mp3, cut": lambda wav, rate: (
        through_codec(0.3 * wav[int(0.137 * rate) : -int(0.31 * rate)], rate, "mp3", 32),
        rate,
    ),
    "aac": lambda wav, rate: (through_codec(wav[rate // 3 :], rate, "aac", 64), rate),
    "resampled": lambda wav, rate: (resample(wav[rate // 20 :], rate, 48000), 48000),
    "telephone": lambda wav, rate: (resample(wav[77:], rate, 8000), 8000),
    "noisy": lambda wav, rate: (noisy(wav, rate, 15, "pink")[333:], rate),
    "a part of 2 s": lambda wav, rate: (wav[3 * rate : 5 * rate], rate),
}


@pytest.mark.parametrize("name", [FULL, WIDE])
@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_found_within_and_between_speakers(clean, name, copy):
    wav, rate = voice(name, 2)
    path = next(path for path in clean if path.name == f"{name}_002.flac")
    for folder, level, subject in ((path.parent, "warning", name), (Path("zoe"), "error", f"{name} and zoe")):
        other = folder / "copy.wav"
        (finding,) = find_duplicates("clips", {**clean, other: measure(FingerprintMeter, *COPIES[copy](wav, rate))})
        assert (finding.kind, finding.subject, set(finding.files)) == ("duplicates", subject, {path, other})
        assert finding.level in (level, "error")
        assert path.name in finding.text and "copy.wav" in finding.text and finding.remedy


def test_many_copies_within_a_speaker_are_an_error(clean):
    one = dict(list(clean.items())[:4])
    copies = {path.with_name(f"copy of {path.name}"): print_ for path, print_ in one.items()}
    (finding,) = find_duplicates("clips", {**one, **copies})
    assert finding.level == "error" and len(finding.files) == 8 and "8 of 8 clips" in finding.text
    assert find_duplicates("clips", {**clean, **dict(list(copies.items())[:1])})[0].level == "warning"


def test_speakers_may_be_told_by_a_table(clean):
    path = next(iter(clean))
    sounds = {path: clean[path], path.with_name("b.wav"): clean[path]}
    speakers = {path: "bass", path.with_name("b.wav"): "alto"}
    assert find_duplicates("recordings", sounds, speakers)[0].subject == "alto and bass"


def test_a_long_take_beside_its_own_clips_is_found(clean):
    sounds = {path: sound for path, sound in clean.items() if FULL in path.name}
    joined = np.concatenate([voice(FULL, number)[0] for number in (1, 2, 3, 4)])
    take = next(iter(sounds)).with_name("take.wav")
    (finding,) = find_duplicates("recordings", {**sounds, take: measure(FingerprintMeter, joined, 44100)})
    assert {path.stem[-3:] for path in finding.files} == {"001", "002", "003", "004", "ake"}


def test_silence_hum_and_held_notes_are_no_duplicates():
    times, generator = np.arange(6 * 44100) / 44100, np.random.default_rng(1)
    f0 = np.full(len(times), 220.0)
    wavs = [
        np.zeros(len(times)), np.zeros(len(times) + 7),
        0.3 * np.sin(2 * np.pi * 220 * times), 0.2 * np.sin(2 * np.pi * 220 * times + 1),
        sung(f0, 44100), 0.5 * sung(f0, 44100)[100:],
        sung(f0 * 2 ** (0.3 / 12 * np.sin(2 * np.pi * 5.5 * times)), 44100),
        sung(f0 * 2 ** (0.3 / 12 * np.sin(2 * np.pi * 5.3 * times + 1)), 44100),
        formant_voice(f0 * 2 ** (0.3 / 12 * np.sin(2 * np.pi * 5.6 * times + 2)), 44100),
        *(0.1 * generator.standard_normal((2, len(times)))),
        *(0.1 * np.sin(2 * np.pi * 50 * times) + 0.001 * generator.standard_normal((2, len(times)))),
    ]  # fmt: skip
    sounds = {Path(f"{i}.wav"): measure(FingerprintMeter, wav.astype(np.float32), 44100) for i, wav in enumerate(wavs)}
    assert find_duplicates("clips", sounds) == []


def test_equal_files_are_found_whatever_is_in_them():
    tone = (0.1 * np.sin(np.arange(20000) * 0.05)).astype(np.float32)
    sounds = {Path(f"s/{name}.wav"): measure(FingerprintMeter, tone, 44100) for name in "ab"}
    assert find_duplicates("clips", sounds)[0].files == tuple(sounds)


@pytest.mark.parametrize("block", [999, 44100])
def test_fingerprints_do_not_depend_on_the_blocks(block):
    wav, rate = voice(FULL)
    whole, parts = measure(FingerprintMeter, wav, rate), measure(FingerprintMeter, wav, rate, block)
    assert whole.digest == parts.digest and np.array_equal(whole.hashes, parts.hashes)
    assert np.array_equal(whole.frames, parts.frames) and len(whole.hashes) > 200


@pytest.mark.parametrize("n_samples", [0, 1, 2000])
def test_what_is_too_short_has_an_empty_fingerprint(n_samples):
    assert len(measure(FingerprintMeter, np.zeros(n_samples, np.float32), 44100).hashes) == 0
    assert find_duplicates("clips", {}) == []


def test_hours_of_sound_are_compared_in_seconds(clean):
    """Shifted in pitch, so that none is a copy of another."""
    sounds = {}
    for shift in range(0, 256, 2):
        for path, sound in list(clean.items())[:9]:
            hashes = (sound.hashes.astype(np.int64) + (shift << 12)).astype(np.uint32)
            sounds[Path(f"{shift}/{path.name}")] = Fingerprint(sound.seconds, "", hashes, sound.frames)
    assert sum(sound.seconds for sound in sounds.values()) > 2.5 * 3600
    started = time.perf_counter()
    find_duplicates("clips", sounds)
    assert time.perf_counter() - started < 10
