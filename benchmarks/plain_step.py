"""Seconds and memory of a training step as one would first write it: the yardstick for train.py.

The same networks and losses as train.py has, in eager fp32 without tf32. The encoders see whole clips, the decoder a
window; the discriminators score real and generated waves one after the other, for their own step and again for the
generator's, with gradients for all of their weights; a DataLoader without workers reads the clips; cuDNN does not try
which kernel is quickest.

Clips, their features and the start of the networks are made. Writes only to a temporary folder.

Example: python benchmarks/plain_step.py --size base --steps 20
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import timing

from modules import cli

if TYPE_CHECKING:
    import torch

    from modules.config.schema import Config
    from modules.data.dataset import Batch, VoiceDataset

CONFIG = "training.json"
ENCODER = "vec768l12"
PITCH = 220.0  # Hz
_EPOCHS = 10**6


class Pace(NamedTuple):
    """How quick a training is."""

    seconds: float  # of a step
    waited: float  # of which, for data
    memory: int | None  # bytes at most; None if unknown


def main(argv: list[str] | None = None) -> int:
    """Prints the measurements."""
    parser = cli.make_parser(__file__, __doc__)
    add = parser.add_argument
    add("--size", choices=["base", "tiny", "small", "micro"], default="base", help="of preprocess_flist_config.py")
    add("--batch_size", type=int, help="clips per step (default: the preset's)")
    add("--seconds", type=float, default=120.0, help="of the data set")
    add("--steps", type=int, default=20, help="that count, after as many others")
    add("--device", help="cpu, cuda or mps (default: the best there is)")
    args = parser.parse_args(argv)
    from modules.device import choose_device

    device = choose_device(args.device)
    timing.print_machine(f"{args.size} size, eager fp32, {args.steps} steps on {device}")
    with tempfile.TemporaryDirectory() as folder:
        write_training_set(Path(folder), args.size, args.seconds, args.batch_size)
        config = read_config(Path(folder))
        pace = measure(PlainStep(config, device), args.steps)
    memory = "unknown here" if pace.memory is None else f"{pace.memory / 2**20:.0f} MB"
    size = config.train.batch_size
    print(f"a step of {size} clips: {pace.seconds:.4g} s, of which {pace.waited:.4g} s for data; memory {memory}")
    return 0


def write_training_set(workspace: Path, size: str, seconds: float, batch_size: int | None = None) -> None:
    """Clips with made units and pitch beside them, and a config of a preset, `training.json`."""
    import json

    from modules.config.presets import preset_values

    values = {**preset_values(size, ENCODER, 768), "spk": {timing.SPEAKER: 0}}
    files = str(workspace / "train.txt")
    values["data"] = {**values["data"], "training_files": files, "validation_files": files}
    train = {**values.get("train", {}), "adversarial_from": 0}  # the discriminators take part from the first step on
    values["train"] = train | ({"batch_size": batch_size} if batch_size else {})
    (workspace / CONFIG).write_text(json.dumps(values), "utf-8")
    timing.write_dataset(workspace, seconds)
    clips = sorted((workspace / "dataset/44k" / timing.SPEAKER).glob("*.wav"))
    _write_features(clips, read_config(workspace))
    (workspace / "train.txt").write_text("\n".join(map(str, clips)) + "\n", "utf-8")


def read_config(workspace: Path) -> "Config":
    """The config of `write_training_set`."""
    from modules.config.io import load_config

    return load_config(workspace / CONFIG)


class PlainStep:
    """Both networks, their optimizers, and how they are updated."""

    def __init__(self, config: "Config", device: "torch.device") -> None:
        import torch

        from models import build_synthesizer
        from modules.device import allow_tf32
        from vdecoder.discriminators import MultiPeriodDiscriminator

        allow_tf32(False)
        torch.backends.cudnn.benchmark = False
        torch.manual_seed(config.train.seed)
        self.config, self.device, train = config, device, config.train
        self.net_g = build_synthesizer(config).to(device)
        self.net_d = MultiPeriodDiscriminator(channels=config.model.discriminator_channels).to(device)
        options = {"lr": train.learning_rate, "betas": tuple(train.betas), "eps": train.eps}
        self.optim_g, self.optim_d = (
            torch.optim.AdamW(net.parameters(), **options) for net in (self.net_g, self.net_d)
        )

    def run(self, batch: "Batch") -> "torch.Tensor":
        """Updates both networks from a batch on the device; returns the loss of the generator."""
        from modules.nn.masks import slice_frames
        from modules.training.losses import discriminator_loss

        units, f0, uv, spec, wav, speakers, lengths, volume, _ = batch
        out = self.net_g(units, f0, uv, spec, speakers, lengths, lengths, volume)
        hop, n_frames = self.config.audio.hop_length, self.config.segment_frames
        real = slice_frames(wav, out.ids_slice * hop, n_frames * hop)
        (scores_real, _), (scores, _) = self.net_d(real), self.net_d(out.y_hat.detach())
        self.optim_d.zero_grad()
        discriminator_loss(scores_real, scores).backward()
        self.optim_d.step()
        loss = self._generator_loss(out, real, spec)
        self.optim_g.zero_grad()
        loss.backward()
        self.optim_g.step()
        return loss.detach()

    def _generator_loss(self, out: NamedTuple, real: "torch.Tensor", spec: "torch.Tensor") -> "torch.Tensor":
        from torch.nn import functional as F

        from modules.audio.mel import mel_from_spectrogram, mel_spectrogram
        from modules.nn.masks import slice_frames
        from modules.training.losses import adversarial_loss, feature_loss, kl_loss, stft_loss

        train, audio = self.config.train, self.config.audio
        (_, maps_real), (scores, maps) = self.net_d(real), self.net_d(out.y_hat)
        mel_real = mel_from_spectrogram(slice_frames(spec, out.ids_slice, self.config.segment_frames), audio)
        loss = adversarial_loss(scores) + feature_loss(maps_real, maps)
        loss = loss + train.c_mel * F.l1_loss(mel_spectrogram(out.y_hat.squeeze(1), audio), mel_real)
        loss = loss + train.c_kl * kl_loss(out.z_p, out.logs_q, out.m_p, out.logs_p, out.z_mask)
        if train.c_stft:
            loss = loss + train.c_stft * stft_loss(real.squeeze(1), out.y_hat.squeeze(1))
        return loss if out.pred_lf0 is None else loss + F.mse_loss(out.pred_lf0, out.lf0)


def batches(config: "Config", dataset: "VoiceDataset | None" = None) -> "Iterator[Batch]":
    """Batches without end, read by this process when their turn comes."""
    from torch.utils.data import DataLoader

    from modules.data.dataset import EpochBatches, VoiceDataset, collate

    dataset = VoiceDataset(config.data.training_files, config) if dataset is None else dataset
    order = EpochBatches(len(dataset), config.train.batch_size, config.train.seed)
    order.set_epoch(1, 0, _EPOCHS)
    return iter(DataLoader(dataset, batch_sampler=order, collate_fn=collate))


def measure(step: PlainStep, steps: int) -> Pace:
    """The pace of so many steps, after as many others."""
    import torch

    from modules.device import peak_memory

    loaded, started, waited, on_cuda = batches(step.config), 0.0, 0.0, step.device.type == "cuda"
    for number in range(2 * steps):
        if number == steps:
            waited, started = 0.0, _now(step.device)
            if on_cuda:
                torch.cuda.reset_peak_memory_stats(step.device)
        asked = time.perf_counter()
        batch = next(loaded)
        waited += time.perf_counter() - asked
        step.run(batch.to(step.device))
    return Pace((_now(step.device) - started) / steps, waited / steps, peak_memory(step.device))


def _now(device: "torch.device") -> float:
    """The clock, once the device has done its work."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _write_features(clips: list[Path], config: "Config") -> None:
    """The features of clips: noise for units, and one pitch, at once and without pretrained weights."""
    import numpy as np
    import torch

    from modules.contracts import F0
    from modules.data.extraction import extract
    from modules.data.features import FeatureRecipe

    class MadeUnits:
        name, dim, sampling_rate, hop_length = ENCODER, 768, 16000, 320

        def encode(self, wav: np.ndarray) -> torch.Tensor:
            return torch.randn(768, len(wav) // 320, generator=torch.Generator().manual_seed(len(wav)))

    class MadePitch:
        name = "dio"

        def predict(self, wav: np.ndarray) -> F0:
            n_frames = config.audio.n_frames(len(wav))
            return F0(np.full(n_frames, PITCH, np.float32), np.ones(n_frames, np.float32))

    recipe = FeatureRecipe(f"{ENCODER}:made", "dio", config.audio, config.model.vol_embedding)
    for clip in clips:
        extract(clip, recipe, MadeUnits(), MadePitch())


if __name__ == "__main__":
    cli.run(main)
