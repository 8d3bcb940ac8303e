"""`fcpe`: a fast network on a mel spectrum. Two have that name: so-vits-svc's own (PCmer) runs where pretrain/fcpe.pt
is there, else the released one, convolutional, which the package torchfcpe carries."""

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from modules.audio.mel import vocoder_mel
from modules.audio.torchaudio_compat import import_torchfcpe
from modules.config.audio import AudioSpec
from modules.errors import CheckpointError, ConfigError
from modules.f0._networks.pcmer import Pcmer, PcmerSizes
from modules.f0.base import PREDICTORS, package_version, sample_curve
from modules.f0.decode import cents_to_hz, local_average
from modules.f0.network import NetworkPredictor, load_network
from modules.pretrained.catalogue import weights_of
from modules.pretrained.find import checksum, find
from modules.weights.foreign import load_foreign, plain
from modules.weights.state_dict import tensors_of

logger = logging.getLogger(__name__)

# Fields of AudioSpec by their names in a checkpoint's config.
_CONFIG_NAMES = {"hop_length": "hop_size", "win_length": "win_size", "n_mels": "num_mels"}


@PREDICTORS.register("fcpe")
class FcpePredictor(NetworkPredictor):
    """As exact as the slow ones, quick on a CPU. The log says once which of the two networks runs.

    Attention and normalisation take in all of a window, so the scores of a wave of more than 60 s differ from those of
    the wave at once, by about 0.01.

    Source: Luo, Liu, Zhang and others, "FCPE: A Fast Context-based Pitch Estimation Model", 2025, arXiv 2509.15140.
    """

    name = "fcpe"

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        path = _own_file()
        self._is_released = self.has_default_limits = path is None
        if self._is_released:
            with _quiet():
                self._network = import_torchfcpe().spawn_bundled_infer_model(device=str(self.device))
        else:
            self._network, self.spectrum = _load_own(path)
            self._network.to(self.device)
        _log_once("fcpe: the network of torchfcpe" if path is None else f"fcpe: so-vits-svc's network, {path}")

    @classmethod
    def identity(cls) -> str:
        """Name and checksum of the file, or version of the package, whichever would run."""
        return f"{cls.name}:{package_version('torchfcpe') if _own_file() is None else checksum(*weights_of('fcpe'))}"

    def track(self, wav: np.ndarray, n_frames: int) -> np.ndarray:
        """The curve of the released network is read between its frames and always within the limits."""
        if not self._is_released:
            return super().track(wav, n_frames)
        native = self.track_native(wav)
        native = np.where(native < self.f0_min, 0.0, np.minimum(native, self.f0_max))
        hop_seconds = self.spectrum.hop_length / self.spectrum.sampling_rate
        return sample_curve(native, hop_seconds, np.arange(n_frames) * self.hop_seconds)

    def track_window(self, wav: torch.Tensor) -> torch.Tensor:
        """The weighted mean around the best bin; 0 where its score is at most the threshold."""
        if not self._is_released:
            cents = local_average(self.salience(wav), self._network.cent_table, self.threshold, repeat_edge=True)
            return cents_to_hz(cents)
        audio = wav.clamp(-1, 1)[None, :, None]
        with torch.inference_mode(), _quiet():
            return self._network(audio, self.audio.sampling_rate, "local_argmax", self.threshold)[0, :, 0]

    @torch.inference_mode()
    def salience(self, wav: torch.Tensor) -> torch.Tensor:
        """Scores (n, 360) of so-vits-svc's network for a wave (t,) at the model's rate."""
        mel = vocoder_mel(self.resample(wav), self.spectrum)
        # so-vits-svc wants a frame more than there are hops, and repeats the last one.
        return self._network(F.pad(mel[None], (0, 1), mode="replicate"))[0]


def _own_file() -> Path | None:
    return find(weights_of("fcpe")[0].path)


def _load_own(path: Path) -> tuple[Pcmer, AudioSpec]:
    """so-vits-svc's network and the spectrum in its `config`; what that does not say is as in the published one."""
    content = load_foreign(path)
    weights = tensors_of(content)
    network = load_network(lambda: Pcmer(PcmerSizes.of(weights)), weights, path, "fcpe")
    config = plain(content.get("config", content.get("config_dict")))
    spectrum = FcpePredictor.spectrum
    try:
        mel = config.get("mel", {}) if isinstance(config, dict) else {}
        found = {field: mel.get(_CONFIG_NAMES.get(field, field), value) for field, value in vars(spectrum).items()}
        spectrum = replace(spectrum, **{field: type(getattr(spectrum, field))(value) for field, value in found.items()})
        if spectrum.n_mels != weights["stack.0.weight"].shape[1]:
            raise ValueError(f"{spectrum.n_mels} mel bands, the network takes {weights['stack.0.weight'].shape[1]}")
    except (TypeError, ValueError, AttributeError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: the spectrum in its config cannot be used ({error}). "
            "Get the file with: python pretrain/download.py fcpe"
        ) from None
    return network, spectrum


@cache
def _log_once(text: str) -> None:
    logger.info(text)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Turns what the package prints into debug records."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        yield
    for line in printed.getvalue().splitlines():
        logger.debug("torchfcpe: %s", line.strip())
