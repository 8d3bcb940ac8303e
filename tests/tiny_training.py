"""Runs of the voice model's trainer as small as they can be, built as train.py builds them."""

import torch

from models import build_synthesizer
from modules.data.dataset import VoiceDataset, make_loader
from modules.training.distributed import alone
from modules.training.vits_trainer import VitsTrainer
from vdecoder.discriminators import MultiPeriodDiscriminator

CPU = torch.device("cpu")


class Run:
    """A trainer in `logs/NAME` with what it needs, as train.py builds it."""

    def __init__(self, config, folder, device=CPU):
        torch.manual_seed(config.train.seed)
        net_g = build_synthesizer(config).to(device)
        net_d = MultiPeriodDiscriminator(channels=config.model.discriminator_channels).to(device)
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.trainer = VitsTrainer(net_g, net_d, config, alone(device), folder, show_progress=False)
        self.trainer.start()
        self.loader = make_loader(VoiceDataset("filelists/train.txt", config), device)
        self.validation = [VoiceDataset("filelists/val.txt", config, training=False).item(0)]

    def __call__(self, max_steps):
        return self.trainer.run(self.loader, self.validation, max_steps)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pth"))


def weights(run: Run) -> dict[str, torch.Tensor]:
    nets = run.trainer.step.net_g, run.trainer.step.net_d
    return {
        f"{index}.{name}": value.clone() for index, net in enumerate(nets) for name, value in net.named_parameters()
    }
