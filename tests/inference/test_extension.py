"""Phrases outside a voice are sung inside it and moved back, on a stand-in voice whose every input can be seen."""

import numpy as np
import pytest
from inference.fake_voice import AUDIO, fake_converter, silence, sung

from modules.contracts import F0
from modules.errors import UsageError
from modules.f0.histogram import PitchHistogram
from modules.f0.voice_range import VoiceRange
from modules.inference import pipeline as pipeline_module
from modules.inference.extension import Comfort, comfort_of, find_phrases, plan_extension
from modules.inference.options import ConversionOptions

RATE = AUDIO.sampling_rate
COMFORT = Comfort(48, 60, "test")  # C3 to C4
CARD = {"ranges": {"alto": VoiceRange((40, 62), (43, 50), "2026-12-01", ("fcpe", "pm"), "x").to_plain()}}
OPTIONS = ConversionOptions("alto", extend_range=True)


def curve(*midi: float) -> F0:
    f0 = np.repeat(440 * 2 ** ((np.array(midi) - 69) / 12), 50).astype(np.float32)
    return F0(f0, np.ones(len(f0), np.float32))


def plan(heard: F0, transpose: float = 0) -> tuple[list[int], float]:
    """The shifts that are used, and the seconds outside."""
    found = plan_extension(heard, transpose, COMFORT, 100.0)
    return ([0], 0.0) if found is None else (np.unique(found.shifts).tolist(), found.outside_seconds)


@pytest.mark.parametrize(
    "notes, shift",
    [((48, 60), 0), ((50, 62), -2), ((62, 66), -6), ((40, 41), 8), ((60, 61), -1), ((75, 76), -16)],
)
def test_a_phrase_is_moved_by_the_least_number_of_semitones_that_brings_it_inside(notes, shift):
    assert plan(curve(*notes)) == ([shift], 0.0)


def test_of_a_phrase_wider_than_the_range_the_smaller_part_stays_outside():
    assert plan(curve(50, 52, 55, 70)) == ([0], 0.5)


def test_each_phrase_has_a_key_of_its_own_and_the_key_changes_in_the_pause():
    heard = curve(50, 50, 64, 64)
    heard.uv[80:110] = 0
    shifts = plan_extension(heard, 0, COMFORT, 100.0).shifts
    np.testing.assert_array_equal(shifts, [0] * 95 + [-4] * 105)
    heard.uv[:] = 1
    heard.uv[91:110] = 0  # a consonant, no pause; together they are wider than the range
    assert plan(heard) == ([0], 0.9)


def test_phrases_are_all_of_the_frames():
    voiced = np.array([0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 1, 0], bool)
    assert find_phrases(voiced, 3) == [(slice(0, 8), slice(2, 6)), (slice(8, 12), slice(10, 11))]
    assert find_phrases(np.zeros(5, bool), 3) == []


def test_what_was_transposed_counts():
    assert plan(curve(50), 12) == ([-2], 0.0)


def test_single_errors_of_a_predictor_move_nothing():
    heard = curve(50, 52)
    heard.f0[0] = 1000
    assert plan(heard) == ([0], 0.0)
    assert plan(F0(heard.f0 * 8, np.zeros(len(heard.f0), np.float32))) == ([0], 0.0), "unvoiced"


def test_the_measured_range_comes_before_the_notes_of_the_training():
    voices = {"alto": PitchHistogram.from_curve(np.full(9, 220.0), np.ones(9)), "tenor": PitchHistogram()}
    measured = comfort_of(CARD, voices, "alto")
    assert (measured.low, measured.high) == (43, 50) and "measured 2026-12-01" in str(measured)
    trained = comfort_of({}, voices, "alto")
    assert trained.low < 57 < trained.high and "trained on" in str(trained)


@pytest.mark.parametrize("speaker", ["tenor", "alto"])
def test_a_voice_that_does_not_say_its_notes_is_refused_with_the_command(speaker):
    converter, *_ = fake_converter()
    with pytest.raises(UsageError, match=rf"--extend_range.*'{speaker}'.*evaluate\.py --range --card"):
        converter.convert_wav(sung(1, RATE), RATE, ConversionOptions(speaker, extend_range=True))


@pytest.fixture
def moved(monkeypatch):
    """The calls of the shift, which here turns the sound round."""
    calls = []

    def turn(wav, rate, heard, hop, transpose, shifts):
        calls.append((rate, hop, transpose, *np.unique(shifts)))
        return -wav

    monkeypatch.setattr(pipeline_module, "move_back", turn)
    return calls


def song() -> np.ndarray:
    parts = [silence(1, RATE), sung(2, RATE), silence(6, RATE), sung(3, RATE, 1), silence(1, RATE)]
    return np.concatenate(parts)


def test_the_voice_is_given_the_moved_pitch_and_the_result_is_moved_back(moved):
    converter, synthesizer, _ = fake_converter(card=CARD)  # all of it is 200 Hz, G3 - 35 cents: MIDI 55.35
    plain = converter.convert_wav(song(), RATE, ConversionOptions("alto"))
    synthesizer.seen.clear()
    extended = converter.convert_wav(song(), RATE, OPTIONS)
    assert set(moved) == {(RATE, 160, 0, -5)}
    for seen in synthesizer.seen:
        assert float(seen["f0"][0]) == pytest.approx(200 * 2 ** (-5 / 12), rel=1e-5)
    assert len(extended) == len(plain) == len(song())
    np.testing.assert_allclose(extended, -plain, atol=1e-6)


def test_a_phrase_inside_the_range_stays_as_it_is(moved):
    converter, *_ = fake_converter(card=CARD)
    plain, extended = (
        converter.convert_wav(song(), RATE, ConversionOptions("alto", transpose=-8, extend_range=on))
        for on in (False, True)
    )
    assert not moved
    np.testing.assert_array_equal(plain, extended)


@pytest.mark.parametrize(
    "changes", [{"clip_seconds": 0.7}, {"clip_seconds": 1.0, "overlap_seconds": 0.3}, {"max_segment_seconds": 2.0}]
)
def test_forced_chunks_and_cuts_are_moved_and_joined_alike(moved, changes):
    converter, *_ = fake_converter(card=CARD)
    options = {"speaker": "alto", **changes}
    plain = converter.convert_wav(song(), RATE, ConversionOptions(**options))
    extended = converter.convert_wav(song(), RATE, ConversionOptions(**options, extend_range=True))
    assert len(moved) > 4 and len(extended) == len(plain)
    np.testing.assert_allclose(extended, -plain, atol=1e-5)


def test_the_report_says_what_was_moved_and_what_stays_outside(moved, caplog, tmp_path):
    import soundfile

    caplog.set_level("INFO")
    soundfile.write(tmp_path / "song.wav", song(), RATE)
    converter, *_ = fake_converter(card=CARD)
    report = converter.convert(tmp_path / "song.wav", tmp_path / "out.flac", OPTIONS, progress=False)
    assert report.outside_seconds == 0
    assert report.extended == {-5: pytest.approx(13, abs=1)}, "the stand-in hears its pitch in the padding, too"
    assert "sung within G2-D3, measured 2026-12-01 and moved back" in caplog.text and not report.warnings


def test_what_diffusion_refined_is_moved_back_and_then_gets_the_songs_loudness(moved):
    class Refiner:
        batch_frames = 0

        def refine(self, outputs, features, formant_key):
            assert all(abs(float(item.f0[0]) - 200 * 2 ** (-5 / 12)) < 0.01 for item in features)
            return [0.25 * output.wav for output in outputs]

    converter, *_ = fake_converter(card=CARD, refiner=Refiner())
    plain = fake_converter()[0].convert_wav(song(), RATE, ConversionOptions("alto", loudness_ratio=0.0))
    extended = converter.convert_wav(song(), RATE, ConversionOptions("alto", loudness_ratio=0.0, extend_range=True))
    assert len(moved) == 2
    loud = np.abs(plain) > 0.05
    np.testing.assert_allclose(extended[loud], -plain[loud], rtol=0.05)


def test_a_result_with_extension_is_another_request(tmp_path):
    (tmp_path / "song.wav").write_bytes(b"x")
    converter, *_ = fake_converter(card=CARD)
    assert len({converter.key(tmp_path / "song.wav", options) for options in (OPTIONS, ConversionOptions("alto"))}) == 2
    about = converter.metadata(tmp_path / "song.wav", OPTIONS)["comment"]
    assert '"extend_range": true' in about and "2026-12-01" not in about, "a song does not carry the ranges of all"


@pytest.mark.parametrize("changes, said", [({"predict_f0": True}, "-a"), ({"mix": object()}, "mix")])
def test_what_has_no_pitch_or_no_range_of_its_own_is_refused_in_one_line(changes, said):
    with pytest.raises(UsageError, match=rf"--extend_range does not go with .*{said}"):
        ConversionOptions("alto", extend_range=True, **changes)
