"""Clipping, noise, offset, silence and loudness: found where they were made, and not in clean voices."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from damaged_sounds import at_full_scale, clipped, noisy, through_codec
from measured import measure, measure_voice, voice
from signals import sung

from modules.audio.io import resample, to_int16
from modules.doctor.bandwidth import BandwidthMeter
from modules.doctor.duplicates import FingerprintMeter
from modules.doctor.levels import Floor, LevelMeter, Levels, judge

FULL, WIDE = "be_ksenya_f", "it_carlo_m_16k"
both = pytest.mark.parametrize("name", [FULL, WIDE])


@pytest.fixture(scope="module")
def clean() -> dict[str, dict[Path, Levels]]:
    return {name: measure_voice(LevelMeter, name) for name in (FULL, WIDE)}


def levels(wav: np.ndarray, rate: int) -> Levels:
    return measure(LevelMeter, wav, rate)


def found(sounds: dict[Path, Levels], section: str = "recordings") -> list[tuple[str, str]]:
    return [(finding.level, finding.kind) for finding in judge(section, "alto", sounds)]


def alone(sound: Levels) -> list[tuple[str, str]]:
    return found({Path("alone.wav"): sound})


def full_level_clip(wav: np.ndarray, rate: int) -> np.ndarray:
    """As resample.py makes it, but for its ends."""
    return to_int16(at_full_scale(resample(wav, rate, 44100))).astype(np.float32) / 32768


@both
def test_clean_voices_have_no_finding(clean, name):
    assert found(clean[name]) == []
    clips = [full_level_clip(*voice(name, number)) for number in (1, 2, 3)]
    assert found({Path(f"{i}.wav"): levels(clip, 44100) for i, clip in enumerate(clips)}, "clips") == []


@both
def test_clean_voices_have_no_finding_at_full_scale_or_from_a_phone(name):
    wav, rate = voice(name)
    assert alone(levels(at_full_scale(wav), rate)) == []
    assert alone(levels(through_codec(0.9 * at_full_scale(wav), rate, "aac", 64), rate)) == []


@both
@pytest.mark.parametrize("block", [1000, 44099])
def test_measures_do_not_depend_on_the_blocks(name, block):
    wav, rate = voice(name)
    wav = clipped(noisy(wav[: 5 * rate], rate, 25, "white"), 3)
    whole, parts = levels(wav, rate), measure(LevelMeter, wav, rate, block)
    assert whole.clipped > 0.1 and whole.hiss.is_steady
    for key, value in vars(whole).items():
        if isinstance(value, Floor):
            assert vars(getattr(parts, key)) == pytest.approx(vars(value), abs=1e-6)
        else:
            assert getattr(parts, key) == pytest.approx(value, abs=1e-6)


@both
@pytest.mark.parametrize("factor, level", [(1.5, "warning"), (5, "error"), (30, "error")])
def test_clipping_is_found(name, factor, level):
    wav, rate = voice(name)
    cut = clipped(wav, factor)
    assert (level, "clipping") in alone(levels(cut, rate))
    assert (level, "clipping") in alone(levels(np.rint(cut * 13107).astype(np.float32) / 32768, rate))  # turned down


@both
@pytest.mark.parametrize("factor", [5, 30])
@pytest.mark.parametrize("way", ["resampled", "aac", "mp3"])
def test_clipping_is_found_though_it_was_smoothed(name, factor, way):
    wav, rate = voice(name)
    cut = clipped(wav, factor)
    if way == "resampled":
        cut = resample(cut, rate, 44100 if rate == 16000 else 32000)
        rate = 44100 if rate == 16000 else 32000
        cut = to_int16(at_full_scale(cut)).astype(np.float32) / 32768
    else:
        cut = through_codec(cut, rate, way, 96)
    assert "clipping" in [kind for level, kind in alone(levels(cut, rate)) if level != "info"]


def test_one_clipped_file_among_good_ones_is_named_with_its_number(clean):
    wav, rate = voice(FULL, 3)
    sounds = {**clean[FULL], Path("bad one.wav"): levels(clipped(wav, 5), rate)}
    clipping = next(finding for finding in judge("recordings", "alto", sounds) if finding.kind == "clipping")
    assert clipping.level == "warning" and clipping.files == (Path("bad one.wav"),) and clipping.subject == "alto"
    assert (
        "1 of 12 recordings is clipped (worst: bad one.wav, " in clipping.text
        and "% of its loud peaks" in clipping.text
    )
    assert clipping.remedy


def test_a_voice_with_a_few_cut_peaks_in_many_files_is_hot_and_not_clipped(clean):
    sounds = {path: replace(sound, clipped=0.008) for path, sound in clean[FULL].items()}
    first = next(iter(sounds))
    sounds[first] = replace(sounds[first], clipped=0.026)
    assert found(sounds) == [("info", "clipping")]
    sounds[first] = replace(sounds[first], clipped=0.05)
    assert found(sounds) == [("warning", "clipping")]


@pytest.mark.parametrize("f0", [110.0, 220.0, 440.0])
def test_steady_tones_are_not_clipped(f0):
    times = np.arange(3 * 44100) / 44100
    for wav in (0.5 * np.sin(2 * np.pi * f0 * times), sung(np.full(len(times), f0), 44100)):
        measured = levels(wav.astype(np.float32), 44100)
        assert measured.clipped == 0 and measured.flattened == 0


@both
@pytest.mark.parametrize("kind", ["white", "pink"])
@pytest.mark.parametrize("snr_db, level", [(30, "warning"), (15, "error"), (0, "error")])
def test_hiss_is_found(name, kind, snr_db, level):
    wav, rate = voice(name)
    assert (level, "noise") in alone(levels(noisy(wav, rate, snr_db, kind), rate))


@both
@pytest.mark.parametrize("kind", ["hum50", "hum60"])
@pytest.mark.parametrize("snr_db", [15, 0])
def test_hum_is_found_and_its_level_told(name, kind, snr_db):
    wav, rate = voice(name)
    measured = levels(noisy(wav, rate, snr_db, kind), rate)
    assert alone(measured) == [("error", "noise")]
    assert measured.hum_db == pytest.approx(snr_db, abs=5)


def test_what_a_gate_has_silenced_is_no_noise_floor():
    wav, rate = voice(FULL)
    dirty = noisy(wav, rate, 15, "white")
    loudness = np.sqrt(np.convolve(wav**2, np.ones(rate // 20) / (rate // 20), "same"))
    gated = np.where(loudness > 0.02 * loudness.max(), dirty, 0).astype(np.float32)
    assert (gated == 0).mean() > 0.05
    assert ("error", "noise") in alone(levels(gated, rate))


def test_noise_is_said_to_be_unknown_where_there_are_no_pauses():
    wav, rate = voice(FULL)
    energies = (wav[: len(wav) // 882 * 882].reshape(-1, 882) ** 2).sum(1)
    without = wav[: len(energies) * 882].reshape(-1, 882)[energies > energies.max() * 10**-2.0].ravel()
    assert alone(levels(without, rate)) == [("info", "noise")]
    assert alone(levels(wav[:rate], rate)) == [("info", "noise")]


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_an_offset_is_a_fact_in_recordings_and_a_warning_in_clips(share):
    wav, rate = voice(FULL)
    shifted = wav + share * np.abs(wav).max()
    measured = levels(shifted, rate)
    assert measured.offset == pytest.approx(shifted.mean() / np.abs(shifted).max(), rel=1e-3) and measured.offset > 0.04
    assert alone(measured) == [("info", "offset")]
    assert found({Path("a.wav"): measured}, "clips") == [("warning", "offset")]


def test_silent_files_and_long_gaps_are_named(clean):
    wav, rate = voice(FULL)
    gap = np.concatenate([wav, np.zeros(3 * rate, np.float32), wav])
    mostly = np.concatenate([wav, np.zeros(30 * rate, np.float32)])
    sounds = {Path("gap.wav"): levels(gap, rate), Path("mostly.wav"): levels(mostly, rate), **clean[FULL]}
    assert sounds[Path("gap.wav")].gap_seconds == pytest.approx(3, abs=0.05)
    assert sounds[Path("mostly.wav")].gap_seconds == 0 and sounds[Path("mostly.wav")].silent_share > 0.7
    assert found(sounds) == [("info", "silence")] and found(sounds, "clips") == [("warning", "silence")]
    sounds[Path("nothing.wav")] = levels(np.zeros(rate, np.float32), rate)
    finding = judge("recordings", "alto", sounds)[0]
    assert finding.level == "warning" and [path.stem for path in finding.files] == ["nothing", "mostly", "gap"]
    assert "nothing.wav, no sound at all" in finding.text


def test_quiet_and_uneven_levels_are_named(clean):
    wav, rate = voice(FULL)
    assert alone(levels(0.02 * at_full_scale(wav), rate)) == []
    assert ("warning", "level") in alone(levels(np.rint(0.01 * 32768 * at_full_scale(wav)) / np.float32(32768), rate))
    sounds = {**clean[FULL], Path("far.wav"): levels(0.15 * wav, rate)}
    assert found(sounds) == [("info", "level")] and found(sounds, "clips") == [("warning", "level")]


@pytest.mark.parametrize("n_samples", [0, 1, 300, 5000])
@pytest.mark.parametrize("rate", [1000, 8000, 44100, 96000])
def test_sounds_too_short_for_anything_are_measured_as_far_as_they_go(n_samples, rate):
    wav = 0.1 * np.sin(np.arange(n_samples) * 0.1).astype(np.float32)
    measured = levels(wav, rate)
    assert (measured.hiss, measured.hum_db) == (None, None) or n_samples / rate > 2
    assert measured.seconds == pytest.approx(n_samples / rate)
    judge("clips", "alto", {Path("a.wav"): measured})
    assert (
        measure(BandwidthMeter, wav, rate).seconds == measure(FingerprintMeter, wav, rate).seconds == n_samples / rate
    )
