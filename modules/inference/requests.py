"""What the flags of a conversion ask for: files, places and names, checked without importing torch."""

import argparse
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from modules.audio.io import probe
from modules.config.diffusion import DiffusionConfig, DiffusionVocoder, load_diffusion_config
from modules.config.io import load_config
from modules.config.schema import Config
from modules.config.vocoder import choose_vocoder as choose_named
from modules.errors import CheckpointError, ConfigError, UsageError, UserError, reason_of
from modules.files import make_folder
from modules.inference.arguments import (
    DEFAULT_CONFIG,
    DEFAULT_MODEL,
    DEFAULT_SPEAKER,
    DIFFUSION_FOLDER,
    MIX_FILES,
    is_mixed,
    kind_of,
)
from modules.inference.inputs import Named
from modules.inference.speaker_mix import SpeakerMix, constant_mix, load_mix
from modules.registry import declared_names
from modules.text import listing, printable
from modules.weights.names import list_checkpoints

logger = logging.getLogger(__name__)

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # Hz
DIFFUSION_FLAG = "-dm/--diffusion_model_path"
P, T = ParamSpec("P"), TypeVar("T")


class Problems:
    """Collects what is wrong with a request, to say all of it at once."""

    def __init__(self) -> None:
        self._errors: list[UserError] = []

    def attempt(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T | None:
        """What the call returns; None after an error of ours, which is noted."""
        try:
            return call(*args, **options)
        except UserError as error:
            self.add(error)
            return None

    def add(self, error: UserError) -> None:
        """Notes something that is wrong."""
        self._errors.append(error)

    def raise_all(self) -> None:
        """Raises what was noted, if anything."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            texts = dict.fromkeys(str(error) for error in self._errors)
            raise UsageError(" ".join(f"({number}) {text}" for number, text in enumerate(texts, 1)))


def check_device(name: str | None) -> None:
    """Refuses what names no device anywhere; whether it is here, torch knows."""
    if not re.fullmatch(r"(auto|cpu|mps|cuda(:\d+)?)?", name or ""):
        raise UsageError(f"-d/--device {name!r}: no such device. Known: cpu, cuda, cuda:1 (the second), mps.")


def check_model(path: Path, flag: str = "-m/--model_path", prefix: str = "G") -> None:
    """Refuses a model that is not there, is a folder, or may not be read; names those beside it."""
    if path.is_dir():
        found = list_checkpoints(path, prefix)
        hint = f"Give its newest model: {found[-1].as_posix()}" if found else f"It holds no {prefix}_*.pth; name a file"
        raise CheckpointError(f"{flag} {path}: is a folder. {hint}")
    beside = ", ".join(model.as_posix() for model in list_checkpoints(path.parent, prefix))
    make = "Train a model first, or give -m the path of one." if prefix == "G" else "Train one: python train_diff.py"
    _check_readable(path, flag, f"There: {beside}." if beside else make, CheckpointError)


def read_config(path: Path) -> Config:
    """A voice's config as far as it can be checked without the encoders."""
    _check_readable(path, "-c/--config_path", "Give the config.json saved beside the model.", ConfigError)
    config = load_config(path)
    if not config.spk:
        raise ConfigError(f"{path}: spk names no speaker. Use the config.json that was saved with the model.")
    name, known = config.model.speech_encoder, declared_names("modules.encoders")
    if known is not None and name not in known:
        raise ConfigError(f"{path}: model.speech_encoder {name!r} is not in this version. Known: {', '.join(known)}.")
    return config


def check_format(name: str, rate: int) -> None:
    """Refuses a format of results that cannot hold the voice's rate."""
    if name.lower() == "opus" and rate not in OPUS_RATES:
        held = ", ".join(map(str, OPUS_RATES))
        raise UsageError(f"-wf/--wav_format opus holds {held} Hz, and this voice sings at {rate} Hz. Use ogg or flac.")


def check_pitch_decoder(config: Config) -> None:
    """Refuses -a of a voice that cannot predict its pitch."""
    if not config.model.use_automatic_f0_prediction:
        raise UsageError(
            "-a/--auto_predict_f0: this voice comes without a pitch decoder (model.use_automatic_f0_prediction is "
            "false); leave -a out"
        )


def read_diffusion_config(path: Path) -> DiffusionConfig:
    """A diffusion model's config."""
    hint = "Give the config.yaml saved with the diffusion model, or train one with: python train_diff.py"
    _check_readable(path, "-dc/--diffusion_config_path", hint, UsageError)
    return load_diffusion_config(path)


def choose_vocoder(config: DiffusionConfig | None, formant_key: float) -> str:
    """The vocoder of a diffusion model, or else of the enhancer, as `modules.config.vocoder.choose_vocoder`; a
    diffusion config names it from now on."""
    vocoder = config.vocoder if config is not None else DiffusionVocoder()
    vocoder.ckpt = choose_named(vocoder.ckpt, formant_key)
    return vocoder.ckpt


def choose_k_step(config: DiffusionConfig, where: Path, model_path: Path, k_step: int | None) -> int:
    """The noise levels that are asked for (None: all, from noise), if the diffusion model was trained on so many."""
    model = config.model
    trained = model.k_step_max if model.k_step_max and model.k_step_max < model.timesteps else model.timesteps
    if k_step is None and trained < model.timesteps:
        raise UsageError(
            f"-od/--only_diffusion: {model_path} has learnt {trained} of {model.timesteps} noise levels "
            f"(model.k_step_max in {where}) and cannot start from noise alone. Use it with -shd."
        )
    k_step = trained if k_step is None else k_step
    if not 1 <= k_step <= trained:
        raise UsageError(
            f"-ks/--k_step is {k_step}; {model_path} has learnt {trained} noise levels (model.k_step_max "
            f"in {where}), so it must lie between 1 and {trained}"
        )
    return k_step


def check_same_units(diffusion: DiffusionConfig, where: Path, voice: Config) -> None:
    """Refuses a diffusion model whose content encoder is another than the voice's."""
    pairs = (
        ("data.encoder", diffusion.data.encoder, "model.speech_encoder", voice.model.speech_encoder),
        ("data.encoder_out_channels", diffusion.data.encoder_out_channels, "model.ssl_dim", voice.model.ssl_dim),
    )
    for key, theirs, our_key, ours in pairs:
        if theirs != ours:
            raise ConfigError(
                f"{where}: {key} is {theirs}, but {our_key} of {voice.path or 'the voice'} is {ours}. "
                "Use a diffusion model that was trained with the voice's encoder."
            )


def check_results_folder(folder: Path) -> None:
    """Refuses a folder of results that cannot be made or written."""
    make_folder(folder)
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder}: may not be written (permission denied). Change that, or work in another folder.")


def _check_readable(path: Path, flag: str, hint: str, kind: type[UserError]) -> None:
    try:
        if path.exists() and not path.is_file():
            raise kind(f"{flag} {path}: is not a file. {hint}")
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise kind(f"{flag} {path}: no such file. {hint}") from None
    except (OSError, ValueError) as error:
        raise kind(f"{flag} {printable(path)}: {reason_of(error, path)}.") from None


def choose_model(given: str | None) -> Path:
    """The model named with -m; else upstream's default where it exists; else the newest one beside it."""
    default = Path(DEFAULT_MODEL)
    if given is not None:
        return Path(given)
    found = list_checkpoints(default.parent, "G")
    if default.is_file() or not found:
        return default
    logger.info("no -m given: using the newest model, %s", found[-1].as_posix())
    return found[-1]


def choose_config(given: str | None, model: str | None) -> Path:
    """The config named with -c; else the one beside the model named with -m; else upstream's default."""
    if given is not None:
        return Path(given)
    beside = Path(DEFAULT_CONFIG)
    if model is not None:  # a folder is refused, but not for want of a config
        beside = (Path(model) if Path(model).is_dir() else Path(model).parent) / "config.json"
    if beside.is_file() and beside != Path(DEFAULT_CONFIG):
        logger.info("no -c given: using %s", beside.as_posix())
        return beside
    return Path(DEFAULT_CONFIG)


def choose_diffusion(args: argparse.Namespace) -> tuple[Path, Path] | None:
    """The diffusion model that the flags ask for and its config; None without one."""
    if kind_of(args) == "sovits":
        return None
    model = Path(args.diffusion_model_path or f"{DIFFUSION_FOLDER}/model_0.pt")
    if args.diffusion_model_path is None and (found := list_checkpoints(DIFFUSION_FOLDER, "model")):
        model = found[-1]
        logger.info("no -dm given: using the newest diffusion model, %s", model.as_posix())
    return model, Path(args.diffusion_config_path or model.parent / "config.yaml")


def read_models(
    args: argparse.Namespace, problems: Problems
) -> tuple[Path | None, Config | None, tuple[Path, Path, DiffusionConfig] | None]:
    """The model and its config, None for diffusion alone; the diffusion model, its config's path, its config."""
    model = config = diffusion = None
    if (files := choose_diffusion(args)) is not None:
        problems.attempt(check_model, files[0], DIFFUSION_FLAG, "model")
        diffusion = *files, problems.attempt(read_diffusion_config, files[1])
    if diffusion is not None or args.enhance:
        problems.attempt(choose_vocoder, diffusion and diffusion[2], args.formant_key)
    if not args.only_diffusion:
        model = choose_model(args.model_path)
        problems.attempt(check_model, model)
        config = problems.attempt(read_config, choose_config(args.config_path, args.model_path))
    if diffusion is not None and diffusion[2] is not None:
        k_step = None if args.only_diffusion else args.k_step
        problems.attempt(choose_k_step, diffusion[2], files[1], files[0], k_step)
        if config is not None:
            problems.attempt(check_same_units, diffusion[2], files[1], config)
    return model, config, diffusion


def choose_retrieval(args: argparse.Namespace, model_path: Path | None) -> Path | None:
    """The cluster centres or the index that the flags ask for; by default beside the model, else in logs/44k/."""
    if not args.cluster_infer_ratio or is_mixed(args):
        return None
    names = ("feature_and_index.json", "feature_and_index.pkl") if args.feature_retrieval else ("kmeans_10000.pt",)
    usual = Path(DEFAULT_MODEL).parent
    folders = [usual] if model_path is None else [model_path.parent, usual]
    places = [folder / name for folder in folders for name in names]
    path = next((place for place in places if place.is_file()), usual / names[0])
    return Path(args.cluster_model_path or path)


def choose_mix(args: argparse.Namespace, known: dict[str, int], sources: list[Named]) -> SpeakerMix | None:
    """The mix of voices that the flags ask for."""
    if not is_mixed(args):
        return None
    if args.mix:
        return constant_mix(args.mix, known)
    path = Path(args.mix_path or next((name for name in MIX_FILES if Path(name).is_file()), MIX_FILES[0]))
    return load_mix(path, known, probe(sources[0].path).seconds if sources else None)


def choose_speakers(given: list[str] | None, known: list[str]) -> list[str]:
    """The speakers named with -s, each once; else upstream's default where the model has it; else its only one."""
    listed = listing(known)
    if wrong := [name for name in given or [] if name not in known]:
        names = listing(map(repr, wrong))
        raise UsageError(f"-s/--spk_list: the model has no speaker {names}. It has: {listed}.")
    if given:
        return list(dict.fromkeys(given))
    if DEFAULT_SPEAKER in known:
        return [DEFAULT_SPEAKER]
    if len(known) == 1:
        return known
    raise UsageError(f"name the target voice with -s. The model has: {listed}.")
