"""Section of on_gpu.py about a memory that is too small: who is halved, cut and refused, and in which words."""

import plain_step
from gpu_conversion import RTF, load, options_of
from gpu_report import Bench, Value, Values
from gpu_training import build, train

SHARES = (0.5, 0.2, 0.1, 0.05, 0.02)  # of what a conversion takes when it may take all


def memory(bench: Bench) -> None:
    """A conversion that may take ever less memory, by torch.cuda.set_per_process_memory_fraction.

    What is expected of it: batches are halved, then chunks are cut, and in the end an error says what to do.
    """
    if not bench.on_cuda:
        bench.skip("conversion", "only of a GPU can a share of the memory be taken away")
        return
    bench.measure("training", _training_without_memory)
    import torch

    wanted = {}
    bench.measure("all memory", _with_memory, None, wanted)
    try:
        for share in SHARES if wanted else ():
            bench.measure(f"{share:.0%} of that", _with_memory, share, wanted)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)


def _training_without_memory(bench: Bench) -> Values:
    """Leaves a tenth of what a step takes beyond the weights."""
    import torch

    from modules.errors import UserError

    stepper = build(bench, "tf32")
    bench.reset_peak()
    stepper.run([next(plain_step.batches(stepper.config)).to(bench.device)])
    held, peak = (f(bench.device) for f in (torch.cuda.memory_allocated, torch.cuda.max_memory_reserved))
    total = torch.cuda.get_device_properties(bench.device).total_memory
    bench.free()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (held + 0.1 * (peak - held)) / total), bench.device)
    try:
        train(bench, stepper)
    except UserError as error:
        return {"outcome": Value(f"refused: {error}")}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
    return {"outcome": Value("trained: that was enough")}


def _with_memory(bench: Bench, share: float | None, wanted: dict[str, int]) -> Values:
    """A conversion with a share of the memory, beyond the networks' own, that the first one, of None, has taken."""
    import torch

    from modules.errors import UserError

    converter = load(bench, "fcpe")
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved(bench.device)
    limit, total = None, torch.cuda.get_device_properties(bench.device).total_memory
    if share is not None:
        limit = held + share * (wanted["bytes"] - held)
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), bench.device)
    bench.reset_peak()
    song, result = (bench.plan.workspace / name for name in ("song.wav", "result.wav"))
    try:
        report = converter.convert(song, result, options_of(bench, converter), progress=False)
    except UserError as error:
        outcome, warnings = {"outcome": Value(f"refused: {error}")}, []
    else:
        outcome = {"outcome": Value("converted"), RTF: Value(report.realtime_factor, "s/s")}
        warnings = [text for text in report.warnings if "too much for this memory" in text]
    finally:
        peak = torch.cuda.max_memory_reserved(bench.device)
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
    if share is None:
        wanted["bytes"] = peak
    found = outcome | {"memory": Value(peak / 2**20, "MB")}
    found |= {"limit": Value(limit / 2**20, "MB")} if limit else {}
    halved = sum("halving that" in text for text in warnings)
    return found | {"halved": Value(halved, "batches"), "cut": Value(len(warnings) - halved, "chunks")}
