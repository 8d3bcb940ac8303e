"""Adds to the clips of a data set some that are higher and longer, so that a voice of speech has notes in range.

Reads dataset/44k/SPEAKER/*.wav. Writes CLIP_repitch.wav beside every third of them, of those speakers that are named:
voiced stretches become notes, 3 to 12 semitones higher and two to four times as long, with a vibrato; formants stay.
Run preprocess_flist_config.py and preprocess_hubert_f0.py afterwards.

Example: python pretrain/base-small/repitch.py dataset/44k be_ksenya_f ru_edwin_m

Source: Morise, Yokomori and Ozawa, "WORLD: a vocoder-based high-quality speech synthesis system for real-time
applications", 2016, IEICE Transactions E99-D(7).
"""

import argparse
import sys
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


def main(argv: list[str] | None = None) -> int:
    """Writes the clips; returns 0, or 1 where some could not be read. Those that are there already stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder with SPEAKER/*.wav")
    parser.add_argument("speakers", nargs="+", help="whose clips to take")
    args = parser.parse_args(argv)
    clips, failures = [], 0
    for name in args.speakers:
        found = [path for path in sorted((args.dataset / name).glob("*.wav")) if SUFFIX not in path.stem]
        if not found:
            parser.error(f"{args.dataset / name}: holds no *.wav. Make the clips with: python resample.py")
        clips += found[::EVERY]
    for number, path in enumerate(tqdm(clips, unit="clip")):
        target = path.with_stem(path.stem + SUFFIX)
        if target.exists():
            continue
        try:
            wav, rate = soundfile.read(path)
            changed = repitch(wav, rate, np.random.default_rng(number))
            level = np.abs(wav).max() / max(np.abs(changed).max(), 1e-9)
        except (RuntimeError, ValueError, IndexError) as error:
            tqdm.write(f"{path}: is left out: {error}", file=sys.stderr)
            failures += 1
            continue
        unfinished = target.with_suffix(".writing")
        soundfile.write(unfinished, changed * level, rate, format="WAV")
        unfinished.replace(target)
    return 1 if failures else 0


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
    sys.exit(main())
