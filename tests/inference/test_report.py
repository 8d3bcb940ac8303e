"""What a conversion says in the end: all that its user must know, and nothing where all is well."""

import numpy as np
import pytest
import soundfile
from inference.fake_voice import fake_converter, silence, sung

from modules.contracts import F0
from modules.f0.histogram import PitchHistogram
from modules.inference.chunks import plan_chunks
from modules.inference.options import ConversionOptions
from modules.inference.report import ConversionReport, left_silent
from modules.inference.stream import Song

ALTO = ConversionOptions("alto")
RATE = 16000


def convert(tmp_path, wav: np.ndarray, options: ConversionOptions = ALTO, **changes) -> ConversionReport:
    soundfile.write(tmp_path / "in.wav", wav, RATE, subtype="FLOAT")
    converter, _, _ = fake_converter(**changes)
    return converter.convert(tmp_path / "in.wav", tmp_path / "out.wav", options, progress=False)


def at(peak_db: float, seconds: float = 12) -> np.ndarray:
    wav = sung(seconds, RATE)
    return (wav / np.abs(wav).max() * 10 ** (peak_db / 20)).astype(np.float32)


def test_a_clean_song_brings_no_warning(tmp_path, caplog):
    hiss = np.random.default_rng(0).standard_normal(20 * RATE).astype(np.float32) * 10 ** (-55 / 20)
    report = convert(tmp_path, np.concatenate([at(-6), hiss, at(-6)]))
    assert report.warnings == [] and not caplog.records
    assert 5 < report.silent_seconds < 20, "the hiss of the pause is left silent, which is right"
    assert abs(report.level_db) < 6 and report.clipped_samples == 0


@pytest.mark.parametrize(("peak_db", "slice_db"), [(-55, -40), (-6, 0), (-70, -40), (-45, -30)])
def test_what_lies_below_the_threshold_is_said_with_the_threshold_that_takes_it(tmp_path, caplog, peak_db, slice_db):
    wav = at(peak_db)
    report = convert(tmp_path, wav, ConversionOptions("alto", slice_db=slice_db))
    (warning,) = report.warnings
    assert f"{report.silent_seconds:.1f} s lie below -sd {slice_db}" in warning and report.silent_seconds > 10
    assert caplog.text.count("lie below") == 1
    remedy = float(warning.split("; -sd ")[1].split()[0])
    assert -peak_db < -remedy + 40 and remedy <= -40
    again = convert(tmp_path, wav, ConversionOptions("alto", slice_db=remedy))
    assert again.warnings == [] and again.silent_seconds < 0.5


def test_a_quiet_verse_is_missed_but_not_digital_silence(tmp_path):
    verse = np.concatenate([at(-6), at(-34, 15), at(-6)])
    report = convert(tmp_path, verse, ConversionOptions("alto", slice_db=-35))
    assert len(report.warnings) == 1 and "stay silent" in report.warnings[0]
    gone = np.concatenate([at(-6), silence(12, RATE), at(-6)])
    report = convert(tmp_path, gone, ConversionOptions("alto", slice_db=-35))
    assert report.warnings == [] and report.silent_seconds == 0


@pytest.mark.parametrize("amplitude", [0.0, 2e-5])
def test_a_silent_song_is_said_to_be_silent_once(tmp_path, amplitude):
    report = convert(tmp_path, sung(3, RATE) * amplitude)
    (warning,) = report.warnings
    assert "so nothing was sung" in warning
    assert report.level_db is None or amplitude


@pytest.mark.parametrize("gain", [0.1, 8.0])
def test_another_level_than_the_songs_is_said_with_the_flag_that_mends_it(tmp_path, gain):
    converter, synthesizer, _ = fake_converter()
    honest = synthesizer.infer

    def infer(*args):
        made = honest(*args)
        made.wav.mul_(gain)
        return made

    synthesizer.infer = infer
    soundfile.write(tmp_path / "in.wav", at(-20), RATE)
    report = converter.convert(tmp_path / "in.wav", tmp_path / "out.wav", ALTO, progress=False)
    (warning,) = report.warnings
    expected = 20 * np.log10(gain)
    assert report.level_db == pytest.approx(expected, abs=1)
    assert ("louder" if gain > 1 else "quieter") in warning and "-lea 0" in warning
    follow = ConversionOptions("alto", loudness_ratio=0)
    report = converter.convert(tmp_path / "in.wav", tmp_path / "out.wav", follow, progress=False)
    assert report.warnings == [] and abs(report.level_db) < 1


def test_clipping_is_counted_and_said(tmp_path):
    converter, synthesizer, _ = fake_converter()
    honest = synthesizer.infer

    def infer(*args):
        made = honest(*args)
        made.wav.mul_(3).clamp_(-1, 1)  # as a tanh that is driven hard
        return made

    synthesizer.infer = infer
    soundfile.write(tmp_path / "in.wav", at(-1), RATE)
    report = converter.convert(tmp_path / "in.wav", tmp_path / "out.wav", ALTO, progress=False)
    written = soundfile.read(tmp_path / "out.wav", dtype="int16")[0]
    assert report.clipped_samples == np.count_nonzero(np.abs(written.astype(int)) >= 32767) > 10
    assert any(f"{report.clipped_samples} samples" in text for text in report.warnings)


def test_notes_outside_the_voice_are_said_where_its_card_knows_its_notes(tmp_path):
    """The stand-in hears 200 Hz everywhere."""
    notes = PitchHistogram.from_curve(np.full(500, 200.0), np.ones(500)).to_plain()
    card = {"f0_histograms": {"alto": notes}}
    assert convert(tmp_path, at(-6), card=card).warnings == []
    report = convert(tmp_path, at(-6), ConversionOptions("alto", transpose=12), card=card)
    assert len(report.warnings) == 1 and "outside the voice's range" in report.warnings[0]
    assert convert(tmp_path, at(-6), ConversionOptions("tenor", transpose=12), card=card).warnings == []
    damaged = {"f0_histograms": {"alto": {"counts": "many"}}}
    assert convert(tmp_path, at(-6), ConversionOptions("alto", transpose=12), card=damaged).warnings == []


def test_what_was_odd_in_the_file_is_passed_on(tmp_path):
    song = Song.from_array(at(-6), RATE, RATE)
    song.notes = ("its header is 44 bytes too large",)
    report = ConversionReport()
    report.conclude(song, ALTO)
    assert report.warnings == ["audio: its header is 44 bytes too large"]


def test_left_silent_counts_the_silent_segments_only():
    song = Song.from_array(np.concatenate([at(-6), at(-60, 30), at(-6)]), RATE, RATE)
    planned = sum(chunk.stop - chunk.start for chunk in plan_chunks(song, ALTO) if not chunk.voiced) / RATE
    assert len(left_silent(song, -40)) * 0.02 == pytest.approx(planned, abs=0.1)


class Heard:
    """A predictor with that pitch everywhere, and the sound's own where they contradict each other."""

    name, limits = "pm", (50.0, 1100.0)

    def __init__(self, pitch: float, heard: float = 0.0):
        self.pitch, self.heard = pitch, heard

    def predict(self, wav):
        n = len(wav) // 160
        return F0(np.full(n, self.pitch, np.float32), np.ones(n, np.float32), np.full(n, self.heard))


def test_a_note_above_the_limit_is_said_with_its_place_and_the_flags_that_mend_it(tmp_path):
    report = convert(tmp_path, at(-6, 3), predictor=Heard(660.0, 1319.0))
    assert [text.removeprefix(str(tmp_path)).lstrip("/\\") for text in report.warnings] == [
        "in.wav, 0.0 to 3.0 s: notes of up to E6 (1319 Hz) lie above what pm looks for (--f0_max 1100). "
        "Try: --f0_max 1400 -t -12, since voices know no note above 1103 Hz"
    ]


def test_an_octave_error_that_is_left_is_said_once_and_not_where_the_model_predicts_the_pitch(tmp_path):
    report = convert(tmp_path, at(-6, 3), predictor=Heard(220.0, 110.0))
    assert len(report.warnings) == 1 and report.warnings[0].endswith("the sound has A2 (110 Hz). Try: -f0p harvest")
    options = ConversionOptions("alto", predict_f0=True)
    assert convert(tmp_path, at(-6, 3), options, predictor=Heard(220.0, 110.0)).warnings == []


def test_notes_are_not_compared_with_the_voices_where_they_are_doubtful(tmp_path):
    """The line about the range would name the octave that the line before calls wrong."""
    notes = PitchHistogram.from_curve(np.full(500, 200.0), np.ones(500)).to_plain()
    card = {"f0_histograms": {"alto": notes}}
    report = convert(tmp_path, at(-6, 3), predictor=Heard(660.0, 1319.0), card=card)
    assert len(report.warnings) == 1 and "E6 (1319 Hz)" in report.warnings[0]


@pytest.mark.parametrize(("seconds", "cause"), [(0.05, "It lasts only 0.050 s"), (3, "music without a voice")])
def test_a_toneless_result_is_said_once_with_its_cause(tmp_path, seconds, cause):
    (warning,) = convert(tmp_path, at(-6, seconds), predictor=Toneless()).warnings
    assert "no pitch was found" in warning and cause in warning


class Toneless(Heard):
    def __init__(self):
        super().__init__(0.0)

    def predict(self, wav):
        none = np.zeros(len(wav) // 160, np.float32)
        return F0(none, none)


def test_a_result_above_what_voices_know_is_said(tmp_path):
    (warning,) = convert(tmp_path, at(-6, 3), ConversionOptions("alto", transpose=12), predictor=Heard(600.0)).warnings
    assert "3.0 s of the result are above 1103 Hz" in warning and warning.endswith("-t 0 brings them down")
    assert convert(tmp_path, at(-6, 3), predictor=Heard(1090.0)).warnings == []
