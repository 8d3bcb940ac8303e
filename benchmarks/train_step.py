"""Seconds of a training step of train.py, with --diffusion of train_diff.py, of this checkout and with --compare of
another one in turn with it.

Each side prepares a made data set with its own preprocess_flist_config.py and preprocess_hubert_f0.py, and in each
round trains from the start: the first --steps warm up, as many are measured (data, both networks, both optimizers).
--without winograd measures, in place of another checkout, this one with torch's own convolutions.

Weights are random, of the sizes of the preset: the speed is the same. Writes only to a temporary folder.

Example: python benchmarks/train_step.py --size small --without winograd
"""

import json
import shutil
import sys
from pathlib import Path

import timing
import yaml

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
    add("--diffusion", action="store_true", help="train the diffusion model")
    add("--without", choices=["winograd"], help="compare with this checkout without it")
    add("--batch_size", type=int, help="clips per step (default: the preset's)")
    add("--seconds", type=float, help="of the data set (default: 120; with --diffusion 360: a clip each for a batch)")
    add("--steps", type=int, default=6, help="measured in each round, after as many others")
    add("--precision", choices=["fp32", "tf32", "bf16", "fp16"], default="fp32", help="of the networks")
    add("--compile", action="store_true", help="compile both networks")
    args = parser.parse_args(argv)
    if args.diffusion and (args.compile or args.precision == "tf32"):
        parser.error("--diffusion goes with neither --compile nor tf32")
    if args.compare and args.without:
        parser.error("--compare and --without exclude each other")
    args.seconds = args.seconds or (360 if args.diffusion else 120)
    machine = f"{args.precision}{', compiled' if args.compile else ''}, {args.steps} steps in each round"
    timing.apart(timing.print_machine, machine)
    flags = ["-d", args.device] if args.device else []
    if not args.diffusion:
        flags += ["--precision", args.precision, *(["--compile"] if args.compile else [])]
    for size in args.size:
        with timing.sides(args.compare) as found:
            for side in found:
                prepare(side, size, args)
            if args.without:
                found.append(timing.Side("without winograd", found[0].workspace, timing.ROOT, WITHOUT_WINOGRAD))
            work = measure_diffusion if args.diffusion else measure
            medians = timing.alternate(found, work, args.rounds, args.steps, flags)
            timing.show(f"{'diffusion ' if args.diffusion else ''}step of the {size} size", found, medians)
    return 0


def prepare(side: timing.Side, size: str, args) -> None:
    """A data set with its features, and a config that logs twice."""
    timing.apart(timing.write_contentvec, side.workspace)
    timing.write_dataset(side.workspace, args.seconds)
    side.run("preprocess_flist_config.py", *([] if size == "base" else [f"--{size}"]))
    side.run("preprocess_hubert_f0.py", "--f0_predictor", "dio", *(["--use_diff"] if args.diffusion else []))
    if args.diffusion:
        path = side.workspace / "configs/diffusion.yaml"
        config = yaml.safe_load(path.read_text("utf-8"))
        config["train"] |= {"interval_log": 1, "interval_val": 10**6, "amp_dtype": args.precision}
        config["train"] |= {"batch_size": args.batch_size} if args.batch_size else {}
        path.write_text(yaml.safe_dump(config), "utf-8")
    path = side.workspace / "configs/config.json"
    config = json.loads(path.read_text("utf-8"))
    # The discriminators take part from the first step on, and nothing else happens beside the steps.
    config["train"] |= {"log_interval": args.steps, "eval_interval": 10**6, "adversarial_from": 0}
    config["train"] |= {"batch_size": args.batch_size} if args.batch_size else {}
    path.write_text(json.dumps(config), "utf-8")


def measure(side: timing.Side, steps: int, flags: list[str]) -> dict[str, float]:
    """Seconds of a step and the peak of memory, of a training from the start."""
    shutil.rmtree(side.workspace / "logs", ignore_errors=True)
    done = side.run("train.py", "-m", timing.SPEAKER, "--max_steps", 2 * steps, *flags)
    seconds = 1 / read_curve(side.workspace / "logs" / timing.SPEAKER, "speed/steps_per_second")[-1].value
    return {"seconds": seconds, "CPU seconds of the whole run": done.cpu_seconds, "MB": done.memory}


def measure_diffusion(side: timing.Side, steps: int, flags: list[str]) -> dict[str, float]:
    """The same of train_diff.py, by the times at which it logged its steps."""
    shutil.rmtree(side.workspace / "logs", ignore_errors=True)
    done = side.run("train_diff.py", "--max_steps", 2 * steps, *flags)
    times = [event.wall_time for event in read_curve(side.workspace / "logs/44k/diffusion/logs", "train/loss")]
    seconds = (times[-1] - times[steps - 1]) / steps
    return {"seconds": seconds, "CPU seconds of the whole run": done.cpu_seconds, "MB": done.memory}


def read_curve(folder: Path, name: str) -> list:
    """What a training logged under that name, in turn."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events.Scalars(name)


if __name__ == "__main__":
    sys.exit(main())
