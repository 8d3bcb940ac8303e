"""Pretrained files that the config needs: there, whole, and the published ones."""

from collections.abc import Iterator
from pathlib import Path

from modules.config.bases import base_of, way_to_base
from modules.config.edits import Design, command_of
from modules.config.schema import Config
from modules.data.clips import COMMAND as STEP_3
from modules.doctor.findings import Finding
from modules.doctor.guard import from_text, listening
from modules.doctor.packages import INSTALL, SECTION
from modules.errors import FAILURES, ConfigError, MissingWeights, UsageError, reason_of
from modules.files import is_zip
from modules.pretrained.catalogue import Weights, package_with
from modules.pretrained.find import CODE_ROOT, checksum, find
from modules.pretrained.needs import require_parts
from modules.text import quote
from modules.weights.names import list_checkpoints

INCLUDED = "whisper-ppg-base"  # needs no download, nor does fcpe
_LARGEST_READ = 1 << 30  # bytes of a file without checksums, which is read whole to see whether it is


def check_encoder_files(config: Config, config_path: Path) -> Iterator[Finding]:
    """The files of the speech encoder."""
    name = config.model.speech_encoder
    try:
        require_parts(name)
    except MissingWeights as error:
        found = from_text(SECTION, "error", "pretrained", name, error)
        included = f"or take the included encoder: {command_of(config, INCLUDED)}, then: {STEP_3} --f0_predictor fcpe"
        yield Finding(SECTION, "error", "pretrained", name, found.text, f"{found.remedy}; {included}")
        return
    except UsageError as error:
        text, remedy = reason_of(error), f"Correct model.speech_encoder in {config_path}"
        yield Finding(SECTION, "error", "pretrained", name, f"{config_path}: {text.rstrip('.')}", remedy)
        return
    if name.endswith("-onnx"):
        from importlib.util import find_spec

        if find_spec("onnxruntime") is None:
            remedy = f"{INSTALL} -r {quote(CODE_ROOT / 'requirements-extras.txt')}"
            yield Finding(SECTION, "error", "package", name, "needs onnxruntime, which is not installed", remedy)
    from modules.encoders.base import ENCODERS

    yield from check_file(name, ENCODERS.get(name).weights)


def check_file(subject: str, alternatives: tuple[Weights, ...]) -> Iterator[Finding]:
    """Whether the first of some equally good files that is there is whole, and the published one."""
    weights = next(weights for weights in alternatives if find(weights.path))
    path, known = find(weights.path), package_with(weights.path)
    get = f"Delete it and get it again with: python pretrain/download.py {known.name}" if known else "Get it again"
    try:
        _require_whole(path)
        with listening() as said:
            if weights.sha256 is not None:
                checksum(weights)
    except FAILURES as error:
        found = from_text(SECTION, "error", "pretrained", str(path), error, files=(path,))
        yield Finding(SECTION, "error", "pretrained", subject, f"{path}: {found.text}", get, (path,))
        return
    for text in said:
        yield Finding(SECTION, "warning", "checksum", subject, text, get, (path,))
    if not said:
        yield Finding(SECTION, "info", "pretrained", subject, f"{path} is there and whole", files=(path,))


def _require_whole(path: Path) -> None:
    """Refuses a file that was cut off or changed, as far as it can be known without its checksum."""
    from modules.weights.checkpoint import CheckpointError, check_whole
    from modules.weights.foreign import globals_of, load_foreign

    size = path.stat().st_size
    if path.suffix == ".onnx":
        with path.open("rb") as file:
            if file.read(1) != b"\x08":  # the version of the format comes first in every graph
                raise CheckpointError(f"{path}: damaged or not an ONNX graph")
    elif path.suffix == ".safetensors" or size < _LARGEST_READ:
        load_foreign(path)
    elif is_zip(path):
        check_whole(path)
    else:
        globals_of(path)


def check_base(config: Config, logs_dir: Path = Path("logs")) -> Iterator[Finding]:
    """Whether there is a model to start from, where no training has begun."""
    if any(list_checkpoints(folder, "G") for folder in logs_dir.glob("*") if folder.is_dir()):
        return
    design, model, level = Design.of(config.model.model_dump()), config.model, "info"
    text = f"none in {logs_dir}/44k, and a training from nothing takes days on a GPU"
    if design.preset == "micro":
        return
    if design.preset == "small":
        text = "one for --small is included, from which a new training starts best"
        if model.speech_encoder != INCLUDED or not model.vol_embedding:
            text += f"; it is of --vol_aug and --speech_encoder {INCLUDED}, so this config fits in part only"
        base = quote(CODE_ROOT / "pretrain/base-small")
        remedy = f"python train.py -c configs/config.json -m 44k --base {base}"
    elif name := base_of(config):
        text, level, remedy = f"{text}; there is one for this config, {name}", "warning", way_to_base(name)
    else:
        text += f"; none is published for {model.speech_encoder} with these flags"
        remedy = "Put G_0.pth and D_0.pth of such a voice there; or take --small, whose base is included"
    yield Finding(SECTION, level, "base", "base model", text, remedy)


def check_vocoder(config_path: Path) -> Iterator[Finding]:
    """The vocoder, where a diffusion model is trained: its diffusion.yaml is there and its folder holds models."""
    from modules.config.diffusion import load_diffusion_config
    from modules.config.vocoder import find_vocoder, load_vocoder_config, vocoder_config_path

    path = config_path.with_name("diffusion.yaml")
    if not path.is_file():
        return
    try:
        with listening():
            config = load_diffusion_config(path)
    except ConfigError:  # the section config says so
        return
    if not list_checkpoints(config.env.expdir, "model"):
        return
    try:
        load_vocoder_config(vocoder_config_path(find_vocoder(config.vocoder.ckpt)))
    except (MissingWeights, ConfigError) as error:
        yield from_text(SECTION, "error", "pretrained", "vocoder", error)
