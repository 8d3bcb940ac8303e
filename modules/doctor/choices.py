"""The values of config.json that a user chooses: far from what a training of that size is made for, or impossible here;
and whether diffusion.yaml says the same as config.json."""

import math
from collections.abc import Iterator
from pathlib import Path

from modules.audio.io import AudioInfo
from modules.config.diffusion import load_diffusion_config
from modules.config.edits import Design, command_of
from modules.config.schema import Config
from modules.doctor.capacity import GIB, item_bytes, memory
from modules.doctor.findings import Finding
from modules.doctor.guard import from_text, listening
from modules.errors import ConfigError, UsageError, reason_of
from modules.registry import require_declared
from modules.text import printable

SECTION = "config"
_FAR = 10.0  # times the preset's value, or below it: a slip in the number of zeros
_AMPERE = (8, 0)  # the oldest compute capability that multiplies in bf16


def check_training(config: Config, config_path: Path, n_clips: int) -> Iterator[Finding]:
    """`train`: batch, learning rate, how often is saved and what is kept, precision, loudness."""
    subject, train = printable(config_path), config.train
    usual = Design.of(config.model.model_dump()).config()["train"]
    for key in ("learning_rate", "eval_interval"):
        value, wanted = getattr(train, key), usual[key]
        if not wanted / _FAR <= value <= wanted * _FAR:
            text = f"train.{key} is {value:g}; a config of this size has {wanted:g}"
            yield Finding(SECTION, "warning", key, subject, text, f"Set it to {wanted:g} unless you mean it")
    if 0 < n_clips < train.batch_size:
        text = f"train.batch_size is {train.batch_size}, and there are {n_clips} clips to train on: an epoch is one "
        text += "step, and train.lr_decay lowers the rate after each"
        remedy = f"Lower train.batch_size to {max(1, n_clips // 2)} or less, or add clips"
        yield Finding(SECTION, "warning", "batch_size", subject, text, remedy)
    steps = train.epochs * math.ceil(n_clips / train.batch_size / train.accumulate)
    if 0 < steps < train.eval_interval:
        text = f"train.epochs {train.epochs} end after {steps} steps, before the first evaluation (train.eval_interval "
        remedy = "Raise train.epochs, or lower train.eval_interval"
        yield Finding(SECTION, "warning", "epochs", subject, text + f"{train.eval_interval})", remedy)
    if train.keep_ckpts == 1:
        text = "train.keep_ckpts is 1: where the newest checkpoint is damaged, there is none to go back to"
        yield Finding(SECTION, "warning", "keep_ckpts", subject, text, "Set it to 2 or more")
    if train.vol_aug and not config.model.vol_embedding:
        text = "train.vol_aug has no effect without model.vol_embedding"
        remedy = f"{command_of(config)} --vol_aug sets both"
        yield Finding(SECTION, "warning", "vol_aug", subject, text, remedy)
    if train.fp16_run:
        yield from _check_precision(config, subject)


def _check_precision(config: Config, subject: str) -> Iterator[Finding]:
    import torch

    half, has_cuda = config.train.half_type, torch.cuda.is_available()
    if half not in ("fp16", "bf16"):
        text = f"train.half_type is {printable(half)!r}, and fp16 is meant by it; expected fp16 or bf16"
        yield Finding(SECTION, "warning", "precision", subject, text, "Correct it")
    if half != "bf16" and not has_cuda:
        text = "train.fp16_run asks for fp16, which needs CUDA: training here is in fp32"
        remedy = "Set train.half_type to bf16, or train.fp16_run to false"
        yield Finding(SECTION, "warning", "precision", subject, text, remedy)
    elif half == "bf16" and has_cuda:
        old = [index for index in range(torch.cuda.device_count()) if torch.cuda.get_device_capability(index) < _AMPERE]
        if old and torch.version.cuda:
            text = f"train.half_type is bf16, which cuda:{old[0]} ({torch.cuda.get_device_name(old[0])}) only imitates"
            yield Finding(SECTION, "warning", "precision", subject, text, "Set train.half_type to fp16")


def check_memory(config: Config, clips: list[Path], infos: dict[Path, AudioInfo]) -> Iterator[Finding]:
    """Whether the memory holds all clips, where train.all_in_mem wants it."""
    if not config.train.all_in_mem:
        return
    needed = item_bytes(config) * sum(infos[clip].seconds for clip in clips if clip in infos)
    total, available = memory()
    usable = total if available is None else available
    if usable is not None and needed > usable:
        text = (
            f"train.all_in_mem wants {needed / GIB:.1f} GB of memory for each process; {usable / GIB:.1f} GB are free"
        )
        yield Finding(SECTION, "error", "memory", printable(config.path), text, "Set train.all_in_mem to false")


def check_encoder(config: Config, config_path: Path) -> Iterator[Finding]:
    """Whether model.ssl_dim is the width of the encoder's units."""
    name, width, subject = config.model.speech_encoder, config.model.ssl_dim, printable(config_path)
    try:
        require_declared("speech encoder", "modules.encoders", name)
    except UsageError as error:
        text = reason_of(error).rstrip(".")
        yield Finding(SECTION, "error", "encoder", subject, text, "Correct model.speech_encoder")
        return
    from modules.encoders.base import encoder_dim

    if (wanted := encoder_dim(name)) != width:
        text = f"model.ssl_dim is {width}, but {name} gives units {wanted} wide"
        remedy = command_of(config)
        yield Finding(SECTION, "error", "encoder", subject, text, remedy)


def check_diffusion(config: Config, config_path: Path) -> Iterator[Finding]:
    """Whether diffusion.yaml, where there is one, has the encoder, the frames and the speakers of config.json."""
    path = config_path.with_name("diffusion.yaml")
    if not path.exists():
        return
    subject = printable(path)
    try:
        with listening() as said:
            diffusion = load_diffusion_config(path)
    except ConfigError as error:
        yield from_text(SECTION, "warning", "diffusion", str(path), error)
        return
    for text in said:
        yield from_text(SECTION, "info", "keys", str(path), text)
    data, model = diffusion.data, config.model
    pairs = {
        "data.encoder": (data.encoder, "model.speech_encoder", model.speech_encoder),
        "data.encoder_out_channels": (data.encoder_out_channels, "model.ssl_dim", model.ssl_dim),
        "data.sampling_rate": (data.sampling_rate, "data.sampling_rate", config.data.sampling_rate),
        "data.block_size": (data.block_size, "data.hop_length", config.data.hop_length),
        "spk": (diffusion.spk, "spk", config.spk),
    }
    differ = [
        f"{key} is {printable(theirs, 80)}, but {name} of {config_path.name} is {printable(ours, 80)}"
        for key, (theirs, name, ours) in pairs.items()
        if theirs != ours
    ]
    if differ:
        remedy = f"For shallow diffusion: {command_of(config)}, or correct these values"
        yield Finding(SECTION, "warning", "diffusion", subject, "; ".join(differ), remedy)
