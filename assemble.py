"""Files and flags become finished objects here, and nowhere else; the only place that knows which classes there are."""

import argparse
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cluster import load_retriever
from diffusion.refine import DiffusionRefiner
from diffusion.samplers.base import check_method
from diffusion.unit2mel import load_unit2mel
from models import INFERENCE_SEED, load_synthesizer
from modules.config.diffusion import DiffusionConfig
from modules.config.schema import Config
from modules.config.vocoder import require_same_frames
from modules.contracts import F0Predictor, Retriever, SpeechEncoder, Synthesizer
from modules.device import choose_device, choose_dtype, computes_bf16
from modules.encoders.base import ENCODERS, build_encoder, encoder_dim
from modules.errors import ConfigError, UsageError
from modules.f0.base import PREDICTORS, build_predictor
from modules.f0.histogram import PitchHistogram
from modules.f0.limits import F0_MAX, F0_MIN
from modules.inference.arguments import predictor_name
from modules.inference.converter import VoiceConverter
from modules.inference.keyword_options import loading_options
from modules.inference.loaded_voice import LoadedVoice
from modules.inference.onnx_voice import OnnxVoice
from modules.inference.options import make_options
from modules.inference.pipeline import GPU_BATCH_FRAMES, Pipeline
from modules.inference.requests import (
    DIFFUSION_FLAG,
    Problems,
    check_device,
    check_model,
    check_same_units,
    choose_k_step,
    choose_vocoder,
    read_config,
    read_models,
)
from modules.weights.card import HISTOGRAMS, card_of, read_card, stand_in_card
from modules.weights.checkpoint import load_checkpoint
from vdecoder.enhancer import NsfHifiganEnhancer
from vdecoder.mel_vocoder import load_vocoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DiffusionRequest:
    """Which diffusion model, and how it is to run."""

    model_path: Path  # a `model_*.pt`
    config_path: Path  # the `config.yaml` saved with it
    config: DiffusionConfig  # what `load_diffusion_config` made of that
    k_step: int | None = 100  # noise levels of shallow diffusion; None converts by diffusion alone, from noise


@dataclass(frozen=True)
class RetrievalRequest:
    """What units are pulled towards."""

    path: Path  # `kmeans_*.pt`; or an index, `feature_and_index.json` or so-vits-svc's `.pkl`
    is_index: bool  # which of the two
    speakers: tuple[str, ...]  # target voices


@dataclass(frozen=True)
class VoiceRequest:
    """Which voice, and how it is to run."""

    model_path: Path | None  # a `G_*.pth`, or the `.onnx` that `onnx_export.py` made of one; None: diffusion alone
    config: Config | None  # what `read_voice_config` made of the `config.json` saved with it; None: diffusion alone
    f0_predictor: str = "pm"
    f0_threshold: float = 0.05  # confidence below which `crepe`, `rmvpe` and `fcpe` call a frame unvoiced, 0 to 1
    device: str | None = None  # "cpu", "cuda", "cuda:1", "mps", or None to choose
    precision: str | None = None  # "fp32", "fp16", "bf16", "auto" or None: see `_choose_precision`
    diffusion: DiffusionRequest | None = None  # to refine what the voice model makes, or in its place
    enhancer: str | None = None  # the vocoder of the enhancer, if one is wanted
    retrieval: RetrievalRequest | None = None  # cluster centres or an index
    f0_min: float = F0_MIN  # Hz, the lowest pitch that is looked for
    f0_max: float = F0_MAX  # Hz, the highest

    @property
    def is_onnx(self) -> bool:
        """Whether the voice is an ONNX file."""
        return self.model_path is not None and self.model_path.suffix.lower() == ".onnx"


def read_voice_config(path: Path) -> Config:
    """A trained voice's config, checked as far as that goes without reading a large file."""
    config = read_config(path)
    check_encoder(config)
    return config


def check_encoder(config: Config) -> None:
    """Refuses a voice's config whose encoder is unknown, or of another width than the voice."""
    path, name, width = config.path, config.model.speech_encoder, config.model.ssl_dim
    if name not in ENCODERS:
        raise ConfigError(
            f"{path}: model.speech_encoder {name!r} is not in this version. Known: {', '.join(ENCODERS.names())}."
        )
    if encoder_dim(name) != width:
        raise ConfigError(
            f"{path}: model.ssl_dim is {width} but the encoder {name!r} gives units {encoder_dim(name)} wide. "
            "Set model.speech_encoder to the encoder that the model was trained with."
        )


def make_request(
    args: argparse.Namespace,
    model: Path | None,
    config: Config | None,
    diffusion: tuple[Path, Path, DiffusionConfig] | None,
    retrieval: RetrievalRequest | None = None,
) -> VoiceRequest:
    """What the flags ask for, with the files that `modules.inference.requests.read_models` found."""
    if config is not None:
        check_encoder(config)
    return VoiceRequest(
        model,
        config,
        predictor_name(args),
        args.f0_filter_threshold,
        args.device,
        args.precision,
        DiffusionRequest(*diffusion, None if args.only_diffusion else args.k_step) if diffusion else None,
        choose_vocoder(None, args.formant_key) if args.enhance and diffusion is None else None,
        retrieval,
        args.f0_min,
        args.f0_max,
    )


def load_voice(model_path: Path | str | None = None, **options: Any) -> LoadedVoice:
    """A trained voice for Python programs (docs/api.md); nothing is printed.

    Args:
        model_path: a `G_*.pth` or `.onnx`, its config beside it; None: the newest in logs/44k/, as the command line.
        options: flags of inference_main.py by their long names. Those of `convert` hold here for all songs that do not
            say otherwise.
    """
    for package in ("assemble", "models", "modules", "vdecoder", "diffusion", "cluster"):
        if not (listened := logging.getLogger(package)).hasHandlers():  # else Python itself prints warnings
            listened.addHandler(logging.NullHandler())
    args, problems = loading_options(model_path, options), Problems()
    problems.attempt(make_options, args, speaker="", transpose=0)
    problems.attempt(check_device, args.device)
    model, config, diffusion = read_models(args, problems)
    problems.raise_all()
    converter = load_converter(make_request(args, model, config, diffusion))
    pipeline, model = converter.pipeline, model or diffusion[0]

    def retriever_for(path: Path, is_index: bool, speaker: str) -> Retriever:
        encoder = pipeline.encoder
        return load_retriever(path, {speaker: pipeline.speakers[speaker]}, encoder.dim, is_index, encoder.name)

    def find_notes() -> dict[str, PitchHistogram]:
        from modules.data.pitch import voice_histograms  # a tenth of a second, for transpose="auto" alone

        return voice_histograms(model, card=pipeline.card)

    return LoadedVoice(converter, args, model, find_notes, retriever_for)


def load_converter(
    request: VoiceRequest,
    make_encoder: Callable[..., SpeechEncoder] | None = None,
    make_predictor: Callable[..., F0Predictor] | None = None,
) -> VoiceConverter:
    """A converter that is ready to run; several may share an encoder and a predictor, where these stand in
    for `build_encoder` and `build_predictor`."""
    started = time.perf_counter()
    PREDICTORS.get(request.f0_predictor)  # an unknown name ends here, before anything is loaded
    device, config, diffusion = choose_device(request.device), request.config, request.diffusion
    if request.model_path is not None:
        check_model(request.model_path)
    dtype = _choose_precision(request, device)
    refiner = _load_refiner(request, device, dtype) if diffusion is not None else None
    audio = config.audio if config is not None else refiner.vocoder.audio
    name = config.model.speech_encoder if config is not None else diffusion.config.data.encoder
    # On a GPU, where it is a small part of the work, it stays in fp32, as so-vits-svc has it.
    encoder_dtype = torch.bfloat16 if device.type == "cpu" and dtype == torch.bfloat16 else torch.float32
    encoder = (make_encoder or build_encoder)(name, device, encoder_dtype)
    limits = {"f0_min": request.f0_min, "f0_max": request.f0_max}
    make_predictor = make_predictor or build_predictor
    predictor = make_predictor(request.f0_predictor, audio, threshold=request.f0_threshold, device=device, **limits)
    known, retriever = (config or diffusion.config).spk, None
    if (wanted := request.retrieval) is not None:
        ids = {speaker: known[speaker] for speaker in wanted.speakers}
        retriever = load_retriever(wanted.path, ids, encoder_dim(name), wanted.is_index, name)
    if config is None:
        voice, card = None, {"name": diffusion.model_path.stem, "speakers": list(diffusion.config.spk)}
    else:
        voice, card = _load_voice(request, device, dtype)
    vocoder = load_vocoder(request.enhancer, device, dtype) if request.enhancer else None
    has_pitch_decoder = config is not None and config.model.use_automatic_f0_prediction and not request.is_onnx
    pipeline = Pipeline(
        synthesizer=voice,
        encoder=encoder,
        predictor=predictor,
        audio=audio,
        speakers=dict(known),
        device=device,
        unit_interpolate_mode=(config or diffusion.config).data.unit_interpolate_mode,
        with_volume=config is None or config.model.vol_embedding,
        unvoiced_source=config is not None and config.model.unvoiced_source,
        can_predict_f0=has_pitch_decoder,
        refiner=refiner,
        refiner_speakers=_diffusion_speakers(request) if refiner is not None and config is not None else None,
        make_enhancer=partial(NsfHifiganEnhancer, vocoder, audio.sampling_rate, audio.hop_length) if vocoder else None,
        retriever=retriever,
        predictor_on_cpu=not PREDICTORS.get(request.f0_predictor).is_network,
        batch_frames=GPU_BATCH_FRAMES if device.type == "cuda" else 0,
        identity=_identity(request, device, dtype),
        card=card,
    )
    models = " and ".join(str(part.model_path) for part in (request, diffusion) if part and part.model_path)
    precision, seconds = str(dtype).removeprefix("torch."), time.perf_counter() - started
    text = "%s with %s and %s on %s in %s, loaded in %.1f s"
    logger.info(text, models, name, request.f0_predictor, device, precision, seconds)
    return VoiceConverter(pipeline)


def request_identity(request: VoiceRequest) -> str:
    """`Pipeline.identity` of the converter that would be loaded; nothing is loaded."""
    device = choose_device(request.device)
    return _identity(request, device, _choose_precision(request, device))


def _load_voice(request: VoiceRequest, device: torch.device, dtype: torch.dtype) -> tuple[Synthesizer, dict[str, Any]]:
    """The trained voice, to be run by torch or by onnxruntime, and its card; the file is opened once."""
    path, config = request.model_path, request.config
    if request.is_onnx:
        voice = OnnxVoice(path, config, device, INFERENCE_SEED)
        return voice, read_card(path) or stand_in_card(config, path.stem)
    content = load_checkpoint(path)
    voice = load_synthesizer(path, config, device, dtype, content)
    card = card_of(content, path) or stand_in_card(config, path.stem)
    if not card.get(HISTOGRAMS) and HISTOGRAMS in content:  # where checkpoints had them before they had a card
        card = {**card, HISTOGRAMS: content[HISTOGRAMS]}
    return voice, card


def _identity(request: VoiceRequest, device: torch.device, dtype: torch.dtype) -> str:
    """All that a result depends on besides the source and the options: files as they are now, and how they run."""
    diffusion, retrieval = request.diffusion, request.retrieval
    files = [request.model_path, request.config.path if request.config is not None else None]
    if diffusion is not None:
        files += [diffusion.model_path, diffusion.config_path, Path(diffusion.config.vocoder.ckpt)]
    if retrieval is not None:
        files.append(retrieval.path)
    files.append(request.enhancer)
    found = [Path(file) for file in files if file is not None]
    stamps = [(path.as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in found if path.is_file()]
    pitch = request.f0_predictor, request.f0_threshold, request.f0_min, request.f0_max
    how = *pitch, device.type, str(dtype), request.enhancer is not None
    return repr((stamps, how, diffusion and diffusion.k_step, retrieval and retrieval.is_index))


def _load_refiner(request: VoiceRequest, device: torch.device, dtype: torch.dtype) -> DiffusionRefiner:
    """The diffusion model with its vocoder, checked against the voice and the request."""
    wanted = request.diffusion
    config, where = wanted.config, wanted.config_path
    check_method(config.infer.method, where)
    k_step = choose_k_step(config, where, wanted.model_path, wanted.k_step)
    check_model(wanted.model_path, DIFFUSION_FLAG, "model")
    if config.data.encoder not in ENCODERS:
        known = ", ".join(ENCODERS.names())
        raise ConfigError(f"{where}: data.encoder {config.data.encoder!r} is not in this version. Known: {known}.")
    if request.config is not None:
        check_same_units(config, where, request.config)
    elif not config.spk:
        raise ConfigError(f"{where}: spk names no speaker. Add the names and ids of the model's speakers to it.")
    elif encoder_dim(config.data.encoder) != config.data.encoder_out_channels:
        raise ConfigError(
            f"{where}: data.encoder_out_channels is {config.data.encoder_out_channels} but the encoder "
            f"{config.data.encoder!r} gives units {encoder_dim(config.data.encoder)} wide. Correct data.encoder."
        )
    vocoder = load_vocoder(config.vocoder.ckpt, device, dtype, config.vocoder.type)
    audio = request.config.audio if request.config is not None else vocoder.audio
    rate_and_hop = replace(vocoder.audio, sampling_rate=config.data.sampling_rate, hop_length=config.data.block_size)
    require_same_frames(rate_and_hop, where, vocoder.audio, config.vocoder.ckpt)
    require_same_frames(audio, request.config.path if request.config else where, vocoder.audio, config.vocoder.ckpt)
    # What bf16 costs has been measured of decoders and encoders (docs/benchmarks.md); the denoiser is in it on demand.
    denoiser_dtype = torch.float32 if request.precision == "auto" and dtype == torch.bfloat16 else dtype
    network = load_unit2mel(wanted.model_path, config, vocoder.audio.n_mels, device, denoiser_dtype, str(where))
    return DiffusionRefiner(network, vocoder, k_step, config.infer.method, max(1, config.infer.speedup))


def _diffusion_speakers(request: VoiceRequest) -> dict[str, int]:
    """The id that the diffusion model has for each speaker of the voice."""
    config, where, voice = request.diffusion.config, request.diffusion.config_path, request.config
    known, n_speakers = config.spk, config.model.n_spk
    if not known and n_speakers == 1:
        return dict.fromkeys(voice.spk, 0)
    if not known and n_speakers > max(voice.spk.values()):
        return dict(voice.spk)
    both = {name: known[name] for name in voice.spk if name in known}
    if not both:
        theirs = ", ".join(known) or f"{n_speakers} without names"
        raise ConfigError(
            f"{where}: spk has no speaker of {voice.path or 'the voice'}: it has {theirs}, the voice has "
            f"{', '.join(voice.spk)}. Use a diffusion model of the same voice, or correct the names in spk."
        )
    return both


def _choose_precision(request: VoiceRequest, device: torch.device) -> torch.dtype:
    """What the request says. None: as so-vits-svc, fp16 on CUDA for a model whose path says "half", else fp32; "auto":
    the same, and bf16 on a CPU that computes it. An ONNX voice is fp32."""
    if request.is_onnx:
        if request.precision not in (None, "auto", "fp32"):
            raise UsageError(
                f"--precision {request.precision}: {request.model_path} is fp32, as all ONNX voices are; leave it out"
            )
        return torch.float32
    if request.precision not in (None, "auto"):
        return choose_dtype(request.precision)
    if "half" in str(request.model_path) and device.type == "cuda":
        logger.info("the model's path contains 'half': running in fp16 (--precision fp32 overrides)")
        return torch.float16
    return torch.bfloat16 if request.precision == "auto" and computes_bf16(device) else torch.float32
