"""Seconds of a training step of train.py, of this checkout and with --compare of another one in turn with it.

Each side prepares a made data set with its own preprocess_flist_config.py and preprocess_hubert_f0.py, and in each
round trains from the start: the first --steps warm up, as many are measured (data, both networks, both optimizers).
--without winograd measures, in place of another checkout, this one with torch's own convolutions.

Weights are random, of the sizes of the preset: the speed is the same. Writes only to a temporary folder.

Example: python benchmarks/train_step.py --size small --without winograd
"""

import json
import shutil
import sys

import timing

WITHOUT_WINOGRAD = """
import os
os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as modules.cli sets it, before torch is imported
from torch import nn
from modules.nn import winograd
for quick, plain in ((winograd.QuickConv1d, nn.Conv1d), (winograd.QuickConv2d, nn.Conv2d)):
    quick._conv_forward = plain._conv_forward
"""


def main(argv: list[str] | None = None) -> int:
    """Prints the measurements."""
    parser = timing.make_parser(__file__, __doc__)
    add = parser.add_argument
    sizes = ["base", "tiny", "small", "micro"]
    add("--size", nargs="+", choices=sizes, default=["base"], help="of preprocess_flist_config.py")
    add("--without", choices=["winograd"], help="compare with this checkout without it")
    add("--batch_size", type=int, help="clips per step (default: the preset's)")
    add("--seconds", type=float, default=120.0, help="of the data set")
    add("--steps", type=int, default=6, help="measured in each round, after as many others")
    add("--precision", choices=["fp32", "tf32", "bf16", "fp16"], default="fp32", help="of the networks")
    add("--compile", action="store_true", help="compile both networks")
    args = parser.parse_args(argv)
    if args.compare and args.without:
        parser.error("--compare and --without exclude each other")
    machine = f"{args.precision}{', compiled' if args.compile else ''}, {args.steps} steps in each round"
    timing.apart(timing.print_machine, machine)
    flags = ["--precision", args.precision, *(["--compile"] if args.compile else [])]
    flags += ["-d", args.device] if args.device else []
    for size in args.size:
        with timing.sides(args.compare) as found:
            for side in found:
                prepare(side, size, args)
            if args.without:
                found.append(timing.Side("without winograd", found[0].workspace, timing.ROOT, WITHOUT_WINOGRAD))
            medians = timing.alternate(found, measure, args.rounds, args.steps, flags)
            timing.show(f"step of the {size} size", found, medians)
    return 0


def prepare(side: timing.Side, size: str, args) -> None:
    """A data set with its features, and a config that logs twice."""
    timing.apart(timing.write_contentvec, side.workspace)
    timing.write_dataset(side.workspace, args.seconds)
    side.run("preprocess_flist_config.py", *([] if size == "base" else [f"--{size}"]))
    side.run("preprocess_hubert_f0.py", "--f0_predictor", "dio")
    path = side.workspace / "configs/config.json"
    config = json.loads(path.read_text("utf-8"))
    # The discriminators take part from the first step on, and nothing else happens beside the steps.
    config["train"] |= {"log_interval": args.steps, "eval_interval": 10**6, "adversarial_from": 0}
    config["train"] |= {"batch_size": args.batch_size} if args.batch_size else {}
    path.write_text(json.dumps(config), "utf-8")


def measure(side: timing.Side, steps: int, flags: list[str]) -> dict[str, float]:
    """Seconds of a step and the peak of memory, of a training from the start."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shutil.rmtree(side.workspace / "logs", ignore_errors=True)
    done = side.run("train.py", "-m", timing.SPEAKER, "--max_steps", 2 * steps, *flags)
    events = EventAccumulator(str(side.workspace / "logs" / timing.SPEAKER))
    events.Reload()
    seconds = 1 / events.Scalars("speed/steps_per_second")[-1].value
    return {"seconds": seconds, "CPU seconds of the whole run": done.cpu_seconds, "MB": done.memory}


if __name__ == "__main__":
    sys.exit(main())
