"""What --precision bf16 or fp16 costs in sound and gains in time, against fp32 of the same conversion.

Converts each recording by each voice twice. Prints for each pair, and as means with 95 % bootstrap intervals

    SNR                fp32 over the difference of both waves, in dB
    mel distance       mean difference of the log mel spectra, in dB, where fp32 is within 60 dB of its peak
    cents              RMS difference of the two pitches, by fcpe and by pm
    voicing            share of frames that only one of them has voiced, by fcpe and by pm
    melody             log-F0 correlation with the recording, of the lower precision minus that of fp32, by both
    DNSMOS             naturalness of the lower precision minus that of fp32 (where speechmos is installed)

and the real-time factors of both. Writes only to a temporary folder.

Example: python benchmarks/precision.py samples/songs/sing_vocadito_14.flac -s bg_krasimir_m be_ksenya_f
"""

import re
import sys
from pathlib import Path

import timing
from gpu_report import snr_db

PREDICTORS = ("fcpe", "pm")
BASE = timing.ROOT / "pretrain/base-small"


def main(argv: list[str] | None = None) -> int:
    """Prints the measurements."""
    parser = timing.cli.make_parser(__file__, __doc__)
    add = parser.add_argument
    add("recordings", nargs="+", type=Path, help="to convert")
    add("-m", "--model_path", type=Path, default=BASE / "G_0.pth", help="voice")
    add("-c", "--config_path", type=Path, default=BASE / "config.json", help="its config")
    add("-s", "--spk_list", nargs="+", default=["bg_krasimir_m", "be_ksenya_f"], metavar="NAME", help="its speakers")
    add("--precision", choices=["bf16", "fp16"], default="bf16", help="compared with fp32")
    args = parser.parse_args(argv)
    flags = ["-m", args.model_path.resolve(), "-c", args.config_path.resolve(), "-n"]
    flags += [*(path.resolve() for path in args.recordings), "-s", *args.spk_list, "-t", "auto-octave", "-f0p", "fcpe"]
    timing.apart(timing.print_machine, f"{args.model_path.name}, {args.precision} against fp32")
    with timing.sides(None) as (side,):
        folders = {}
        for precision in ("fp32", args.precision):
            folders[precision] = side.workspace / precision
            folders[precision].mkdir()
            done = side._replace(workspace=folders[precision]).run(
                "inference_main.py", *flags, "--precision", precision, "-wf", "wav"
            )
            factors = [float(found) for found in re.findall(r"real-time factor ([\d.]+)", done.output)]
            print(f"{precision}: real-time factor {sum(factors) / len(factors):.3f}, {done.seconds:.1f} s in all")
        compare(*(folder / "results" for folder in folders.values()), args.recordings)
    return 0


def compare(plain: Path, other: Path, recordings: list[Path]) -> None:
    """Prints what differs between the results of the same names in two folders."""
    from modules.audio import io
    from modules.config.audio import AudioSpec
    from modules.errors import UsageError
    from modules.evaluation.extras import NaturalnessScorer
    from modules.f0.base import build_predictor
    from modules.metrics.signal import bootstrap_interval

    audio = AudioSpec(44100, 2048, 512, 2048, 80, 0.0, 22050.0)
    predictors = {name: build_predictor(name, audio) for name in PREDICTORS}
    try:
        scorer = NaturalnessScorer()
    except UsageError as error:
        print(f"DNSMOS is left out: {error}")
        scorer = None
    rows = []
    for path in sorted(plain.glob("*.wav")):
        source = next(one for one in recordings if path.name.startswith(one.name))
        waves = [io.load(one, audio.sampling_rate) for one in (source, path, other / path.name)]
        row = differences(*waves, audio, predictors)
        if scorer is not None:
            before, after = (scorer.score(wav, audio.sampling_rate) for wav in waves[1:])
            row["DNSMOS"] = after - before
        rows.append(row)
        print(f"{path.stem}: " + ", ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)
    for name in rows[0]:
        found = bootstrap_interval([row[name] for row in rows])
        print(f"mean {name}: {found.mean:.4g} [{found.low:.3g}, {found.high:.3g}] of {found.count}")


def differences(source, plain, other, audio, predictors: dict) -> dict[str, float]:
    """The measures of the file's docstring for three waves (T,) at the rate of `audio`."""
    import numpy as np
    import torch

    from modules.audio.mel import centered_log_mel
    from modules.metrics.melody import match_melody

    row = {"SNR": snr_db(plain, other)}
    mels = [centered_log_mel(torch.from_numpy(wav), audio).numpy() for wav in (plain, other)]
    decibels = [20 / np.log(10) * mel for mel in mels]
    loud = decibels[0] > decibels[0].max() - 60
    row["mel distance"] = float(np.abs(decibels[0] - decibels[1])[loud].mean())
    for name, predictor in predictors.items():
        given, first, second = (predictor.predict(wav) for wav in (source, plain, other))
        row[f"cents {name}"] = match_melody(first, second, audio.frame_rate).rmse_cents
        row[f"voicing {name}"] = float(np.mean((first.uv > 0.5) != (second.uv > 0.5)))
        matches = [match_melody(given, found, audio.frame_rate).correlation for found in (first, second)]
        row[f"melody {name}"] = matches[1] - matches[0]
    return row


if __name__ == "__main__":
    sys.exit(main())
