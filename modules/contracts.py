"""START HERE: the interfaces between the parts, and the shape of every tensor that crosses them.

Letters used everywhere:
    B batch · T samples · N frames · D unit width · M mel bins · F spectrum bins · S speakers

Outside a network one item has no batch axis; inside, tensors are channel-first (B, C, N).

| quantity  | shape                                | meaning                                                         |
|-----------|--------------------------------------|-----------------------------------------------------------------|
| `wav`     | (T,) float32                         | mono, -1 to 1; its rate is always named beside it               |
| `units`   | (D, N') from the encoder, (D, N) aligned | content features                                            |
| `f0`      | (N,) float32, Hz                     | gaps filled; all zero if nothing is voiced                      |
| `uv`      | (N,) float32                         | 1 = VOICED, 0 = unvoiced (the field's name reads backwards)     |
| `volume`  | (N,) float32                         | frame RMS, linear                                               |
| `spec`    | (F, N) float32                       | linear magnitude                                                |
| `mel`     | (M, N) float32                       | natural log                                                     |
| `speaker` | int, or (S, N) weights that sum to 1 | one voice, or a mix per frame                                   |

N = T // hop_length, computed only by `AudioSpec.n_frames`.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch


@dataclass(frozen=True)
class F0:
    """A pitch curve."""

    f0: np.ndarray  # (N,) float32 Hz, gaps filled
    uv: np.ndarray  # (N,) float32, 1 where the frame is voiced
    heard: np.ndarray | None = None  # (N,) Hz: what the sound itself says where it contradicts the curve, else 0


@dataclass(frozen=True)
class Draws:
    """The random numbers of a synthesis, where its caller gives them: so that two overlapping parts share theirs."""

    latent: torch.Tensor  # (I, N), standard normal
    phases: torch.Tensor  # (H,) turns, 0 to 1, at which the harmonics of the source start
    noise: torch.Tensor  # (T, H), standard normal, of the source


@dataclass(frozen=True)
class Synthesis:
    """What a synthesizer returns, on the model's device."""

    wav: torch.Tensor  # (T,) float32
    f0: torch.Tensor  # (N,) Hz, as synthesized


@dataclass(frozen=True)
class VoiceInput:
    """What a voice is synthesized from: the features of one chunk, all of N frames."""

    units: torch.Tensor  # (D, N)
    f0: torch.Tensor  # (N,) Hz
    uv: torch.Tensor  # (N,), 1 = voiced
    speaker: int | torch.Tensor  # id, or (S, N) weights
    volume: torch.Tensor | None = None  # (N,); None for a voice without volume embedding
    needed: slice | None = None  # frames whose audio is wanted, None for all; a synthesizer may leave the others at 0


class SpeechEncoder(Protocol):
    """Speech to content units."""

    name: str
    dim: int
    sampling_rate: int
    hop_length: int

    def encode(self, wav: np.ndarray) -> torch.Tensor:
        """Units (D, N') float32 on the encoder's device of `wav` (T,) at `sampling_rate`, N' near T / hop_length."""

    def encode_batch(self, wavs: list[np.ndarray]) -> list[torch.Tensor]:
        """The same of several clips at once."""

    def for_stream(self) -> "SpeechEncoder":
        """An encoder of the same units for windows of a stream."""


class F0Predictor(Protocol):
    """Audio to pitch."""

    name: str

    def predict(self, wav: np.ndarray) -> F0:
        """Pitch of `wav` (T,) at the model's rate: N = T // hop_length frames."""


class Synthesizer(Protocol):
    """Units and pitch to audio in a trained voice."""

    latent_channels: int  # I of `Draws`

    def infer(
        self,
        units: torch.Tensor,
        f0: torch.Tensor,
        uv: torch.Tensor,
        speaker: int | torch.Tensor,
        volume: torch.Tensor | None,
        noise_scale: float,
        predict_f0: bool,
        needed: slice | None,
        draws: Draws | None = None,
    ) -> Synthesis:
        """Audio of N * hop_length samples from what `VoiceInput` explains; random numbers are `draws`, if given."""

    def infer_batch(self, items: list[VoiceInput], noise_scale: float) -> list[Synthesis]:
        """The same of several chunks at once, each as if it were alone."""


class Retriever(Protocol):
    """Pulls units towards the training voice."""

    def blend(self, units: torch.Tensor, speaker: str, ratio: float) -> torch.Tensor:
        """Units (D, N) with `ratio` (0 to 1) of each frame replaced by what the speaker's own data holds nearest."""


class MelVocoder(Protocol):
    """Mel spectrum to audio and back."""

    def mel(self, wav: torch.Tensor) -> torch.Tensor:
        """Log mel (M, N) of `wav` (T,)."""

    def synthesize(self, mel: torch.Tensor, f0: torch.Tensor, needed: slice | None = None) -> torch.Tensor:
        """Audio (N * hop_length,) of a log mel (M, N) and f0 (N,); `needed` as in `VoiceInput`."""


class MelRefiner(Protocol):
    """Diffusion over the mel spectra of synthesized chunks."""

    batch_frames: int  # worth collecting before a call

    def refine(
        self, outputs: list[Synthesis | None], features: list[VoiceInput], formant_key: float
    ) -> list[torch.Tensor]:
        """Audio (N * hop_length,) of each chunk, refined from its output, or made from noise where that is None, and
        then sung `formant_key` semitones higher with the same formants."""


class Enhancer(Protocol):
    """Re-synthesis of a finished chunk."""

    def enhance(self, wav: torch.Tensor, f0: torch.Tensor) -> torch.Tensor:
        """Audio (T,) re-synthesised by a vocoder."""
