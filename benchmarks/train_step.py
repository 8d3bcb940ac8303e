"""Speed and memory of training steps of the voice model, and where their time goes.

    step      seconds per step, median and least, with the wait for data; on a CPU also the CPU seconds of the process
    clips/s   clips per second: batch size / median seconds
    trained   seconds of audio that are decoded and judged per second: clips/s times train.segment_size
    memory    peak: on a GPU of its tensors, else of the whole process
    shares    data (loader and transfer), generator forward, discriminators' own step forward and backward, what the
              generator is judged by (discriminators and losses), generator backward, both optimizers

--compare runs the plain fp32 loop of plain_step.py, step by step in turn with ours.

Weights are random, of the sizes of --config: the speed is the same. Reads made clips with made features, which it
writes to a temporary folder, through the loader of train.py. Writes nothing else.

Example: python benchmarks/train_step.py --device cuda --precision bf16 --compile --compare
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

WARM_STEPS = 2
BATCHES_ON_DISK = 4
SHORTEST = 0.7  # length of the shortest clip, of the longest
SPEAKER = "voice"
SHARES = {
    "data": ["data"],
    "generator forward": ["g_forward"],
    "discriminator step": ["d_forward", "d_backward"],
    "judging": ["adversarial", "losses"],
    "generator backward": ["g_backward"],
    "optimizers": ["d_update", "g_update"],
}


def main(argv: list[str] | None = None) -> int:
    """Prints the measurements; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", help="cpu, cuda or mps (default: the best there is)")
    add("--config", type=Path, help="a config.json (default: what preprocess_flist_config.py makes for vec768l12)")
    add("--micro", action="store_true", help="its micro preset instead")
    add("--batch_size", type=int, help="clips per step (default: the config's)")
    add("--frames", type=int, default=480, help="of the longest clip; the shortest has 7 tenths (default: %(default)s)")
    add("--steps", type=int, default=5, help="measured steps, after 2 others (default: %(default)s)")
    add("--precision", choices=["fp32", "tf32", "bf16", "fp16"], default="fp32", help="(default: %(default)s)")
    add("--compile", action="store_true", help="compile both networks")
    add("--compare", action="store_true", help="measure the plain loop too")
    arguments = parser.parse_args(argv)

    import torch
    from plain_step import PlainStep

    from modules.data.dataset import VoiceDataset, make_loader
    from modules.device import choose_device, peak_memory
    from modules.training.step import VitsStep

    config = make_config(arguments)
    device = choose_device(arguments.device)
    torch.backends.cudnn.benchmark = True
    set_precision(config, arguments.precision)
    card = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {device}{card}, {arguments.precision}"
        f"{', compiled' if arguments.compile else ''}, torch {torch.__version__}, batch {config.train.batch_size}, "
        f"clips of up to {arguments.frames} frames, segments of {config.segment_frames}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as name:
        files = write_clips(Path(name), config, arguments.frames)
        loader = make_loader(VoiceDataset(files, config), device)
        loader.batch_sampler.set_epoch(1, last=1_000_000)
        batches = iter(loader)
        ours = VitsStep(*build_networks(config, device), config, device)
        if arguments.compile:
            ours.compile()
        stopwatch = Stopwatch(device)
        first = stopwatch.measure(ours, batches)
        for _ in range(WARM_STEPS - 1):
            stopwatch.measure(ours, batches)
        rows = [stopwatch.measure(ours, batches) for _ in range(arguments.steps)]
        seconds = describe("step", rows, device)
        print(f"first step: {first[0]:.2f} s")
        print(f"clips/s: {config.train.batch_size / seconds:.2f}", end="; ")
        audio_seconds = config.train.batch_size * config.train.segment_size / config.audio.sampling_rate
        print(f"trained: {audio_seconds / seconds:.3f} s of audio per second")
        print(f"memory: {(peak_memory(device) or 0) / 2**20:.0f} MB")
        ours.clock = stopwatch
        print_shares([stopwatch.measure(ours, batches) and stopwatch.spent for _ in range(arguments.steps)])
        ours.clock = lambda phase: None
        if arguments.compare:
            plain = PlainStep(*build_networks(config, device), config, device)
            compare(ours, plain, stopwatch, batches, arguments.steps)
        del batches  # its workers end before their files do
    return 0


def make_config(arguments: argparse.Namespace):
    """The config of --config or of the presets, with one speaker and the batch size of the flags."""
    from modules.config.io import load_config, parse_config
    from modules.config.presets import preset_values

    if arguments.config:
        config = load_config(arguments.config)
    else:
        config = parse_config(preset_values("micro" if arguments.micro else "base", "vec768l12", 768))
    config.spk = {SPEAKER: 0}
    config.train.batch_size = arguments.batch_size or config.train.batch_size
    return config


def set_precision(config, precision: str) -> None:
    """As train.py's --precision."""
    from modules.device import allow_tf32

    allow_tf32(precision != "fp32")
    config.train.fp16_run = precision in ("bf16", "fp16")
    if config.train.fp16_run:
        config.train.half_type = precision


def write_clips(folder: Path, config, most_frames: int) -> Path:
    """Noisy tones of a few batches with their features; returns the file list."""
    import numpy as np
    import soundfile
    import torch

    from modules.audio.mel import spectrogram
    from modules.data import features
    from modules.data.filelist import write_list

    audio, model = config.audio, config.model
    random = np.random.default_rng(0)
    recipe = features.FeatureRecipe(f"{model.speech_encoder}:", "dio:", audio, model.vol_embedding)
    clips = []
    for index in range(BATCHES_ON_DISK * config.train.batch_size):
        n_frames = max(int(most_frames * random.uniform(SHORTEST, 1)), config.segment_frames + 1)
        n_frames = max(n_frames, most_frames) if index % config.train.batch_size == 0 else n_frames
        times = np.arange(n_frames * audio.hop_length) / audio.sampling_rate
        wav = 0.3 * np.sin(2 * np.pi * 220 * times) + 0.01 * random.standard_normal(len(times))
        path = folder / "dataset" / SPEAKER / f"{index}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wav, audio.sampling_rate)
        made = {
            "units": torch.randn(model.ssl_dim, int(50 * times[-1]) + 1),
            "f0": np.stack([np.full(n_frames, 220), np.ones(n_frames)]).astype(np.float32),
            "spec": spectrogram(torch.from_numpy(wav).float(), audio),
        }
        if model.vol_embedding:
            made["volume"] = np.full(n_frames, 0.2, np.float32)
        features.store(path, recipe, made)
        clips.append(path)
    write_list(folder / "train.txt", clips)
    return folder / "train.txt"


def build_networks(config, device) -> tuple:
    """Voice model and discriminators, the same at every call."""
    import torch

    from models import build_synthesizer
    from vdecoder.discriminators import MultiPeriodDiscriminator

    torch.manual_seed(0)
    net_g = build_synthesizer(config)
    net_d = MultiPeriodDiscriminator(config.model.use_spectral_norm, config.model.discriminator_channels)
    return net_g.to(device), net_d.to(device)


class Stopwatch:
    """Times steps; as the clock of a step it also splits them into phases, for which a GPU must be waited for.

    Attributes:
        spent: seconds of each phase of the last step.
    """

    def __init__(self, device) -> None:
        self.device = device
        self.spent: dict[str, float] = {}
        self._last = 0.0

    def measure(self, step, batches) -> tuple[float, float]:
        """One step with the wait for its batch: seconds by the clock, and CPU seconds of the process."""
        self._wait()
        self.spent, self._last = {}, time.perf_counter()
        started, used = self._last, time.process_time()
        batch = next(batches).to(self.device)
        if step.clock is self:
            self("data")
        step.run(batch)
        self._wait()
        return time.perf_counter() - started, time.process_time() - used

    def __call__(self, phase: str) -> None:
        """Ends a phase."""
        self._wait()
        now = time.perf_counter()
        self.spent[phase] = self.spent.get(phase, 0.0) + now - self._last
        self._last = now

    def _wait(self) -> None:
        import torch

        if self.device.type in ("cuda", "mps"):
            getattr(torch, self.device.type).synchronize()


def describe(name: str, rows: list[tuple[float, float]], device) -> float:
    """Prints what steps took; returns the median seconds."""
    seconds, cpu_seconds = ([row[index] for row in rows] for index in (0, 1))
    median = statistics.median(seconds)
    used = f", {statistics.median(cpu_seconds):.2f} CPU s" if device.type == "cpu" else ""
    print(f"{name}: {median:.4g} s (median of {len(rows)}, least {min(seconds):.4g}){used}")
    return median


def print_shares(steps: list[dict[str, float]]) -> None:
    """Prints what part of the time each phase takes."""
    spent = {name: sum(step.get(phase, 0.0) for step, phase in itertools.product(steps, phases))
             for name, phases in SHARES.items()}  # fmt: skip
    total = sum(spent.values())
    print("shares: " + ", ".join(f"{name} {100 * seconds / total:.0f} %" for name, seconds in spent.items()))


def compare(ours, plain, stopwatch: Stopwatch, batches, n_steps: int) -> None:
    """Prints ours and the plain loop, run in turn."""
    for _ in range(WARM_STEPS):
        stopwatch.measure(plain, batches)
    pairs = [[stopwatch.measure(step, batches) for step in (ours, plain)] for _ in range(n_steps)]
    medians = [describe(name, rows, stopwatch.device) for name, rows in zip(("ours", "plain"), zip(*pairs))]
    ratio = medians[1] / medians[0]
    least = [min(row[0] for row in rows) for rows in zip(*pairs)]
    used = [statistics.median(row[1] for row in rows) for rows in zip(*pairs)]
    print(f"plain / ours: {ratio:.2f} by medians, {least[1] / least[0]:.2f} by the least", end="")
    print(f", {used[1] / used[0]:.2f} by CPU seconds" if stopwatch.device.type == "cpu" else "")


if __name__ == "__main__":
    from modules.cli import run

    run(main)
