"""What a voice model costs at several sizes: bytes to ship, seconds to sing, seconds to train.

Each candidate is the --small preset with other sizes; the presets micro, small and tiny stand beside them. G and D are
megabytes in 16 bits; "sing" is the real-time factor of the voice model alone (without encoder and pitch), "step" a
training step of four windows with discriminators; both are the quickest of --rounds. Weights are random: the speed is
the same. The table of configs/README.md was made with this.

Example: python benchmarks/voice_sizes.py --seconds 30
"""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Name -> preset, and what differs from it.
CANDIDATES = {
    "micro": ("micro", {}),
    "64 wide, discriminators of small": ("micro", {"discriminator_channels": 256}),
    "96 wide, small (chosen)": ("small", {}),
    "96 wide, flow not shared": ("small", {"flow_share_parameter": False}),
    "96 wide, decoder 288": ("small", {"upsample_initial_channel": 288}),
    "96 wide, decoder 320": ("small", {"upsample_initial_channel": 320}),
    "96 wide, 6 layers, decoder 288": ("small", {"n_layers": 6, "upsample_initial_channel": 288}),
    "128 wide, decoder 256": ("small", {"inter_channels": 128, "hidden_channels": 128, "gin_channels": 128}),
    "tiny": ("tiny", {}),
}


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of song to sing (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement (default: %(default)s)")
    parser.add_argument("--steps", action="store_true", help="measure training steps too")
    arguments = parser.parse_args(argv)
    import torch

    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.seconds:g} s of song")
    print("| sizes | G, MB | D, MB | sing, real-time factor | step, s |\n| --- | --- | --- | --- | --- |")
    for name, (preset, changes) in CANDIDATES.items():
        print(f"| {name} | {' | '.join(measure(preset, changes, arguments))} |", flush=True)
    return 0


def measure(preset: str, changes: dict, arguments: argparse.Namespace) -> list[str]:
    """The cells of a row."""
    import torch

    from models import build_synthesizer
    from modules.config.io import parse_config
    from modules.config.presets import preset_values
    from vdecoder.discriminators import MultiPeriodDiscriminator

    values = preset_values(preset, "whisper-ppg-base", 512)
    values["model"] |= {**changes, "vol_embedding": True, "n_speakers": 6}
    config = parse_config(values)
    torch.manual_seed(0)
    net_g = build_synthesizer(config).eval()
    net_d = MultiPeriodDiscriminator(channels=config.model.discriminator_channels)
    megabytes = [2 * sum(p.numel() for p in net.parameters()) / 1e6 for net in (net_g, net_d)]
    n_frames = int(arguments.seconds * config.audio.frame_rate)
    units, ones = torch.randn(1, config.model.ssl_dim, n_frames), torch.ones(1, n_frames)
    speaker = torch.zeros(1, dtype=torch.long)
    sing = quickest(arguments.rounds, lambda: net_g.infer(units, 220 * ones, ones, speaker, vol=0.1 * ones))
    step = "" if not arguments.steps else f"{training_step(config, net_g, net_d, arguments.rounds):.2f}"
    return [f"{megabytes[0]:.1f}", f"{megabytes[1]:.1f}", f"{sing / arguments.seconds:.3f}", step]


def training_step(config, net_g, net_d, rounds: int) -> float:
    """Seconds of a step of four windows."""
    import torch

    from modules.training.auto_batch import long_batch
    from modules.training.step import VitsStep

    config.train.window_frames = 128
    step = VitsStep(net_g.train(), net_d, config, torch.device("cpu"))
    batch = long_batch(step, 4)
    return quickest(rounds, lambda: step.run(batch))


def quickest(rounds: int, work) -> float:
    """Seconds of the quickest of some rounds, after one that does not count."""
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
