"""A voice in its accompaniment: the sum sample for sample, levels, places between the channels, and the limiter."""

import logging
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from signals import sung

from modules.audio.io import StreamWriter
from modules.audio.mixing import CEILING, choose_form, limiter_gains, mix, read_as, voice_gains
from modules.errors import AudioError

RATE = 22050
N = 3 * RATE + 17
VOICE = 0.5 * sung(np.full(N, 220.0), RATE)
MUSIC = np.random.default_rng(1).uniform(-0.2, 0.2, (N, 2)).astype(np.float32)
LEFT = np.stack([0.8 * VOICE, 0.2 * VOICE], axis=1)  # sung on the left


def save(path: Path, wav: np.ndarray, rate: int = RATE) -> Path:
    soundfile.write(path, wav, rate, subtype="FLOAT")
    return path


def mixed(folder: Path, *parts: tuple[Path, np.ndarray | float]) -> np.ndarray:
    """The mix in floating point, in the form of the first part."""
    form = choose_form(parts[0][0], [path for path, _ in parts[1:]])
    mix(FloatWriter(folder / "mix.wav", form.rate, "wav", channels=form.channels), parts, form)
    return soundfile.read(folder / "mix.wav", dtype="float32", always_2d=True)[0]


class FloatWriter(StreamWriter):
    """Writes what it is given, not rounded."""

    def __init__(self, *args, **named) -> None:
        super().__init__(*args, **named)
        self._subtype = "FLOAT"


def decibels(wav: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Levels of the channels against those of another sound."""
    return 20 * np.log10(np.sqrt((wav.astype(float) ** 2).mean(0)) / np.sqrt((other.astype(float) ** 2).mean(0)))


def test_a_voice_that_is_not_converted_gives_the_song_again(tmp_path):
    lead, music = save(tmp_path / "lead.wav", LEFT), save(tmp_path / "music.wav", MUSIC)
    gains = voice_gains(lead, lead, choose_form(music, [lead]))
    assert gains.tolist() == [1, 1]
    assert np.array_equal(mixed(tmp_path, (music, 1.0), (lead, gains)), MUSIC + LEFT)


def test_a_mono_voice_is_as_loud_in_each_channel_as_the_lead_was(tmp_path):
    lead, music = save(tmp_path / "lead.wav", LEFT), save(tmp_path / "music.wav", MUSIC)
    # Another voice at another level and, as models have, another rate.
    voice = save(tmp_path / "voice.wav", 0.1 * sung(np.full(2 * N, 330.0), 2 * RATE), 2 * RATE)
    for gain_db in (0.0, -3.0):
        gains = voice_gains(voice, lead, choose_form(music, [lead]), gain_db)
        alone = mixed(tmp_path, (music, 1.0), (voice, gains)) - MUSIC
        assert np.abs(decibels(alone, LEFT) - gain_db).max() < 0.01
        assert alone.shape == MUSIC.shape


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_voice_of_another_rate_stays_in_time(tmp_path, shift):
    high = 0.5 * sung(np.full(2 * N + 1, 220.0), 2 * RATE)[1:]  # every second sample is one of VOICE
    voice, music = save(tmp_path / "voice.wav", high, 2 * RATE), save(tmp_path / "music.wav", 0 * MUSIC[:, :1])
    found, middle = mixed(tmp_path, (music, 1.0), (voice, 1.0))[:, 0], slice(500, -500)
    assert np.abs(found - VOICE)[middle].max() < np.abs(np.roll(VOICE, shift) - VOICE)[middle].max() / 4


def test_backing_voices_and_several_channels_are_added(tmp_path):
    mono, stereo = save(tmp_path / "mono.wav", VOICE), save(tmp_path / "stereo.wav", MUSIC)
    assert np.array_equal(mixed(tmp_path, (mono, 1.0), (stereo, 1.0)), VOICE[:, None] + MUSIC)
    six = save(tmp_path / "six.wav", np.zeros((N, 6), np.float32))
    found = mixed(tmp_path, (six, 1.0), (stereo, 1.0))
    assert np.array_equal(found[:, :2], MUSIC) and not found[:, 2:].any()
    assert mixed(tmp_path, (mono, 1.0), (mono, 1.0)).shape == (N, 1), "mono stays mono"


@pytest.mark.parametrize("n_other", [N - RATE, N + RATE, 1])
def test_the_first_says_how_long_the_mix_is(tmp_path, caplog, n_other):
    music = save(tmp_path / "music.wav", MUSIC)
    other = save(tmp_path / "other.wav", np.resize(VOICE, n_other))
    wanted = np.pad(np.resize(VOICE, n_other)[:N], (0, max(0, N - n_other)))
    assert np.array_equal(mixed(tmp_path, (music, 1.0), (other, 1.0)), MUSIC + wanted[:, None])
    assert "Do they belong together?" in caplog.text


def test_another_rate_is_said_and_a_few_milliseconds_are_not(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    music = save(tmp_path / "music.wav", MUSIC)
    save(tmp_path / "codec.wav", VOICE[:-200])
    choose_form(music, [tmp_path / "codec.wav"])
    assert not caplog.text
    choose_form(music, [save(tmp_path / "high.wav", np.zeros(2 * N, np.float32), 2 * RATE)])
    assert "44100 Hz become 22050" in caplog.text and "belong" not in caplog.text


def test_silence_has_no_level_to_hold(tmp_path):
    silent, music = save(tmp_path / "silent.wav", 0 * VOICE), save(tmp_path / "music.wav", MUSIC)
    form = choose_form(music, [silent])
    assert voice_gains(silent, music, form).tolist() == [0, 0] == voice_gains(music, silent, form).tolist()


def test_what_is_left_silent_of_the_lead_makes_the_rest_no_louder(tmp_path):
    noisy, half = LEFT.copy(), VOICE.copy()
    noisy[: N // 2], half[: N // 2] = 0.3 * MUSIC[: N // 2], 0
    lead, voice = save(tmp_path / "lead.wav", noisy), save(tmp_path / "voice.wav", half)
    gains = voice_gains(voice, lead, choose_form(lead, [voice]))
    assert gains == pytest.approx([0.8, 0.2], rel=1e-2)


def test_nothing_is_above_the_ceiling_and_what_is_far_from_a_peak_is_untouched(tmp_path):
    loud = MUSIC.copy()
    loud[RATE : RATE + 2000] *= 7
    music = save(tmp_path / "music.wav", loud)
    found = mixed(tmp_path, (music, 1.0))
    assert 0.95 < np.abs(found).max() <= CEILING + 1e-6
    far = np.r_[0 : RATE - 2500, RATE + 4500 : N]
    assert np.array_equal(found[far], loud[far])
    gain = (found / loud)[np.abs(loud).min(axis=1) > 0.01]
    assert np.allclose(gain[:, 0], gain[:, 1], rtol=1e-4), "both channels at once, so that nothing moves"
    # No click: within 5 ms the gain moves by a ninth of what it moves in all (with the samples left out, by a sixth).
    steps = [abs(after - before) for before, after in pairwise(gain[:: RATE // 200, 0])]
    assert max(steps) < (1 - gain.min()) / 6


def test_a_mix_at_the_ceiling_passes_as_it_is():
    assert limiter_gains(np.full(100, CEILING, np.float32)) is None
    assert limiter_gains(np.full(100, 1.0)) is not None
    assert limiter_gains(np.array([2.0])) == pytest.approx([CEILING / 2])


@pytest.mark.parametrize("seed", range(5))
def test_the_line_between_two_gains_is_never_too_high(seed):
    peaks = np.random.default_rng(seed).uniform(0.2, 3, 200) ** 2
    gains = limiter_gains(peaks)
    ends = np.max([gains, np.append(gains[1:], gains[-1]), np.append(gains[0], gains[:-1])], axis=0)
    assert (ends * peaks <= CEILING + 1e-9).all()


def test_blocks_have_the_length_that_is_asked_for_in_bounded_memory(tmp_path):
    music = save(tmp_path / "music.wav", np.resize(MUSIC, (12 * RATE + 1, 2)))
    form = choose_form(music, [])
    sizes = [len(block) for block in read_as(music, form)]
    assert sum(sizes) == 12 * RATE + 1 and max(sizes) <= 6 * RATE


def test_samples_that_are_no_numbers_are_refused(tmp_path):
    bad = VOICE.copy()
    bad[5] = np.nan
    path = save(tmp_path / "bad.wav", bad)
    with pytest.raises(AudioError, match=r"bad\.wav: has samples that are not numbers"):
        mixed(tmp_path, (path, 1.0))
