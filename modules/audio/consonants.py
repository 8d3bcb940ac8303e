"""Voiceless consonants of a recording, put into what a voice sings of it.

s, f, t and breaths have no pitch, and above 2 kHz they say little of who makes them; but words hang on them, and a
voice with little training blurs them. (RVC's "protect" is another way: it spares their units from retrieval.)
"""

import numpy as np

_LOWEST_HZ = 2000.0  # below it the formants tell who speaks; a filter's half-way point
_SLOPE_HZ = 500.0  # on each side of that point, from nothing to all
_RINGING_SECONDS = 0.05


def keep_consonants(
    wav: np.ndarray, source: np.ndarray, rate: int, is_consonant: np.ndarray, hop_length: int, share: float
) -> np.ndarray:
    """A result (T,) with the upper voices of its source (T',), of the same rate and time, in voiceless frames.

    Args:
        is_consonant: (N,) bool, of frames of `hop_length` samples.
        share: of the power that comes from the source, 0 to 1.

    The source gets the level that makes it as loud as the result in the other frames. Powers are cross-faded over a
    frame. Returns (T,) float32.
    """
    if not (share and is_consonant.any()):
        return wav
    source = np.pad(source, (0, max(0, len(wav) - len(source))))[: len(wav)]
    around = np.convolve(is_consonant, np.ones(3), "same") > 0  # F0 predictors reach into consonants
    centres = (np.arange(len(around)) + 0.5) * hop_length
    curve = np.interp(np.arange(len(wav)), centres, around.astype(np.float64))
    made, heard = ((1 - curve) @ np.square(sound, dtype=np.float64) for sound in (wav, source))
    gain = np.sqrt(made / heard) if made and heard else 1.0
    taken = share * curve
    change = np.sqrt(taken) * gain * source + (np.sqrt(1 - taken) - 1) * wav
    n_padded = len(wav) + round(rate * _RINGING_SECONDS)  # what rings out does not come in again at the other end
    passes = (np.fft.rfftfreq(n_padded, 1 / rate) - _LOWEST_HZ) / (2 * _SLOPE_HZ) + 0.5
    passes = np.sin(np.pi / 2 * np.clip(passes, 0, 1)) ** 2
    return (wav + np.fft.irfft(np.fft.rfft(change, n_padded) * passes, n_padded)[: len(wav)]).astype(np.float32)
