"""The notes of a voice, where its range ends, and doubt about octaves: in made cases, and not in real voices."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from signals import formant_voice, sung

from modules.audio.io import read
from modules.doctor.pitch import HOP_SECONDS, Pitch, PitchMeter, coverage, judge
from modules.f0.histogram import PitchHistogram

RATE = 22050
SAMPLES = Path(__file__).parents[2] / "samples"


def measure(wav: np.ndarray, rate: int = RATE, size: int | None = None) -> Pitch:
    meter = PitchMeter(rate)
    for start in range(0, len(wav), size or len(wav)):
        meter.push(wav[start : start + (size or len(wav))])
    return meter.finish()


def vibrato(hz: float, seconds: float) -> np.ndarray:
    times = np.arange(int(seconds * RATE)) / RATE
    return hz * 2 ** (0.3 * np.sin(2 * np.pi * 5.5 * times) / 12)


def scale(*midi: int, seconds: float = 1.5) -> np.ndarray:
    notes = [formant_voice(vibrato(440 * 2 ** ((note - 69) / 12), seconds), RATE) for note in midi]
    return np.concatenate(notes)


def of_notes(seconds: float, *midi: float, doubtful: int = 0) -> Pitch:
    """A sound that holds each of the notes for as long."""
    frames = np.repeat(440 * 2 ** ((np.array(midi) - 69) / 12), round(seconds / HOP_SECONDS))
    return Pitch(seconds * len(midi), seconds * len(midi), PitchHistogram.from_curve(frames, frames > 0), doubtful)


def kinds(found) -> list[tuple[str, str]]:
    return [(finding.level, finding.kind) for finding in found]


def test_a_scale_is_covered_note_by_note():
    found = dict(coverage(measure(scale(57, 59, 60))))
    assert [note for note, seconds in found.items() if seconds > 1] == ["A3", "B3", "C4"]
    assert sum(found.values()) == pytest.approx(4.5, abs=0.3)


def test_what_lies_between_two_notes_counts_half_for_each_and_gaps_are_shown():
    assert coverage(of_notes(10.0, 60.5)) == [("C4", pytest.approx(5, abs=0.02)), ("C#4", pytest.approx(5, abs=0.02))]
    assert [note for note, _ in coverage(of_notes(2.0, 60, 63))] == ["C4", "C#4", "D4", "D#4"]
    assert coverage(Pitch()) == []


@pytest.mark.parametrize("name", ["voices/be_ksenya_f", "voices/it_carlo_m_16k", "songs"])
def test_real_voices_give_their_notes_and_nothing_else(name):
    sounds = {path: measure(*read(path)) for path in sorted((SAMPLES / name).glob("*.flac"))[:4]}
    assert kinds(judge("recordings", "alto", sounds)) == [("info", "pitch")]


def test_the_notes_are_said_in_one_line():
    (found,) = judge("clips", "alto", {Path("a.wav"): of_notes(2.0, *range(50, 65))})
    assert found.text == "sings D3 to E4, median A3, 15 semitones with at least 1 s"


def test_a_narrow_range_is_a_fact_and_a_monotone_a_warning():
    narrow = judge("clips", "alto", {Path("a.wav"): of_notes(10.0, *range(57, 64))})
    assert kinds(narrow) == [("info", "pitch"), ("info", "range")]
    assert "below A3 or above D#4" in narrow[1].text and "-t auto" in narrow[1].remedy
    assert kinds(judge("clips", "alto", {Path("a.wav"): of_notes(40.0, 57, 58)}))[1] == ("warning", "range")


def test_of_little_material_no_range_is_expected():
    assert kinds(judge("clips", "alto", {Path("a.wav"): of_notes(10.0, 57, 58)})) == [("info", "pitch")]


@pytest.mark.parametrize("hz", [1250.0, 1450.0])
def test_notes_above_the_limits_are_doubted_with_the_flag_that_hears_them(hz):
    sounds = {Path("low.wav"): measure(scale(57, 60)), Path("high.wav"): measure(sung(vibrato(hz, 3.0), RATE))}
    _, found = judge("recordings", "soprano", sounds)
    assert (found.level, found.kind, found.files) == ("warning", "octave", (Path("high.wav"),))
    limit = float(found.remedy.split("--f0_max ")[1].split(",")[0])
    assert hz < limit <= 2000 and "lie above what pm looks for" in found.text


def test_a_voice_that_is_rough_every_second_period_is_doubted():
    f0 = vibrato(200.0, 4.0)
    cycle = np.floor(np.cumsum(f0) / RATE).astype(int)
    strikes = np.diff(cycle, prepend=-1) > 0
    pulses = strikes * np.where(cycle % 2, 0.7, 1.0)
    ring = np.exp(-np.arange(400) / 60) * np.sin(2 * np.pi * 650 * np.arange(400) / RATE)
    wav = np.convolve(pulses, ring)[: len(f0)].astype(np.float32)
    found = judge("clips", "alto", {Path("a.wav"): measure(0.3 * wav)})
    assert kinds(found)[1:] == [("warning", "octave")]
    assert "pm and dio, are an octave apart" in found[1].text and "--f0_predictor fcpe" in found[1].remedy


def test_one_doubtful_file_of_forty_is_named_and_a_little_everywhere_is_not():
    good = {Path(f"{index}.wav"): of_notes(1.0, *range(50, 63), doubtful=2) for index in range(39)}
    assert kinds(judge("clips", "alto", good)) == [("info", "pitch")]
    found = judge("clips", "alto", {**good, Path("bad.wav"): of_notes(1.0, *range(50, 63), doubtful=112)})[1]
    assert found.files == (Path("bad.wav"),) and "1 of 40 clips is in doubt (worst: bad.wav, 20%" in found.text


def test_no_note_at_all_is_said():
    noise = 0.1 * np.random.default_rng(3).standard_normal(RATE).astype(np.float32)
    assert kinds(judge("clips", "alto", {Path("a.wav"): measure(noise)})) == [("warning", "pitch")]
    assert judge("clips", "alto", {Path("a.wav"): measure(np.zeros(0, np.float32), size=1)}) == []


@pytest.mark.parametrize("size", [999, RATE])
def test_the_sizes_of_the_blocks_do_not_matter(size):
    wav = np.tile(scale(50, 55, 62), 3)
    assert measure(wav, size=size) == measure(wav)


def test_of_an_hour_a_sixth_is_measured_after_ten_minutes_and_that_is_said(monkeypatch):
    meter, stretch = PitchMeter(100), np.zeros(1000, np.float32)
    monkeypatch.setattr("modules.doctor.pitch._measure", lambda wav: replace(of_notes(10.0, 60), seconds=0.0))
    for _ in range(360):
        meter.push(stretch)
    found = meter.finish()
    assert found.seconds == 3600 and found.measured_seconds == 600 + 3000 / 6
    (first, *_) = judge("recordings", "alto", {Path("a.wav"): found})
    assert first.text.endswith("in the 18.3 of 60.0 min that were measured")


def test_measuring_needs_no_torch():
    code = "import sys, modules.doctor.pitch, modules.doctor.room; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=SAMPLES.parent).returncode == 0
