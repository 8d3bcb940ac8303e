"""Speed and memory of preprocess_hubert_f0.py, of this checkout and with --compare of another one in turn with it.

For each content encoder and F0 predictor: seconds of work per second of audio (real-time factor), which is a run that
makes only those features less one that finds everything made; and the peak of memory in MB. Then the whole step with
vec768l12 and dio from nothing, start-up included, in one process and in one for each core.

vec768l12, vec256l9, the whisper encoders and rmvpe get random weights of the published size where the published file
is not here: the speed is the same. Others need theirs in pretrain/. Writes only to a temporary folder.

Example: python benchmarks/features.py --compare ../before --only vec768l12 fcpe
"""

import os
import shutil
import sys
from pathlib import Path

import timing

WHISPER = {"whisper-ppg-tiny": (4, 384), "whisper-ppg-base": (6, 512), "whisper-ppg-small": (12, 768)}
WHISPER |= {"whisper-ppg": (24, 1024), "whisper-ppg-large": (32, 1280)}  # layers, width
ENCODERS = ("vec768l12", "vec256l9", *WHISPER, "hubertsoft", "dphubert", "wavlmbase+", "cnhubertlarge")
PREDICTORS = ("pm", "dio", "harvest", "swift", "fcpe", "rmvpe", "crepe")


def main(argv: list[str] | None = None) -> int:
    """Prints the measurements."""
    parser = timing.make_parser(__file__, __doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=40.0, help="audio for each measurement")
    names = [*ENCODERS, *PREDICTORS]
    add("--only", nargs="+", choices=names, default=["vec768l12", "dio", "fcpe"], help="encoders and F0 predictors")
    add("--no_whole", action="store_true", help="leave out the whole step")
    args = parser.parse_args(argv)
    timing.apart(timing.print_machine, f"{args.seconds:g} s of audio, clips of 3 to 8 s")
    device = ["-d", args.device] if args.device else []
    with timing.sides(args.compare) as found:
        for side in found:
            timing.write_dataset(side.workspace, args.seconds)
        for name in args.only:
            encoder = name if name in ENCODERS else "vec768l12"
            predictor = name if name in PREDICTORS else "dio"
            flags = ["--f0_predictor", predictor, *device]
            for side in found:
                prepare(side, encoder, predictor)
                side.run("preprocess_hubert_f0.py", *flags)
            values = "*.soft.pt" if name in ENCODERS else "*.f0.npy", args.seconds, flags
            timing.show(name, found, timing.alternate(found, one_kind, args.rounds, *values))
        for processes in dict.fromkeys((1, os.cpu_count() or 1) if not args.no_whole else ()):
            for side in found:
                prepare(side, "vec768l12", "dio")
            flags = ["--f0_predictor", "dio", "--num_processes", processes, *device]
            medians = timing.alternate(found, whole, args.rounds, flags)
            timing.show(f"the whole step, --num_processes {processes}", found, medians)
    return 0


def prepare(side: timing.Side, encoder: str, predictor: str) -> None:
    """The weights that both need, and a config for the encoder."""
    timing.apart(write_weights, side.workspace, encoder, predictor)
    side.run("preprocess_flist_config.py", "--speech_encoder", encoder)


def one_kind(side: timing.Side, made: str, audio_seconds: float, flags: list[str]) -> dict[str, float]:
    """What it costs to make the features of that pattern, and nothing else."""
    remove(side, made)
    work, nothing = (side.run("preprocess_hubert_f0.py", *flags) for _ in range(2))
    seconds, cpu_seconds = work.seconds - nothing.seconds, work.cpu_seconds - nothing.cpu_seconds
    return {"real-time factor": seconds / audio_seconds, "CPU seconds": cpu_seconds, "MB": work.memory}


def whole(side: timing.Side, flags: list[str]) -> dict[str, float]:
    """What it costs to make everything."""
    remove(side, "*.wav.*", "*.pt")
    done = side.run("preprocess_hubert_f0.py", *flags)
    return {"seconds": done.seconds, "CPU seconds": done.cpu_seconds}


def remove(side: timing.Side, *patterns: str) -> None:
    """Deletes features of all clips."""
    for pattern in patterns:
        for path in (side.workspace / "dataset/44k").rglob(pattern):
            path.unlink()


def write_weights(workspace: Path, encoder: str, predictor: str) -> None:
    """The weights that both need, random where they are not beside this checkout."""
    import torch

    from modules.encoders.base import ENCODERS as CLASSES

    rmvpe, paths = "pretrain/rmvpe.pt", [weights.path for weights in CLASSES.get(encoder).weights]
    (workspace / "pretrain").mkdir(exist_ok=True)
    published = [path for path in (*paths, rmvpe) if (timing.ROOT / path).is_file()]
    for path in published:
        (workspace / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(timing.ROOT / path, workspace / path)
    torch.manual_seed(0)
    if predictor == "rmvpe" and rmvpe not in published:
        from modules.f0._networks.rmvpe import Rmvpe

        torch.save({"model": Rmvpe().state_dict()}, workspace / rmvpe)
    if set(paths) & set(published):
        return
    if encoder.startswith("vec"):
        timing.write_contentvec(workspace)
    elif encoder in WHISPER:
        from modules.encoders._networks.whisper import WhisperEncoder

        layers, width = WHISPER[encoder]
        state = WhisperEncoder(80, 1500, width, layers).state_dict()
        weights = {f"encoder.{key}": value for key, value in state.items()}
        torch.save({"model_state_dict": weights}, workspace / paths[0])


if __name__ == "__main__":
    sys.exit(main())
