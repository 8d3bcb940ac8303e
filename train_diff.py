"""Beside step 4 of the recipe: train the diffusion model that takes the electric sound and the noise off a voice.

Reads configs/diffusion.yaml, the file lists that it names, and the clips with the features that
preprocess_hubert_f0.py --use_diff has made.
Writes into env.expdir of the config (logs/44k/diffusion/): model_STEP.pt, state_STEP.pth (to go on exactly where it
stopped), config.yaml, log_info.txt, and TensorBoard events in logs/.
A base model put there beforehand as model_0.pt gives a head start. Run the same command again to go on where it
stopped. Ctrl-C and SIGTERM save first.
Trains on all GPUs that it sees, each with a share of the clips; on several machines through torchrun, as train.py.

Example: python train_diff.py -c configs/diffusion.yaml
"""

import argparse
import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import ConfigError, DataError, MissingWeights, UsageError

if TYPE_CHECKING:
    import torch

    from diffusion.trainer import DiffusionTrainer
    from modules.config.audio import AudioSpec
    from modules.config.diffusion import DiffusionConfig
    from modules.contracts import MelVocoder
    from modules.training.distributed import Group

logger = logging.getLogger(__name__)

VALIDATION_CLIPS = 8


def main(argv: list[str] | None = None) -> int:
    """Trains; returns 0, 130 when told to stop, or 1 when another process of the run has failed and says why."""
    arguments = _parse(argv)
    configure_logging()
    from modules.config.diffusion import load_diffusion_config
    from modules.training.launch import on_devices

    config = load_diffusion_config(arguments.config)
    device_name = arguments.device or _device_of(config, arguments.gpus)
    given = sys.argv[1:] if argv is None else argv
    return on_devices(Path(__file__), given, arguments.gpus, device_name, partial(_train, config, arguments))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser(__file__, __doc__)
    parser.add_argument("-c", "--config", type=Path, default=Path("configs/diffusion.yaml"), help="config of step 2")
    parser.add_argument("--max_steps", type=int, help="stop after this many steps (default: the config's train.epochs)")
    devices = "one device: cpu, cuda, cuda:1 or mps (default: device of the config; all GPUs if that is cuda, unless "
    devices += "env.gpu_id names another than 0)"
    parser.add_argument("-d", "--device", help=devices)
    parser.add_argument("--gpus", help="numbers of the GPUs to train on, like 0,2 (default: all that are visible)")
    arguments = parser.parse_args(argv)
    if arguments.max_steps is not None and arguments.max_steps < 1:
        raise UsageError(f"--max_steps {arguments.max_steps}: expected 1 or more")
    return arguments


def _train(config: "DiffusionConfig", arguments: argparse.Namespace, group: "Group") -> int:
    from diffusion.dataset import DiffusionDataset, make_loader
    from diffusion.samplers.base import check_method
    from modules.files import make_folder, remove_leftovers
    from modules.training.sharing import together
    from modules.training.trainer import say_how_it_ended

    config_path, max_steps, device = arguments.config, arguments.max_steps, group.device
    folder = Path(config.env.expdir)
    if not group.is_main:
        configure_logging(level=logging.WARNING)
    with together(group):
        _check(config, config_path)
        check_method(config.infer.method, config_path)
        if group.is_main:
            make_folder(folder)
            configure_logging(folder / "log_info.txt")
            remove_leftovers(folder, recursive=False)
        audio, mel = _specs(config, config_path)
        cache = device if config.train.cache_device.startswith(device.type) else "cpu"
        training = DiffusionDataset(config.data.training_files, config, audio, mel, device=cache)
        validation = DiffusionDataset(config.data.validation_files, config, audio, mel, training=False)
        clips = validation.evenly_spaced(VALIDATION_CLIPS)
        vocoder = _find_vocoder(config, device) if group.is_main else None
        if config.train.cache_all_data:
            training.fill_cache()
        loader = make_loader(training, device, group.rank, group.world_size)
    # Where ranks speak with each other, as they do here and as they start, no single one may have left.
    trainer = _build_trainer(config, mel, group, folder, vocoder)
    trainer.start()
    if arguments.device is None and config.device == "cuda" != device.type:
        logger.info("device cuda:%d of the config is not here: training on %s", config.env.gpu_id, device)
    if group.is_main:
        _copy_config(config, folder / "config.yaml")
        _introduce(trainer, training, len(loader.batch_sampler), config_path)
    done_before = trainer.state.step
    outcome = trainer.run(loader, clips, max_steps)
    if code := say_how_it_ended(outcome, done_before, max_steps, config.train.epochs):
        return code
    if group.is_main:
        model, saved_config = outcome.model_path.as_posix(), (folder / "config.yaml").as_posix()
        speaker = next(iter(config.spk))
        flags = f'-shd -dm "{model}" -dc "{saved_config}"'
        print(next_step(f'python inference_main.py -m logs/44k/G_STEP.pth -n SONG.wav -s "{speaker}" {flags}'))
    return 0


def _check(config: "DiffusionConfig", config_path: Path) -> None:
    """Refuses a config whose speakers are none, or more than the model has room for."""
    if not config.spk:
        raise DataError(f"{config_path}: spk names no speaker. Make it with: python preprocess_flist_config.py")
    if max(config.spk.values()) >= config.model.n_spk:
        raise ConfigError(
            f"{config_path}: model.n_spk is {config.model.n_spk}, but spk has the id {max(config.spk.values())}"
        )


def _device_of(config: "DiffusionConfig", gpus: str | None) -> str | None:
    """The config's one device where this machine has it; None for all GPUs, or the best there is."""
    from modules.device import available_devices

    if gpus is not None:
        return None
    wanted = f"cuda:{config.env.gpu_id}" if config.device == "cuda" else config.device
    return wanted if wanted in available_devices() and wanted != "cuda:0" else None


def _specs(config: "DiffusionConfig", config_path: Path) -> tuple["AudioSpec", "AudioSpec"]:
    """Rate and hop of the clips, and the vocoder's mel; refuses two that do not share their frames."""
    from dataclasses import replace

    from modules.config.vocoder import find_mel, require_same_frames

    mel, found = find_mel(config.vocoder.ckpt)
    audio = replace(mel, sampling_rate=config.data.sampling_rate, hop_length=config.data.block_size)
    require_same_frames(audio, config_path, mel, found or f"the published vocoder ({config.vocoder.ckpt})")
    return audio, mel


def _build_trainer(
    config: "DiffusionConfig", mel: "AudioSpec", group: "Group", folder: Path, vocoder: "MelVocoder | None"
) -> "DiffusionTrainer":
    """The network of the config, initialised from its seed, in a trainer; the vocoder where it is there."""
    import torch

    from diffusion.trainer import DiffusionTrainer, training_dtype
    from diffusion.unit2mel import build_unit2mel
    from modules.training.randomness import seed_all, seed_rank

    device = group.device
    seed_all(config.train.seed)
    network = build_unit2mel(config, mel.n_mels).to(device)
    if config.train.amp_dtype == "fp16" and training_dtype(config, device) == torch.float32:
        logger.warning("train.amp_dtype fp16 needs CUDA; training in fp32 on %s (bf16 works there too)", device)
    seed_rank(config.train.seed, group)
    return DiffusionTrainer(network, config, group, folder, vocoder)


def _find_vocoder(config: "DiffusionConfig", device: "torch.device") -> "MelVocoder | None":
    """What makes the sounds of validation, where it is there."""
    from vdecoder.mel_vocoder import load_vocoder

    try:
        return load_vocoder(config.vocoder.ckpt, device, kind=config.vocoder.type)
    except MissingWeights as error:
        logger.info("validation goes without sounds: %s", error)
        return None


def _introduce(trainer: "DiffusionTrainer", training, n_batches: int, config_path: Path) -> None:
    """Says what is about to be trained, on what, and where."""
    from modules.data.filelist import speaker_of

    for path in training.too_short:
        logger.warning("%s: is shorter than data.duration and is left out", path)
    config = trainer.config
    counts = {speaker: 0 for speaker in config.spk}
    for path in training.clips:
        counts[speaker_of(path)] += 1
    decoder = trainer.learner.network.decoder
    parameters = sum(parameter.numel() for parameter in trainer.learner.network.parameters()) / 1e6
    logger.info("config %s, run %s, device %s", config_path, trainer.folder, trainer.device)
    logger.info("speakers: %s", ", ".join(f"{speaker} ({count} clips)" for speaker, count in counts.items()))
    logger.info(
        "%d clips, %.1f minutes, %d steps per epoch; %.1f M parameters; noise levels 0 to %d of %d",
        len(training),
        training.n_seconds / 60,
        n_batches,
        parameters,
        decoder.k_step_max - 1,
        config.model.timesteps,
    )
    group = trainer.group
    logger.info(
        "a step sees %d clips: train.batch_size %d, %d %s",
        config.train.batch_size * group.world_size,
        config.train.batch_size,
        group.world_size,
        "process" if group.world_size == 1 else "processes, one for each device",
    )


def _copy_config(config: "DiffusionConfig", target: Path) -> None:
    """Keeps the config beside the checkpoints."""
    from modules.config.diffusion import dump_diffusion_config, save_diffusion_config

    if not target.is_file() or target.read_text("utf-8") != dump_diffusion_config(config):
        save_diffusion_config(config, target)


if __name__ == "__main__":
    run(main)
