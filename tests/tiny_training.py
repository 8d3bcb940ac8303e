"""Runs of the voice model's training as small as they can be, put together as train.py does it."""

from functools import partial

import torch

from models import build_synthesizer
from modules.data.dataset import VoiceDataset, make_loader
from modules.training.distributed import Group
from modules.training.loop import TrainingLoop
from modules.training.monitor import VoiceMonitor
from modules.training.resume import load_start, save_state
from modules.training.step import VitsStep
from vdecoder.discriminators import MultiPeriodDiscriminator

CPU = torch.device("cpu")
# A decoder of two stages with one residual block each: a step takes a third of the time.
SMALL_DECODER = {
    "upsample_rates": [16, 32],
    "upsample_kernel_sizes": [32, 64],
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
}


class Run:
    """A training in `logs/NAME`; calling it goes on up to a step and returns the loop."""

    def __init__(self, config, folder, device=CPU, scorer=None, card=None):
        torch.manual_seed(config.train.seed)
        net_g = build_synthesizer(config).to(device)
        net_d = MultiPeriodDiscriminator(channels=config.model.discriminator_channels).to(device)
        self.folder, group = folder, Group(device=device)
        folder.mkdir(parents=True, exist_ok=True)
        self.step = VitsStep(net_g, net_d, config, device)
        self.state, saved = load_start(folder, self.step, group)
        save = partial(save_state, folder, self.state, self.step, card=card)
        self.loop = TrainingLoop(self.step, self.state, group, save, saved if self.state.step else None, False)
        self.loader = make_loader(VoiceDataset("filelists/train.txt", config), device)
        clips = [VoiceDataset("filelists/val.txt", config, training=False).item(0)]
        self.monitor = VoiceMonitor(self.step, self.state, folder, clips, scorer, card)

    def __call__(self, max_steps):
        self.loop.train(self.loader, max_steps, self.monitor)
        return self.loop


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pth"))


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{name}": value.clone()
        for index, net in enumerate(run.step.networks)
        for name, value in net.named_parameters()
    }
