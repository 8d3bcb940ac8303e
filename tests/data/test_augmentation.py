"""The augmented clip: what is drawn, how it sounds, and which mel it is made with."""

import json
import math

import numpy as np
import pytest
import torch

from modules.audio.mel import vocoder_mel
from modules.audio.volume import frame_volume
from modules.config.audio import AudioSpec
from modules.config.vocoder import PUBLISHED_MEL
from modules.data import augmentation
from modules.data.augmentation import augment, draw, find_mel, require_same_frames
from modules.errors import ConfigError

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
    assert torch.equal(first.mel, second.mel) and torch.equal(first.volume, second.volume)
    assert (first.key_shift, first.gain) == (second.key_shift, second.gain)


def test_mel_and_volume_are_of_the_same_changed_clip():
    wav = sine(440)
    made = augment(wav, PUBLISHED_MEL, 1, DIGESTS[5])
    assert made.mel.shape == (128, 86) and made.volume.shape == (86,)
    torch.testing.assert_close(made.mel, vocoder_mel(wav * 10**made.gain, PUBLISHED_MEL, made.key_shift))
    torch.testing.assert_close(made.volume, frame_volume(wav, 512) * 10**made.gain)


@pytest.mark.parametrize("shift", [-4.0, -2.0, 3.0, 5.0])
def test_a_positive_key_shift_sounds_higher(monkeypatch, shift):
    """440 Hz shifted by k semitones peaks where a tone of 440 * 2^(k / 12) Hz does."""
    monkeypatch.setattr(augmentation, "draw", lambda *_: (shift, 0.0))
    peak = augment(sine(440), PUBLISHED_MEL, 1, "").mel[:, 40].argmax()
    expected = vocoder_mel(sine(440 * 2 ** (shift / 12)), PUBLISHED_MEL)[:, 40].argmax()
    plain = vocoder_mel(sine(440), PUBLISHED_MEL)[:, 40].argmax()
    assert peak == expected and (peak - plain) * shift > 0


def test_a_silent_clip_stays_silent():
    made = augment(torch.zeros(44100), PUBLISHED_MEL, 1, DIGESTS[0])
    assert made.mel.isfinite().all() and not made.volume.any()
    assert -1 <= made.gain <= 1


def test_the_mel_comes_from_the_vocoders_own_config(tmp_path, monkeypatch):
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    assert find_mel("pretrain/nsf_hifigan/model") == (PUBLISHED_MEL, None)
    config = tmp_path / "pretrain" / "nsf_hifigan" / "config.json"
    config.parent.mkdir(parents=True)
    values = {"sampling_rate": 44100, "num_mels": 80, "n_fft": 1024, "win_size": 1024, "hop_size": 512, "fmin": 20}
    values |= {"fmax": 12000, "upsample_rates": [8, 8, 8], "upsample_kernel_sizes": [16, 16, 16]}
    values |= {"upsample_initial_channel": 8, "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]]}
    config.write_text(json.dumps(values), "utf-8")
    assert find_mel("pretrain/nsf_hifigan/model") == (AudioSpec(44100, 1024, 512, 1024, 80, 20, 12000), config)


@pytest.mark.parametrize(
    "mel, text",
    [
        (AudioSpec(48000, 2048, 512, 2048, 128, 40, 16000), "sampling rate 44100, but v.json has 48000"),
        (AudioSpec(44100, 2048, 256, 2048, 128, 40, 16000), "hop length 512, but v.json has 256"),
    ],
)
def test_a_vocoder_with_other_frames_is_refused(mel, text):
    require_same_frames(PUBLISHED_MEL, "c.json", PUBLISHED_MEL, "v.json")
    with pytest.raises(ConfigError) as caught:
        require_same_frames(PUBLISHED_MEL, "c.json", mel, "v.json")
    assert f"c.json has the {text}" in str(caught.value)
