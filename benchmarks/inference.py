"""Speed and memory of inference_main.py: cold start, a song stage by stage, and beside any other command.

    cold      fresh processes that convert two seconds: the wall clock without the conversion itself
    passes    in a process of its own for each predictor: real-time factor of a first pass, which is what a user of the
              command line gets, and of a second one; the share of each stage; the peak of memory over the loaded models
    compare   whole processes of ours and of --compare on one song in turn: wall clock, peak memory, their ratio

Weights are random, of the published sizes: the speed is the same. Reads --song or makes babble; writes only to a
temporary folder. In --compare, {song} {model} {config} {folder} stand for the files, which lie in {folder}.

Example: python benchmarks/inference.py --predictor dio pm --compare "bash -c 'cd ~/upstream && ./convert.sh {song}'"
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from published import SPEAKER, Stages, megabytes, peak_memory, write_contentvec, write_index, write_song, write_voice

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PARTS = ("cold", "passes", "compare")
CLIP_SECONDS = 2.0


@dataclass(frozen=True)
class Finished:
    """A child process that has ended: `seconds` by the clock, peak of `memory` in MB, and what it said."""

    seconds: float
    memory: float
    said: str


class Failed(Exception):
    """A child process ended with an error; the text is its last words."""


def main(argv: list[str] | None = None) -> int:
    """Prints the measurements; returns 0, or 1 where a child process failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (default: all)")
    add("--seconds", type=float, default=60.0, help="length of the made song, without its pauses (default: 60)")
    add("--song", type=Path, help="a recording to convert instead")
    add("--predictor", nargs="+", default=["dio"], metavar="NAME", help="pitch predictors (default: dio)")
    add(
        "--size", choices=["base", "tiny", "small", "micro"], default="base", help="of the voice (default: %(default)s)"
    )
    add("--retrieval", action="store_true", help="with a feature index at 0.5")
    add("--optimizer", action="store_true", help="the G file holds its optimizer's state, as after training")
    add("--device", help="cpu, cuda or mps (default: the best there is)")
    add("--precision", default="fp32", choices=["fp32", "fp16", "bf16"], help="(default: %(default)s)")
    add("--rounds", type=int, default=3, help="fresh processes for cold and for compare (default: %(default)s)")
    add("--compare", metavar="CMD", help="another command that converts the song")
    add("--one", nargs=2, metavar=("PREDICTOR", "FOLDER"), help=argparse.SUPPRESS)
    add("--prepare", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        print(json.dumps(measure_passes(arguments, *arguments.one)))
        return 0
    if arguments.prepare:
        prepare(arguments, Path(arguments.prepare))
        say_machine(arguments)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        try:
            # In a process of its own: a child's peak of memory is never below what this process holds.
            print(run_self(arguments, folder, "--prepare", str(folder)).said.strip().splitlines()[-1], flush=True)
            if "cold" in arguments.only:
                print_cold_start(arguments, folder)
            if "passes" in arguments.only:
                for predictor in arguments.predictor:
                    print_passes(predictor, run_self(arguments, folder, "--one", predictor, str(folder)))
            if "compare" in arguments.only and arguments.compare:
                print_comparison(arguments, folder)
        except Failed as error:
            print(error, file=sys.stderr)
            return 1
    return 0


def say_machine(arguments: argparse.Namespace) -> None:
    """Prints one line on what the figures belong to."""
    import torch

    from modules.device import choose_device

    device = choose_device(arguments.device)
    card = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {device}{card}, {arguments.precision}, "
        f"torch {torch.__version__}, vec768l12, voice of the {arguments.size} size"
    )


def prepare(arguments: argparse.Namespace, folder: Path) -> None:
    """Writes the song, a clip and the models."""
    if arguments.song is None:
        write_song(folder / "song.wav", arguments.seconds)
    else:
        shutil.copyfile(arguments.song, folder / song_name(arguments))
    write_song(folder / "clip.wav", CLIP_SECONDS - 1.0)  # a second of silence follows
    write_voice(folder, arguments.size, arguments.optimizer)
    write_contentvec(folder)
    if arguments.retrieval:
        write_index(folder)


def song_name(arguments: argparse.Namespace) -> str:
    """Name of the song in the folder."""
    return "song.wav" if arguments.song is None else "song" + arguments.song.suffix


def flags(arguments: argparse.Namespace, predictor: str, name: str) -> list[str]:
    """The command line of inference_main.py for a file of the folder."""
    given = ["-m", "G_1.pth", "-c", "config.json", "-n", name, "-s", SPEAKER, "-f0p", predictor, "-wf", "wav"]
    given += ["--precision", arguments.precision, *(["-d", arguments.device] if arguments.device else [])]
    return given + (["-cm", "feature_and_index.json", "-fr", "-cr", "0.5"] if arguments.retrieval else [])


def print_cold_start(arguments: argparse.Namespace, folder: Path) -> None:
    """Prints what a fresh process takes beside converting: imports, loading the models, and its end."""
    command = [sys.executable, str(ROOT / "inference_main.py")]
    command += flags(arguments, arguments.predictor[0], "clip.wav")
    rows = []
    for _ in range(arguments.rounds):
        done = run_process(command, folder)
        loading = float(re.search(r"loaded in ([\d.]+) s", done.said)[1])
        converting = float(re.search(r"made in ([\d.]+) s", done.said)[1])
        rows.append((done.seconds - converting, loading, converting, done.memory))
    start, loading, converting, memory = (statistics.median(column) for column in zip(*rows))
    shown = ", ".join(f"{row[0]:.1f}" for row in rows)
    print(
        f"cold start: {start:.1f} s (median of {shown}): imports and rest {start - loading:.1f} s = "
        f"{100 * (start - loading) / start:.0f} %, loading {loading:.1f} s = {100 * loading / start:.0f} %; then "
        f"{converting:.1f} s for a clip of {CLIP_SECONDS:g} s; peak {memory:.0f} MB",
        flush=True,
    )


def measure_passes(arguments: argparse.Namespace, predictor: str, folder: str) -> dict:
    """Two conversions of the song by one converter in this process."""
    import torch

    import inference_main
    from modules.inference.arguments import make_arguments

    os.chdir(folder)
    parser = make_arguments(inference_main.__file__, inference_main.__doc__)
    args = parser.parse_args(flags(arguments, predictor, song_name(arguments)))
    converter, _ = inference_main.load_voice(args, [])
    parts = converter.pipeline
    stages = Stages(parts, parts.device)
    options = inference_main.make_options(args, SPEAKER, 0)
    on_gpu = parts.device.type == "cuda"
    loaded = torch.cuda.memory_allocated(parts.device) / 2**20 if on_gpu else resident_memory()
    loading_peak = peak_memory()
    forget_peaks(parts.device)
    passes = []
    for _ in range(2):
        stages.clear()
        report = converter.convert(Path(song_name(arguments)), Path("out.wav"), options, progress=False)
        row = {"factor": report.realtime_factor, "seconds": report.seconds, "voiced": report.voiced_seconds}
        row["shares"] = stages.shares(report.elapsed)
        row["memory"] = torch.cuda.max_memory_allocated(parts.device) / 2**20 if on_gpu else peak_memory()
        passes.append(row)
    return {"loaded": loaded, "loading_peak": loading_peak, "passes": passes}


def print_passes(predictor: str, done: Finished) -> None:
    """Prints what `measure_passes` found."""
    found = json.loads(done.said.strip().splitlines()[-1])
    print(f"{predictor}: {found['loaded']:.0f} MB loaded, {found['loading_peak']:.0f} MB at most while loading")
    for name, row in zip(("first", "second"), found["passes"]):
        over = row["memory"] - found["loaded"]
        print(
            f"{predictor}, {name} pass over {row['seconds']:.0f} s, {row['voiced']:.0f} s of them voiced: "
            f"real-time factor {row['factor']:.3f} ({row['shares']}); "
            f"peak {row['memory']:.0f} MB, {over:.0f} MB over the models",
            flush=True,
        )


def print_comparison(arguments: argparse.Namespace, folder: Path) -> None:
    """Prints our whole process against the other command, one after the other in every round."""
    song = folder / song_name(arguments)
    values = {"song": song, "model": folder / "G_1.pth", "config": folder / "config.json", "folder": folder}
    other = [re.sub(r"\{(song|model|config|folder)\}", lambda found: str(values[found[1]]), word)
             for word in shlex.split(arguments.compare)]  # fmt: skip
    ours = [sys.executable, str(ROOT / "inference_main.py"), *flags(arguments, arguments.predictor[0], song.name)]
    rows = [(run_process(ours, folder), run_process(other, folder)) for _ in range(arguments.rounds)]
    seconds = [statistics.median(done.seconds for done in column) for column in zip(*rows)]
    memory = [statistics.median(done.memory for done in column) for column in zip(*rows)]
    for name, index in (("ours", 0), ("other", 1)):
        each = ", ".join(f"{row[index].seconds:.1f}" for row in rows)
        print(f"whole process, {name}: {seconds[index]:.1f} s (median of {each}), peak {memory[index]:.0f} MB")
    print(f"other / ours: {seconds[1] / seconds[0]:.2f} times the time, {memory[1] / max(memory[0], 1):.2f} the memory")


def run_self(arguments: argparse.Namespace, folder: Path, *more: str) -> Finished:
    """This script in a process of its own, with the flags that matter there."""
    command = [sys.executable, __file__, *more, "--seconds", str(arguments.seconds), "--size", arguments.size]
    command += ["--precision", arguments.precision]
    for name in ("song", "device"):
        value = getattr(arguments, name)
        command += [f"--{name}", str(Path(value).resolve() if name == "song" else value)] if value else []
    command += [f"--{name}" for name in ("retrieval", "optimizer") if getattr(arguments, name)]
    return run_process(command, folder)


def run_process(command: list[str], folder: Path) -> Finished:
    """A command run in the folder to its end.

    Raises:
        Failed: its exit code is not 0.
    """
    said = folder / "said.txt"
    started = time.perf_counter()
    with said.open("wb") as file:
        child = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
        memory = 0.0
        if hasattr(os, "wait4"):  # tells the peak of this child and its own children; Windows has no such thing
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode, memory = os.waitstatus_to_exitcode(status), megabytes(usage.ru_maxrss)
        child.wait()
    seconds = time.perf_counter() - started
    text = said.read_text("utf-8", errors="replace")
    if child.returncode:
        raise Failed(f"{shlex.join(command)} ended with {child.returncode}:\n" + "\n".join(text.splitlines()[-8:]))
    return Finished(seconds, memory, text)


def resident_memory() -> float:
    """What this process holds now, in MB; where the system does not tell, its peak so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return peak_memory()
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def forget_peaks(device) -> None:
    """Makes the peaks of memory start from what is held now; elsewhere than on Linux that of the CPU goes on."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # see proc(5)


if __name__ == "__main__":
    from modules.cli import run

    run(main)  # with the environment that inference_main.py gives torch
