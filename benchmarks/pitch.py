"""How right the F0 predictors are: error in cents and octave errors, before and after their repair, at several levels.

The truth of X.flac is X.f0.npy beside it (Hz every 5 ms, 0 = unvoiced) where there is one, else Praat's pitch within
limits that its own first pass gives (De Looze and Hirst 2008). Every recording is heard at each gain; the table shows,
of all frames that are voiced in both, the median error and the share more than half an octave off, each at the gain at
which it is worst. Folders are searched through; each that holds recordings is a row.

Example: python benchmarks/pitch.py samples --predictors pm fcpe --files 3 --seconds 10
"""

import sys
from pathlib import Path

import timing

GAINS = (1.0, 0.3, 0.1, 0.03)
PREDICTORS = ("pm", "dio", "harvest", "fcpe", "swift", "crepe", "rmvpe")
RATE, HOP = 44100, 512
SUFFIXES = (".wav", ".flac")


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = timing.cli.make_parser(__file__, __doc__)
    add = parser.add_argument
    add("folders", nargs="+", type=Path, help="recordings of one voice each")
    add("--predictors", nargs="+", choices=PREDICTORS, default=["pm", "dio", "harvest", "fcpe"])
    add("--gains", nargs="+", type=float, default=list(GAINS), help="of each recording, with its peak at 0.9")
    add("--files", type=int, default=2, help="most recordings of one folder")
    add("--seconds", type=float, default=10.0, help="most of one recording")
    args = parser.parse_args(argv)
    found = {folder: files for root in args.folders for folder, files in recordings(root, args.files).items()}
    if not found:
        raise SystemExit("no .wav or .flac in these folders")
    print("| predictor | recordings | median error, cents | octaves off, % | before the repair, % |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    for name in args.predictors:
        rows = {folder: measure(name, files, args) for folder, files in found.items()}
        for folder, row in rows.items():
            print(f"| `{name}` | {folder.name} | {' | '.join(f'{value:.1f}' for value in row)} |", flush=True)
        worst = [max(values) for values in zip(*rows.values())]
        print(f"| `{name}` | the worst of them | {' | '.join(f'{value:.1f}' for value in worst)} |", flush=True)
    return 0


def recordings(root: Path, most: int) -> dict[Path, list[Path]]:
    """The first recordings of each folder in `root`."""
    found: dict[Path, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in SUFFIXES and len(found.setdefault(path.parent, [])) < most:
            found[path.parent].append(path)
    return {folder: files for folder, files in found.items() if files}


def measure(name: str, files: list[Path], args) -> tuple[float, float, float]:
    """A row of the table, of one folder; each value at the gain at which it is worst."""
    import numpy as np

    from modules.audio.io import read, resample
    from modules.config.audio import AudioSpec
    from modules.f0.base import build_predictor

    predictor = build_predictor(name, AudioSpec(RATE, 2048, HOP, 2048, 80, 0.0, RATE / 2), device="cpu")
    track, tracked = predictor.track, []
    predictor.track = lambda wav, n_frames: tracked.append(track(wav, n_frames)) or tracked[-1].copy()
    rows = []
    for gain in args.gains:
        curves, raw, truths = [], [], []
        for path in files:
            wav, rate = read(path)
            wav = resample(wav[: int(args.seconds * rate)], rate, RATE)
            truths.append(true_pitch(path, wav))
            pitch = predictor.predict(wav * np.float32(gain * 0.9 / np.abs(wav).max()))
            curves.append(pitch.f0 * pitch.uv)
            raw.append(tracked[-1])
        truth, curve, before = (np.concatenate(values) for values in (truths, curves, raw))
        error, error_before = (cents_off(found, truth) for found in (curve, before))
        shares = [100 * float(np.mean(np.abs(part) > 600)) if len(part) else 0.0 for part in (error, error_before)]
        rows.append((float(np.median(np.abs(error))) if len(error) else 0.0, *shares))
    return tuple(max(values) for values in zip(*rows))


def cents_off(curve, truth):
    """Cents between two curves (N,) Hz where both are voiced."""
    import numpy as np

    both = (curve > 0) & (truth > 0)
    return 1200 * np.log2(curve[both] / truth[both])


def true_pitch(path: Path, wav):
    """The true curve (N,) Hz of a recording, 0 where unvoiced."""
    import numpy as np
    import parselmouth

    times, known = np.arange(len(wav) // HOP) * HOP / RATE, path.with_suffix(".f0.npy")
    if known.is_file():
        curve, first, step = np.load(known, allow_pickle=False), 0.0, 0.005
    else:
        sound = parselmouth.Sound(wav.astype(np.float64), RATE)
        wide = sound.to_pitch_ac(time_step=0.01, pitch_floor=50, pitch_ceiling=700).selected_array["frequency"]
        low, high = np.percentile(wide[wide > 0], (25, 75))
        pitch = sound.to_pitch_ac(time_step=HOP / RATE, pitch_floor=max(40, 0.75 * low), pitch_ceiling=2 * high)
        curve, first, step = pitch.selected_array["frequency"], pitch.xs()[0], HOP / RATE
    return curve[np.clip(np.round((times - first) / step).astype(int), 0, len(curve) - 1)]


if __name__ == "__main__":
    sys.exit(main())
