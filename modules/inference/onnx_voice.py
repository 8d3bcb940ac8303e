"""A voice in an ONNX file, sung by onnxruntime: the other half of `voice_graph.py`."""

from pathlib import Path

import numpy as np
import torch

from modules.config.schema import Config
from modules.contracts import Synthesis, VoiceInput
from modules.device import seeded
from modules.errors import CheckpointError, UsageError
from modules.inference.voice_graph import N_HARMONICS, SOURCE_INPUTS
from modules.weights.onnx import open_session

_INPUTS = ["c", "f0", "mel2ph", "uv", "noise", "sid"]


class OnnxVoice:
    """A `contracts.Synthesizer` over a graph with so-vits-svc's inputs, ours or another's.

    Random numbers are drawn as `models.Voice` draws them. So a graph that takes those of the source as well sings what
    the checkpoint sings, up to rounding; one that draws them itself differs in breath and start phases.

    Args:
        path: the file.
        config: that was saved with the voice.
        device: where it is wanted.
        seed: start of the random numbers of every stretch.

    Attributes:
        takes_random_numbers: whether those of the harmonic source are inputs.

    Raises:
        UsageError: onnxruntime is not installed.
        CheckpointError: not an ONNX file, not a voice, or it does not fit the config.
    """

    def __init__(self, path: Path, config: Config, device: torch.device, seed: int) -> None:
        self.path, self.device, self.seed = path, device, seed
        self.hop_length = config.data.hop_length
        self._ids = list(config.spk.values())
        self._session = open_session(path, device, f"the voice {path}")
        self._shapes = {given.name: given.shape for given in self._session.get_inputs()}
        self._mixes = {given.name: given.type for given in self._session.get_inputs()}.get("sid") == "tensor(float)"
        self.takes_random_numbers = SOURCE_INPUTS[0] in self._shapes
        self._check(config)

    def infer(
        self,
        units: torch.Tensor,
        f0: torch.Tensor,
        uv: torch.Tensor,
        speaker: int | torch.Tensor,
        volume: torch.Tensor | None = None,
        noise_scale: float = 0.35,
        predict_f0: bool = False,
    ) -> Synthesis:
        """One stretch in this voice; arguments as `contracts.Synthesizer.infer`.

        Raises:
            UsageError: `predict_f0`, a mix in a graph of one speaker, or no such speaker.
        """
        if predict_f0:
            raise UsageError(f"{self.path}: an ONNX voice has no pitch decoder; leave -a out")
        n_frames, shapes = len(f0), self._shapes
        with seeded(self.device, self.seed):
            noise = torch.randn(1, shapes["noise"][1], n_frames, device=self.device) * noise_scale
            given = {
                "c": units.T[None].float(),
                "f0": f0[None].float(),
                "mel2ph": torch.arange(1, n_frames + 1)[None],
                "uv": uv[None].float(),
                "noise": noise,
                "sid": self._speaker(speaker, n_frames),
            }
            if "vol" in shapes:
                given["vol"] = volume[None].float()
            if self.takes_random_numbers:
                given[SOURCE_INPUTS[0]] = torch.rand(1, N_HARMONICS, device=self.device)
                n_samples = n_frames * self.hop_length
                given[SOURCE_INPUTS[1]] = torch.randn(1, n_samples, N_HARMONICS, device=self.device)
        feed = {name: np.ascontiguousarray(value.cpu().numpy()) for name, value in given.items()}
        wav = torch.from_numpy(self._session.run(None, feed)[0]).reshape(-1)
        if len(wav) != n_frames * self.hop_length:
            raise CheckpointError(
                f"{self.path}: makes {len(wav)} samples of {n_frames} frames, but data.hop_length of the config is "
                f"{self.hop_length}. Use the config.json that was saved with the voice."
            )
        return Synthesis(wav.to(self.device), f0.to(self.device, torch.float32))

    def infer_batch(self, items: list[VoiceInput], noise_scale: float = 0.35) -> list[Synthesis]:
        """Several stretches, one after the other."""
        return [self.infer(item.units, item.f0, item.uv, item.speaker, item.volume, noise_scale) for item in items]

    def _speaker(self, speaker: int | torch.Tensor, n_frames: int) -> torch.Tensor:
        """The input `sid`: a position (1,) or weights (N, S), in the order in which the config names the speakers."""
        if isinstance(speaker, torch.Tensor) and speaker.is_floating_point():
            if not self._mixes:
                raise UsageError(f"{self.path}: holds one speaker and cannot mix; name the speaker with -s")
            rows = [speaker[row] if row < len(speaker) else torch.zeros_like(speaker[0]) for row in self._ids]
            return torch.stack(rows, dim=1).float()
        if int(speaker) not in self._ids:
            raise UsageError(f"speaker id {int(speaker)}: {self.path} has ids {', '.join(map(str, self._ids))}")
        position = torch.tensor([self._ids.index(int(speaker))])
        if not self._mixes:
            return position
        return torch.nn.functional.one_hot(position, len(self._ids)).float().expand(n_frames, -1)

    def _check(self, config: Config) -> None:
        """Refuses a graph that is no voice, or not the config's."""
        optional = ["vol", *SOURCE_INPUTS]
        names = list(self._shapes)
        if names[: len(_INPUTS)] != _INPUTS or set(names) - {*_INPUTS, *optional}:
            raise CheckpointError(
                f"{self.path}: not a voice: its inputs are {', '.join(names)}, expected {', '.join(_INPUTS)}. "
                "Make one with: python onnx_export.py"
            )
        width, with_volume, several = config.model.ssl_dim, config.model.vol_embedding, len(config.spk) > 1
        found, wanted = self._shapes["c"][2], width
        if isinstance(found, int) and found != wanted:
            raise self._other_config(f"takes units {found} wide, but model.ssl_dim is {wanted}")
        found = self._shapes["noise"][1]
        if not isinstance(found, int):
            self._shapes["noise"][1] = config.model.inter_channels
        elif found != config.model.inter_channels:
            raise self._other_config(f"has {found} latent channels, but model.inter_channels is not")
        if ("vol" in names) != with_volume:
            takes = "takes" if "vol" in names else "does not take"
            raise self._other_config(f"{takes} a loudness curve, but model.vol_embedding is {str(with_volume).lower()}")
        if self._mixes != several:
            kind = "several speakers" if self._mixes else "one speaker"
            raise self._other_config(f"holds {kind}, but spk names {len(config.spk)}")
        found = self._shapes["sid"][-1]
        if self._mixes and isinstance(found, int) and found != len(config.spk):
            raise self._other_config(f"holds {found} speakers, but spk names {len(config.spk)}")

    def _other_config(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {problem}. Use the config.json that was saved with the voice.")
