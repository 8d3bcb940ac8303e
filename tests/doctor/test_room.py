"""Music and ringing under a voice: found at several strengths, and not in voices, notes, noise or hum alone."""

from pathlib import Path

import numpy as np
import pytest
from made_music import accompaniment, in_room, over_music, room
from signals import formant_voice

from modules.audio.io import read
from modules.doctor.room import Room, RoomMeter, judge

FOLDER = Path(__file__).parents[2] / "samples/voices"
TAKES = sorted(FOLDER.glob("*/*.flac"))
VOICES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


def measure(wav: np.ndarray, rate: int, size: int | None = None) -> Room:
    meter = RoomMeter(rate)
    for start in range(0, len(wav), size or len(wav)):
        meter.push(wav[start : start + (size or len(wav))])
    return meter.finish()


def some_takes(count: int = 4) -> list[tuple[np.ndarray, int]]:
    return [read(path) for path in TAKES[:: len(TAKES) // count]]


def hummed(wav: np.ndarray, rate: int, hz: int) -> np.ndarray:
    times = np.arange(len(wav)) / rate
    hum = sum(np.sin(2 * np.pi * k * hz * times + k) / k for k in range(1, 8))
    return wav + (0.3 * np.sqrt(np.mean(wav**2) / np.mean(hum**2)) * hum).astype(np.float32)


@pytest.mark.parametrize("voice", VOICES)
def test_clean_voices_and_a_real_singer_have_neither(voice):
    sounds = {path: measure(*read(path)) for path in TAKES if path.parent.name == voice}
    sounds |= {path: measure(*read(path)) for path in (FOLDER.parent / "songs").glob("*.flac")}
    assert len(sounds) >= 5 and judge("recordings", "alto", sounds) == []
    assert all(room.seconds > 7 and room.windows > 0 for room in sounds.values())


@pytest.mark.parametrize(("voice_to_music_db", "least"), [(10, 4), (0, 5)])
def test_a_band_under_a_voice_is_music(voice_to_music_db, least):
    found = [
        measure(over_music(wav, accompaniment(len(wav), rate, seed), voice_to_music_db), rate)
        for seed, (wav, rate) in enumerate(some_takes())
    ]
    assert len(found) == 5 and sum(room.has_music for room in found) >= least


def test_a_faint_band_is_found_in_all_of_a_voice():
    mixed = [
        (over_music(wav, accompaniment(len(wav), rate, seed), 20), rate)
        for seed, (wav, rate) in enumerate(some_takes())
    ]
    sounds = {Path(f"{index}.wav"): measure(*sound) for index, sound in enumerate(mixed)}
    (finding,) = judge("clips", "alto", sounds)
    assert finding.kind == "music" and "python separate.py" in finding.remedy


@pytest.mark.parametrize(("rt60", "direct_db"), [(0.8, 3), (0.8, 0), (2, 3), (2, 0)])
def test_a_voice_in_a_hall_rings(rt60, direct_db):
    for seed, (wav, rate) in enumerate(some_takes()):
        found = measure(in_room(wav, room(rt60, direct_db, rate, seed)), rate)
        assert found.rings and not found.has_music, seed


@pytest.mark.parametrize("snr_db", [15, 0])
def test_noise_is_neither(snr_db):
    for seed, (wav, rate) in enumerate(some_takes()):
        noise = np.random.default_rng(seed).standard_normal(len(wav)).astype(np.float32)
        found = measure(over_music(wav, noise, snr_db), rate)
        assert not found.has_music and not found.rings, seed


@pytest.mark.parametrize("mains", [50, 60])
def test_hum_is_neither(mains):
    for wav, rate in some_takes():
        found = measure(hummed(wav, rate, mains), rate)
        assert not found.has_music and not found.rings


def test_notes_one_after_the_other_are_no_chord_and_at_once_they_are():
    chords = (220.0, 277.2, 329.6), (196.0, 246.9, 293.7), (261.6, 329.6, 392.0)
    notes = [[formant_voice(np.full(66150, hz), 22050) for hz in chord] for chord in chords]
    assert measure(np.concatenate([chord[0] for chord in notes]), 22050).chord_seconds == 0
    assert measure(np.concatenate([sum(chord) / 3 for chord in notes]), 22050).chord_seconds > 5


def test_a_clip_that_is_all_cut_off_is_not_judged():
    wav, rate = read(TAKES[0])
    assert measure(np.clip(30 * wav / np.abs(wav).max(), -1, 1), rate) == Room()


@pytest.mark.parametrize("size", [777, 44100, 250_000])
def test_the_sizes_of_the_blocks_do_not_matter(size):
    wav, rate = read(TAKES[0])
    wav = np.tile(over_music(wav, accompaniment(len(wav), rate, 1), 10), 3)
    assert measure(wav, rate, size) == measure(wav, rate)


def test_silence_a_blink_and_nothing_give_nothing():
    for wav in (np.zeros(100_000, np.float32), np.ones(5, np.float32), np.zeros(0, np.float32)):
        found = measure(wav, 16000, 4000)
        assert not found.has_music and not found.rings
        assert judge("clips", "alto", {Path("a.wav"): found}) == []


DRY = Room(seconds=8.0, windows=5000, slow=200, steep=100)
BAND = Room(seconds=8.0, chord_seconds=1.5, windows=5000, slow=900, steep=2)
HALL = Room(seconds=8.0, windows=5000, slow=900, steep=2)


def test_one_bad_file_among_forty_is_named_once_with_its_surer_fault():
    sounds = {Path(f"{index}.wav"): DRY for index in range(38)} | {Path("band.wav"): BAND, Path("hall.wav"): HALL}
    music, reverb = judge("recordings", "alto", sounds)
    assert (music.level, music.kind, music.files) == ("warning", "music", (Path("band.wav"),))
    assert (reverb.level, reverb.kind, reverb.files) == ("warning", "reverb", (Path("hall.wav"),))
    assert music.text.startswith("1 of 40 recordings have music under the voice (worst: band.wav, chords in 18.8%")
    assert "(worst: hall.wav, 180 slow falls" in reverb.text


def test_much_of_it_is_an_error_and_the_worst_comes_first():
    worse = Room(seconds=8.0, chord_seconds=4.0, windows=5000)
    (music,) = judge("clips", "alto", {Path("a.wav"): BAND, Path("b.wav"): worse})
    assert music.level == "error" and music.files == (Path("b.wav"), Path("a.wav"))
    (reverb,) = judge("clips", "alto", {Path("a.wav"): HALL, Path("b.wav"): HALL, Path("c.wav"): DRY})
    assert (reverb.level, reverb.kind, len(reverb.files)) == ("error", "reverb", 2)


def test_what_no_short_clip_shows_all_of_them_together_do():
    short = Room(seconds=2.0, windows=1200, slow=150, steep=0)
    assert not short.rings
    (reverb,) = judge("clips", "alto", {Path(f"{index}.wav"): short for index in range(5)})
    assert reverb.kind == "reverb" and len(reverb.files) == 5
    assert "5 of 5 clips have the ringing of a hall (together, 250 slow falls" in reverb.text


def test_a_noisy_file_is_not_judged_for_reverb():
    sounds = {Path("hum.wav"): HALL, Path("hall.wav"): HALL, Path("dry.wav"): DRY}
    (finding,) = judge("clips", "alto", sounds, noisy={Path("hum.wav")})
    assert finding.kind == "reverb" and finding.files == (Path("hall.wav"),)
