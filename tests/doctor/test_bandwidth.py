"""Where a sound ends: fake 44.1 kHz, telephones and codecs are told from honest low rates."""

from pathlib import Path

import numpy as np
import pytest
from damaged_sounds import noisy, telephone, through_codec, through_rate
from measured import measure, measure_voice, voice

from modules.audio.io import resample
from modules.doctor.bandwidth import Bandwidth, BandwidthMeter, judge

FULL, WIDE = "be_ksenya_f", "it_carlo_m_16k"


@pytest.fixture(scope="module")
def clean() -> dict[str, dict[Path, Bandwidth]]:
    return {name: measure_voice(BandwidthMeter, name) for name in (FULL, WIDE)}


def found(sounds: dict[Path, Bandwidth], section: str = "recordings") -> list[str]:
    findings = judge(section, "alto", sounds)
    assert all(finding.kind == "bandwidth" for finding in findings)
    return [finding.level for finding in findings]


def bandwidth(wav: np.ndarray, rate: int) -> dict[Path, Bandwidth]:
    return {Path("a.wav"): measure(BandwidthMeter, wav, rate)}


def test_a_full_band_gives_nothing_and_an_honest_low_rate_a_fact(clean):
    assert found(clean[FULL]) == [] and found(clean[WIDE]) == ["info"]
    assert {round(sound.end_hz, -3) for sound in clean[FULL].values()} == {20000}
    assert {sound.end_hz for sound in clean[WIDE].values()} == {8000}
    wav, rate = voice(WIDE)
    clip = bandwidth(resample(wav, rate, 44100), 44100)
    assert found(clip, "clips") == ["info"]
    assert judge("clips", "alto", clip)[0].remedy == ""


@pytest.mark.parametrize("lowest, ends", [(8000, 3900), (11025, 5400), (16000, 7800), (22050, 10700)])
def test_what_was_resampled_up_is_found(lowest, ends):
    wav, rate = voice(FULL)
    sounds = bandwidth(through_rate(wav, rate, lowest), rate)
    assert sounds[Path("a.wav")].end_hz == pytest.approx(ends, abs=200)
    assert found(sounds) == (["error"] if lowest < 12000 else ["warning"])
    assert found(sounds, "clips") == (["error"] if lowest < 12000 else ["info"])


@pytest.mark.parametrize("name", [FULL, WIDE])
def test_a_telephone_is_an_error_also_at_its_own_rate_and_with_noise(name):
    wav, rate = voice(name)
    assert found(bandwidth(telephone(wav, rate), rate)) == ["error"]
    assert found(bandwidth(resample(wav, rate, 8000), 8000)) == ["error"]
    assert found(bandwidth(through_rate(noisy(wav, rate, 15, "white"), rate, 8000), rate), "clips") == ["error"]


@pytest.mark.parametrize(
    "codec, kbit, expected", [("mp3", 32, ["warning"]), ("mp3", 64, []), ("aac", 64, []), ("aac", 128, [])]
)
def test_codecs_of_few_bits_are_found(codec, kbit, expected):
    wav, rate = voice(FULL)
    sounds = bandwidth(through_codec(wav, rate, codec, kbit), rate)
    assert found(sounds) == found(sounds, "clips") == expected


def test_one_narrow_file_among_wide_ones_is_named(clean):
    wav, rate = voice(FULL)
    for section in ("recordings", "clips"):
        sounds = {**clean[FULL], Path("phone.wav"): measure(BandwidthMeter, through_rate(wav, rate, 16000), rate)}
        (finding,) = judge(section, "alto", sounds)
        assert finding.level == "warning" and finding.files == (Path("phone.wav"),)
        assert f"1 of 12 {section} is narrow in band (worst: phone.wav, no sound above 7.7 kHz)" in finding.text
        assert finding.remedy


def test_a_whistle_does_not_hide_the_edge():
    wav, rate = voice(FULL)
    whistle = 0.001 * np.sin(2 * np.pi * 15734 * np.arange(len(wav)) / rate)
    assert found(bandwidth((through_rate(wav, rate, 8000) + whistle).astype(np.float32), rate)) == ["error"]


@pytest.mark.parametrize("block", [777, 44100])
def test_the_end_does_not_depend_on_the_blocks(block):
    wav, rate = voice(FULL)
    assert measure(BandwidthMeter, wav, rate, block) == measure(BandwidthMeter, wav, rate)


@pytest.mark.parametrize("wav", [np.zeros(0), np.zeros(50000), np.ones(300)], ids=["empty", "silent", "short"])
def test_what_has_no_sound_has_no_end(wav):
    sounds = bandwidth(wav.astype(np.float32), 44100)
    assert sounds[Path("a.wav")].end_hz is None and found(sounds) == []
