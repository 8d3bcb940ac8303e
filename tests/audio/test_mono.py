"""How channels become one: ordinary stereo as ever, nothing cancelled, no level lost, decided over the whole file."""

import numpy as np
import pytest
import soundfile

from modules.audio.mono import MonoFile, choose_weights

RATE = 16000
GENERATOR = np.random.default_rng(11)
VOICE, OTHER = (GENERATOR.standard_normal(3 * RATE).astype(np.float32) * 0.1 for _ in range(2))
SILENCE = np.zeros_like(VOICE)


def mixed(tmp_path, *channels):
    soundfile.write(tmp_path / "a.wav", np.stack(channels, axis=1), RATE, "FLOAT")
    file = MonoFile(tmp_path / "a.wav")
    return np.concatenate(list(file.blocks())), " ".join(file.notes)


@pytest.mark.parametrize(("left", "right"), [
    (VOICE, VOICE), (VOICE, OTHER), (VOICE, 0.5 * VOICE), (VOICE, 0.1 * OTHER), (VOICE, np.roll(VOICE, 40)),
    (VOICE + OTHER, VOICE - OTHER), (SILENCE, SILENCE),
])  # fmt: skip
def test_ordinary_stereo_is_its_plain_mean(tmp_path, left, right):
    wav, notes = mixed(tmp_path, left, right)
    assert np.array_equal(wav, np.stack([left, right], axis=1).mean(axis=1, dtype=np.float32)) and not notes


@pytest.mark.parametrize(("left", "right", "taken", "name"), [
    (VOICE, -VOICE, VOICE, "left"), (-0.8 * VOICE, VOICE, VOICE, "right"), (VOICE, -0.5 * VOICE, VOICE, "left"),
    (VOICE + 3 * OTHER, VOICE - 3 * OTHER, VOICE + 3 * OTHER, "left"), (VOICE + 0.4, 0.4 - VOICE, VOICE + 0.4, "left"),
])  # fmt: skip
def test_channels_that_cancel_each_other_leave_the_louder_one(tmp_path, left, right, taken, name):
    wav, notes = mixed(tmp_path, left, right)
    assert np.allclose(wav, taken, atol=1e-6) and f"cancel each other; the loudest, the {name}, was taken" in notes


def test_a_voice_on_one_side_keeps_its_level(tmp_path):
    for left, right in ((VOICE, SILENCE), (0.001 * OTHER, VOICE)):
        wav, notes = mixed(tmp_path, left, right)
        assert np.array_equal(wav, VOICE) and "only one of its channels" in notes


def test_the_choice_is_that_of_the_whole_file_not_of_a_part(tmp_path):
    half = len(VOICE) // 2
    right = np.concatenate([-VOICE[:half], VOICE[half:]])
    wav, notes = mixed(tmp_path, VOICE, right)
    assert np.array_equal(wav, np.stack([VOICE, right], axis=1).mean(axis=1, dtype=np.float32)) and not notes


@pytest.mark.parametrize("place", range(6))
def test_a_voice_in_one_of_six_channels_keeps_its_level(tmp_path, place):
    channels = [SILENCE] * 6
    channels[place] = VOICE
    assert np.allclose(mixed(tmp_path, *channels)[0], VOICE, atol=1e-6)
    ambience = [0.03 * np.roll(OTHER, 100 * index) for index in range(6)]
    ambience[place] = VOICE
    wav = mixed(tmp_path, *ambience)[0]
    assert np.sqrt((wav**2).mean()) == pytest.approx(np.sqrt((VOICE**2).mean()), rel=1e-3)
    assert np.corrcoef(wav, VOICE)[0, 1] > 0.99


@pytest.mark.parametrize("n", range(2, 9))
def test_equal_channels_are_one_of_them(n):
    weights, text = choose_weights(np.ones((n, n)))
    assert np.allclose(weights, 1 / n) and text is None


@pytest.mark.parametrize("n", range(3, 9))
def test_many_channels_are_as_loud_as_the_loudest(n):
    for seed in range(20):
        mixture = np.random.default_rng(seed).standard_normal((n, 2 * n))
        powers = mixture @ mixture.T
        weights, _ = choose_weights(powers)
        assert weights @ powers @ weights == pytest.approx(powers.max(), rel=1e-4)
