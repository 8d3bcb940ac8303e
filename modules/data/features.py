"""The features of one clip: how they are stored, found stale, and read. Owns every name, shape and dtype.

    X.wav                the clip
    X.wav.soft.pt        units    (1, D, N') float32 at the encoder's 50 frames a second
    X.wav.f0.npy         f0, uv   (2, N) float32: Hz with gaps filled, and 1 = voiced
    X.spec.pt            spec     (F, N) float32
    X.wav.vol.npy        volume   (N,) float32, where a model uses it
    X.wav.features.json  from which clip and with which settings each was made

and for the diffusion model:

    X.wav.mel.npy        mel        (N, M) float32, natural log, of the vocoder
    X.wav.aug_mel.npy    aug_mel    (N, M) float32, the mel of the augmented clip
    X.wav.aug_vol.npy    aug_volume (N,) float32
    X.wav.aug_shift.npy  aug_shift  (1,) float32, semitones

The last three are one feature, `augmented`: they are made together or not at all. Names and shapes are so-vits-svc's;
its f0 and aug_mel were pickled objects (the key shift was inside), which are not read here but made again.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from modules.audio.io import probe, read
from modules.config.audio import AudioSpec
from modules.data.augmentation import Augmented
from modules.errors import AudioError, DataError
from modules.f0.base import DEFAULT_THRESHOLD
from modules.f0.convert import F0_MAX, F0_MIN
from modules.files import atomic_path, is_zip, sha256_of, write_json

COMMAND = "python preprocess_hubert_f0.py"
DIFFUSION_COMMAND = COMMAND + " --use_diff"
NAMES = ("units", "f0", "spec", "volume")
DIFFUSION_NAMES = ("units", "f0", "volume", "mel", "augmented")
# Raise a number when the way that a feature is computed changes; stored ones are then made again.
VERSIONS = {"units": 1, "f0": 1, "spec": 1, "volume": 1, "mel": 1, "augmented": 1}
_TOLERANCE_FRAMES = 3  # features of one clip may differ by less than this; they are cut to the shortest
_ENCODER_FRAMES_PER_SECOND = 50
_ENDINGS = {"units": ".soft.pt", "f0": ".f0.npy", "volume": ".vol.npy", "mel": ".mel.npy"}
_ENDINGS |= {"aug_mel": ".aug_mel.npy", "aug_volume": ".aug_vol.npy", "aug_shift": ".aug_shift.npy"}
_COMPARED = ("version", *AudioSpec.__dataclass_fields__)  # what readers hold against the config
_AUGMENTED_FILES = ("aug_mel", "aug_volume", "aug_shift")


@dataclass(frozen=True)
class FeatureRecipe:
    """Everything that features depend on besides the clip.

    Args:
        encoder: `encoder_identity(name)`, the encoder's name and the checksum of its weights.
        predictor: `predictor_identity(name)`, the predictor's name and its version or checksum.
        audio: the model's rate and spectrum.
        with_volume: whether a loudness curve is wanted.
        threshold, f0_min, f0_max: as the predictor is built.
        mel: the vocoder's mel, where features of the diffusion model are wanted; it wants a loudness curve too.
        seed: decides what is drawn for the augmented clips.
    """

    encoder: str
    predictor: str
    audio: AudioSpec
    with_volume: bool = False
    threshold: float = DEFAULT_THRESHOLD
    f0_min: float = F0_MIN
    f0_max: float = F0_MAX
    mel: AudioSpec | None = None
    seed: int = 0

    @property
    def encoder_name(self) -> str:
        """The encoder's name."""
        return self.encoder.split(":")[0]

    @property
    def predictor_name(self) -> str:
        """The predictor's name."""
        return self.predictor.split(":")[0]

    def by_feature(self) -> dict[str, dict]:
        """What each wanted feature depends on, as JSON stores it."""
        audio = asdict(self.audio)
        frames = {key: audio[key] for key in ("sampling_rate", "hop_length")}
        pitch = {key: getattr(self, key) for key in ("predictor", "threshold", "f0_min", "f0_max")}
        parts = {
            "units": {"encoder": self.encoder, "sampling_rate": audio["sampling_rate"]},
            "f0": {**pitch, **frames},
            "spec": {**frames, "n_fft": audio["n_fft"], "win_length": audio["win_length"]},
            "volume": frames,
        }
        if self.mel is not None:
            parts |= {"mel": asdict(self.mel), "augmented": {**asdict(self.mel), "seed": self.seed}}
        elif not self.with_volume:
            del parts["volume"]
        return {name: {"version": VERSIONS[name], **part} for name, part in parts.items()}


@dataclass(frozen=True)
class ClipFeatures:
    """One clip as training needs it, all on the CPU and cut to the same N frames.

    Args:
        units: (D, N') float32, not aligned.
        f0: (N,) float32 Hz.
        uv: (N,) float32, 1 = voiced.
        spec: (F, N) float32.
        volume: (N,) float32, or None.
        wav: (N * hop_length,) float32, up to 3 hops shorter at the end.
    """

    units: torch.Tensor
    f0: torch.Tensor
    uv: torch.Tensor
    spec: torch.Tensor
    volume: torch.Tensor | None
    wav: torch.Tensor


@dataclass(frozen=True)
class DiffusionFeatures:
    """One clip as training of the diffusion model needs it, all on the CPU and cut to the same N frames.

    Args:
        units: (D, N') float32, not aligned.
        f0: (N,) float32 Hz, gaps filled.
        volume: (N,) float32.
        mel: (M, N) float32, natural log.
        aug_mel: (M, N) float32 of the augmented clip, or None.
        aug_volume: (N,) float32 of the augmented clip, or None.
        aug_shift: semitones by which the augmented clip is higher; 0 without one.
    """

    units: torch.Tensor
    f0: torch.Tensor
    volume: torch.Tensor
    mel: torch.Tensor
    aug_mel: torch.Tensor | None = None
    aug_volume: torch.Tensor | None = None
    aug_shift: float = 0.0


def path_of(wav_path: Path, name: str) -> Path:
    """Where a file of features lies: one of the names that this file's docstring lists."""
    return wav_path.with_suffix(".spec.pt") if name == "spec" else wav_path.with_name(wav_path.name + _ENDINGS[name])


def files_of(wav_path: Path, name: str) -> list[Path]:
    """The files of one feature of a recipe."""
    return [path_of(wav_path, part) for part in (_AUGMENTED_FILES if name == "augmented" else (name,))]


def missing(wav_path: Path, recipe: FeatureRecipe) -> list[str]:
    """Names of the features that are absent, or were made from another clip or with other settings."""
    stored = _read_sidecar(wav_path)
    current = stored.get("features", {}) if stored.get("wav_sha256") == sha256_of(wav_path) else {}
    wanted = recipe.by_feature()
    return [
        name
        for name in wanted
        if current.get(name) != wanted[name] or not all(_is_whole(path) for path in files_of(wav_path, name))
    ]


def store(wav_path: Path, recipe: FeatureRecipe, made: dict[str, torch.Tensor | np.ndarray | Augmented]) -> None:
    """Writes features of a clip.

    A feature is struck off the sidecar before its file is replaced and entered after: whenever this is interrupted,
    what the sidecar lists is whole and right.

    Args:
        wav_path: the clip.
        recipe: how they were made.
        made: name -> what `ClipFeatures` and `DiffusionFeatures` hold; `f0` as (2, N), pitch and voicing.
    """
    digest, stored, wanted = sha256_of(wav_path), _read_sidecar(wav_path), recipe.by_feature()
    entries = stored.get("features", {}) if stored.get("wav_sha256") == digest else {}
    entries = {name: entry for name, entry in entries.items() if name not in made}
    if stored:
        write_json(_sidecar(wav_path), {"wav_sha256": digest, "features": entries})
    for name, value in made.items():
        if name in ("units", "spec"):
            _save_tensor(path_of(wav_path, name), value[None] if name == "units" else value)
        elif name == "mel":
            _save_array(path_of(wav_path, "mel"), value.T.numpy())
        elif name == "augmented":
            _save_array(path_of(wav_path, "aug_mel"), value.mel.T.numpy())
            _save_array(path_of(wav_path, "aug_volume"), value.volume.numpy())
            _save_array(path_of(wav_path, "aug_shift"), np.array([value.key_shift]))
        else:
            _save_array(path_of(wav_path, name), value)
    entries.update({name: wanted[name] for name in made})
    write_json(_sidecar(wav_path), {"wav_sha256": digest, "features": entries})


def load(wav_path: Path, audio: AudioSpec, encoder: str, with_volume: bool = False) -> ClipFeatures:
    """A clip and its features, checked against each other and against the config.

    Args:
        wav_path: the clip.
        audio: the config's rate and spectrum.
        encoder: the config's `model.speech_encoder`.
        with_volume: the config's `model.vol_embedding`.

    Raises:
        DataError: a feature is missing, stale, damaged, of the wrong shape or not finite; the text names the command.
        AudioError: the clip itself cannot be read.
    """
    _check_sidecar(wav_path, FeatureRecipe(f"{encoder}:", "", audio, with_volume).by_feature())
    wav = torch.from_numpy(read_clip(wav_path, audio))
    units = _read_tensor(wav_path, "units", 3)[0]
    pitch = read_pitch(wav_path)
    spec = _read_tensor(wav_path, "spec", 2)
    volume = _read_array(wav_path, "volume", 1) if with_volume else None
    if spec.shape[0] != audio.n_freqs:
        raise _rebuild(path_of(wav_path, "spec"), f"has the shape {tuple(spec.shape)}")
    lengths = {"f0": pitch.shape[1], "spec": spec.shape[1]} | ({} if volume is None else {"volume": len(volume)})
    n = _common_frames(wav_path, audio, len(wav), units.shape[1], lengths)
    return ClipFeatures(
        units=units,
        f0=pitch[0, :n],
        uv=pitch[1, :n],
        spec=spec[:, :n],
        volume=None if volume is None else volume[:n],
        wav=wav[: n * audio.hop_length],
    )


def load_units(wav_path: Path, encoder: str | None = None) -> np.ndarray:
    """Units of a clip, (N', D) float32, of this tool or of another that stores them alike.

    Args:
        wav_path: the clip; it is not read.
        encoder: refuses units that are known to come from another one.

    Raises:
        DataError: missing, damaged, of the wrong shape, not finite or stale; the text names the command.
    """
    path, entry = path_of(wav_path, "units"), _read_sidecar(wav_path).get("features", {}).get("units", {})
    made_by = str(entry.get("encoder", "")).split(":")[0]
    if encoder and made_by and made_by != encoder:
        raise _rebuild(path, f"is stale: made with the encoder {made_by}, not {encoder}")
    units = _read_tensor(wav_path, "units", 3)
    if units.shape[0] != 1:
        raise _rebuild(path, f"has the shape {tuple(units.shape)}")
    return np.ascontiguousarray(units[0].T.numpy())


def load_diffusion(
    wav_path: Path, audio: AudioSpec, mel: AudioSpec, encoder: str, with_augmented: bool = True
) -> DiffusionFeatures:
    """The features of a clip for the diffusion model, checked against each other and against the configs.

    Args:
        wav_path: the clip; its samples are not read.
        audio: rate and spectrum of the model's config.
        mel: the vocoder's mel, with the same rate and hop.
        encoder: the config's `model.speech_encoder`.
        with_augmented: whether the augmented version is wanted too.

    Raises:
        DataError: a feature is missing, stale, damaged, of the wrong shape or not finite; the text names the command.
        AudioError: the clip itself cannot be read.
    """
    command = DIFFUSION_COMMAND
    wanted = FeatureRecipe(f"{encoder}:", "", audio, mel=mel).by_feature()
    names = [name for name in DIFFUSION_NAMES if with_augmented or name != "augmented"]
    _check_sidecar(wav_path, {name: wanted[name] for name in names}, command)
    units = _read_tensor(wav_path, "units", 3, command)[0]
    pitch = read_pitch(wav_path, command)
    curves = {"f0": pitch[0], "volume": _read_array(wav_path, "volume", 1, command)}
    curves["mel"] = _read_mel(wav_path, "mel", mel.n_mels)
    shift = 0.0
    if with_augmented:
        curves["aug_mel"] = _read_mel(wav_path, "aug_mel", mel.n_mels)
        curves["aug_volume"] = _read_array(wav_path, "aug_volume", 1, command)
        found = _read_array(wav_path, "aug_shift", 1, command)
        if len(found) != 1:
            raise _rebuild(path_of(wav_path, "aug_shift"), f"has the shape {tuple(found.shape)}", command)
        shift = float(found[0])
    lengths = {name: curve.shape[-1] for name, curve in curves.items()}
    n = _common_frames(wav_path, audio, probe(wav_path).n_samples, units.shape[1], lengths, command)
    return DiffusionFeatures(units, **{name: curve[..., :n] for name, curve in curves.items()}, aug_shift=shift)


def read_pitch(wav_path: Path, command: str = COMMAND) -> torch.Tensor:
    """The stored pitch of a clip, (2, N) float32: Hz with gaps filled, and 1 = voiced; not compared with the clip.

    Raises:
        DataError: it is missing, damaged, of the wrong shape or not finite; the text names `command`.
    """
    pitch = _read_array(wav_path, "f0", 2, command)
    if pitch.shape[0] != 2:
        raise _rebuild(path_of(wav_path, "f0"), f"has the shape {tuple(pitch.shape)}", command)
    return pitch


def read_clip(wav_path: Path, audio: AudioSpec) -> np.ndarray:
    """The clip itself, (T,) float32.

    Raises:
        AudioError: it cannot be read, or is too short.
        DataError: it has another rate than the config.
    """
    wav, rate = read(wav_path)
    if rate != audio.sampling_rate:
        raise DataError(
            f"{wav_path}: has {rate} Hz, but data.sampling_rate of the config is {audio.sampling_rate}. "
            f"Make the clips again with: python resample.py --sr2 {audio.sampling_rate}"
        )
    shortest = (audio.n_fft - audio.hop_length) // 2 + 1
    if len(wav) < max(shortest, audio.hop_length):
        raise AudioError(f"{wav_path}: {len(wav)} samples are too short; remove the file")
    if not np.isfinite(wav).all():
        raise AudioError(f"{wav_path}: holds samples that are not finite; remove the file")
    return wav


def _common_frames(
    wav_path: Path, audio: AudioSpec, n_samples: int, n_units: int, lengths: dict[str, int], command: str = COMMAND
) -> int:
    """The frames that all features have; refuses one whose length is not the clip's."""
    expected = n_samples / audio.sampling_rate * _ENCODER_FRAMES_PER_SECOND
    if abs(n_units - expected) > _TOLERANCE_FRAMES:
        problem = f"has {n_units} frames, about {expected:.0f} are expected"
        raise _rebuild(path_of(wav_path, "units"), problem, command)
    n_frames = audio.n_frames(n_samples)
    for name, length in lengths.items():
        if abs(length - n_frames) >= _TOLERANCE_FRAMES:
            raise _rebuild(path_of(wav_path, name), f"has {length} frames, {n_frames} are expected", command)
    return min(lengths.values())


def _save_tensor(path: Path, tensor: torch.Tensor) -> None:
    with atomic_path(path) as temporary:
        torch.save(tensor.float().cpu().contiguous().clone(), temporary)


def _save_array(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        np.save(temporary, np.ascontiguousarray(array, np.float32), allow_pickle=False)


def _read_tensor(wav_path: Path, name: str, n_dims: int, command: str = COMMAND) -> torch.Tensor:
    path = path_of(wav_path, name)
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise _rebuild(path, "is missing", command) from None
    except Exception:  # damaged bytes raise a dozen kinds: IndexError, AssertionError, struct.error, ...
        raise _rebuild(path, "is damaged", command) from None
    if not isinstance(tensor, torch.Tensor):
        raise _rebuild(path, f"holds a {type(tensor).__name__}", command)
    return _checked(path, tensor, n_dims, command)


def _read_array(wav_path: Path, name: str, n_dims: int, command: str = COMMAND) -> torch.Tensor:
    path = path_of(wav_path, name)
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise _rebuild(path, "is missing", command) from None
    except (ValueError, EOFError, OSError) as error:
        is_pickle = "allow_pickle" in str(error) or "Object arrays" in str(error)
        problem = "is in so-vits-svc's pickled form, which could run code" if is_pickle else "is damaged"
        raise _rebuild(path, problem, command) from None
    if array.dtype.kind not in "fiu":
        raise _rebuild(path, f"holds {array.dtype}", command)
    return _checked(path, torch.from_numpy(array), n_dims, command)


def _read_mel(wav_path: Path, name: str, n_mels: int) -> torch.Tensor:
    """(M, N), stored the other way round."""
    mel = _read_array(wav_path, name, 2, DIFFUSION_COMMAND).T
    if mel.shape[0] != n_mels:
        raise _rebuild(path_of(wav_path, name), f"has {mel.shape[0]} mel bands, not {n_mels}", DIFFUSION_COMMAND)
    return mel


def _checked(path: Path, tensor: torch.Tensor, n_dims: int, command: str) -> torch.Tensor:
    if tensor.dim() != n_dims or 0 in tensor.shape:
        raise _rebuild(path, f"has the shape {tuple(tensor.shape)}", command)
    if not tensor.isfinite().all():
        raise _rebuild(path, "holds values that are not finite", command)
    return tensor.float()


def _is_whole(path: Path) -> bool:
    """Whether a file is there and could be read, from its ends alone: neither cut short nor a pickled object."""
    try:
        if path.suffix != ".npy":
            return is_zip(path)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError):
        return False
    return isinstance(array, np.ndarray) and array.dtype.kind in "fiu"


def _check_sidecar(wav_path: Path, wanted: dict[str, dict], command: str = COMMAND) -> None:
    """Compares what the sidecar says with what is wanted; the pitch predictor, exact weights and seed may be others."""
    stored = _read_sidecar(wav_path)
    if not stored:
        raise _rebuild(wav_path, "has no features yet, or ones made by another tool", command)
    try:
        digest = sha256_of(wav_path)
    except OSError as error:
        raise AudioError(f"{wav_path}: cannot be read ({error.strerror})") from None
    if stored.get("wav_sha256") != digest:
        raise _rebuild(wav_path, "has changed since its features were made", command)
    for name, part in wanted.items():
        path, found = files_of(wav_path, name)[0], stored["features"].get(name)
        if found is None:
            raise _rebuild(path, "is missing", command)
        if name == "units":
            made_by, encoder = str(found.get("encoder", "")).split(":")[0], part["encoder"].split(":")[0]
            if made_by != encoder:
                raise _rebuild(path, f"is stale: made with the encoder {made_by}, not {encoder}", command)
        differing = [key for key in part if key in _COMPARED and found.get(key) != part[key]]
        if differing:
            before = ", ".join(f"{key} {found.get(key)}" for key in differing)
            now = ", ".join(str(part[key]) for key in differing)
            whose = "for a vocoder with" if name in ("mel", "augmented") else "with"
            raise _rebuild(path, f"is stale: made {whose} {before}, not {now}", command)


def _sidecar(wav_path: Path) -> Path:
    return wav_path.with_name(wav_path.name + ".features.json")


def _read_sidecar(wav_path: Path) -> dict:
    """The sidecar's content, or nothing where it is absent or not ours."""
    try:
        stored = json.loads(_sidecar(wav_path).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    is_ours = isinstance(stored, dict) and isinstance(stored.get("features"), dict)
    return stored if is_ours and all(isinstance(part, dict) for part in stored["features"].values()) else {}


def _rebuild(path: Path, problem: str, command: str = COMMAND) -> DataError:
    return DataError(f"{path}: {problem}. Make it again with: {command}")
