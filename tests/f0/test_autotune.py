"""Autotune: held notes land on the scale, vibrato stays as deep, slides stay slides."""

import numpy as np
import pytest

from modules.errors import UsageError
from modules.f0.autotune import note_shifts, scale_notes

HOP = 512 / 44100


def hz_of(midi: np.ndarray) -> np.ndarray:
    return 440 * 2 ** ((midi - 69) / 12)


def line(length: float) -> np.ndarray:
    return np.arange(round(length / HOP)) * HOP


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("chromatic", range(12)),
        ("C major", [0, 2, 4, 5, 7, 9, 11]),
        ("  a  MINOR ", [0, 2, 4, 5, 7, 9, 11]),
        ("F# minor", [1, 2, 4, 6, 8, 9, 11]),
        ("Gb pentatonic", [1, 3, 6, 8, 10]),
        ("B♭ blues", [1, 3, 4, 5, 8, 10]),
        ("Cb major", [1, 3, 4, 6, 8, 10, 11]),
    ],
)
def test_a_scale_is_its_notes(name, classes):
    assert sorted({int(note) % 12 for note in scale_notes(name)}) == list(classes)


@pytest.mark.parametrize("name", ["H major", "C", "", "major", "C# jazz", "C##  major"])
def test_a_wrong_scale_lists_the_known_ones(name):
    with pytest.raises(UsageError, match=r"--scale .*'C major'.*Scales: chromatic, major, minor.*blues"):
        scale_notes(name)


@pytest.mark.parametrize("rate", [4.5, 5.5, 6.5])
def test_held_notes_land_within_five_cents_and_keep_their_vibrato(rate):
    time, wanted, off = line(2), [60, 64, 67, 65, 62], [0.3, -0.4, 0.2, -0.25, 0.45]
    sung = [note + cents + 0.5 * np.sin(2 * np.pi * rate * time) for note, cents in zip(wanted, off)]
    midi = np.concatenate(sung)
    shifts = note_shifts(hz_of(midi), HOP, 0, scale_notes("C major"), 440)
    tuned, inside = midi + shifts, slice(20, 20 + round(6 / rate / HOP))  # six cycles of the vibrato
    for note, before, after in zip(wanted, sung, np.split(tuned, len(wanted))):
        assert abs(np.median(after[inside]) - note) < 0.05
        assert 0.9 < np.std(after[inside]) / np.std(before[inside]) < 1.1
    assert np.abs(np.diff(shifts)).max() < 0.05, "from note to note in small steps"


def test_the_scale_is_of_the_result_and_of_its_tuning():
    flat = hz_of(np.full(100, 60.4))
    for transpose, tuning, wanted in ((0, 440, 60), (3, 440, 64), (0, 440 * 2 ** (0.3 / 12), 60.3)):
        shift = note_shifts(flat, HOP, transpose, scale_notes("C major"), tuning)
        np.testing.assert_allclose(60.4 + transpose + shift, wanted, atol=1e-9)


@pytest.mark.parametrize("seconds", [0.7, 2, 6])
def test_a_slide_stays_a_slide(seconds):
    slide = np.linspace(55, 67, len(line(seconds)))
    held = [np.full(60, 55.3), 0.3 + slide, np.full(60, 67.3)]
    tuned = np.concatenate(held) + note_shifts(hz_of(np.concatenate(held)), HOP, 0, scale_notes("C major"), 440)
    np.testing.assert_allclose([np.median(tuned[10:50]), np.median(tuned[-50:-10])], [55, 67], atol=0.05)
    assert np.diff(tuned).max() < 12 / len(slide) + 0.02 and np.diff(tuned).min() > -0.02


def test_silence_clicks_and_one_frame_have_no_notes():
    for hz in (np.zeros(50), np.eye(1, 50, 20)[0] * 220, np.full(1, 220.0)):
        assert not note_shifts(hz, HOP, 0, scale_notes("chromatic"), 440).any()


def test_single_wrong_octaves_do_not_move_a_note():
    midi = np.full(120, 60.2)
    midi[[30, 31, 77]] = 72.2
    shifts = note_shifts(hz_of(midi), HOP, 0, scale_notes("chromatic"), 440)
    np.testing.assert_allclose(shifts, -0.2, atol=1e-6)
