"""Voiceless consonants of a recording, put into what a voice sings of it.

s, f, t and breaths have no pitch, and above 2 kHz they say little of who makes them; but words hang on them, and a
voice with little training blurs them. (RVC's "protect" is another way: it spares their units from retrieval.)
"""

import numpy as np

_LOWEST_HZ = 2000.0  # below it the formants tell who speaks; a filter's half-way point
_SLOPE_HZ = 500.0  # on each side of that point, from nothing to all
_RINGING_SECONDS = 0.05
_NOTHING = 1e-3  # of the power that the voice has in a band


def keep_consonants(
    wav: np.ndarray,
    source: np.ndarray,
    rate: int,
    is_consonant: np.ndarray,
    is_vowel: np.ndarray,
    hop_length: int,
    share: float,
) -> np.ndarray:
    """A result (T,) with what is above 2 kHz in the voiceless frames of its source (T,), of the same rate and time.

    Args:
        is_consonant, is_vowel: (N,) bool, of the N = T / hop_length frames; a pause is neither.
        share: of the power that comes from the source, 0 to 1.

    The source gets the level that makes its vowels as loud as the result's, its own without any; where its own spectrum
    ends, the result's goes on. Powers are cross-faded over a frame. Returns (T,) float32.
    """
    if not (share and is_consonant.any()):
        return wav
    around = np.convolve(is_consonant, np.ones(3), "same") > 0  # F0 predictors reach into consonants
    centres = (np.arange(len(around)) + 0.5) * hop_length
    curve = np.interp(np.arange(len(wav)), centres, around.astype(np.float64))
    vowels = np.repeat(is_vowel, hop_length)
    made, given = (vowels @ np.square(sound, dtype=np.float64) for sound in (wav, source))
    gain = np.sqrt(made / given) if given else 1.0
    taken = share * curve
    n_padded = len(wav) + round(rate * _RINGING_SECONDS)  # what rings out does not come in again at the other end
    heard = np.fft.rfft(np.sqrt(taken) * gain * source, n_padded)
    lost = np.fft.rfft((1 - np.sqrt(1 - taken)) * wav, n_padded)
    frequencies = np.fft.rfftfreq(n_padded, 1 / rate)
    rise = np.clip((frequencies - _LOWEST_HZ) / (2 * _SLOPE_HZ) + 0.5, 0, 1)
    fall = np.clip((_bandwidth(heard, lost, frequencies) - frequencies) / (2 * _SLOPE_HZ), 0, 1)
    passes = np.sin(np.pi / 2 * rise * fall) ** 2
    return (wav + np.fft.irfft((heard - lost) * passes, n_padded)[: len(wav)]).astype(np.float32)


def _bandwidth(heard: np.ndarray, lost: np.ndarray, frequencies: np.ndarray) -> float:
    """Hz at which a spectrum ends where the other goes on: that of a recording at 16 kHz, of an mp3."""
    starts = np.arange(0, len(heard), 1 + int(2 * _SLOPE_HZ / frequencies[1]))
    power, other = (np.add.reduceat(np.abs(spectrum) ** 2, starts) for spectrum in (heard, lost))
    is_over = (power < _NOTHING * other) & (frequencies[starts] > _LOWEST_HZ)
    return float(frequencies[starts[is_over.argmax()]]) if is_over.any() else np.inf
