"""All that one wants to know of a GPU, in one command: does everything work on it, and how quick is it?

    environment  machine, versions, cards
    tests        the tests marked cuda
    conversion   real-time factor, shares of the parts and memory with fcpe and rmvpe, with and without -shd -ks 100
    batch        chunks of a song together and one by one
    precision    fp32, tf32, fp16 and bf16: speed, and how far their sound is from that of fp32
    decoder      as it is, as a CUDA graph, and compiled
    step         a training step against the plain loop of plain_step.py, data wait, and how busy the GPU is
    auto_batch   what train.py --auto_batch finds
    memory       conversion and training with ever less memory
    ranks        two processes on one card by gloo; where there are two cards, by NCCL
    realtime     blocks of 0.05 to 0.5 s through the engine of realtime.py, and how much later they are heard
    compiled     a training step with --compile

Weights, songs and clips are made, at the published sizes: the speed is the same. Each section runs in a process of its
own (with --tiny in this one), and what fails in it does not keep the others from running. Prints a table, and writes
the same to a JSON file after each section. Else writes only to a temporary folder. Returns 1 where a section failed.

Example: python benchmarks/on_gpu.py --minutes 25
"""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import gpu_report
import timing
from gpu_report import Bench, Plan

from modules import cli
from modules.errors import UsageError
from modules.files import write_json

SECTIONS = {
    "environment": "gpu_machine.environment",
    "tests": "gpu_machine.tests",
    "conversion": "gpu_conversion.conversion",
    "batch": "gpu_conversion.batch",
    "precision": "gpu_conversion.precision",
    "decoder": "gpu_decoder.decoder",
    "step": "gpu_training.step",
    "auto_batch": "gpu_training.auto_batch",
    "memory": "gpu_memory.memory",
    "ranks": "gpu_training.ranks",
    "realtime": "gpu_conversion.realtime",
    "compiled": "gpu_training.compiled",
}
NO_TIME = "not run: no time left"
LEAST_SECONDS = 5.0  # with less left, no section is begun
LOG_LETTERS = 8000  # of what a failed section has printed
Emit = Callable[[dict[str, Any]], None]


def main(argv: list[str] | None = None) -> int:
    """Measures; returns 1 where a section failed."""
    args = make_arguments().parse_args(argv)
    if args.child is not None:
        return run_child(args)
    if args.output.exists() and not args.overwrite:
        raise UsageError(f"--output {args.output}: exists. Give another name, or --overwrite")
    until, output = time.monotonic() + 60 * args.minutes, args.output.resolve()
    document = {"started": datetime.now(timezone.utc).isoformat(timespec="seconds"), "minutes": args.minutes}
    document |= {"checkout": str(timing.ROOT), "device": args.device, "tiny": args.tiny, "sections": {}}
    names = [name for name in SECTIONS if name in args.only]
    with tempfile.TemporaryDirectory(prefix="on-gpu-", ignore_cleanup_errors=True) as folder:
        plan = Plan(args.device, args.tiny, Path(folder).resolve())
        write_json(output, document)
        for name in names:
            left = until - time.monotonic()
            found = run_section(name, plan, left) if left > LEAST_SECONDS else {"status": NO_TIME, "rows": []}
            document["sections"][name] = found
            write_json(output, document)
            print("\n".join(table(name, found)), flush=True)
    failed = [name for name in names if document["sections"][name]["status"] == "failed"]
    print(f"\n{output}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def make_arguments() -> argparse.ArgumentParser:
    """The flags."""
    parser = cli.make_parser(__file__, __doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=25.0, help="after which no section is begun, and the one at work is ended")
    add("--device", help="cpu, cuda, cuda:1 or mps (default: the best there is)")
    add(
        "--tiny",
        action="store_true",
        help="micro networks and a second of audio, to see that all of it runs",
    )
    add("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), metavar="SECTION", help="(default: all)")
    add("--output", type=Path, default=Path("on_gpu.json"), metavar="FILE", help="where the results go")
    add("--overwrite", action="store_true", help="replace that file")
    add("--child", type=Path, help=argparse.SUPPRESS)  # runs one section: where its rows go
    add("--workspace", type=Path, help=argparse.SUPPRESS)
    return parser


def run_section(name: str, plan: Plan, seconds: float) -> dict[str, Any]:
    """The rows of a section, its status (done, skipped, failed, or cut short) and why, and what it took."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    rows, started = [], time.monotonic()
    status, reason, log = run_here(name, plan, rows.append) if plan.is_tiny else run_apart(name, plan, rows, seconds)
    if status == "done":
        failures = [row["failed"] for row in rows if "failed" in row]
        if failures:
            status, reason = "failed", failures[-1]
        elif rows and all("skipped" in row for row in rows):
            status, reason = "skipped", rows[0]["skipped"]
    found = {"status": status, "reason": reason, "seconds": round(time.monotonic() - started, 2), "rows": rows}
    found |= {"log": log} if status == "failed" else {}
    return {key: value for key, value in found.items() if value != ""}


def run_here(name: str, plan: Plan, emit: Emit) -> tuple[str, str, str]:
    """Runs a section in this process; returns its status, the reason, and more about that."""
    try:
        bench = Bench(plan, emit)
        module, _, function = SECTIONS[name].partition(".")
        getattr(importlib.import_module(module), function)(bench)
    except Exception as error:  # the other sections are wanted
        return "failed", gpu_report.last_line(error), traceback.format_exc()
    return "done", "", ""


def run_apart(name: str, plan: Plan, rows: list[dict[str, Any]], seconds: float) -> tuple[str, str, str]:
    """The same in a new process, which is ended after so many seconds; the rows that it has made are added to `rows`,
    and the end of what it has printed is returned."""
    made, log = (plan.workspace / f"{name}.{kind}" for kind in ("rows", "log"))
    command = [sys.executable, __file__, "--child", str(made), "--only", name, "--workspace", str(plan.workspace)]
    command += ["--device", plan.device_name] if plan.device_name else []
    with log.open("wb") as file:
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status, reason = ("done", "") if child.wait(seconds) == 0 else ("failed", "")
        except subprocess.TimeoutExpired:
            status, reason = "cut short", "no time left"
        finally:
            end(child)
    # The last line may be half written.
    lines = made.read_text("utf-8").split("\n")[:-1] if made.is_file() else []
    rows += map(json.loads, lines)
    said = log.read_text("utf-8", errors="replace").strip()
    if status == "failed":
        reason = f"ended with {child.returncode}: {(said.splitlines() or ['it said nothing'])[-1][:300]}"
    return status, reason, said[-LOG_LETTERS:]


def end(child: subprocess.Popen) -> None:
    """Ends a process that was started as the first of a session, with all that it has started."""
    if child.poll() is None:
        if os.name == "posix":
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    child.wait()


def run_child(args: argparse.Namespace) -> int:
    """Runs one section and appends its rows to a file as they come."""

    def emit(row: dict[str, Any]) -> None:
        with args.child.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    status, reason, log = run_here(args.only[0], Plan(args.device, args.tiny, args.workspace), emit)
    if status == "failed":
        print(f"{log}{reason}", flush=True)
    return int(status == "failed")


def table(name: str, found: dict[str, Any]) -> list[str]:
    """The lines that show a section."""
    took = f", {found['seconds']:.1f} s" if "seconds" in found else ""
    lines = ["", f"{name}: {found['status']}{took}" + (f" ({found['reason']})" if "reason" in found else "")]
    for row in found["rows"]:
        for kind in ("skipped", "failed"):
            if kind in row:
                lines.append(f"  {row['what']:<32}  {kind}: {row[kind]}")
        what = row["what"]
        for quantity, value in row.get("values", {}).items():
            number = value["value"] if isinstance(value["value"], str) else f"{value['value']:.4g}"
            number = f"{number} {value['unit']}".rstrip()
            shown = f"  {what:<32}  {quantity:<22}  {number:<26}"
            lines.append((shown + aim(value)).rstrip())
            what = ""
    return lines


def aim(value: dict[str, Any]) -> str:
    """A value's target, and on a GPU whether it is met."""
    if "target" not in value:
        return ""
    verdict = {True: ": met", False: ": not met", None: " on a GPU"}[value["met"]]
    return f"target {value['target']} {value['unit']}{verdict}"


if __name__ == "__main__":
    cli.run(main)
