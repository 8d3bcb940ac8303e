"""What test_ranks.py launches on two ranks: one step on each one's share of a batch; notes what it saw and found."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def main(folder: str, batch_size: str, accumulate: str) -> None:
    """Writes seen_RANK.json and, on the main rank, gradients.pth, into the folder."""
    import torch
    from fixed_draws import FixedDraws

    from models import build_synthesizer
    from modules.config.io import load_config
    from modules.data.dataset import VoiceDataset, make_loader
    from modules.training.distributed import join
    from modules.training.step import VitsStep
    from vdecoder.discriminators import MultiPeriodDiscriminator

    torch.set_num_threads(1)
    group = join("cpu")
    config = load_config("configs/config.json")
    config.train.batch_size = int(batch_size)
    # Weights of the main rank are those of all: the others start with their own here.
    torch.manual_seed(group.rank)
    networks = build_synthesizer(config), MultiPeriodDiscriminator(channels=config.model.discriminator_channels)
    step = VitsStep(*networks, config, group.device, group)
    loader = make_loader(VoiceDataset("filelists/train.txt", config), group.device, group.rank, group.world_size)
    batches = [batch for batch, _ in zip(loader, range(int(accumulate)))]
    with FixedDraws():
        report = step.run(batches)
    seen = sorted(path for batch in batches for path in batch.paths)
    Path(folder, f"seen_{group.rank}.json").write_text(json.dumps(seen))
    if group.is_main:
        gradients = {
            f"{prefix}.{name}": parameter.grad
            for prefix, net in zip("GD", networks)
            for name, parameter in net.named_parameters()
        }
        torch.save({"gradients": gradients, "norms": list(report.norms)}, Path(folder, "gradients.pth"))
    group.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
