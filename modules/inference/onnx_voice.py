"""A voice as an ONNX file: the voice model as one function of so-vits-svc's ONNX inputs, and what runs such a file.

c (1, Tc, D)  mel2ph (1, N)      units, and which of them (from 1; 0 for none) each frame takes
f0 (1, N)  uv (1, N)             pitch
noise (1, I, N)                  standard normal times the noise scale
sid (1,) or (N, S)               position of the speaker in the config, or weights of all of them
vol (1, N)                       loudness, for models that take it
source_phases (1, 9)  source_noise (1, T, 9)     random numbers of the harmonic source, where they are inputs
"""

import copy
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.config.fit import CONVERTS_WITH, require_own_config
from modules.config.schema import Config
from modules.contracts import Draws, Synthesis, VoiceInput
from modules.device import seeded
from modules.errors import CheckpointError, UsageError
from modules.f0.convert import f0_to_coarse
from modules.weights.onnx import Graph, open_session

N_HARMONICS = 9  # of the source
SOURCE_INPUTS = ("source_phases", "source_noise")
_INPUTS = ["c", "f0", "mel2ph", "uv", "noise", "sid"]


class OnnxVoice:
    """A `contracts.Synthesizer` over a graph with so-vits-svc's inputs, ours or another's.

    Random numbers are drawn as `models.Voice` draws them. So a graph that takes those of the source as well gives the
    sound of the checkpoint, up to rounding; one that draws them itself differs in breath and start phases.
    """

    def __init__(self, path: Path, config: Config, device: torch.device, seed: int) -> None:
        self.path, self.device, self.seed = path, device, seed
        self.hop_length = config.data.hop_length
        self._ids = list(config.spk.values())
        self._session = open_session(path, device, f"the voice {path}")
        self._shapes = {given.name: given.shape for given in self._session.get_inputs()}
        self._mixes = any((x.name, x.type) == ("sid", "tensor(float)") for x in self._session.get_inputs())
        self.takes_random_numbers = SOURCE_INPUTS[0] in self._shapes
        self._check(config)
        self.latent_channels = self._shapes["noise"][1]

    def infer(
        self,
        units: Tensor,
        f0: Tensor,
        uv: Tensor,
        speaker: int | Tensor,
        volume: Tensor | None = None,
        noise_scale: float = 0.35,
        predict_f0: bool = False,
        needed: slice | None = None,
        draws: Draws | None = None,
    ) -> Synthesis:
        """One chunk in this voice, whole whatever is needed; arguments as `contracts.Synthesizer.infer`. The phases of
        `draws` are not used: in a graph the fundamental starts at zero."""
        if predict_f0:
            raise UsageError(f"{self.path}: an ONNX voice has no pitch decoder; leave -a out")
        n_frames, shapes = len(f0), self._shapes
        with seeded(self.device, self.seed):
            noise = torch.randn(1, self.latent_channels, n_frames, device=self.device)
            noise = (noise if draws is None else draws.latent[None]) * noise_scale
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
                drawn = torch.randn(1, n_samples, N_HARMONICS, device=self.device)
                given[SOURCE_INPUTS[1]] = drawn if draws is None else draws.noise[None]
        feed = {name: np.ascontiguousarray(value.cpu().numpy()) for name, value in given.items()}
        wav = torch.from_numpy(self._session.run(None, feed)[0]).reshape(-1)
        if len(wav) != n_frames * self.hop_length:
            raise CheckpointError(
                f"{self.path}: makes {len(wav)} samples of {n_frames} frames, but data.hop_length of the config is "
                f"{self.hop_length}. Use the config.json that was saved with the voice."
            )
        return Synthesis(wav.to(self.device), f0.to(self.device, torch.float32))

    def infer_batch(self, items: list[VoiceInput], noise_scale: float = 0.35) -> list[Synthesis]:
        """Several chunks, one after the other."""
        return [self.infer(item.units, item.f0, item.uv, item.speaker, item.volume, noise_scale) for item in items]

    def _speaker(self, speaker: int | Tensor, n_frames: int) -> Tensor:
        """The input `sid`: a position (1,) or weights (N, S), in the order in which the config names the speakers."""
        if isinstance(speaker, Tensor) and speaker.is_floating_point():
            if not self._mixes:
                raise UsageError(f"{self.path}: holds one speaker and cannot mix; name the speaker with -s")
            rows = [speaker[row] if row < len(speaker) else torch.zeros_like(speaker[0]) for row in self._ids]
            return torch.stack(rows, dim=1).float()
        if int(speaker) not in self._ids:
            raise UsageError(f"speaker id {int(speaker)}: {self.path} has ids {', '.join(map(str, self._ids))}")
        position = torch.tensor([self._ids.index(int(speaker))])
        if not self._mixes:
            return position
        return F.one_hot(position, len(self._ids)).float().expand(n_frames, -1)

    def _check(self, config: Config) -> None:
        """Refuses a graph that is no voice, or not the config's."""
        model, names, several = config.model, list(self._shapes), len(config.spk) > 1
        if names[: len(_INPUTS)] != _INPUTS or set(names) - {*_INPUTS, "vol", *SOURCE_INPUTS}:
            raise CheckpointError(
                f"{self.path}: not a voice: its inputs are {', '.join(names)}, expected {', '.join(_INPUTS)}. "
                "Make one with: python onnx_export.py"
            )
        width, channels, n_speakers = self._shapes["c"][2], self._shapes["noise"][1], self._shapes["sid"][-1]
        if not isinstance(channels, int):
            self._shapes["noise"][1] = channels = model.inter_channels
        problem = None
        if isinstance(width, int) and width != model.ssl_dim:
            problem = f"takes units {width} wide, but model.ssl_dim is {model.ssl_dim}"
        elif channels != model.inter_channels:
            problem = f"has {channels} latent channels, but model.inter_channels is {model.inter_channels}"
        elif ("vol" in names) != model.vol_embedding:
            takes = "takes" if "vol" in names else "does not take"
            problem = f"{takes} a loudness curve, but model.vol_embedding is {str(model.vol_embedding).lower()}"
        elif self._mixes != several:
            problem = f"holds {'several speakers' if self._mixes else 'one speaker'}, but spk names {len(config.spk)}"
        elif self._mixes and isinstance(n_speakers, int) and n_speakers != len(config.spk):
            problem = f"holds {n_speakers} speakers, but spk names {len(config.spk)}"
        if problem:
            raise CheckpointError(f"{self.path}: {problem}. Use the config.json that was saved with the voice.")
        self._check_told(config)

    def _check_told(self, config: Config) -> None:
        """Refuses another config than the one that the file was exported with, as far as it says."""
        texts, where = self._session.get_modelmeta().custom_metadata_map, config.path or "the config"
        try:
            stored, card = (json.loads(texts.get(name, "null")) for name in ("config", "card"))
        except (ValueError, RecursionError):
            raise CheckpointError(f"{self.path}: what it says of itself is not JSON. Export the voice again.") from None
        require_own_config(self.path, stored, config, CONVERTS_WITH, where)
        card, wrong = card if isinstance(card, dict) else {}, []
        pairs = (("speech_encoder", config.model.speech_encoder), ("sampling_rate", config.data.sampling_rate))
        wrong += [f"{key} was {card[key]!r}, now {now!r}" for key, now in pairs if card.get(key, now) != now]
        # Speakers are called by their places. A config in the file says the ids in each, a card the names.
        told = stored["spk"] if isinstance(stored, dict) and isinstance(stored.get("spk"), dict) else {}
        names = list(told) or [str(name) for name in card.get("speakers") or ()]
        is_moved = list(told.values()) != self._ids if told else set(names) == set(config.spk)
        if is_moved and names != list(config.spk):
            wrong.append(f"spk: the speakers were {', '.join(names)}, now {', '.join(config.spk)}")
        if wrong:
            problem = f"{where}: is not the config that {self.path} was exported with: {'; '.join(wrong)}"
            raise CheckpointError(f"{problem}. Give the one that was saved with the voice, or set these values back.")


class VoiceGraph(nn.Module):
    """A voice model whose inputs are all that its sound depends on."""

    def __init__(self, network: nn.Module, decoder: nn.Module, speaker_ids: list[int]) -> None:
        """Of a `SynthesizerTrn` with weight norm folded, and its speakers' ids in the order of the config.

        The `decoder` takes latent (1, I, N), f0 (1, N), speaker (1, gin, 1 or N) and perhaps random numbers.
        """
        super().__init__()
        self.network = copy.deepcopy(network, {id(network.dec): decoder})  # the copy gets it in the place of its own
        self.register_buffer("speakers", network.emb_g.weight[speaker_ids].clone())
        self.eval().requires_grad_(False)

    def forward(
        self, c: Tensor, f0: Tensor, mel2ph: Tensor, uv: Tensor, noise: Tensor, sid: Tensor, *others: Tensor
    ) -> Tensor:
        """The waveform (1, 1, T); `others` are volume and random numbers of the source, where wanted."""
        network = self.network
        vol, *given = others if network.emb_vol is not None else (None, *others)
        # A row of zeros in front is what frames without a unit take.
        units = F.pad(c, (0, 0, 1, 0))[0][mel2ph[0]].T.unsqueeze(0)
        x = network._content(units, uv, vol, None)
        z, _, _ = network.enc_p(x, f0_to_coarse(f0, network.clamp_f0_high), None, 1.0, noise)
        if sid.is_floating_point():
            speaker = (sid @ self.speakers).T.unsqueeze(0)
        else:
            speaker = self.speakers[sid].unsqueeze(2)
        z = network.flow(z, None, speaker, reverse=True)
        return network.dec(z, network.source_f0(f0, uv), speaker, *given)


def describe_voice(module: VoiceGraph, latent_channels: int, hop_length: int, n_frames: int = 64) -> Graph:
    """The graph of a voice with I `latent_channels`: so-vits-svc's names, order and dynamic axes."""
    network, n_speakers = module.network, len(module.speakers)
    n_units, width = n_frames * 3 // 5, network.pre.in_channels
    inputs = {
        "c": torch.randn(1, n_units, width),
        "f0": torch.linspace(100, 400, n_frames)[None],
        "mel2ph": torch.arange(n_frames)[None] * n_units // n_frames + 1,
        "uv": torch.ones(1, n_frames),
        "noise": torch.randn(1, latent_channels, n_frames),
        "sid": torch.full((n_frames, n_speakers), 1 / n_speakers) if n_speakers > 1 else torch.zeros(1).long(),
    }
    dynamic = {"c": {0: "batch", 1: "units"}, "noise": {2: "frames"}}
    dynamic |= {name: {1: "frames"} for name in ("f0", "mel2ph", "uv")}
    if n_speakers > 1:
        dynamic["sid"] = {0: "frames"}
    if network.emb_vol is not None:
        inputs["vol"] = torch.full((1, n_frames), 0.1)
        dynamic["vol"] = {1: "frames"}
    if network.dec.takes_random_numbers:
        numbers = torch.rand(1, N_HARMONICS), torch.randn(1, n_frames * hop_length, N_HARMONICS)
        inputs |= zip(SOURCE_INPUTS, numbers)
        dynamic[SOURCE_INPUTS[1]] = {1: "samples"}
    return Graph(module, inputs, ("audio",), {**dynamic, "audio": {2: "samples"}})
