"""Step 4 of the recipe: train a voice from the features.

Reads configs/config.json, the file lists that it names, and the clips and features of steps 1 to 3, with
f0_histograms.json beside the speakers' folders, which goes into the checkpoints.
Writes logs/MODEL/: G_STEP.pth and D_STEP.pth (the voice model and its discriminators), config.json, train.log, and
TensorBoard events (look at them with: tensorboard --logdir logs/MODEL).
A base model put there beforehand as G_0.pth and D_0.pth gives a head start. Run the same command again to go on where
it stopped. Ctrl-C saves first.

Example: python train.py -c configs/config.json -m 44k
"""

import logging
from pathlib import Path

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import DataError, UsageError

logger = logging.getLogger(__name__)

VALIDATION_CLIPS = 8


def main(argv: list[str] | None = None) -> int:
    """Trains; returns 0, or 130 when told to stop."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("-c", "--config", type=Path, default=Path("./configs/config.json"), help="the config of step 2")
    parser.add_argument("-m", "--model", required=True, help="name of the run; its folder is logs/MODEL")
    parser.add_argument("--max_steps", type=int, help="stop after this many steps (default: the config's train.epochs)")
    parser.add_argument("-d", "--device", help="cpu, cuda, cuda:1 or mps; the best there is by default")
    arguments = parser.parse_args(argv)
    if arguments.max_steps is not None and arguments.max_steps < 1:
        raise UsageError(f"--max_steps {arguments.max_steps}: expected 1 or more")
    if not arguments.model.strip() or Path(arguments.model).is_absolute():
        raise UsageError(f"-m/--model {arguments.model!r}: expected a name; the run's folder is logs/NAME")
    return _train(arguments.config, Path("logs") / arguments.model, arguments.max_steps, arguments.device)


def _train(config_path: Path, folder: Path, max_steps: int | None, device_name: str | None) -> int:
    from modules.config.io import load_config
    from modules.data.dataset import VoiceDataset, make_loader
    from modules.device import choose_device
    from modules.files import remove_leftovers
    from modules.training.trainer import say_how_it_ended

    config = load_config(config_path)
    device = choose_device(device_name)
    if not config.spk:
        raise DataError(f"{config_path}: spk names no speaker. Make it with: python preprocess_flist_config.py")
    configure_logging(folder / "train.log")
    remove_leftovers(folder, recursive=False)
    training = VoiceDataset(config.data.training_files, config)
    validation = VoiceDataset(config.data.validation_files, config, training=False)
    clips = [validation.item(index) for index in range(min(VALIDATION_CLIPS, len(validation)))]
    trainer = _build_trainer(config, device, folder)
    trainer.start()
    trainer.extras = _pitch_of_voices(training.clips, config)
    _copy_config(config_path, folder / "config.json")
    loader = make_loader(training, device)
    _introduce(trainer, training, len(loader.batch_sampler), config_path)
    done_before = trainer.state.step
    outcome = trainer.run(loader, clips, max_steps)
    if code := say_how_it_ended(outcome, done_before, max_steps, config.train.epochs):
        return code
    speaker = next(iter(config.spk))
    model, saved_config = outcome.model_path.as_posix(), (folder / "config.json").as_posix()
    print(next_step(f'python inference_main.py -m "{model}" -c "{saved_config}" -n SONG.wav -s "{speaker}" -t 0'))
    return 0


def _build_trainer(config, device, folder: Path):
    """The networks of the config, initialised from its seed, in a trainer."""
    import torch

    from models import build_synthesizer
    from modules.training.step import half_dtype
    from modules.training.vits_trainer import VitsTrainer
    from vdecoder.discriminators import MultiPeriodDiscriminator

    torch.manual_seed(config.train.seed)
    torch.backends.cudnn.benchmark = True
    net_g = build_synthesizer(config).to(device)
    net_d = MultiPeriodDiscriminator(config.model.use_spectral_norm, config.model.discriminator_channels).to(device)
    if config.train.fp16_run and half_dtype(config, device) == torch.float32:
        logger.warning("train.half_type fp16 needs CUDA; training in fp32 on %s (bf16 works there too)", device)
    return VitsTrainer(net_g, net_d, config, device, folder)


def _pitch_of_voices(clips: list[Path], config) -> dict:
    """Which notes each speaker sings, as a checkpoint carries it; empty where step 3 has not counted them."""
    from modules.data.pitch import CHECKPOINT_KEY, histograms_beside

    found = histograms_beside(clips, config.spk)
    return {CHECKPOINT_KEY: {speaker: histogram.to_plain() for speaker, histogram in found.items()}} if found else {}


def _introduce(trainer, training, n_batches: int, config_path: Path) -> None:
    """Says what is about to be trained, on what, and where."""
    from modules.data.filelist import speaker_of

    for path in training.too_short:
        logger.warning("%s: is shorter than train.segment_size and is left out", path)
    counts = {speaker: 0 for speaker in trainer.config.spk}
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
        n_batches,
        *parameters,
    )


def _copy_config(source: Path, target: Path) -> None:
    """Keeps the config beside the checkpoints, byte for byte."""
    from modules.files import atomic_path

    content = source.read_bytes()
    if not target.is_file() or target.read_bytes() != content:
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)


if __name__ == "__main__":
    run(main)
