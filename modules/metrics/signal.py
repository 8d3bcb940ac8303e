"""Measures as pure functions: level, mel-cepstral distance, word error rate, bootstrap intervals."""

import math
import unicodedata
from typing import NamedTuple

import numpy as np
import torch

from modules.audio.loudness import centered_rms
from modules.audio.mel import mel_spectrogram
from modules.config.audio import AudioSpec

CEPSTRUM_AUDIO = AudioSpec(22050, 1024, 256, 1024, 80, 0.0, 11025.0)
N_CEPSTRA = 24  # without the first, which is the level; 13 at least are usual
_QUIET = 60 * math.log(10) / 20  # nepers (60 dB) below the loudest frame: silence, whose spectrum says nothing
_LOUD_DB = 30.0  # below the loudest frame of a source: its voice, without breath and room
_SILENCE = 1e-5  # RMS, -100 dBFS
_SPACELESS = ("CJK", "HIRAGANA", "KATAKANA")  # in their writing a letter counts as a word


class Interval(NamedTuple):
    """The mean of `count` values and the ends of its confidence interval; nan where there are too few values."""

    mean: float
    low: float
    high: float
    count: int


def match_level(source: np.ndarray, result: np.ndarray, hop_length: int) -> tuple[float, float]:
    """How much louder a result is than its source, in dB (median), and the correlation of both level curves, -1 to 1.

    Of (T,) and (T',) at one rate the longer one is cut. Levels in dB are those of windows of four hops around each
    frame; only the frames of the source's loudest 30 dB count. nan where fewer than three do, the correlation also
    where a level is constant.
    """
    n_samples = min(len(source), len(result))
    rms = (centered_rms(wav[:n_samples], hop_length, 4) for wav in (source, result))
    before, after = (20 * np.log10(np.maximum(one, _SILENCE)) for one in rms)
    loud = before > max(before.max() - _LOUD_DB, 20 * math.log10(_SILENCE))
    before, after = before[loud], after[loud]
    if len(before) < 3:
        return math.nan, math.nan
    is_flat = min(np.ptp(before), np.ptp(after)) < 1e-9
    return float(np.median(after - before)), math.nan if is_flat else float(np.corrcoef(before, after)[0, 1])


def mel_cepstral_distance(wav: np.ndarray, other: np.ndarray) -> float:
    """How far two takes of one song are apart in sound, in dB, whatever their timing and level.

    Source: Kubichek, "Mel-cepstral distance measure for objective speech quality assessment", 1993, IEEE PacRim, with
    the frames brought together by dynamic time warping. Values depend on the cepstra: compare only those made here.

    Takes are (T,) and (T',) in [-1, 1] at CEPSTRUM_AUDIO.sampling_rate; nan if one is silent or shorter than a frame.
    """
    cepstra = [mel_cepstra(_sounding(samples)) for samples in (wav, other)]
    return warped_distance(*cepstra) if all(one.shape[1] for one in cepstra) else math.nan


def mel_cepstra(log_mel: np.ndarray) -> np.ndarray:
    """The coefficients c_1 ... c_24 of a log mel (M, N) of magnitudes, the level c_0 left out: (24, N).

    With band k in the middle of (k, k + 1) they are the c of  log mel_k = c_0 / 2 + sum_m c_m cos(pi m (k + 1/2) / M).
    So 10 / ln 10 * sqrt(2 * sum of the squared differences) is the RMS distance in dB of two smoothed magnitude
    spectra: a cosine of amplitude a has an RMS of a / sqrt(2) nepers, which are 20 / ln 10 dB each.
    """
    n_mels = len(log_mel)
    middles = (np.arange(n_mels) + 0.5) / n_mels
    waves = np.cos(np.pi * np.arange(1, N_CEPSTRA + 1)[:, None] * middles)
    return 2 / n_mels * waves @ log_mel.astype(np.float64)


def warped_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mel-cepstral distance in dB of two sequences of mel cepstra, (24, N) and (24, N'), N and N' > 0.

    It is the mean over the cheapest path through all pairs of frames, from the first pair to the last, one frame on in
    `a`, in `b`, or in both at once.
    """
    # Pairs of one anti-diagonal do not depend on each other and are one step.
    # Not librosa.sequence.dtw, which gives the same numbers but holds the costs of all pairs: 8 GB for four minutes.
    n, m = a.shape[1], b.shape[1]
    before = two_before = np.full((2, n + 1), np.inf)  # row 0: cost of the path to (i, step - i); row 1: its length
    for step in range(n + m - 1):
        i = np.arange(max(0, step - m + 1), min(step, n - 1) + 1)
        here = np.full((2, n + 1), np.inf)  # entry i + 1 is frame i of a, so that entry 0 lies outside
        # From (i-1, j-1), (i-1, j), (i, j-1). Of equal ones the first is taken.
        origins = np.stack([two_before[:, i], before[:, i], before[:, i + 1]])
        best = origins[origins[:, 0].argmin(axis=0), :, np.arange(len(i))].T if step else np.zeros((2, 1))
        distance = np.sqrt(2 * np.square(a[:, i] - b[:, step - i]).sum(axis=0))
        here[:, i + 1] = best + np.stack([distance, np.ones(len(i))])
        two_before, before = before, here
    cost, length = before[:, n]
    return float(10 / math.log(10) * cost / length)


def word_error_rate(reference: str, hypothesis: str) -> float:
    """Words to replace, insert and delete, over the number of words in the reference (nan where it has none)."""
    wanted, found = split_words(reference), split_words(hypothesis)
    return edit_distance(wanted, found) / len(wanted) if wanted else math.nan


def split_words(text: str) -> list[str]:
    """The words of a text in small letters, without punctuation; of Chinese and Japanese, each letter."""
    spaced = []
    for letter in unicodedata.normalize("NFKC", text).casefold():
        if unicodedata.name(letter, "").startswith(_SPACELESS):
            spaced.append(f" {letter} ")
        elif letter.isalnum() or unicodedata.category(letter).startswith("M"):
            spaced.append(letter)
        elif letter not in "'’":  # "don't" is one word
            spaced.append(" ")
    return "".join(spaced).split()


def edit_distance(a: list[str], b: list[str]) -> int:
    """The fewest replacements, insertions and deletions that turn one list into the other (Levenshtein, 1966)."""
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, start=1):
        above, row = row, [i]
        for j, other in enumerate(b, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (word != other)))
    return row[-1]


def bootstrap_interval(values: list[float]) -> Interval:
    """The mean of what is finite in `values`, and its 95 % percentile interval over 2000 seeded resamples."""
    from scipy.stats import bootstrap

    finite = np.array([value for value in values if math.isfinite(value)])
    if len(finite) < 2:
        return Interval(float(finite[0]) if len(finite) else math.nan, math.nan, math.nan, len(finite))
    random = np.random.default_rng(0)
    low, high = bootstrap((finite,), np.mean, n_resamples=2000, method="percentile", rng=random).confidence_interval
    return Interval(float(finite.mean()), float(low), float(high), len(finite))


def _sounding(wav: np.ndarray) -> np.ndarray:
    """Log mel (M, N) of the frames that are not silent: at most 60 dB below the loudest one."""
    audio = CEPSTRUM_AUDIO
    if len(wav) < audio.n_fft or not wav.any():
        return np.zeros((audio.n_mels, 0))
    mel = mel_spectrogram(torch.from_numpy(np.ascontiguousarray(wav, np.float32)), audio).numpy()
    level = np.logaddexp.reduce(2 * mel.astype(np.float64), axis=0) / 2
    return mel[:, level > level.max() - _QUIET]
