"""Whether a voice in an ONNX file sings what its checkpoint sings."""

import logging
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from modules.audio.mel import mel_spectrogram
from modules.config.schema import Config
from modules.contracts import Synthesizer
from modules.f0.convert import COARSE_STEPS, F0_MAX, F0_MIN
from modules.inference.onnx_voice import OnnxVoice
from modules.weights.onnx import is_same

logger = logging.getLogger(__name__)

LENGTHS = (40, 97, 333)  # frames
# In natural log. Other random numbers of the source in torch itself may move the mel spectrum by less than this.
_SMALL_DISTANCE = 0.05


def check_voice(
    voice: Synthesizer, path: Path, config: Config, seed: int, write: Callable[[Path, int | None], None]
) -> bool:
    """Compares a file with the voice that it was made of; says how far apart they are.

    Args:
        voice: the checkpoint, in torch, on the CPU. Its `infer` takes a `seed`.
        path: the file.
        config: of both.
        seed: of the random numbers.
        write: writes the graph to a path, with random numbers of the source from a seed, or as inputs for None.
    """
    device = torch.device("cpu")
    sung = OnnxVoice(path, config, device, seed)
    if sung.takes_random_numbers:
        return _is_exact(voice, sung, config, path.name)
    with tempfile.TemporaryDirectory() as folder:
        twin = Path(folder) / path.name
        write(twin, None)
        exact = _is_exact(voice, OnnxVoice(twin, config, device, seed), config, f"{path.name} with given numbers")
    return exact and _is_near(voice, sung, config, path.name)


def made_up_stretch(config: Config, n_frames: int, mixed: bool = False) -> dict[str, Any]:
    """Arguments of `Synthesizer.infer`, the same for every call.

    The melody lies in the middle of the coarse pitch steps, since at their edges the last digit decides.
    """
    generator = torch.Generator().manual_seed(n_frames)
    steps = torch.randint(-3, 4, (n_frames,), generator=generator).cumsum(0).clamp(-60, 60) + 130
    low, high = (math.log1p(edge / 700) for edge in (F0_MIN, F0_MAX))
    f0 = 700 * torch.expm1(low + (steps - 1) * (high - low) / (COARSE_STEPS - 2))
    ids = list(config.spk.values())
    speaker: Any = ids[-1]
    if mixed:
        weights = torch.rand(len(ids), n_frames, generator=generator)
        speaker = torch.zeros(max(ids) + 1, n_frames)
        speaker[ids] = weights / weights.sum(dim=0)
    return {
        "units": torch.randn(config.model.ssl_dim, n_frames, generator=generator),
        "f0": f0,
        "uv": (torch.rand(n_frames, generator=generator) > 0.2).float(),
        "speaker": speaker,
        "volume": 0.2 * torch.rand(n_frames, generator=generator),
        "noise_scale": 0.4,
    }


def _is_exact(voice: Synthesizer, sung: OnnxVoice, config: Config, name: str) -> bool:
    good = True
    for n_frames in LENGTHS:
        for mixed in (False, True) if len(config.spk) > 1 else (False,):
            given = made_up_stretch(config, n_frames, mixed)
            what = f"{name}, {n_frames} frames{', mixed speakers' if mixed else ''}"
            good &= is_same(what, sung.infer(**given).wav.numpy(), voice.infer(**given).wav)
    return good


def _is_near(voice: Synthesizer, sung: OnnxVoice, config: Config, name: str) -> bool:
    """Whether the mel spectrum is as near to torch's as torch's own with other random numbers of the source.

    Without the prior's noise (noise scale 0) the source is all that the random numbers reach.
    """
    given = {**made_up_stretch(config, LENGTHS[-1]), "noise_scale": 0.0}
    mels = [
        mel_spectrogram(wav[None], config.audio)
        for wav in (voice.infer(**given).wav, voice.infer(**given, seed=1).wav, sung.infer(**given).wav)
    ]
    usual, found = ((mel - mels[0]).abs().mean().item() for mel in mels[1:])
    near = found <= 2 * usual + _SMALL_DISTANCE  # not so for a NaN
    text = "%s: its mel spectrum is %.3f from torch's; other random numbers in torch alone make %.3f%s"
    logger.log(
        logging.INFO if near else logging.ERROR, text, name, found, usual, ", good" if near else ": it is too far"
    )
    return near
