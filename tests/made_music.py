"""What may lie under a voice: a small band that plays chords, bass and drums, and rooms that ring. Made up, seeded."""

import numpy as np
from scipy.signal import fftconvolve

_CHORDS = ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14))  # semitones above the key: I, vi, IV, V


def accompaniment(n_samples: int, rate: int, seed: int) -> np.ndarray:
    """A band in a key and at a tempo of its own, (n_samples,) float32 with a peak of 1."""
    draw = np.random.default_rng(seed)
    beat, key = draw.uniform(0.42, 0.7), int(draw.integers(45, 57))
    wav, strings = np.zeros(n_samples), {}
    for index in range(int(n_samples / rate / beat) + 1):
        chord, start = _CHORDS[index // 4 % 4], int(index * beat * rate)
        notes = [(key - 12 + chord[0], 0.5, 3.0)]
        if index % 2 == 0 or draw.random() < 0.5:
            notes += [(key + 12 + step, 0.22, 2.0) for step in chord]
        for midi, gain, decay in notes:
            if midi not in strings:
                strings[midi] = _note(440 * 2 ** ((midi - 69) / 12), decay, rate, draw)
            _add(wav, start, gain * strings[midi])
        _add(wav, start, 0.5 * _drum(index % 2 == 1, rate, draw))
    return (wav / np.abs(wav).max()).astype(np.float32)


def room(rt60: float, direct_to_reverberant_db: float, rate: int, seed: int) -> np.ndarray:
    """The impulse response of a room, (T,): the direct sound, from 5 ms on noise that falls 60 dB in `rt60` seconds."""
    times = np.arange(int(1.2 * rt60 * rate)) / rate
    tail = np.random.default_rng(seed).standard_normal(len(times)) * 10 ** (-3 * times / rt60) * (times > 0.005)
    response = tail * np.sqrt(10 ** (-direct_to_reverberant_db / 10) / np.sum(tail**2))
    response[0] = 1.0
    return response


def in_room(wav: np.ndarray, response: np.ndarray) -> np.ndarray:
    """A sound (T,) as it is heard there, (T,) float32 with the peak it had."""
    heard = fftconvolve(wav, response)[: len(wav)]
    return (heard * (np.abs(wav).max() / np.abs(heard).max())).astype(np.float32)


def over_music(voice: np.ndarray, music: np.ndarray, voice_to_music_db: float) -> np.ndarray:
    """A voice (T,) over music (T,), its power that many dB above the music's: (T,) float32, its peak 1 at most."""
    gain = np.sqrt(np.mean(voice**2) / np.mean(music**2)) * 10 ** (-voice_to_music_db / 20)
    mixed = voice + gain * music
    return (mixed / max(1.0, np.abs(mixed).max())).astype(np.float32)


def _note(hz: float, decay: float, rate: int, draw: np.random.Generator) -> np.ndarray:
    """A plucked string: harmonics that fall off, the higher the sooner."""
    times = np.arange(int(2 * rate)) / rate
    wav = np.zeros(len(times))
    for k in range(1, 9):
        if k * hz < 0.45 * rate:
            wav += np.exp(-decay * (0.7 + 0.3 * k) * times) * np.sin(2 * np.pi * (k * hz * times + draw.random())) / k
    return wav * np.minimum(1, times / 0.004)


def _drum(is_snare: bool, rate: int, draw: np.random.Generator) -> np.ndarray:
    """A burst of noise, or a thump."""
    times = np.arange(int(0.25 * rate)) / rate
    if is_snare:
        return 0.6 * draw.standard_normal(len(times)) * np.exp(-25 * times)
    return np.sin(2 * np.pi * 55 * times) * np.exp(-14 * times)


def _add(wav: np.ndarray, start: int, sound: np.ndarray) -> None:
    end = min(len(wav), start + len(sound))
    wav[start:end] += sound[: max(0, end - start)]
