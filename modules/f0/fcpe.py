"""`fcpe`: a fast network on a mel spectrum. There are two of that name, and the files present decide which one runs.

pretrain/fcpe.pt is there   so-vits-svc's own network (PCmer), with so-vits-svc's numbers
it is not                   the released one, convolutional, which the package torchfcpe carries
"""

import contextlib
import io
import logging
from abc import ABC, abstractmethod
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
from modules.f0.base import PREDICTORS, PitchPredictor, package_version, resize_nearest, sample_curve
from modules.f0.blocks import BlockPlan, run_in_blocks
from modules.f0.decode import cents_to_hz, local_average
from modules.f0.network import fill_network, make_resampler, read_state
from modules.pretrained.catalogue import weights_of
from modules.pretrained.find import checksum, find
from modules.weights.foreign import load_foreign, plain

logger = logging.getLogger(__name__)

BLOCK_SECONDS = 60.0
CONTEXT_SECONDS = 2.0


@PREDICTORS.register("fcpe")
class FcpePredictor(PitchPredictor):
    """As exact as the slow ones, quick on a CPU.

    The log says once which of the two networks runs. Up to 60 s go through at once, as in so-vits-svc; longer waves in
    pieces of 60 s. Each frame hears the whole piece a little (attention, normalisation), so the scores of a longer wave
    differ from those of the wave at once, by about 0.01.

    Raises:
        CheckpointError: `pretrain/fcpe.pt` is there and cannot be used.

    Source: Luo, Liu, Zhang and others, "FCPE: A Fast Context-based Pitch Estimation Model", 2025, arXiv 2509.15140.
    """

    name = "fcpe"
    is_network = True

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        path = _own_file()
        self._model = _Released(self) if path is None else _OwnFile(self, path)
        _say_once("fcpe: the network of torchfcpe" if path is None else f"fcpe: so-vits-svc's network, {path}")
        spectrum = self._model.spectrum
        self._plan = BlockPlan(
            self.audio.sampling_rate,
            native_rate=spectrum.sampling_rate,
            native_hop=spectrum.hop_length,
            seconds=BLOCK_SECONDS,
            context_seconds=CONTEXT_SECONDS,
        )

    @classmethod
    def identity(cls) -> str:
        """Name and checksum of the file, or version of the package, whichever would run."""
        return f"{cls.name}:{package_version('torchfcpe') if _own_file() is None else checksum(*weights_of('fcpe'))}"

    def track(self, wav: np.ndarray, n_frames: int) -> np.ndarray:
        """The network's own frames brought to ours."""
        return self._model.to_frames(self.track_native(wav), n_frames)

    def track_native(self, wav: np.ndarray) -> np.ndarray:
        """Pitch at the network's own frames, 10 ms apart: (n,) float64 Hz, 0 where in doubt."""
        return run_in_blocks(wav, self._plan, self._model.track_piece, self.device)


class _Model(ABC):
    """One of the two networks, on the device of its predictor."""

    # Frames of the network; other fields matter only to the one that makes its own spectrum.
    spectrum = AudioSpec(16000, 1024, 160, 1024, 128, 0.0, 8000.0)

    def __init__(self, predictor: PitchPredictor) -> None:
        self.predictor = predictor

    @abstractmethod
    def track_piece(self, wav: torch.Tensor) -> torch.Tensor:
        """Pitch (n,) in Hz of a wave (t,) at the model's rate, 0 where the confidence is at most the threshold."""

    @abstractmethod
    def to_frames(self, native: np.ndarray, n_frames: int) -> np.ndarray:
        """The curve (n,) brought to the model's frames and within its limits: (N,)."""


class _OwnFile(_Model):
    """The network in `pretrain/fcpe.pt`, used as so-vits-svc uses it."""

    def __init__(self, predictor: PitchPredictor, path: Path) -> None:
        super().__init__(predictor)
        content = load_foreign(path)
        state = read_state(content)
        network = fill_network(lambda: Pcmer(PcmerSizes.of(state)), state, path, "fcpe")
        self.spectrum = _spectrum_of(content, path)
        n_mels = state["stack.0.weight"].shape[1]
        if n_mels != self.spectrum.n_mels:
            raise CheckpointError(
                f"{path}: its config has {self.spectrum.n_mels} mel bands, its network takes {n_mels}. "
                "Get the file with: python pretrain/download.py fcpe"
            )
        self.network = network.to(predictor.device)
        self.resample = make_resampler(predictor.audio.sampling_rate, self.spectrum.sampling_rate, predictor.device)

    @torch.inference_mode()
    def salience(self, wav: torch.Tensor) -> torch.Tensor:
        """Scores (n, 360) of a wave (t,) at the model's rate."""
        mel = vocoder_mel(self.resample(wav), self.spectrum)
        # so-vits-svc wants a frame more than there are hops, and repeats the last one.
        return self.network(F.pad(mel[None], (0, 1), mode="replicate"))[0]

    def track_piece(self, wav: torch.Tensor) -> torch.Tensor:
        cents = local_average(self.salience(wav), self.network.cent_table, self.predictor.threshold, repeat_edge=True)
        return cents_to_hz(cents)

    def to_frames(self, native: np.ndarray, n_frames: int) -> np.ndarray:
        return resize_nearest(self.predictor.keep_limits(native), n_frames)


class _Released(_Model):
    """The network that torchfcpe carries, read between its frames."""

    def __init__(self, predictor: PitchPredictor) -> None:
        super().__init__(predictor)
        with _quiet():
            self.network = import_torchfcpe().spawn_bundled_infer_model(device=str(predictor.device))

    def track_piece(self, wav: torch.Tensor) -> torch.Tensor:
        rate, threshold = self.predictor.audio.sampling_rate, self.predictor.threshold
        with torch.inference_mode(), _quiet():
            return self.network(wav.clamp(-1, 1)[None, :, None], rate, "local_argmax", threshold)[0, :, 0]

    def to_frames(self, native: np.ndarray, n_frames: int) -> np.ndarray:
        """Below f0_min a frame becomes unvoiced, above f0_max it is held there."""
        low, high = self.predictor.f0_min, self.predictor.f0_max
        native = np.where(native < low, 0.0, np.minimum(native, high))
        hop_seconds = self.spectrum.hop_length / self.spectrum.sampling_rate
        return sample_curve(native, hop_seconds, np.arange(n_frames) * self.predictor.hop_seconds)


def _own_file() -> Path | None:
    return find(weights_of("fcpe")[0].path)


def _spectrum_of(content: dict, path: Path) -> AudioSpec:
    """The spectrum that a checkpoint's `config` describes; what it does not say is as in the published one."""
    config = plain(content.get("config", content.get("config_dict")))
    mel = config.get("mel", {}) if isinstance(config, dict) else {}
    default = _Model.spectrum
    try:
        return AudioSpec(
            sampling_rate=int(mel.get("sampling_rate", default.sampling_rate)),
            n_fft=int(mel.get("n_fft", default.n_fft)),
            hop_length=int(mel.get("hop_size", default.hop_length)),
            win_length=int(mel.get("win_size", default.win_length)),
            n_mels=int(mel.get("num_mels", default.n_mels)),
            fmin=float(mel.get("fmin", default.fmin)),
            fmax=float(mel.get("fmax", default.fmax)),
        )
    except (TypeError, ValueError, AttributeError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: the spectrum in its config cannot be used ({error}). "
            "Get the file with: python pretrain/download.py fcpe"
        ) from None


@cache
def _say_once(text: str) -> None:
    logger.info(text)


@contextlib.contextmanager
def _quiet():
    """Turns what the package prints into debug records."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        yield
    for line in printed.getvalue().splitlines():
        logger.debug("torchfcpe: %s", line.strip())
