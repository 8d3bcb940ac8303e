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

from timing import (
    ROOT,
    Side,
    alternate,
    apart,
    make_parser,
    print_machine,
    show,
    sides,
    write_contentvec,
    write_dataset,
)

# Encoders whose weights can be made up: name -> (layers, width) of whisper's, or None.
RANDOM = {
    "vec768l12": None,
    "vec256l9": None,
    "whisper-ppg-tiny": (4, 384),
    "whisper-ppg-base": (6, 512),
    "whisper-ppg-small": (12, 768),
    "whisper-ppg": (24, 1024),
    "whisper-ppg-large": (32, 1280),
}
ENCODERS = (*RANDOM, "hubertsoft", "dphubert", "wavlmbase+", "cnhubertlarge")
PREDICTORS = ("pm", "dio", "harvest", "swift", "fcpe", "rmvpe", "crepe")


def main(argv: list[str] | None = None) -> int:
    """Prints the measurements."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=40.0, help="audio for each measurement (default: %(default)s)")
    names = [*ENCODERS, *PREDICTORS]
    add("--only", nargs="+", choices=names, default=["vec768l12", "dio", "fcpe"], help="(default: vec768l12 dio fcpe)")
    add("--no_whole", action="store_true", help="leave out the whole step")
    args = parser.parse_args(argv)
    apart(print_machine, f"{args.seconds:g} s of audio, clips of 3 to 8 s")
    device = ["-d", args.device] if args.device else []
    with sides(args.compare) as found:
        for side in found:
            write_dataset(side.workspace, args.seconds)
        for name in args.only:
            encoder = name if name in ENCODERS else "vec768l12"
            predictor = name if name in PREDICTORS else "dio"
            for side in found:
                apart(write_weights, side.workspace, encoder, predictor)
                side.run("preprocess_flist_config.py", "--speech_encoder", encoder)
                side.run("preprocess_hubert_f0.py", "--f0_predictor", predictor, *device)
            made = "*.soft.pt" if name in ENCODERS else "*.f0.npy"
            flags = ["--f0_predictor", predictor, *device]

            def one_kind(side: Side, made: str = made, flags: list[str] = flags) -> dict[str, float]:
                remove(side, made)
                work, nothing = (side.run("preprocess_hubert_f0.py", *flags) for _ in range(2))
                seconds, cpu_seconds = work.seconds - nothing.seconds, work.cpu_seconds - nothing.cpu_seconds
                values = {"real-time factor": seconds / args.seconds, "CPU seconds": cpu_seconds}
                return values | {"MB": work.memory}

            show(name, found, alternate(found, one_kind, args.rounds))
        if not args.no_whole:
            for processes in dict.fromkeys((1, os.cpu_count() or 1)):

                def whole(side: Side, processes: int = processes) -> dict[str, float]:
                    remove(side, "*.wav.*", "*.pt")
                    flags = ["--f0_predictor", "dio", "--num_processes", processes, *device]
                    done = side.run("preprocess_hubert_f0.py", *flags)
                    return {"seconds": done.seconds, "CPU seconds": done.cpu_seconds}

                for side in found:
                    apart(write_weights, side.workspace, "vec768l12", "dio")
                    side.run("preprocess_flist_config.py", "--speech_encoder", "vec768l12")
                show(f"the whole step, --num_processes {processes}", found, alternate(found, whole, args.rounds))
    return 0


def remove(side: Side, *patterns: str) -> None:
    """Deletes features of all clips."""
    for pattern in patterns:
        for path in (side.workspace / "dataset/44k").rglob(pattern):
            path.unlink()


def write_weights(workspace: Path, encoder: str, predictor: str) -> None:
    """The weights that both need, random where they are not beside this checkout."""
    import torch

    sys.path.insert(0, str(ROOT))
    from modules.encoders.base import ENCODERS as CLASSES

    paths = [weights.path for weights in CLASSES.get(encoder).weights]
    paths += ["pretrain/rmvpe.pt"] if predictor == "rmvpe" else []
    for path in (path for path in paths if (ROOT / path).is_file()):
        (workspace / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, workspace / path)
    torch.manual_seed(0)
    (workspace / "pretrain").mkdir(exist_ok=True)
    if predictor == "rmvpe" and not (workspace / "pretrain/rmvpe.pt").is_file():
        from modules.f0._networks.rmvpe import Rmvpe

        torch.save({"model": Rmvpe().state_dict()}, workspace / "pretrain/rmvpe.pt")
    if any((workspace / path).is_file() for path in paths if "rmvpe" not in path):
        return
    if encoder.startswith("vec"):
        write_contentvec(workspace)
    elif encoder in RANDOM:
        from modules.encoders._networks.whisper import WhisperEncoder

        layers, width = RANDOM[encoder]
        state = WhisperEncoder(80, 1500, width, layers).state_dict()
        weights = {f"encoder.{key}": value for key, value in state.items()}
        torch.save({"model_state_dict": weights}, workspace / paths[0])


if __name__ == "__main__":
    sys.exit(main())
