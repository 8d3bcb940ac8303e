"""The features of one clip: names, shapes and dtypes, what they depend on, how they are found stale, and read.

    X.wav                the clip
    X.wav.soft.pt        units    (1, D, N') float32 at the encoder's 50 frames a second
    X.wav.f0.npy         f0, uv   (2, N) float32: Hz with gaps filled, and 1 = voiced
    X.spec.pt            spec     (F, N) float32
    X.wav.vol.npy        volume   (N,) float32, where a model uses it
    X.wav.features.json  from which clip and with which settings each was made, and size, time and checksum of each file

and for the diffusion model:

    X.wav.mel.npy        mel        (N, M) float32, natural log, of the vocoder
    X.wav.aug_mel.npy    aug_mel    (N, M) float32, the mel of the augmented clip
    X.wav.aug_vol.npy    aug_volume (N,) float32
    X.wav.aug_shift.npy  aug_shift  (1,) float32, semitones

The last three are one feature, `augmented`. Names and shapes are so-vits-svc's; its pickled files are made again.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from modules.audio.io import probe, read
from modules.config.audio import AudioSpec
from modules.data.clips import COMMAND, path_of, sidecar_of
from modules.data.feature_files import (
    has_seal,
    is_sealed,
    read_file,
    read_numbers,
    read_sidecar,
    require_regular,
    seal_of,
    stamp_of,
    write_file,
)
from modules.errors import AudioError, DataError, reason_of
from modules.f0.base import DEFAULT_THRESHOLD
from modules.f0.limits import F0_MAX, F0_MIN
from modules.files import atomic_path, sha256_of, write_json
from modules.weights.upstream import dump_for_upstream

DIFFUSION_COMMAND = COMMAND + " --use_diff"
NAMES = ("units", "f0", "spec", "volume")
DIFFUSION_NAMES = ("units", "f0", "volume", "mel", "augmented")
# Raise a number when the way that a feature is computed changes; stored ones are then made again.
VERSIONS = {"units": 1, "f0": 2, "spec": 1, "volume": 1, "mel": 1, "augmented": 1}
_TOLERANCE_FRAMES = 3  # features of one clip may differ by less than this; they are cut to the shortest
_ENCODER_FRAMES_PER_SECOND = 50
_AUGMENTED = ("aug_mel", "aug_volume", "aug_shift")
_COMPARED = ("version", *AudioSpec.__dataclass_fields__)  # what readers hold against the config
Value = torch.Tensor | np.ndarray | tuple  # of a feature, as `store` takes it


class AbsentFeatures(DataError):
    """Features that nobody has made yet, or that are gone."""


class StaleFeatures(DataError):
    """Features of a clip that has changed since, or made with other settings."""


@dataclass(frozen=True)
class FeatureRecipe:
    """Everything that features depend on besides the clip."""

    encoder: str  # `encoder_identity(name)`: the name and the checksum of its weights
    predictor: str  # `predictor_identity(name)`: the name and its version or checksum
    audio: AudioSpec  # the model's rate and spectrum
    with_volume: bool = False
    mel: AudioSpec | None = None  # the vocoder's, where the diffusion model is trained too; that needs volume as well
    seed: int = 0  # of the augmented clips
    unit_width: int | None = None  # D; None is any
    f0_min: float = F0_MIN  # Hz, where pitch is looked for
    f0_max: float = F0_MAX

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
        pitch = {"predictor": self.predictor, "threshold": DEFAULT_THRESHOLD}
        pitch |= {"f0_min": self.f0_min, "f0_max": self.f0_max}
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
    """One clip as training needs it, all float32 on the CPU and cut to the same N frames; None is not wanted."""

    units: torch.Tensor  # (D, N'), not aligned
    f0: torch.Tensor  # (N,) Hz, gaps filled
    uv: torch.Tensor  # (N,), 1 = voiced
    spec: torch.Tensor | None = None  # (F, N)
    volume: torch.Tensor | None = None  # (N,)
    wav: torch.Tensor | None = None  # (N * hop_length,), up to 3 hops shorter at the end
    mel: torch.Tensor | None = None  # (M, N) natural log, as all below for the diffusion model
    aug_mel: torch.Tensor | None = None  # (M, N) of the augmented clip
    aug_volume: torch.Tensor | None = None  # (N,)
    aug_shift: float = 0.0  # semitones by which the augmented clip is higher


def missing(wav_path: Path, recipe: FeatureRecipe) -> list[str]:
    """Names of the features that are absent or unusable, or were made from another clip or with other settings.

    A file is read whole only where its size or time is not what the sidecar says: 1000 clips take seconds, not minutes.
    """
    wanted = recipe.by_feature()
    try:
        stored = read_sidecar(wav_path)
        if not stored or not _is_current(stored, wav_path):
            return list(wanted)
        n_samples = probe(wav_path).n_samples
    except (AudioError, DataError):  # whoever makes the features says so
        return list(wanted)
    return [
        name
        for name, part in wanted.items()
        if stored["features"].get(name) != part or not _is_usable(wav_path, name, recipe, n_samples, stored["files"])
    ]


def check_features(wav_path: Path, recipe: FeatureRecipe) -> None:
    """Refuses what `load` and `load_diffusion` would refuse, as quickly as `missing`: AbsentFeatures, StaleFeatures, or
    another DataError where they are damaged. The F0 predictor, the exact weights and the seed may be others."""
    names = list(recipe.by_feature())
    _check_sidecar(wav_path, names, recipe)
    seals, n_samples = read_sidecar(wav_path)["files"], probe(wav_path).n_samples
    for name in names:
        files = {file: path_of(wav_path, file) for file in _files_of(name)}
        if gone := [path for path in files.values() if not os.path.lexists(path)]:
            raise _rebuild(gone[0], "is missing", recipe, AbsentFeatures)
        as_made = all(has_seal(path, seals.get(file)) for file, path in files.items())
        _read_features(wav_path, [name], recipe, n_samples, numbers=not as_made)


def _is_usable(wav_path: Path, name: str, recipe: FeatureRecipe, n_samples: int, seals: dict) -> bool:
    try:
        as_made = all(has_seal(path_of(wav_path, file), seals.get(file)) for file in _files_of(name))
        _read_features(wav_path, [name], recipe, n_samples, numbers=not as_made)
        return True
    except (DataError, OSError):
        return False


def edited_files(wav_path: Path) -> list[Path]:
    """Files of features that are there, but not as they were made for this clip."""
    seals = read_sidecar(wav_path).get("files", {})
    paths = {path_of(wav_path, file): seals.get(file) for name in VERSIONS for file in _files_of(name)}
    return [path for path, seal in paths.items() if is_sealed(seal) and path.is_file() and not has_seal(path, seal)]


def store(wav_path: Path, recipe: FeatureRecipe, made: dict[str, Value | Callable[[], Value]]) -> None:
    """Writes features of a clip as `ClipFeatures` has them; `f0` as (2, N), `augmented` as `augment` gives it.

    What can be called is made when its turn comes and let go when it is written: a long clip never has all of its
    features in memory.
    """
    wanted, stat = recipe.by_feature(), wav_path.stat()
    clip = {"wav_sha256": sha256_of(wav_path), "wav_stat": [stat.st_size, stat.st_mtime_ns]}
    stored = read_sidecar(wav_path)
    is_same = stored.get("wav_sha256") == clip["wav_sha256"]
    # A feature leaves the sidecar before its file is replaced and is entered afterwards: whenever this is interrupted,
    # what the sidecar lists is whole and right.
    entries = {name: entry for name, entry in stored["features"].items() if name not in made} if is_same else {}
    stamps = stored["files"] if is_same else {}
    if stored:
        write_json(sidecar_of(wav_path), {**clip, "features": entries, "files": stamps})
    for name, value in made.items():
        _write(wav_path, name, value() if callable(value) else value)
    entries.update({name: wanted[name] for name in made})
    stamps = stamps | {file: seal_of(path_of(wav_path, file)) for name in made for file in _files_of(name)}
    write_json(sidecar_of(wav_path), {**clip, "features": entries, "files": stamps})


def _write(wav_path: Path, name: str, value: Value) -> None:
    if name == "augmented":
        mel, volume, key_shift = value
        for file, part in zip(_AUGMENTED, (mel.T, volume, [key_shift]), strict=True):
            write_file(wav_path, file, part)
    else:
        write_file(wav_path, name, value[None] if name == "units" else value.T if name == "mel" else value)


def export_augmented(wav_path: Path) -> None:
    """Rewrites X.wav.aug_mel.npy as so-vits-svc 4.1 reads it: the mel and the key shift as two Python objects.

    That is a pickle, which nothing here reads: the sidecar forgets the feature, and it is made again when it is wanted.
    """
    pair = np.empty(2, object)
    pair[0] = read_file(wav_path, "aug_mel", (None, None)).numpy()
    pair[1] = float(read_file(wav_path, "aug_shift", (1,)))
    stored = read_sidecar(wav_path)
    del stored["features"]["augmented"]
    stored["files"] = {file: seal for file, seal in stored["files"].items() if file not in _AUGMENTED}
    write_json(sidecar_of(wav_path), stored)
    with atomic_path(path_of(wav_path, "aug_mel")) as temporary, temporary.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": pair.shape}
        np.lib.format.write_array_header_1_0(file, header)
        dump_for_upstream(pair, file)


def load(wav_path: Path, audio: AudioSpec, encoder: str, with_volume: bool = False) -> ClipFeatures:
    """A clip and its features for the voice model, checked against each other and against the config."""
    recipe = FeatureRecipe(f"{encoder}:", "", audio, with_volume)
    names = list(recipe.by_feature())
    _check_sidecar(wav_path, names, recipe)
    wav = torch.from_numpy(read_clip(wav_path, audio))
    found = _read_features(wav_path, names, recipe, len(wav))
    return ClipFeatures(**found, wav=wav[: found["f0"].shape[-1] * audio.hop_length])


def load_diffusion(
    wav_path: Path, audio: AudioSpec, mel: AudioSpec, encoder: str, with_augmented: bool = True
) -> ClipFeatures:
    """The features of a clip for the diffusion model, as `load`; the clip's samples are not read."""
    recipe = FeatureRecipe(f"{encoder}:", "", audio, mel=mel)
    names = [name for name in DIFFUSION_NAMES if with_augmented or name != "augmented"]
    _check_sidecar(wav_path, names, recipe)
    return ClipFeatures(**_read_features(wav_path, names, recipe, probe(wav_path).n_samples))


def load_units(wav_path: Path, encoder: str | None = None) -> np.ndarray:
    """Units of a clip, (N', D) float32, also of other tools, unless they are known to be of another encoder or clip."""
    path, stored = path_of(wav_path, "units"), read_sidecar(wav_path)
    if stored and not _is_current(stored, wav_path):
        raise _rebuild(path, f"is stale: {wav_path.name} has changed since it was made")
    made_by = str(stored.get("features", {}).get("units", {}).get("encoder", "")).split(":")[0]
    if encoder and made_by and made_by != encoder:
        raise _rebuild(path, f"is stale: made with the encoder {made_by}, not {encoder}")
    found = read_file(wav_path, "units", (1, None, None), numbers=False)
    _check_units_length(path, found, probe(wav_path).seconds)
    return np.ascontiguousarray(read_numbers(wav_path, "units", found)[0].T.numpy())


def read_pitch(wav_path: Path) -> torch.Tensor:
    """The stored pitch of a clip, (2, N) float32: Hz with gaps filled, and 1 = voiced; not compared with the clip."""
    return read_file(wav_path, "f0", (2, None))


def read_volume(wav_path: Path) -> torch.Tensor:
    """The stored volume of a clip, (N,) float32, linear; not compared with the clip."""
    return read_file(wav_path, "volume", (None,))


def read_clip(wav_path: Path, audio: AudioSpec) -> np.ndarray:
    """The clip itself, (T,) float32."""
    wav, rate = read(wav_path)
    if rate != audio.sampling_rate:
        raise DataError(
            f"{wav_path}: has {rate} Hz, but data.sampling_rate of the config is {audio.sampling_rate}. "
            f"Make the clips again with: python resample.py --sr2 {audio.sampling_rate}"
        )
    shortest = (audio.n_fft - audio.hop_length) // 2 + 1
    if len(wav) < max(shortest, audio.hop_length):
        raise AudioError(f"{wav_path}: {len(wav)} samples are too short; remove the file")
    return wav


def _files_of(name: str) -> tuple[str, ...]:
    return _AUGMENTED if name == "augmented" else (name,)


def _read_features(
    wav_path: Path, names: list[str], recipe: FeatureRecipe, n_samples: int, numbers: bool = True
) -> dict[str, torch.Tensor | float]:
    """Features by the fields of `ClipFeatures`, cut to the same frames; refuses any whose length is not the clip's.

    Without `numbers` these are neither read nor checked.
    """
    n_mels, command = recipe.mel and recipe.mel.n_mels, _command(recipe)
    shapes = {"units": (1, recipe.unit_width, None), "f0": (2, None), "spec": (recipe.audio.n_freqs, None)}
    shapes |= {"mel": (None, n_mels), "aug_mel": (None, n_mels), "aug_shift": (1,)}
    files = [file for name in names for file in _files_of(name)]
    found = {file: read_file(wav_path, file, shapes.get(file, (None,)), command, numbers=False) for file in files}
    lengths = {file: tensor.shape[0 if "mel" in file else -1] for file, tensor in found.items() if file != "aug_shift"}
    if lengths.pop("units", None):
        seconds = n_samples / recipe.audio.sampling_rate
        _check_units_length(path_of(wav_path, "units"), found["units"], seconds, recipe)
    n_frames = recipe.audio.n_frames(n_samples)
    for file, length in lengths.items():
        if abs(length - n_frames) >= _TOLERANCE_FRAMES:
            raise _rebuild(path_of(wav_path, file), f"has {length} frames, {n_frames} are expected", recipe)
    if numbers:  # only now: a file of a wrong length may be larger than the memory
        found = {file: read_numbers(wav_path, file, tensor, command) for file, tensor in found.items()}
    n = min(lengths.values(), default=0)
    cut = {file: (found[file].T if "mel" in file else found[file])[..., :n] for file in lengths}
    if "f0" in cut:
        cut["f0"], cut["uv"] = cut["f0"]
    if "units" in found:
        cut["units"] = found["units"][0]
    if "aug_shift" in found:
        cut["aug_shift"] = float(found["aug_shift"])
    return cut


def _check_units_length(path: Path, units: torch.Tensor, seconds: float, recipe: FeatureRecipe | None = None) -> None:
    n_units, expected = units.shape[-1], seconds * _ENCODER_FRAMES_PER_SECOND
    if abs(n_units - expected) > _TOLERANCE_FRAMES:
        raise _rebuild(path, f"has {n_units} frames, about {expected:.0f} are expected", recipe)


def _check_sidecar(wav_path: Path, names: list[str], recipe: FeatureRecipe) -> None:
    """Compares what the sidecar says with what is wanted; the F0 predictor, exact weights and seed may be others."""
    stored, wanted = read_sidecar(wav_path), recipe.by_feature()
    if not stored:
        raise _rebuild(wav_path, "has no features yet, or ones made by another tool", recipe, AbsentFeatures)
    if not _is_current(stored, wav_path):
        raise _rebuild(wav_path, "has changed since its features were made", recipe, StaleFeatures)
    for name in names:
        path = path_of(wav_path, "aug_mel" if name == "augmented" else name)
        part, found = wanted[name], stored["features"].get(name)
        if found is None:
            raise _rebuild(path, "is missing", recipe, AbsentFeatures)
        made_by = str(found.get("encoder", "")).split(":")[0]
        if name == "units" and made_by != recipe.encoder_name:
            problem = f"is stale: made with the encoder {made_by}, not {recipe.encoder_name}"
            raise _rebuild(path, problem, recipe, StaleFeatures)
        differing = [key for key in part if key in _COMPARED and found.get(key) != part[key]]
        if differing:
            before = ", ".join(f"{key} {found.get(key)}" for key in differing)
            now = ", ".join(str(part[key]) for key in differing)
            whose = "for a vocoder with" if name in ("mel", "augmented") else "with"
            raise _rebuild(path, f"is stale: made {whose} {before}, not {now}", recipe, StaleFeatures)


def _is_current(stored: dict, wav_path: Path) -> bool:
    """Whether the features are of the clip as it is: by size and time, or by content where these differ (a copy)."""
    try:
        if stored.get("wav_stat") == (stamp_of(wav_path) or "none"):
            return True
        require_regular(wav_path)
        return stored.get("wav_sha256") == sha256_of(wav_path)
    except OSError as error:
        raise AudioError(f"{wav_path}: cannot be read ({reason_of(error, wav_path)})") from None


def _command(recipe: FeatureRecipe | None) -> str:
    return DIFFUSION_COMMAND if recipe is not None and recipe.mel is not None else COMMAND


def _rebuild(
    path: Path, problem: str, recipe: FeatureRecipe | None = None, kind: type[DataError] = DataError
) -> DataError:
    return kind(f"{path}: {problem}. Make it again with: {_command(recipe)}")
