"""The augmented clip: what is drawn and how it sounds."""

import math

import numpy as np
import pytest
import torch

from modules.audio.loudness import frame_volume
from modules.audio.mel import vocoder_mel
from modules.config.vocoder import PUBLISHED_MEL
from modules.data import augmentation
from modules.data.augmentation import augment, draw

DIGESTS = [f"{number:064x}" for number in range(2000)]


def sine(hz: float, seconds: float = 1.0, peak: float = 0.3) -> torch.Tensor:
    return torch.from_numpy(peak * np.sin(2 * np.pi * hz * np.arange(int(44100 * seconds)) / 44100)).float()


@pytest.mark.parametrize("peak", [0.0, 0.05, 0.5, 1.0])
def test_draws_fill_their_ranges_evenly(peak):
    shifts, gains = np.array([draw(1234, digest, peak) for digest in DIGESTS]).T
    highest = min(1.0, math.log10(1 / (peak + 1e-5)))
    for values, low, high in ((shifts, -5.0, 5.0), (gains, -1.0, highest)):
        assert low <= values.min() and values.max() <= high
        counts, _ = np.histogram(values, 10, (low, high))
        # 200 are expected in each tenth, with a standard deviation of 13
        assert counts.min() > 130 and counts.max() < 270
    assert abs(np.corrcoef(shifts, gains)[0, 1]) < 0.1
    assert (10**gains * peak).max() <= 1.0, "never beyond full scale"


def test_a_draw_follows_from_seed_and_clip_alone():
    assert draw(7, DIGESTS[0], 0.5) == draw(7, DIGESTS[0], 0.5)
    assert draw(7, DIGESTS[0], 0.5) != draw(8, DIGESTS[0], 0.5) != draw(8, DIGESTS[1], 0.5)
    assert draw(-1, DIGESTS[0], 0.5)[0] != draw(1, DIGESTS[0], 0.5)[0], "any whole number is a seed"
    shift, _ = draw(1234, DIGESTS[3], 0.5)
    assert shift == float(np.float32(shift)), "what is stored is exactly what was used"


def test_no_other_random_state_has_a_part_in_it():
    torch.manual_seed(0)
    first = augment(sine(440), PUBLISHED_MEL, 1, DIGESTS[0])
    torch.manual_seed(1)
    second = augment(sine(440), PUBLISHED_MEL, 1, DIGESTS[0])
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1]) and first[2] == second[2]


def test_mel_and_volume_are_of_the_same_changed_clip():
    wav = sine(440)
    mel, volume, key_shift = augment(wav, PUBLISHED_MEL, 1, DIGESTS[5])
    drawn_shift, gain = draw(1, DIGESTS[5], float(wav.abs().max()))
    assert mel.shape == (128, 86) and volume.shape == (86,) and key_shift == drawn_shift
    torch.testing.assert_close(mel, vocoder_mel(wav * 10**gain, PUBLISHED_MEL, key_shift))
    torch.testing.assert_close(volume, frame_volume(wav, 512) * 10**gain)


@pytest.mark.parametrize("shift", [-4.0, -2.0, 3.0, 5.0])
def test_a_positive_key_shift_sounds_higher(monkeypatch, shift):
    """440 Hz shifted by k semitones peaks where a tone of 440 * 2^(k / 12) Hz does."""
    monkeypatch.setattr(augmentation, "draw", lambda *_: (shift, 0.0))
    peak = augment(sine(440), PUBLISHED_MEL, 1, "")[0][:, 40].argmax()
    expected = vocoder_mel(sine(440 * 2 ** (shift / 12)), PUBLISHED_MEL)[:, 40].argmax()
    plain = vocoder_mel(sine(440), PUBLISHED_MEL)[:, 40].argmax()
    assert peak == expected and (peak - plain) * shift > 0


def test_a_silent_clip_stays_silent():
    mel, volume, _ = augment(torch.zeros(44100), PUBLISHED_MEL, 1, DIGESTS[0])
    assert mel.isfinite().all() and not volume.any()
