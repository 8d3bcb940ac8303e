"""Files and flags become finished objects here, and nowhere else; the only place that knows which classes there are."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from models import load_synthesizer
from modules.checkpoint import list_checkpoints
from modules.config.io import load_config
from modules.config.schema import Config
from modules.device import choose_device, choose_dtype
from modules.encoders.base import ENCODERS, build_encoder, encoder_dim
from modules.errors import CheckpointError, ConfigError
from modules.f0.base import PREDICTORS, build_predictor
from modules.inference.converter import ConverterParts, VoiceConverter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VoiceRequest:
    """Which voice, and how it is to run.

    Args:
        model_path: a `G_*.pth`.
        config: what `read_voice_config` made of the `config.json` saved with it.
        f0_predictor: name of the pitch predictor.
        f0_threshold: confidence below which `crepe`, `rmvpe` and `fcpe` call a frame unvoiced, 0 to 1.
        device: "cpu", "cuda", "cuda:1", "mps", or None to choose.
        precision: "fp32", "fp16", "bf16", or None: fp16 where the path says "half" and there is CUDA, else fp32.
    """

    model_path: Path
    config: Config
    f0_predictor: str = "pm"
    f0_threshold: float = 0.05
    device: str | None = None
    precision: str | None = None


def read_voice_config(path: Path) -> Config:
    """A trained voice's config, checked as far as that goes without reading a large file.

    Raises:
        ConfigError: missing, wrong, without speakers, or naming an encoder that is unknown or of another width.
    """
    if not path.is_file():
        raise ConfigError(f"-c/--config_path {path}: no such file. Give the config.json saved beside the model.")
    config = load_config(path)
    name, width = config.model.speech_encoder, config.model.ssl_dim
    if name not in ENCODERS:
        raise ConfigError(
            f"{path}: model.speech_encoder {name!r} is not in this version. Known: {', '.join(ENCODERS.names())}."
        )
    if encoder_dim(name) != width:
        raise ConfigError(
            f"{path}: model.ssl_dim is {width} but the encoder {name!r} gives units {encoder_dim(name)} wide. "
            "Set model.speech_encoder to the encoder that the model was trained with."
        )
    if not config.spk:
        raise ConfigError(f"{path}: spk names no speaker. Use the config.json that was saved with the model.")
    return config


def load_converter(request: VoiceRequest) -> VoiceConverter:
    """A converter that is ready to run.

    Raises:
        UsageError: unknown predictor, device or precision.
        CheckpointError: the model is missing, damaged, or does not fit the config.
        MissingWeights: the encoder or predictor has no weights here.
    """
    started = time.perf_counter()
    PREDICTORS.get(request.f0_predictor)  # an unknown name ends here, before anything is loaded
    device, config = choose_device(request.device), request.config
    if not request.model_path.is_file():
        raise CheckpointError(
            f"-m/--model_path {request.model_path}: no such file. {_models_beside(request.model_path)}"
        )
    dtype = _choose_precision(request, device)
    encoder = build_encoder(config.model.speech_encoder, device)
    predictor = build_predictor(request.f0_predictor, config.audio, threshold=request.f0_threshold, device=device)
    parts = ConverterParts(
        synthesizer=load_synthesizer(request.model_path, config, device, dtype),
        encoder=encoder,
        predictor=predictor,
        audio=config.audio,
        speakers=dict(config.spk),
        device=device,
        unit_interpolate_mode=config.data.unit_interpolate_mode,
        with_volume=config.model.vol_embedding,
        can_predict_f0=config.model.use_automatic_f0_prediction,
    )
    logger.info(
        "%s with %s and %s on %s in %s, loaded in %.1f s",
        request.model_path,
        config.model.speech_encoder,
        request.f0_predictor,
        device,
        str(dtype).removeprefix("torch."),
        time.perf_counter() - started,
    )
    return VoiceConverter(parts)


def _choose_precision(request: VoiceRequest, device: torch.device) -> torch.dtype:
    """What the request says; else fp16 for a model whose path says "half", on CUDA only."""
    if request.precision is not None:
        return choose_dtype(request.precision)
    if "half" in str(request.model_path):
        if device.type == "cuda":
            logger.info("the model's path contains 'half': running in fp16 (--precision fp32 overrides)")
            return torch.float16
        logger.info("the model's path contains 'half': on %s it runs in fp32", device.type)
    return torch.float32


def _models_beside(path: Path) -> str:
    found = [model.as_posix() for model in list_checkpoints(path.parent, "G")]
    return f"There: {', '.join(found)}." if found else "Train a model first, or give -m the path of one."
