"""Adds to the clips of a data set some that are higher and longer, so that a voice of speech has notes in range.

Reads dataset/44k/SPEAKER/*.wav. Writes CLIP_repitch.wav beside every third of them, of those speakers that are named:
voiced stretches become notes, 3 to 12 semitones higher and two to four times as long, with a vibrato; formants stay.
Run preprocess_flist_config.py and preprocess_hubert_f0.py afterwards.

Example: python pretrain/base-small/repitch.py dataset/44k be_ksenya_f ru_edwin_m

Source: Morise, Yokomori and Ozawa, "WORLD: a vocoder-based high-quality speech synthesis system for real-time
applications", 2016, IEICE Transactions E99-D(7).
"""

import argparse
from pathlib import Path

import numpy as np
import pyworld
import soundfile
from tqdm import tqdm

EVERY = 3  # clips
SEMITONES = 3, 12
STRETCH = 2, 4
FRAME_SECONDS = pyworld.default_frame_period / 1000
SHORTEST_NOTE = 12  # frames; shorter voiced stretches are left as they are
VIBRATO_HZ, VIBRATO_SEMITONES = 5.5, 0.3
SUFFIX = "_repitch"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("speakers", nargs="+")
    args = parser.parse_args()
    clips = [path for name in args.speakers for path in sorted((args.dataset / name).glob("*.wav"))[::EVERY]]
    for number, path in enumerate(tqdm([path for path in clips if SUFFIX not in path.stem], unit="clip")):
        wav, rate = soundfile.read(path)
        changed = repitch(wav, rate, np.random.default_rng(number))
        soundfile.write(path.with_stem(path.stem + SUFFIX), changed * (np.abs(wav).max() / np.abs(changed).max()), rate)


def repitch(wav: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
    """A wave (T,) float64 as notes, of another length, at the same rate."""
    rough, times = pyworld.harvest(wav, rate)
    f0 = pyworld.stonemask(wav, rough, times, rate)
    envelope, aperiodicity = pyworld.cheaptrick(wav, f0, times, rate), pyworld.d4c(wav, f0, times, rate)
    order, curve = [], []  # frames that are played, and the pitch of each
    edges = np.flatnonzero(np.diff(f0 > 0)) + 1
    up, stretch = generator.uniform(*SEMITONES), generator.uniform(*STRETCH)
    for run in np.split(np.arange(len(f0)), edges):
        if f0[run[0]] == 0 or len(run) < SHORTEST_NOTE:
            order.append(run)
            curve.append(f0[run] * 2 ** (up / 12))
            continue
        played = run[np.linspace(0, len(run) - 1, round(stretch * len(run))).round().astype(int)]
        note = np.round(12 * np.log2(np.median(f0[run])) + up)
        seconds = np.arange(len(played)) * FRAME_SECONDS
        wave = np.minimum(seconds / 0.3, 1) * VIBRATO_SEMITONES * np.sin(2 * np.pi * VIBRATO_HZ * seconds)
        order.append(played)
        curve.append(2 ** ((note + wave) / 12))
    frames = np.concatenate(order)
    return pyworld.synthesize(np.concatenate(curve), envelope[frames], aperiodicity[frames], rate)


if __name__ == "__main__":
    main()
