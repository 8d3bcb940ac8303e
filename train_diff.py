"""Beside step 4 of the recipe: train the diffusion model that takes the electric sound and the noise off a voice.

Reads configs/diffusion.yaml, the file lists that it names, and the clips with the features that
preprocess_hubert_f0.py --use_diff has made.
Writes into env.expdir of the config (logs/44k/diffusion/): model_STEP.pt, state_STEP.pth (to go on exactly where it
stopped), config.yaml, log_info.txt, and TensorBoard events in logs/.
A base model put there beforehand as model_0.pt gives a head start. Run the same command again to go on where it
stopped. Ctrl-C, SIGTERM and a closing terminal save first.
Trains on all GPUs that it sees, each with a share of the clips; on several machines through torchrun, as train.py.

Example: python train_diff.py -c configs/diffusion.yaml
"""

import argparse
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import ConfigError, DataError, MissingWeights
from modules.training.command import (
    add_flags,
    check_files,
    introduce,
    keep_config,
    millions,
    missing_list,
    parse_flags,
    report_end,
    run_folder,
)

if TYPE_CHECKING:
    import torch

    from diffusion.unit2mel import Unit2Mel
    from modules.config.audio import AudioSpec
    from modules.config.diffusion import DiffusionConfig
    from modules.contracts import MelVocoder
    from modules.training.distributed import Group

logger = logging.getLogger(__name__)

VALIDATION_CLIPS = 8


def main(argv: list[str] | None = None) -> int:
    """Trains; returns 0, 130 when told to stop, or 1 when another process of the run has failed and says why."""
    from modules.config.diffusion import dump_diffusion_config, load_diffusion_config

    arguments = parse_flags(make_arguments(), argv)
    configure_logging()
    config = load_diffusion_config(arguments.config)
    _check(config, arguments.config)
    from modules.training.launch import run_on_devices  # torch: mistakes have been named by now

    device_name = arguments.device or _device_of(config, arguments.gpus)
    content = dump_diffusion_config(config).encode()
    return run_on_devices(partial(_train, arguments, content), arguments.gpus, device_name)


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help and the web page show them."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("-c", "--config", type=Path, default=Path("configs/diffusion.yaml"), help="config of step 2")
    devices = "one device: cpu, cuda, cuda:1 or mps (default: device of the config; all GPUs if that is cuda, unless "
    return add_flags(parser, devices + "env.gpu_id names another than 0)")


def _device_of(config: "DiffusionConfig", gpus: str | None) -> str | None:
    """The config's one device where this machine has it; None for all GPUs, or the best there is."""
    from modules.device import available_devices

    if gpus is not None:
        return None
    wanted = f"cuda:{config.env.gpu_id}" if config.device == "cuda" else config.device
    return wanted if wanted in available_devices() and wanted != "cuda:0" else None


def _train(arguments: argparse.Namespace, content: bytes, group: "Group") -> int:
    """A training on one rank, with the config that the bytes `content` are."""
    from modules.config.diffusion import load_diffusion_config

    configure_logging(level=logging.INFO if group.is_main else logging.WARNING)
    config = load_diffusion_config(arguments.config, content)
    with run_folder(Path(config.env.expdir), "log_info.txt", group):
        return _train_in(Path(config.env.expdir), arguments, config, content, group)


def _train_in(
    folder: Path, arguments: argparse.Namespace, config: "DiffusionConfig", content: bytes, group: "Group"
) -> int:
    """The same in the folder of the run, in the order in which it happens."""
    from diffusion.dataset import DiffusionDataset, make_loader
    from diffusion.samplers.base import check_method
    from diffusion.state import load_start, save_state
    from diffusion.trainer import DiffusionMonitor, DiffusionStep
    from modules.training.distributed import raise_on_all_ranks, seed_rank
    from modules.training.loop import TrainingLoop, require_same_step

    device = group.device

    # The data. (No rank may leave alone where ranks speak with each other.)
    with raise_on_all_ranks(group):
        check_method(config.infer.method, arguments.config)
        audio, mel = _specs(config, arguments.config)
        cache = device if config.train.cache_device.startswith(device.type) else "cpu"
        training = DiffusionDataset(config.data.training_files, config, audio, mel, device=cache)
        validation = DiffusionDataset(config.data.validation_files, config, audio, mel, training=False)
        clips = validation.evenly_spaced(VALIDATION_CLIPS)
        vocoder = _find_vocoder(config, device) if group.is_main else None
        if config.train.cache_all_data:
            training.fill_cache()
    loader = make_loader(training, device, group.rank, group.world_size)

    # The network with its optimizer, brought to where the newest checkpoint or a base model says.
    step = DiffusionStep(_build_network(config, mel.n_mels, device), config, group)
    seed_rank(config.train.seed, group)
    with raise_on_all_ranks(group):
        state, saved = load_start(folder, step, group)
    require_same_step(group, folder, state)
    loop = TrainingLoop(step, state, group, partial(save_state, folder, state, step), saved)

    if arguments.device is None and config.device == "cuda" != device.type:
        logger.info("device cuda:%d of the config is not here: training on %s", config.env.gpu_id, device)
    if group.is_main:
        keep_config(folder / "config.yaml", content)
        highest, timesteps = step.network.decoder.k_step_max - 1, config.model.timesteps
        details = f"{millions(step.network)} parameters; noise levels 0 to {highest} of {timesteps}"
        introduce(loop, loader, arguments.config, folder, "data.duration", details)

    # The steps, until the last one or a request to stop.
    monitor = DiffusionMonitor(step, state, folder / "logs", clips, vocoder) if group.is_main else None
    loop.train(loader, arguments.max_steps, monitor)
    if code := report_end(loop, arguments.max_steps):
        return code
    if group.is_main:
        flags = ("-shd", "-dm", loop.saved.as_posix(), "-dc", (folder / "config.yaml").as_posix())
        speaker = next(iter(config.spk))
        print(next_step("python inference_main.py -m logs/44k/G_STEP.pth -n SONG.wav -s", speaker, *flags))
    return 0


def _check(config: "DiffusionConfig", config_path: Path) -> None:
    """Refuses, within half a second, a config whose speakers are none or too many, and lists that are not there."""
    error = None
    if not config.spk:
        error = DataError(f"{config_path}: spk names no speaker. Make it with: python preprocess_flist_config.py")
    elif (highest := max(config.spk.values())) >= config.model.n_spk:
        error = ConfigError(
            f"{config_path}: model.n_spk is {config.model.n_spk}, but spk has the id {highest}. Set model.n_spk to "
            f"{highest + 1}, or make the config again with: python preprocess_flist_config.py"
        )
    check_files(error, missing_list(config.data.training_files), missing_list(config.data.validation_files))


def _specs(config: "DiffusionConfig", config_path: Path) -> tuple["AudioSpec", "AudioSpec"]:
    """Rate and hop of the clips, and the vocoder's mel; refuses two that do not share their frames."""
    from dataclasses import replace

    from modules.config.vocoder import find_mel, require_same_frames

    mel, found = find_mel(config.vocoder.ckpt)
    audio = replace(mel, sampling_rate=config.data.sampling_rate, hop_length=config.data.block_size)
    require_same_frames(audio, config_path, mel, found or f"the published vocoder ({config.vocoder.ckpt})")
    return audio, mel


def _find_vocoder(config: "DiffusionConfig", device: "torch.device") -> "MelVocoder | None":
    """What makes the sounds of validation, where it is there."""
    from vdecoder.mel_vocoder import load_vocoder

    try:
        return load_vocoder(config.vocoder.ckpt, device, kind=config.vocoder.type)
    except MissingWeights as error:
        logger.info("validation goes without sounds: %s", error)
        return None


def _build_network(config: "DiffusionConfig", n_mels: int, device: "torch.device") -> "Unit2Mel":
    """The network of the config, initialised from its seed."""
    import torch

    from diffusion.trainer import training_dtype
    from diffusion.unit2mel import build_unit2mel
    from modules.training.distributed import seed_all

    if config.train.amp_dtype == "fp16" and training_dtype(config, device) == torch.float32:
        logger.warning("train.amp_dtype fp16 needs CUDA; training in fp32 on %s (bf16 works there too)", device)
    seed_all(config.train.seed)
    return build_unit2mel(config, n_mels).to(device)


if __name__ == "__main__":
    run(main)
