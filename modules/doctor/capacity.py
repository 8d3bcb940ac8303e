"""Memory and disk: what there is, and what features, checkpoints and a step of training take."""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from modules.config.edits import Design
from modules.config.schema import Config, voice_parts
from modules.data.clips import sidecar_of
from modules.doctor.findings import Finding
from modules.doctor.packages import SECTION
from modules.errors import reason_of
from modules.text import counted

GIB = 1 << 30
FOLDERS = ("logs", "dataset", "configs", "filelists")  # of a workspace, that the recipe writes to
_MEMORY = Path("/proc/meminfo")
_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
# A step of the longest windows on a CPU in fp32, torch 2.13, noise in place of clips, peak of the process. Base: 1 clip
# 3.0 GB, 3 clips 4.6, 6 clips 7.1; tiny: 2.5, 3.9 with 3; small: 0.7, 1.0 with 4; micro: 0.6, 0.9 with 4.
_FIXED_BYTES = 0.7 * GIB  # libraries and scratch
_CLIP_BYTES = {"base": 0.81 * GIB, "tiny": 0.68 * GIB, "small": 0.10 * GIB, "micro": 0.08 * GIB}
_TRAINED_BYTES, _SAVED_BYTES = 16, 12  # of a parameter: itself, its two moments, and in memory its gradient
_AVERAGED_BYTES = 4
_FULL_DISCRIMINATORS = 46.7e6  # parameters at 1024 channels; they grow with the square of those
_LEAST_MEMORY = (
    2 * GIB
)  # step 3 had a peak of 0.7 GB with whisper-ppg-base (20 MB) and fcpe; large encoders have 1.3 GB
_KEPT_OF_ALL = 20  # checkpoints that are counted where train.keep_ckpts is 0, which keeps all
_UNIT_RATE = 50  # frames a second of every encoder


def feature_bytes(config: Config) -> float:
    """Bytes on disk of the features of a second of clips: units, spectrum, F0 with voicing, and volume."""
    frames, model = config.audio.frame_rate, config.model
    curves = 2 + model.vol_embedding
    return 4 * (model.ssl_dim * _UNIT_RATE + (config.audio.n_freqs + curves) * frames)


def item_bytes(config: Config) -> float:
    """Bytes in memory of a second of clips as training holds them: the units are stretched to the frames of the rest,
    and the samples are there too."""
    frames, model = config.audio.frame_rate, config.model
    return 4 * ((model.ssl_dim + config.audio.n_freqs + 2 + model.vol_embedding) * frames + config.data.sampling_rate)


def network_parameters(config: Config) -> tuple[float, float]:
    """Parameters of the voice model and of its discriminators, to a few percent."""
    discriminators = _FULL_DISCRIMINATORS * (config.model.discriminator_channels / 1024) ** 2
    return sum(voice_parts(config).values()), discriminators


def checkpoint_bytes(config: Config) -> float:
    """Bytes of a pair G_STEP.pth and D_STEP.pth."""
    voice, discriminators = network_parameters(config)
    return _SAVED_BYTES * (voice + discriminators) + _AVERAGED_BYTES * voice * bool(config.train.ema_decay)


def training_bytes(config: Config) -> float:
    """Memory of a training step, about: networks, gradients and moments, and what grows with the batch."""
    design = Design.of(config.model.model_dump())
    usual = design.config()["train"]
    length = max(getattr(config.train, key) / usual[key] for key in ("segment_size", "window_frames"))
    voice, discriminators = network_parameters(config)
    networks = _TRAINED_BYTES * (voice + discriminators) + _AVERAGED_BYTES * voice * bool(config.train.ema_decay)
    activations = _CLIP_BYTES[design.preset] * config.train.batch_size * max(1.0, length)
    return _FIXED_BYTES + networks + activations / (1 + config.train.fp16_run)


def memory() -> tuple[int | None, int | None]:
    """Bytes of memory in all and available; None where the system does not say."""
    try:
        return _windows_memory() if os.name == "nt" else _unix_memory()
    except (OSError, ValueError, AttributeError):
        return None, None


def _unix_memory() -> tuple[int | None, int | None]:
    total, available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    try:
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines() if ":" in line)
        available = int(lines["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):  # not Linux
        pass
    try:
        limit = int(_GROUP_LIMIT.read_text())
    except (OSError, ValueError):  # no container, or one without a limit
        return total, available
    return min(total, limit), available and min(available, limit)


def _windows_memory() -> tuple[int, int]:
    class _Status(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            *((name, ctypes.c_uint64) for name in ("total", "available", "pages", "free", "virtual", "rest", "x")),
        ]

    status = _Status(length=ctypes.sizeof(_Status))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        raise OSError("GlobalMemoryStatusEx failed")
    return status.total, status.available


def check_memory(config: Config | None, has_gpu: bool) -> Iterator[Finding]:
    """The memory, and whether it holds a training on the CPU where there is no GPU; silent where it is unknown."""
    total, available = memory()
    if total is None:
        return
    free = "" if available is None else f", {available / GIB:.1f} GB of it free"
    yield Finding(SECTION, "info", "memory", "memory", f"{total / GIB:.1f} GB{free}")
    usable = total if available is None else available
    needed = _LEAST_MEMORY if config is None or has_gpu else max(_LEAST_MEMORY, training_bytes(config))
    if usable < needed:
        text = f"{usable / GIB:.1f} GB are free, and about {needed / GIB:.1f} GB are needed"
        remedy = "Close other programs"
        if needed > _LEAST_MEMORY:
            text += f" by a step on the CPU with train.batch_size {config.train.batch_size}"
            remedy += ", or lower train.batch_size in the config"
        yield Finding(SECTION, "warning", "memory", "memory", text, remedy)


def check_disk(config: Config | None) -> Iterator[Finding]:
    """Free space where features and checkpoints go, against what both will take."""
    if config is None:
        free = shutil.disk_usage(Path.cwd()).free
        yield Finding(SECTION, "info", "disk", "disk", f"{free / GIB:.1f} GB free")
        return
    pair, keep = checkpoint_bytes(config), config.train.keep_ckpts or _KEPT_OF_ALL
    # One more is on the disk while it takes the place of the oldest, and G_best.pth has a third of a G.
    runs = max(pair, pair * (keep + 1) + network_parameters(config)[0] * 4 - _saved_bytes())
    features = _features_to_come(config)
    places = [_existing(Path(name)) for name in ("logs", "dataset")]
    is_one = places[0].stat().st_dev == places[1].stat().st_dev
    minute = feature_bytes(config) * 60 / 1e6
    kept = counted(keep, "checkpoint") + ("" if config.train.keep_ckpts else " (train.keep_ckpts 0 keeps all)")
    wants = [(places[0], runs, f"{kept} of {pair / 1e9:.2g} GB each")]
    stored = f"{features / 1e9:.2g} GB of features ({minute:.0f} MB a minute of clips)"
    if is_one:
        wants = [(places[0], runs + features, f"{wants[0][2]} and {stored}" if features else wants[0][2])]
    elif features:
        wants.append((places[1], features, stored))
    for place, needed, what in wants:
        free = shutil.disk_usage(place).free
        text = f"{free / 1e9:.1f} GB free for {what}"
        remedy = "Free some space" + (", or lower train.keep_ckpts" if "checkpoint" in what else "")
        level = "error" if free < needed else "warning" if free < 2 * needed else "info"
        yield Finding(SECTION, level, "disk", "disk", text, "" if level == "info" else remedy)


def _saved_bytes(folder: Path = Path("logs")) -> int:
    """Bytes of the checkpoints of the largest run that is there: a training that goes on takes their place."""
    runs = [path for path in folder.glob("*") if path.is_dir()]
    return max(
        (sum(path.stat().st_size for path in run.glob("[GD]_*.pth") if path.is_file()) for run in runs), default=0
    )


def _features_to_come(config: Config, folder: Path = Path("dataset/44k")) -> float:
    """Bytes of the features of clips that have none yet, by the sizes of files: step 1 writes 16 bits a sample."""
    clips = [path for path in folder.glob("*/*.wav") if path.is_file() and not sidecar_of(path).is_file()]
    seconds = sum(path.stat().st_size for path in clips) / (2 * config.data.sampling_rate)
    return seconds * feature_bytes(config)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.is_dir())


def check_writable() -> Iterator[Finding]:
    """Whether files can be made in the workspace, by making one: rights alone do not tell (read-only disks, root)."""
    for place in (Path.cwd(), *(Path.cwd() / name for name in FOLDERS)):
        if os.path.lexists(place) and not place.is_dir():
            text = "a file, or a link that leads nowhere, stands where the recipe needs a folder"
            yield Finding(SECTION, "error", "workspace", place.name, text, "Give it another name")
        elif place.is_dir():
            try:
                with tempfile.TemporaryFile(dir=place):
                    pass
            except OSError as error:
                text = f"nothing can be written there ({reason_of(error, place)})"
                remedy = "Allow writing there, or use a workspace elsewhere"
                yield Finding(SECTION, "error", "workspace", str(place), text, remedy)
