"""A model that takes a sound apart: loaded from a file of others, and applied to a stream of any length."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modules.batching import halve_on_out_of_memory
from modules.device import WithoutDrawing
from modules.errors import AudioError, CheckpointError, ConfigError, UsageError, UserError, is_out_of_memory
from modules.files import sha256_of
from modules.separation import demucs, roformer
from modules.separation.models import INSTALL, require_networks
from modules.separation.overlap import make_window, overlap_add
from modules.separation.settings import read_yaml, stem_names
from modules.separation.spec import Member, SeparatorSpec
from modules.separation.stages import Stage, choose_stem
from modules.weights.checkpoint import first_line, load_checkpoint, require_readable
from modules.weights.foreign import load_foreign
from modules.weights.state_dict import fit, tensors_of

logger = logging.getLogger(__name__)

_YAML = (".yaml", ".yml")
_GPU_BATCH = 4  # segments at once; halved where memory runs out


class Separator:
    """Networks that take a sound apart into stems.

    Attributes:
        stems: what they give.
        sampling_rate: Hz, of what goes in and comes out.
        label: the file's name, for people.
        stamp: SHA-256 of all that it was loaded from.
    """

    def __init__(
        self, members: list[Member], spec: SeparatorSpec, device: torch.device, label: str, stamp: str = ""
    ) -> None:
        self.stems, self.sampling_rate = spec.stems, spec.sampling_rate
        self.label, self.stamp, self.spec = label, stamp, spec
        self._device, self._members = device, members
        for member in members:
            member.network.eval().to(device)
        self._batch = 1 if device.type == "cpu" else _GPU_BATCH

    def separate(
        self, blocks: Iterable[np.ndarray], stage: Stage, mean: float = 0.0, deviation: float = 1.0, start: int = 0
    ) -> Iterator[np.ndarray]:
        """What the stage wants of a sound, in blocks, from the sample `start` on (a multiple of `spec.hop`).

        Args:
            blocks: (n, C) float32 at `sampling_rate`, of any lengths; C is any number of channels.
            mean: of all samples of the sound, as is `deviation`; networks that were trained so get it at 0 and 1.
        """
        stem, spec = choose_stem(self.stems, stage, self.label), self.spec
        scale = (mean, max(deviation, 1e-8)) if spec.is_normalised else (0.0, 1.0)

        def compute(segments: list[np.ndarray]) -> list[np.ndarray]:
            outputs: list[np.ndarray] = []
            while rest := segments[len(outputs) : len(outputs) + self._batch]:
                outputs += halve_on_out_of_memory(
                    lambda some: self._compute(some, stem.index, stem.is_rest, scale), rest, self._on_halve
                )
            return outputs

        window = make_window(spec.segment, spec.fade)
        outputs = overlap_add(blocks, compute, window, spec.hop, self._batch, start)
        try:
            yield from outputs
        except torch.OutOfMemoryError:
            seconds = spec.segment / spec.sampling_rate
            text = f"{self._device}: not enough memory for {seconds:.1f} s of sound at once"
            raise UserError(f"{text}. Close what else uses it, or take --device cpu.") from None

    @torch.inference_mode()
    def _compute(self, segments: list[np.ndarray], index: int, is_rest: bool, scale: tuple) -> list[np.ndarray]:
        """(segment, C) each; of the stem, or of all but it."""
        n_channels = segments[0].shape[1]
        sound = torch.from_numpy(np.stack(segments)).transpose(1, 2)  # (B, C, T)
        # Stereo networks get channels in pairs, and the last of an odd number, or the only one, twice.
        width = self.spec.channels
        odd = -n_channels % width
        sound = torch.cat([sound, sound[:, n_channels - odd :]], dim=1)
        pairs = sound.reshape(-1, width, sound.shape[-1])
        pairs = ((pairs - scale[0]) / scale[1]).to(self._device)
        shares = [(member, member.weights[index]) for member in self._members if member.weights[index]]
        out = sum(share * self._stems(member, pairs)[:, index] for member, share in shares)
        out = out / sum(share for _, share in shares)
        # The mean of a sound is no part of a voice, and is not added again.
        out = (pairs - out if is_rest else out).float().cpu() * scale[1]
        out = out.reshape(len(segments), -1, out.shape[-1])
        if odd:
            out = torch.cat([out[:, : n_channels - 1], out[:, n_channels - 1 :].mean(dim=1, keepdim=True)], dim=1)
        if not out.isfinite().all():
            raise AudioError(f"{self.label} gives no numbers for this sound. Try another model.")
        return list(out.transpose(1, 2).numpy())

    def _stems(self, member: Member, pairs: torch.Tensor) -> torch.Tensor:
        """(B, stems, channels, T) of a network; one with a single stem gives it without that axis."""
        out = member.network(pairs)
        return out[:, None] if out.ndim == 3 else out

    def _on_halve(self, segments: list[np.ndarray]) -> None:
        self._batch = max(1, len(segments) // 2)
        logger.warning("%s: memory is short; %d segments at once from now on", self._device, self._batch)


def load_separator(path: Path, device: torch.device, config_path: Path | None = None) -> Separator:
    """A separator from a file of Demucs (.th, .safetensors, or the yaml of a bag of them) or of a RoFormer (.ckpt).

    A RoFormer's settings come from `config_path`, or the yaml beside it. Nothing in the files is run; a UserError where
    one is unusable."""
    require_networks()
    path = Path(path)
    require_readable(path)
    if path.suffix.lower() in _YAML:
        members, spec, files = _load_bag(path)
    else:
        network, spec, files = _load_one(path, config_path)
        members = [Member(network, (1.0,) * len(spec.stems))]
    stamp = sha256("".join(sha256_of(file, show=True) for file in files).encode()).hexdigest()
    logger.info("%s: gives %s, at %d Hz, on %s", path, ", ".join(spec.stems), spec.sampling_rate, device)
    return Separator(members, spec, device, path.name, stamp)


def _load_one(path: Path, config: Path | None = None) -> tuple[torch.nn.Module, SeparatorSpec, list[Path]]:
    """The network in a file, with its weights, and the files that it was read from."""
    is_safe = path.suffix == ".safetensors"
    content = load_checkpoint(path) if is_safe else load_foreign(path, demucs.SETTINGS)
    if demucs.is_package(content):
        settings, state = demucs.read_package(content, path)
        with _explained(path):
            network, spec = demucs.build(settings, path)
        return _filled(network, state, path, "the settings in it"), spec, [path]
    tensors = tensors_of(content)
    if not roformer.is_roformer(tensors):
        known = "HTDemucs (.th), BS-RoFormer and MelBand RoFormer (.ckpt with its yaml)"
        raise CheckpointError(f"{path}: is no model for separation that is known here. Known: {known}.")
    config = config or roformer.find_config(path)
    with _explained(config):
        network, spec = roformer.build(config, tensors)
    return _filled(network, tensors, path, config.name), spec, [path, config]


def _load_bag(path: Path) -> tuple[list[Member], SeparatorSpec, list[Path]]:
    """The networks that the yaml of a bag names, from its folder."""
    settings = read_yaml(path)
    if "models" not in settings:
        raise UsageError(f"{path}: is a yaml; name the model, and this one with --config")
    names = stem_names(settings["models"], path)
    files = [_member_file(path, name) for name in names]
    loaded = [_load_one(file) for file in files]
    spec = loaded[0][1]
    if any(other != spec for _, other, _ in loaded):
        raise ConfigError(f"{path}: its models give different stems, or want different sound. Get it again.")
    weights = settings.get("weights") or [[1.0] * len(spec.stems)] * len(files)
    try:
        shares = np.array(weights, dtype=np.float64)
        is_usable = shares.shape == (len(files), len(spec.stems)) and np.isfinite(shares).all() and (shares >= 0).all()
    except (TypeError, ValueError):
        is_usable = False
    if not is_usable or not (shares.sum(axis=0) > 0).all():
        text = f"{path}: its weights are no table of {len(files)} models and {len(spec.stems)} stems"
        raise ConfigError(f"{text}. Get it again.")
    members = [Member(network, tuple(row)) for (network, _, _), row in zip(loaded, shares.tolist(), strict=True)]
    return members, spec, [path, *files]


def _member_file(bag: Path, name: str) -> Path:
    """`NAME.th`, or `NAME-CHECKSUM.th` as it is published, beside the bag's yaml."""
    if not re.fullmatch(r"\w[\w-]*", name):
        raise ConfigError(f"{bag}: {name[:40]!r} is no name of a model. Get it again.")
    endings = (".th", ".safetensors")
    found = [other for other in sorted(bag.parent.glob(f"{name}*")) if other.suffix in endings]
    found = [other for other in found if re.fullmatch(rf"{name}(-[0-9a-f]+)?", other.stem)]
    if not found:
        raise ConfigError(f"{bag}: its model {name}.th is not beside it. Download it to {bag.parent}.")
    return found[0]


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Errors of a network's making become one line on the settings in `path`."""
    try:
        with WithoutDrawing():
            yield
    except UserError:
        raise
    except ImportError as error:
        raise UsageError(f"pymss-core cannot be loaded ({error}). Install it anew: {INSTALL}") from None
    except Exception as error:  # what wrong settings raise in the networks of others: any kind
        reason = "it needs more memory than there is" if is_out_of_memory(error) else first_line(error)
        text = f"{path}: its settings make no network ({reason})"
        raise CheckpointError(f"{text}. Give the ones that the model came with.") from None


def _filled(network: torch.nn.Module, tensors: Mapping[str, Any], path: Path, where: str) -> torch.nn.Module:
    """The network with these weights, which take the place of its own."""
    hint = "Use the settings that were published with this model."
    found = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    fitting = fit(found, network.state_dict(), path, hint, where, no_extra=("",))
    # Copied: the file is mapped into memory, and whoever replaced it would end this process.
    dtypes = {name: torch.float32 if value.is_floating_point() else value.dtype for name, value in fitting.items()}
    network.load_state_dict({name: fitting[name].to(dtype, copy=True) for name, dtype in dtypes.items()}, assign=True)
    return network.requires_grad_(False)
