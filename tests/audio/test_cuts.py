"""Long takes are cut where nobody sings, whatever the noise; each sample is in one clip or in a silence left out."""

import os
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from signals import sung

from modules.audio.cuts import TakeMeter
from modules.audio.loudness import centered_rms
from modules.audio.slicer import slicer_hop

VOICES = Path(os.environ.get("VITS_SVC_VOICES") or Path(__file__).resolve().parents[2] / "samples" / "voices")
FOLDERS = sorted(path for path in VOICES.iterdir() if list(path.glob("*.flac")))
RATE = 16000


def plan(wav, rate=RATE, shortest=5, longest=15, block=10**9):
    meter = TakeMeter(rate)
    for at in range(0, len(wav), block):
        meter.push(np.asarray(wav[at : at + block], np.float32))
    return meter.plan(shortest, longest)


def clips_of(wav, rate=RATE, shortest=5, longest=15):
    """(start, end) of the clips in seconds; every sample is in one segment."""
    segments = plan(wav, rate, shortest, longest).segments
    assert segments[0].start == 0 and segments[-1].end == len(wav)
    assert all(left.end == right.start for left, right in pairwise(segments))
    return [(segment.start / rate, segment.end / rate) for segment in segments if segment.voiced]


def lengths_of(clips):
    return np.array([end - start for start, end in clips])


def cuts_of(clips):
    """Seconds of all places where a clip begins or ends within the take."""
    return sorted({start for start, _ in clips[1:]} | {end for _, end in clips[:-1]})


def joined(folder, noise_db=None, n_takes=10, longest_pause=1.5):
    """(wav, rate, pauses): takes of a voice with pauses between, and noise over all; pauses are (start, end) in s."""
    rng, parts, pauses, at = np.random.default_rng(3), [], [], 0
    for path in sorted(folder.glob("*.flac"))[:n_takes]:
        wav, rate = soundfile.read(path, dtype="float32")
        pause = np.zeros(int(rng.uniform(0.3, longest_pause) * rate), np.float32)
        parts += [wav, pause]
        pauses.append(((at + len(wav)) / rate, (at + len(wav) + len(pause)) / rate))
        at += len(wav) + len(pause)
    wav = np.concatenate(parts)
    noise = 1e-5 if noise_db is None else 10 ** (noise_db / 20)
    return wav + (noise * rng.standard_normal(len(wav))).astype(np.float32), rate, pauses


def voice_level(wav, rate):
    """(level of each 20 ms in dB, mean level of what is not quiet)."""
    power = centered_rms(wav, slicer_hop(rate), 4) ** 2
    loud = power[power > power.mean() / 10].mean()
    return 10 * np.log10(np.maximum(power, 1e-12)), 10 * np.log10(loud)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
@pytest.mark.parametrize("noise_db", [None, -60, -40])
def test_voices_are_cut_in_their_pauses_and_never_where_it_is_loud(folder, noise_db):
    wav, rate, _ = joined(folder, noise_db)
    clips = clips_of(wav, rate)
    lengths = lengths_of(clips)
    assert lengths.max() <= 15 and lengths.min() >= 5 and len(clips) >= len(wav) / rate / 15
    levels, voice = voice_level(joined(folder)[0], rate)  # without the noise that hides how loud the voice is
    hop = slicer_hop(rate)
    assert max(levels[round(cut * rate / hop)] for cut in cuts_of(clips)) < voice - 18


def test_noise_ten_decibels_below_the_voice_hides_no_pause():
    wav, rate, pauses = joined(FOLDERS[0])
    noise = 10 ** ((voice_level(wav, rate)[1] - 10) / 20) * np.random.default_rng(5).standard_normal(len(wav))
    cuts = cuts_of(clips_of(wav + noise, rate))
    inside = [any(start <= cut <= end for start, end in pauses) for cut in cuts]
    assert len(cuts) >= 5 and np.mean(inside) >= 0.9


def test_a_take_without_pauses_is_cut_at_its_quietest_places():
    parts = [soundfile.read(path, dtype="float32") for path in sorted(FOLDERS[0].glob("*.flac"))[:8]]
    wav, rate = np.concatenate([part for part, _ in parts]), parts[0][1]
    clips = clips_of(wav, rate)
    assert lengths_of(clips).min() >= 5 and lengths_of(clips).max() <= 15
    levels, voice = voice_level(wav, rate)
    assert max(levels[round(cut * rate / slicer_hop(rate))] for cut in cuts_of(clips)) < voice - 12


@pytest.mark.parametrize("gain", [10 ** (-40 / 20), 1e-3])
def test_a_quiet_take_is_cut_where_the_loud_one_is(gain):
    wav, rate, _ = joined(FOLDERS[0], n_takes=4)
    assert clips_of(wav * gain, rate) == clips_of(wav, rate)


def phrases(lengths, silences, pitch=220.0, noise=0.0):
    """Sung phrases of so many seconds, each but the last followed by a silence."""
    parts = []
    for length, silence in zip(lengths, [*silences, 0], strict=True):
        parts += [sung(np.full(int(length * RATE), pitch), RATE), np.zeros(int(silence * RATE), np.float32)]
    wav = np.concatenate(parts)
    return wav + (noise * np.random.default_rng(0).standard_normal(len(wav))).astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 1e-4, 3e-3])
def test_of_a_long_silence_half_a_second_stays_at_either_side(noise):
    clips = clips_of(phrases([8, 9, 7], [4, 30], noise=noise))
    assert np.allclose(clips, [(0, 8.5), (11.5, 21.5), (50.5, 58)], atol=0.05)


def test_a_silence_that_trimming_left_at_the_ends_goes_too():
    wav = np.concatenate([np.zeros(3 * RATE), phrases([8, 9], [0.6]), np.zeros(3 * RATE)])
    wav += 1e-3 * np.random.default_rng(0).standard_normal(len(wav))
    assert np.allclose(clips_of(wav), [(2.5, 11.3), (11.3, 21.1)], atol=0.05)


def test_a_phrase_far_from_others_is_a_short_clip_and_is_not_lost():
    clips = clips_of(phrases([8, 2, 9], [20, 20]))
    assert np.allclose(clips, [(0, 8.5), (27.5, 30.5), (49.5, 59)], atol=0.05)


def test_short_phrases_that_are_near_become_one_clip():
    clips = clips_of(phrases([2] * 12, [1.5] * 11))
    assert lengths_of(clips).min() >= 5 and lengths_of(clips).max() <= 15
    assert all(((cut % 3.5) >= 2) for cut in cuts_of(clips))


@pytest.mark.parametrize(
    ("shortest", "longest", "seconds"), [(5, 15, 20.01), (5, 15, 47), (1, 2, 9), (40, 120, 170), (6, 6.0001, 48)]
)
def test_a_sustained_tone_gives_clips_of_the_wanted_lengths(shortest, longest, seconds):
    lengths = lengths_of(clips_of(sung(np.full(int(seconds * RATE), 220.0), RATE), RATE, shortest, longest))
    assert lengths.min() >= int(shortest) and lengths.max() <= longest


def test_lengths_that_do_not_fit_give_up_the_shortest_and_not_the_longest():
    lengths = lengths_of(clips_of(sung(np.full(21 * RATE, 220.0), RATE), RATE, 14, 15))
    assert lengths.max() <= 15 and len(lengths) == 2


@pytest.mark.parametrize("depth", [0.0, 0.1])
@pytest.mark.parametrize("at", [6.3, 11.0, 13.7])
def test_a_tone_with_one_short_dip_is_cut_there(depth, at):
    tone = sung(np.full(20 * RATE + 1, 220.0), RATE)
    tone[int(at * RATE) : int((at + 0.06) * RATE)] *= depth
    (cut,) = cuts_of(clips_of(tone))
    assert at <= cut <= at + 0.06


def test_notes_are_cut_between_and_a_soft_note_is_no_silence():
    loud_and_soft = np.repeat([1.0, 0.1, 1.0, 0.05, 0.1, 1.0], 7 * RATE)
    tone = loud_and_soft * sung(np.full(len(loud_and_soft), 220.0), RATE)
    for border in range(7, 42, 7):
        tone[border * RATE : int((border + 0.06) * RATE)] = 0
    clips = clips_of(tone)
    assert lengths_of(clips).sum() == pytest.approx(42)  # nothing is left out
    assert all(cut % 7 <= 0.06 for cut in cuts_of(clips))
    assert lengths_of(clips_of(loud_and_soft * sung(np.full(len(loud_and_soft), 220.0), RATE))).sum() == 42


def test_the_plan_depends_on_neither_the_run_nor_the_blocks():
    wav, rate, _ = joined(FOLDERS[0], n_takes=4)
    assert plan(wav, rate) == plan(wav, rate) == plan(wav, rate, block=12345)


def test_two_hours_are_planned_in_seconds():
    rng = np.random.default_rng(0)
    rms = np.repeat(rng.uniform(1e-3, 0.3, 36000), 10) * rng.uniform(0.7, 1, 360000)
    rms[rng.integers(0, 360000, 900)[:, None] + np.arange(30) - 30] = 1e-5
    meter = TakeMeter(RATE)
    meter._loudness.n_samples = len(rms) * 320 - 1
    meter._loudness.finish = lambda hops: rms
    meter._tones.finish = lambda: np.zeros(len(rms))
    started = time.perf_counter()
    clips = [segment for segment in meter.plan(5, 15).segments if segment.voiced]
    assert time.perf_counter() - started < 60 and max(clip.end - clip.start for clip in clips) <= 15 * RATE
