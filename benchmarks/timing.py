"""What the benchmarks share: made recordings, random weights of the published sizes, and commands timed side by side.

The scripts of this checkout and, with --compare FOLDER, of another one run in turn: a busy machine favours neither.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from modules import cli

ROOT = Path(__file__).resolve().parent.parent
SPEAKER = "voice"
CLIP_SECONDS = (3.0, 5.5, 8.0, 4.2, 6.7)
RATE = 44100


class Finished(NamedTuple):
    """A process that has ended well."""

    seconds: float  # by the clock
    cpu_seconds: float  # of all its threads and children: steadier than the clock on a busy machine; 0 on Windows
    memory: float  # MB, its peak; 0 on Windows
    output: str


class Side(NamedTuple):
    """One of the two that are compared."""

    name: str
    workspace: Path  # its own, in a temporary folder: no file of one side reaches the other
    root: Path  # the checkout
    patch: str = ""  # Python code that runs before the script

    def run(self, script: str, *flags: object) -> Finished:
        """Runs a script of the checkout in the workspace; if it fails, the benchmark ends with its last words."""
        path = str(self.root / script)
        command = [sys.executable, path, *map(str, flags)]
        if self.patch:
            load = f"import runpy, sys\nsys.path.insert(0, {str(self.root)!r})\nsys.argv[0] = {path!r}\n{self.patch}"
            command[1:2] = "-c", f"{load}\nrunpy.run_path(sys.argv[0], run_name='__main__')"
        log = self.workspace / "output.txt"
        started = time.perf_counter()
        with log.open("wb") as file:
            child = subprocess.Popen(command, cwd=self.workspace, stdout=file, stderr=subprocess.STDOUT)
            cpu_seconds = memory = 0.0
            if hasattr(os, "wait4"):  # gives the peak of this child alone
                _, status, usage = os.wait4(child.pid, 0)
                child.returncode, cpu_seconds = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
                memory = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
            child.wait()
        seconds = time.perf_counter() - started
        output = log.read_text("utf-8", errors="replace")
        if child.returncode:
            last = "\n".join(output.splitlines()[-8:])
            raise SystemExit(f"{shlex.join(command)} ended with {child.returncode}:\n{last}")
        return Finished(seconds, cpu_seconds, memory, output)


def make_parser(script: str, description: str) -> argparse.ArgumentParser:
    """A parser with what all benchmarks understand, for a `__file__` and `__doc__`."""
    parser = cli.make_parser(script, description)
    parser.add_argument("--compare", type=Path, metavar="FOLDER", help="another checkout, run in turn with this one")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side that count")
    parser.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    return parser


@contextlib.contextmanager
def sides(compare: Path | None) -> Iterator[list[Side]]:
    """This checkout and, if given, another one, each with an empty workspace that goes in the end."""
    if compare is not None and not (compare / "inference_main.py").is_file():
        raise SystemExit(f"--compare {compare}: is no checkout, it has no inference_main.py")
    roots = {"this": ROOT} | ({"other": compare.resolve()} if compare is not None else {})
    with tempfile.TemporaryDirectory() as folder:
        found = [Side(name, Path(folder, name), root) for name, root in roots.items()]
        for side in found:
            side.workspace.mkdir()
        yield found


def alternate(
    found: list[Side], work: Callable[..., dict[str, float]], rounds: int, *values: object
) -> list[dict[str, float]]:
    """Each side's medians of what `work(side, *values)` measures (lower is better), in turn; a first round warms up."""
    rows: list[list[dict[str, float]]] = []
    for number in range(1 + rounds):
        order = found[::-1] if number % 2 else found  # this other, other this, ...: neither is always the first
        row = {side.name: work(side, *values) for side in order}
        rows.append([row[side.name] for side in found])
    columns = zip(*rows[1:])
    return [{name: statistics.median(row[name] for row in column) for name in column[0]} for column in columns]


def show(title: str, found: list[Side], medians: list[dict[str, float]], *names: str) -> None:
    """Prints the medians (of all names, or of some) of each side, and this / other: 1.03 is slower by 3 %."""
    for name in names or medians[0]:
        ours = medians[0][name]
        values = ", ".join(f"{side.name} {column[name]:.4g}" for side, column in zip(found, medians))
        ratio = f"; this / other {ours / medians[1][name]:.3f}" if len(medians) > 1 and medians[1][name] else ""
        print(f"{title}, {name}: {values}{ratio}", flush=True)


def apart(function: Callable[..., None], *values: object) -> None:
    """Calls a function in a process of its own: the peak of a child's memory is never below what its parent holds."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=values)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__} ended with {process.exitcode}")


def print_machine(what: str) -> None:
    """One line on what the figures belong to."""
    import torch

    card = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    print(f"{threads}{card}, torch {torch.__version__}, {what}", flush=True)


def make_clips(seconds: float) -> list:
    """Voiced babble: a gliding harmonic tone with pauses and some noise, in clips of the usual lengths."""
    import numpy as np

    random = np.random.default_rng(0)
    clips, total = [], 0.0
    while total < seconds:
        length = min(CLIP_SECONDS[len(clips) % len(CLIP_SECONDS)], seconds - total)
        times = np.arange(int(length * RATE)) / RATE
        phase = 2 * np.pi * np.cumsum(220 * 2 ** (0.5 * np.sin(2 * np.pi * 0.4 * times))) / RATE
        tone = sum(np.sin(k * phase) / k for k in range(1, 9)) * (np.sin(2 * np.pi * 1.3 * times) > -0.7)
        clips.append((0.2 * tone + 0.005 * random.standard_normal(len(times))).astype(np.float32))
        total += max(length, 0.1)
    return clips


def write_song(path: Path, seconds: float) -> None:
    """A wav of clips, `seconds` together, each followed by a second of silence."""
    import numpy as np
    import soundfile

    pause = np.zeros(RATE, np.float32)
    soundfile.write(path, np.concatenate([part for clip in make_clips(seconds) for part in (clip, pause)]), RATE)


def write_dataset(workspace: Path, seconds: float) -> None:
    """`dataset/44k/voice/` of that many seconds."""
    import soundfile

    folder = workspace / "dataset/44k" / SPEAKER
    folder.mkdir(parents=True)
    for index, clip in enumerate(clip for clip in make_clips(seconds) if len(clip) > RATE):
        soundfile.write(folder / f"{index:03}.wav", clip, RATE)


def write_voice(workspace: Path, size: str, ffn: int = 3072) -> None:
    """`G_1.pth` and `config.json` of a vec768l12 voice, and the encoder's weights as `write_contentvec`."""
    import torch

    from models import build_synthesizer
    from modules.config.io import parse_config
    from modules.config.presets import preset_values

    values = {**preset_values(size, "vec768l12", 768), "spk": {SPEAKER: 0}}
    values.pop("train", None)  # its keys need not be the same in both checkouts
    (workspace / "config.json").write_text(json.dumps(values), "utf-8")
    torch.manual_seed(0)
    network = build_synthesizer(parse_config(values))
    torch.save({"model": network.state_dict(), "iteration": 1, "learning_rate": 1e-4}, workspace / "G_1.pth")
    write_contentvec(workspace, ffn)


def write_diffusion(workspace: Path, speedups: dict[str, int], size: str = "base") -> None:
    """`model_1.pt` with a config for each sampler, which skips so many noise levels, and the vocoder."""
    import torch

    from diffusion.unit2mel import build_unit2mel
    from modules.config.diffusion import parse_diffusion_config, save_diffusion_config
    from modules.config.presets import DIFFUSION_PRESETS
    from modules.config.vocoder import VocoderConfig
    from vdecoder.mel_vocoder import build_vocoder

    model = DIFFUSION_PRESETS[size].get("model", {})
    for method, speedup in speedups.items():
        infer = {"method": method, "speedup": speedup}
        config = parse_diffusion_config({"spk": {SPEAKER: 0}, "infer": infer, "model": model})
        save_diffusion_config(config, workspace / f"{method}.yaml")
    torch.manual_seed(0)
    torch.save({"model": build_unit2mel(config, 128).state_dict()}, workspace / "model_1.pt")
    kernels = [3, 7, 11] if size == "base" else [3]
    values = dict(sampling_rate=44100, num_mels=128, n_fft=2048, win_size=2048, hop_size=512, fmin=40, fmax=16000)
    values |= dict(upsample_rates=[8, 8, 2, 2, 2], upsample_kernel_sizes=[16, 16, 4, 4, 4])
    values |= dict(upsample_initial_channel=512 if size == "base" else 64, resblock_kernel_sizes=kernels)
    vocoder = VocoderConfig(**values, resblock_dilation_sizes=[[1, 3, 5]] * len(kernels))
    folder = workspace / "pretrain/nsf_hifigan"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(vocoder.model_dump_json(), "utf-8")
    torch.save({"generator": build_vocoder(vocoder).state_dict()}, folder / "model")


def convert(side: Side, args: argparse.Namespace, song: str, predictor: str, *flags: object) -> dict[str, float]:
    """Converts with the voice of `write_voice`; the real-time factor is without the loading."""
    given = ["-m", "G_1.pth", "-c", "config.json", "-n", song, "-s", SPEAKER, "-f0p", predictor, "-wf", "wav"]
    given += ["--precision", args.precision, *(["-d", args.device] if args.device else [])]
    done = side.run("inference_main.py", *given, *flags)
    factor = float(re.search(r"real-time factor ([\d.]+)", done.output)[1])
    return {"seconds": done.seconds, "CPU seconds": done.cpu_seconds, "MB": done.memory, "real-time factor": factor}


def write_contentvec(workspace: Path, ffn: int = 3072) -> None:
    """`pretrain/checkpoint_best_legacy_500.pt` with random weights, or the published file where it is here; `ffn` is
    the width of the feed-forward layers."""
    import torch

    name = "pretrain/checkpoint_best_legacy_500.pt"
    (workspace / "pretrain").mkdir(exist_ok=True)
    if (ROOT / name).is_file():
        shutil.copyfile(ROOT / name, workspace / name)
        return
    shapes = {f"feature_extractor.conv_layers.{n}.0.weight": (512, 512, 3 if n < 5 else 2) for n in range(1, 7)}
    shapes |= {"feature_extractor.conv_layers.0.0.weight": (512, 1, 10), "post_extract_proj.weight": (768, 512)}
    shapes |= {"encoder.pos_conv.0.weight_g": (1, 1, 128), "encoder.pos_conv.0.weight_v": (768, 48, 128)}
    shapes |= {"encoder.pos_conv.0.bias": (768,), "post_extract_proj.bias": (768,)}
    shapes |= {"final_proj.weight": (256, 768), "final_proj.bias": (256,)}
    norms = {"feature_extractor.conv_layers.0.2": 512, "layer_norm": 512, "encoder.layer_norm": 768}
    for layer in (f"encoder.layers.{n}" for n in range(12)):
        linears = {f"self_attn.{part}_proj": (768, 768) for part in ("q", "k", "v", "out")}
        for part, shape in (linears | {"fc1": (ffn, 768), "fc2": (768, ffn)}).items():
            shapes |= {f"{layer}.{part}.weight": shape, f"{layer}.{part}.bias": shape[:1]}
        norms |= {f"{layer}.self_attn_layer_norm": 768, f"{layer}.final_layer_norm": 768}
    torch.manual_seed(0)
    weights = {key: 0.02 * torch.randn(shape) for key, shape in shapes.items()}
    for key, width in norms.items():
        weights |= {f"{key}.weight": torch.ones(width), f"{key}.bias": torch.zeros(width)}
    torch.save({"model": {key: value.half() for key, value in weights.items()}}, workspace / name)
