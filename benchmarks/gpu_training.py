"""Sections of on_gpu.py about training: a step against the plain loop, the largest batch, two processes.

Clips, their features and the start of the networks are made, as in plain_step.py.
"""

import itertools
import os
import tempfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plain_step
from gpu_report import Bench, Value, Values, device_seconds, last_line

if TYPE_CHECKING:
    import torch

    from modules.config.schema import Config
    from modules.training.distributed import Group
    from modules.training.loop import Pace
    from modules.training.step import VitsStep

STEP, BUSY = "step", "GPU busy"
BUSY_TARGET, SPEED_TARGET = "> 90", ">= 2"
PROFILED_STEPS = 8
LARGEST_BATCH = 256  # clips
RANK_SECONDS = 300  # until a process gives up waiting for the other


def step(bench: Bench) -> None:
    """A step of the plain loop, and of train.py's in each precision."""
    plain = bench.measure("plain eager fp32", _plain)
    for name in ("fp32", "tf32", "bf16", "fp16"):
        if name != "fp32" and not bench.on_cuda:
            bench.skip(name, "needs a CUDA GPU")
        else:
            bench.measure(name, _ours, name, plain)


def compiled(bench: Bench) -> None:
    """A step of train.py --compile, whose start takes minutes."""
    if not bench.on_cuda:
        bench.skip("bf16, --compile", "minutes of the C++ compiler on a CPU")
        return
    bench.measure("bf16, --compile", _ours, "bf16", None, True)


def auto_batch(bench: Bench) -> None:
    """What --auto_batch finds, and how quick a step of that size is."""
    if not bench.on_cuda:
        bench.skip("--auto_batch", "needs a CUDA GPU")
        return
    for name in ("tf32", "bf16"):
        bench.measure(name, _auto_batch, name)


def ranks(bench: Bench) -> None:
    """Two processes that train one voice: by gloo on one device, by NCCL where there are two."""
    import torch

    bench.measure(f"gloo, both on {bench.device}", _two_ranks, "gloo", [bench.device] * 2)
    if torch.cuda.device_count() > 1 and bench.on_cuda:
        bench.measure("NCCL, two GPUs", _two_ranks, "nccl", [torch.device("cuda", index) for index in range(2)])
    else:
        bench.skip("NCCL, two GPUs", "needs two CUDA GPUs")


def prepare(bench: Bench) -> "Config":
    """The config of the made training set."""
    plan = bench.plan
    bench.made("clips", plain_step.write_training_set, plan.size, plan.clips_seconds, 2 if plan.is_tiny else None)
    return plain_step.read_config(plan.workspace)


def build(bench: Bench, precision: str, group: "Group | None" = None) -> "VitsStep":
    """Networks and optimizers as train.py --precision puts them together."""
    import torch

    from models import build_synthesizer
    from modules.device import allow_tf32
    from modules.training.distributed import seed_all
    from modules.training.step import VitsStep
    from vdecoder.discriminators import MultiPeriodDiscriminator

    config, device = prepare(bench), bench.device if group is None else group.device
    config.train.fp16_run = precision in ("fp16", "bf16")
    config.train.half_type = precision if config.train.fp16_run else "fp16"
    allow_tf32(precision != "fp32")
    torch.backends.cudnn.benchmark = True
    seed_all(config.train.seed)
    net_g = build_synthesizer(config).to(device)
    net_d = MultiPeriodDiscriminator(config.model.use_spectral_norm, config.model.discriminator_channels).to(device)
    return VitsStep(net_g, net_d, config, device, group)


@dataclass
class Paces:
    """A monitor of a training loop that keeps what it is told about the speed."""

    found: "list[Pace]" = field(default_factory=list)

    def __enter__(self) -> "Paces":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def log_step(self, report: object, batch: object, rate: float, pace: "Pace") -> None:
        """Called each `log_interval` steps."""
        self.found.append(pace)

    def validate(self, stop: object) -> None:
        """Called at checkpoints, of which there are none."""


def _plain(bench: Bench) -> Values:
    stepper = plain_step.PlainStep(prepare(bench), bench.device)
    pace = plain_step.measure(stepper, bench.plan.steps)
    found = {STEP: Value(pace.seconds, "s"), "data wait": Value(100 * pace.waited / pace.seconds, "%")}
    found["memory"] = bench.memory()
    return found | _busy(bench, stepper.run, stepper.config, pace.seconds, target="")


def _ours(bench: Bench, precision: str, plain: Values | None, compile: bool = False) -> Values:
    stepper = build(bench, precision)
    if compile:
        stepper.compile()
    bench.reset_peak()
    pace = train(bench, stepper)
    found = {STEP: Value(1 / pace.speed, "s")}
    if plain:
        found["against plain fp32"] = Value(plain[STEP].number * pace.speed, "times", SPEED_TARGET)
    found["data wait"] = Value(100 * pace.waited, "%")
    found["memory"] = bench.memory()
    return found | _busy(bench, lambda batch: stepper.run([batch]), stepper.config, 1 / pace.speed, BUSY_TARGET)


def train(bench: Bench, stepper: "VitsStep", group: "Group | None" = None) -> "Pace":
    """The pace of train.py's own loop with its own loader, after as many steps that warm up."""
    from modules.data.dataset import VoiceDataset, make_loader
    from modules.training.distributed import Group
    from modules.training.loop import TrainingLoop, TrainState

    group, steps, config, paces = group or Group(device=bench.device), bench.plan.steps, stepper.config, Paces()
    stepper.log_interval, stepper.save_interval = steps, 10**9
    loader = make_loader(VoiceDataset(config.data.training_files, config), group.device, group.rank, group.world_size)
    loop = TrainingLoop(stepper, TrainState(), group, lambda _: Path("nothing.pth"), show_progress=False)
    loop.train(loader, 2 * steps, paces)
    return paces.found[-1]


def _busy(bench: Bench, run: Any, config: "Config", seconds: float, target: str) -> Values:
    """Share of the `seconds` of a step in which the GPU had work; the profiler saw how long that took."""
    if not bench.on_cuda:
        return {}

    found = [batch.to(bench.device) for batch in itertools.islice(plain_step.batches(config), PROFILED_STEPS)]
    run(found[0])
    try:
        busy = device_seconds(bench.device, lambda: [run(batch) for batch in found])
    except Exception as error:  # the profiler may be forbidden here, which must not cost the row
        return {BUSY: Value(f"not measured: {last_line(error)}")}
    if busy is None:
        return {BUSY: Value("not measured: the profiler saw nothing")}
    return {BUSY: Value(100 * busy / len(found) / seconds, "%", target)}


def _auto_batch(bench: Bench, precision: str) -> Values:
    from modules.training.auto_batch import largest_batch_size, long_batch

    stepper = build(bench, precision)
    clips = largest_batch_size(stepper, LARGEST_BATCH)
    batch = long_batch(stepper, clips)
    bench.reset_peak()
    seconds = bench.clock(lambda: stepper.run([batch]), 3)
    found = {"largest batch": Value(clips, "clips"), STEP: Value(min(seconds), "s")}
    return found | {"speed": Value(clips / min(seconds), "clips/s"), "memory": bench.memory()}


def _two_ranks(bench: Bench, backend: str, devices: "list[torch.device]") -> Values:
    """Rank 0 is this process."""
    from torch import multiprocessing

    config = prepare(bench)
    os.environ.setdefault("SVC_TIMEOUT_SECONDS", str(RANK_SECONDS))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        given = backend, devices, Path(folder) / "rendezvous", bench.plan
        other = multiprocessing.get_context("spawn").Process(target=_rank_one, args=given, daemon=False)
        other.start()
        try:
            pace = _train_rank(bench, 0, *given[:3])
            other.join(RANK_SECONDS)
        finally:
            if other.is_alive():
                other.kill()
            other.join()
    if other.exitcode:
        raise RuntimeError(f"rank 1 ended with {other.exitcode}; what it said is above")
    clips = 2 * config.train.batch_size * pace.speed
    return {STEP: Value(1 / pace.speed, "s"), "speed of both": Value(clips, "clips/s"), "weights": Value("equal")}


def _rank_one(backend: str, devices: "list[torch.device]", rendezvous: Path, plan: Any) -> None:
    bench = Bench(plan, lambda row: None)
    _train_rank(bench, 1, backend, devices, rendezvous)


def _train_rank(bench: Bench, rank: int, backend: str, devices: "list[torch.device]", rendezvous: Path) -> "Pace":
    """Trains as one of two ranks; a RuntimeError where their weights differ in the end."""
    from modules.training.distributed import seed_rank

    group = _meet(rank, backend, devices[rank], rendezvous)
    try:
        stepper = build(bench, "tf32", group)
        seed_rank(stepper.config.train.seed, group)
        pace = train(bench, stepper, group)
        digest = _digest(stepper)
        if group.lowest(digest) != -group.lowest(-digest):
            raise RuntimeError("the weights of the two ranks are not equal")
        return pace
    finally:
        group.leave()


def _meet(rank: int, backend: str, device: "torch.device", rendezvous: Path) -> "Group":
    """The group of both ranks; train.py never takes gloo for GPUs where there is NCCL, which wants one for each."""
    import datetime

    import torch
    from torch import distributed

    from modules.training.distributed import Group, meet

    if backend != "gloo" or device.type != "cuda":
        return meet(rank, 2, device, rendezvous)
    torch.cuda.set_device(device)
    timeout = datetime.timedelta(seconds=RANK_SECONDS)
    store = distributed.FileStore(str(rendezvous), 2)
    store.set_timeout(timeout)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timeout)
    return Group(rank, 2, device)


def _digest(stepper: "VitsStep") -> int:
    """A checksum of all weights."""
    found = 0
    for net in stepper.networks:
        for weight in net.parameters():
            found = zlib.crc32(weight.detach().cpu().numpy().tobytes(), found)
    return found
