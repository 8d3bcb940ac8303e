"""Step 4 of the recipe: train a voice from the features.

Reads configs/config.json, the file lists that it names, and the clips and features of steps 1 to 3, with
f0_histograms.json beside the speakers' folders, which goes into the checkpoints.
Writes logs/MODEL/: G_STEP.pth and D_STEP.pth (the voice model and its discriminators), G_best.pth (the voice that
scored best so far), scores.csv, config.json, train.log, and TensorBoard events (look at them with:
tensorboard --logdir logs/MODEL).
A base model put there beforehand as G_0.pth and D_0.pth gives a head start. Run the same command again to go on where
it stopped. Ctrl-C and SIGTERM save first.
Trains on all GPUs that it sees, each with a share of the clips. On several machines, run on each:
torchrun --nnodes N --nproc-per-node GPUS --rdzv-backend c10d --rdzv-endpoint HOST:PORT train.py -c ... -m ...

Example: python train.py -c configs/config.json -m 44k
"""

import argparse
import logging
import math
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import DataError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader

    from modules.config.schema import Config
    from modules.data.dataset import VoiceDataset
    from modules.training.distributed import Group
    from modules.training.resume import Start
    from modules.training.scores import Judge
    from modules.training.vits_trainer import VitsTrainer

logger = logging.getLogger(__name__)

VALIDATION_CLIPS = 8


def main(argv: list[str] | None = None) -> int:
    """Trains; returns 0, 130 when told to stop, or 1 when another process of the run has failed and says why."""
    arguments = _parse(argv)
    configure_logging()
    from modules.training.launch import on_devices

    given = sys.argv[1:] if argv is None else argv
    work = partial(_train, arguments)
    return on_devices(Path(__file__), given, arguments.gpus, arguments.device, work)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser(__file__, __doc__)
    parser.add_argument("-c", "--config", type=Path, default=Path("./configs/config.json"), help="the config of step 2")
    parser.add_argument("-m", "--model", required=True, help="name of the run; its folder is logs/MODEL")
    parser.add_argument(
        "--base", type=Path, help="folder with G_0.pth and D_0.pth to start from, while logs/MODEL has no checkpoint"
    )
    parser.add_argument("--max_steps", type=int, help="stop after this many steps (default: the config's train.epochs)")
    parser.add_argument("-d", "--device", help="cpu, cuda, cuda:1 or mps: one device (default: all GPUs, or the best)")
    parser.add_argument("--gpus", help="numbers of the GPUs to train on, like 0,2 (default: all that are visible)")
    parser.add_argument(
        "--precision",
        choices=("fp32", "tf32", "bf16", "fp16"),
        help="of the networks; losses and spectra are fp32 always (default: train.fp16_run and train.half_type of the "
        "config; without them tf32, which on CUDA is fp32 with shortened factors and elsewhere fp32)",
    )
    parser.add_argument(
        "--auto_batch", action="store_true", help="find the largest train.batch_size that fits this GPU, and use it"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the networks with torch.compile: minutes of start for quicker steps; needs a C++ compiler",
    )
    parser.add_argument(
        "--dry-run",
        "--dry_run",
        action="store_true",
        help="load everything, make a step, say what would be trained and how long it takes, and stop; writes nothing",
    )
    arguments = parser.parse_args(argv)
    if arguments.max_steps is not None and arguments.max_steps < 1:
        raise UsageError(f"--max_steps {arguments.max_steps}: expected 1 or more")
    if not arguments.model.strip() or Path(arguments.model).is_absolute():
        raise UsageError(f"-m/--model {arguments.model!r}: expected a name; the run's folder is logs/NAME")
    return arguments


def _train(arguments: argparse.Namespace, group: "Group") -> int:
    from modules.data.dataset import VoiceDataset, make_loader
    from modules.files import make_folder, remove_leftovers
    from modules.training.sharing import together
    from modules.training.trainer import say_how_it_ended

    folder = Path("logs") / arguments.model
    if not group.is_main:
        configure_logging(level=logging.WARNING)
    elif arguments.dry_run:
        configure_logging()
    with together(group):
        config = _load_config(arguments, group)
        if group.is_main and not arguments.dry_run:
            make_folder(folder)
            configure_logging(folder / "train.log")
            remove_leftovers(folder, recursive=False)
        training = VoiceDataset(config.data.training_files, config)
        validation = VoiceDataset(config.data.validation_files, config, training=False)
        clips = validation.evenly_spaced(VALIDATION_CLIPS)
        judge = _find_judge(config) if group.is_main else None
    if arguments.auto_batch:
        _choose_batch_size(config, training, group)
    # Where ranks speak with each other, as they do here and as they start, no single one may have left.
    trainer = _build_trainer(config, group, folder, judge, arguments.compile)
    start = trainer.start(arguments.base)
    with together(group):
        if group.is_main:
            trainer.card = _make_card(config, training, folder, start)
        loader = make_loader(training, group.device, group.rank, group.world_size)
    if group.is_main:
        _introduce(trainer, training, len(loader.batch_sampler), arguments.config)
    if arguments.dry_run:
        return _rehearse(trainer, loader, arguments.max_steps)
    if group.is_main:
        _copy_config(arguments.config, folder / "config.json")
    done_before = trainer.state.step
    outcome = trainer.run(loader, clips, arguments.max_steps)
    if code := say_how_it_ended(outcome, done_before, arguments.max_steps, config.train.epochs):
        return code
    if group.is_main:
        speaker = next(iter(config.spk))
        model, saved_config = outcome.model_path.as_posix(), (folder / "config.json").as_posix()
        print(next_step(f'python inference_main.py -m "{model}" -c "{saved_config}" -n SONG.wav -s "{speaker}" -t 0'))
    return 0


def _load_config(arguments: argparse.Namespace, group: "Group") -> "Config":
    """The config, with what the flags change in it."""
    from modules.config.io import load_config
    from modules.device import allow_tf32

    config = load_config(arguments.config)
    if not config.spk:
        raise DataError(f"{arguments.config}: spk names no speaker. Make it with: python preprocess_flist_config.py")
    if arguments.precision:
        config.train.fp16_run = arguments.precision in ("fp16", "bf16")
        if config.train.fp16_run:
            config.train.half_type = arguments.precision
    allow_tf32(arguments.precision != "fp32")
    return config


def _build_networks(config: "Config", device: "torch.device") -> tuple["nn.Module", "nn.Module"]:
    """Voice model and discriminators, initialised from the config's seed."""
    import torch

    from models import build_synthesizer
    from modules.training.randomness import seed_all
    from vdecoder.discriminators import MultiPeriodDiscriminator

    seed_all(config.train.seed)
    torch.backends.cudnn.benchmark = True
    net_g = build_synthesizer(config)
    net_d = MultiPeriodDiscriminator(config.model.use_spectral_norm, config.model.discriminator_channels)
    return net_g.to(device), net_d.to(device)


def _build_trainer(
    config: "Config", group: "Group", folder: Path, judge: "Judge | None", compiled: bool
) -> "VitsTrainer":
    """The networks of the config in a trainer."""
    import torch

    from modules.training.randomness import seed_rank
    from modules.training.step import half_dtype
    from modules.training.vits_trainer import VitsTrainer

    if config.train.fp16_run and half_dtype(config, group.device) == torch.float32:
        logger.warning("fp16 needs CUDA; training in fp32 on %s (bf16 works there too)", group.device)
    networks = _build_networks(config, group.device)
    trainer = VitsTrainer(*networks, config, group, folder, judge=judge)
    if compiled:
        trainer.step.compile()
    seed_rank(config.train.seed, group)
    return trainer


def _find_judge(config: "Config") -> "Judge":
    """What scores the voice at evaluations."""
    import torch

    from modules.f0.base import build_predictor
    from modules.metrics.speaker import find_speaker_encoder, load_speaker_encoder
    from modules.training.scores import Judge

    path = find_speaker_encoder()
    encoder = None if path is None else load_speaker_encoder(path, torch.device("cpu"))
    return Judge(config.audio, build_predictor("pm", config.audio), encoder)


def _choose_batch_size(config: "Config", training: "VoiceDataset", group: "Group") -> None:
    """Sets train.batch_size to what the memory holds on every rank."""
    from modules.training.auto_batch import largest_batch_size
    from modules.training.sharing import together
    from modules.training.step import VitsStep

    with together(group):
        step = VitsStep(*_build_networks(config, group.device), config, group.device)
        fitting = largest_batch_size(step, max(1, len(training) // group.world_size))
    found = group.lowest(fitting)
    logger.info("train.batch_size is %d in the config; %d fit and are used", config.train.batch_size, found)
    config.train.batch_size = found


def _make_card(config: "Config", training: "VoiceDataset", folder: Path, start: "Start") -> dict[str, Any]:
    """What the voice says about itself; the notes of its speakers are empty where step 3 has not counted them."""
    from modules.data.pitch import histograms_beside
    from modules.files import sha256_of
    from modules.weights.card import make_card, read_card

    base = None
    if start.step:
        base = (read_card(start.g) or {}).get("base")
    elif start.g is not None:
        base = {"file": start.g.name, "sha256": sha256_of(start.g)}
    found = histograms_beside(training.clips, config.spk)
    histograms = {speaker: histogram.to_plain() for speaker, histogram in found.items()}
    return make_card(config, folder.name, training.n_seconds / 3600, base, histograms)


def _introduce(trainer: "VitsTrainer", training: "VoiceDataset", n_batches: int, config_path: Path) -> None:
    """Says what is about to be trained, on what, and where."""
    from modules.data.filelist import speaker_of

    for path in training.too_short:
        logger.warning("%s: is shorter than train.segment_size and is left out", path)
    config, group = trainer.config, trainer.group
    counts = {speaker: 0 for speaker in config.spk}
    for path in training.clips:
        counts[speaker_of(path)] += 1
    parameters = [
        sum(parameter.numel() for parameter in net.parameters()) / 1e6
        for net in (trainer.step.net_g, trainer.step.net_d)
    ]
    logger.info("config %s, run %s, device %s", config_path, trainer.folder, trainer.device)
    logger.info("speakers: %s", ", ".join(f"{speaker} ({count} clips)" for speaker, count in counts.items()))
    logger.info(
        "%d clips, %.1f minutes, %d steps per epoch; %.1f M parameters in the voice model, %.1f M in discriminators",
        len(training),
        training.n_seconds / 60,
        math.ceil(n_batches / trainer.accumulate),
        *parameters,
    )
    logger.info(
        "a step sees %d clips: train.batch_size %d, train.accumulate %d, %d %s",
        config.train.batch_size * trainer.accumulate * group.world_size,
        config.train.batch_size,
        trainer.accumulate,
        group.world_size,
        "process" if group.world_size == 1 else "processes, one for each device",
    )
    state, train = trainer.state, config.train
    trainer.step.begin(state.step, state.has_base)
    if not trainer.step.is_adversarial:
        logger.info("the discriminators join in at step %d (train.adversarial_from)", train.adversarial_from)
    if trainer.step.is_steady:
        logger.info("the decoder's upsampling stays straight until step %d (train.steady_steps)", train.steady_steps)
    elif state.step < train.steady_steps:
        logger.info("train.steady_steps has no effect: the decoder's upsampling is not straight, it has learned freely")


def _rehearse(trainer: "VitsTrainer", loader: "DataLoader", max_steps: int | None) -> int:
    """A step for the numbers that one wants to know before a long night."""
    from modules.device import peak_memory

    state, main = trainer.state, trainer.group.is_main
    if main and state.step == 0:
        logger.info("%s holds no checkpoint to go on from: it would begin at step 0", trainer.folder)
    seconds = trainer.rehearse(loader)
    if not main:
        return 0
    n_batches = len(loader.batch_sampler)
    steps = math.ceil(n_batches / trainer.accumulate)
    left = max(0, trainer.last_step(n_batches, max_steps) - state.step)
    memory = peak_memory(trainer.device)
    logger.info("memory at its highest: %s", "unknown here" if memory is None else f"{memory / 2**30:.1f} GB")
    logger.info(
        "a step takes %.2f s, an epoch %s, the %d steps that are left %s",
        seconds,
        _duration(seconds * steps),
        left,
        _duration(seconds * left),
    )
    logger.info("nothing was written. Train with the same command without --dry-run")
    return 0


def _duration(seconds: float) -> str:
    """Seconds in the unit in which one thinks of them."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _copy_config(source: Path, target: Path) -> None:
    """Keeps the config beside the checkpoints, byte for byte."""
    from modules.files import atomic_path

    content = source.read_bytes()
    if not target.is_file() or target.read_bytes() != content:
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)


if __name__ == "__main__":
    run(main)
