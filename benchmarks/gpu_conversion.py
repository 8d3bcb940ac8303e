"""Sections of on_gpu.py about conversion: speed, shares, batches, precisions, latency.

All of them convert with networks of the published sizes and random weights (one also with the included voice), in the
process that they are called in.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import timing
from gpu_report import Bench, Value, Values, inside, snr_db

if TYPE_CHECKING:
    import numpy as np
    import torch

    from models import Voice
    from modules.contracts import VoiceInput
    from modules.inference.converter import VoiceConverter
    from modules.inference.options import ConversionOptions
    from modules.inference.pipeline import Pipeline

SAMPLER, SPEEDUP, K_STEP = "dpm-solver++", 10, 100
RTF = "real-time factor"
PARTS = {
    "F0": ("predictor", "predict"),
    "encoder": ("encoder", "encode", "encode_batch"),
    "voice model": ("synthesizer", "infer", "infer_batch"),
    "diffusion and vocoder": ("refiner", "refine"),
}
BLOCKS = (0.05, 0.1, 0.25, 0.5)  # seconds of audio


def conversion(bench: Bench) -> None:
    """A song with each predictor, with and without diffusion, in the precision that users get."""
    for predictor in ("fcpe", "rmvpe"):
        for shallow in (False, True):
            target = "<= 0.05" if shallow else "<= 0.02" if predictor == "fcpe" else ""
            bench.measure(_named(predictor, shallow), _conversion, predictor, shallow, target)


def batch(bench: Bench) -> None:
    """The same with the chunks of a song together, and one by one."""
    converter = load(bench, "fcpe", True)
    for shallow in (False, True):
        for is_on in (False, True):
            what = f"{_named('fcpe', shallow)}, batch {'on' if is_on else 'off'}"
            bench.measure(what, _batch, converter.pipeline, shallow, is_on)


def precision(bench: Bench) -> None:
    """Each precision: the whole conversion, and the voice model alone on what it was given in fp32.

    Of a made voice the sound is nearly that of its source: the included voice, which is trained, tells more.
    """
    import torch

    from modules.device import computes_bf16

    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    try:
        for voice, loader in (("", load), ("base-small, ", load_included)):
            features, reference = [], []
            for name in ("fp32", "tf32", "fp16", "bf16"):
                if name in ("tf32", "fp16") and not bench.on_cuda:
                    bench.skip(voice + name, "needs a CUDA GPU")
                elif name == "bf16" and not (bench.on_cuda or computes_bf16(bench.device)):
                    bench.skip(voice + name, "this processor only imitates it")
                else:
                    bench.measure(voice + name, _precision, name, loader, features, reference)
    finally:
        for flag, value in zip(flags, before):
            flag.allow_tf32 = value


def realtime(bench: Bench) -> None:
    """What a block of audio costs in realtime.py's engine, and how much later it is heard, without the devices."""
    for name in ("fp32", "fp16") if bench.on_cuda else ("fp32",):
        converter = load(bench, "fcpe", precision=name)
        for seconds in BLOCKS:
            bench.measure(f"{name}, block of {seconds:g} s", _block, converter, seconds)
        del converter


def load(bench: Bench, predictor: str, shallow: bool = False, precision: str | None = None) -> "VoiceConverter":
    """A converter with made weights, in the precision of inference_main.py's default unless told another."""
    from assemble import DiffusionRequest, VoiceRequest, load_converter, read_voice_config
    from modules.config.diffusion import load_diffusion_config

    plan, folder = bench.plan, bench.plan.workspace
    bench.made("voice", timing.write_voice, plan.size, 64 if plan.is_tiny else 3072)
    bench.made("song", _write_song, plan.song_seconds)
    if predictor == "rmvpe":
        bench.made("rmvpe", write_rmvpe, plan.is_tiny)
    diffusion = None
    with inside(folder):
        if shallow:
            bench.made("diffusion", timing.write_diffusion, {SAMPLER: SPEEDUP}, plan.size)
            path = Path(f"{SAMPLER}.yaml")
            diffusion = DiffusionRequest(Path("model_1.pt"), path, load_diffusion_config(path), K_STEP)
        config, device = read_voice_config(Path("config.json")), str(bench.device)
        request = VoiceRequest(Path("G_1.pth"), config, predictor, device=device, precision=precision)
        return load_converter(replace(request, diffusion=diffusion))


def load_included(bench: Bench, predictor: str, precision: str) -> "VoiceConverter":
    """A converter with the trained voice that comes with the code."""
    from assemble import VoiceRequest, load_converter, read_voice_config

    bench.made("song", _write_song, bench.plan.song_seconds)
    folder = timing.ROOT / "pretrain/base-small"
    config, device = read_voice_config(folder / "config.json"), str(bench.device)
    return load_converter(VoiceRequest(folder / "G_0.pth", config, predictor, device=device, precision=precision))


def _write_song(folder: Path, seconds: float) -> None:
    timing.write_song(folder / "song.wav", seconds)


def write_rmvpe(folder: Path, is_small: bool) -> None:
    """`pretrain/rmvpe.pt` with random weights, unless the published file is beside the code."""
    import torch

    from modules.f0._networks.rmvpe import Rmvpe, RmvpeSizes

    if (timing.ROOT / "pretrain/rmvpe.pt").is_file():
        return
    torch.manual_seed(0)
    sizes = RmvpeSizes(channels=4, levels=3, middle_layers=1, blocks=1, hidden=16) if is_small else RmvpeSizes()
    (folder / "pretrain").mkdir(exist_ok=True)
    torch.save({"model": Rmvpe(sizes).state_dict()}, folder / "pretrain/rmvpe.pt")


def _named(predictor: str, shallow: bool) -> str:
    return f"{predictor}, -shd -ks {K_STEP}" if shallow else predictor


def options_of(bench: Bench, converter: "VoiceConverter") -> "ConversionOptions":
    """Those of inference_main.py; a tiny song is cut so that there is more than one chunk."""
    from modules.inference.options import ConversionOptions

    cut = {"clip_seconds": 0.4, "pad_seconds": 0.1} if bench.plan.is_tiny else {}
    return ConversionOptions(next(iter(converter.pipeline.speakers)), output_format="wav", **cut)


def _convert(bench: Bench, converter: "VoiceConverter") -> float:
    """The real-time factor of the song, as inference_main.py logs it."""
    song, result = (bench.plan.workspace / name for name in ("song.wav", "result.wav"))
    return converter.convert(song, result, options_of(bench, converter), progress=False).realtime_factor


def _conversion(bench: Bench, predictor: str, shallow: bool, target: str) -> Values:
    converter = load(bench, predictor, shallow)
    first = [_convert(bench, converter) for _ in range(bench.plan.warm(1))]
    found = {RTF: _factor(bench, converter, target)}
    if first:
        found["first conversion"] = Value(first[0], "s/s")
    found["memory"] = bench.memory()
    with watched(bench, converter.pipeline) as seconds:
        started = time.perf_counter()
        _convert(bench, converter)
        total = time.perf_counter() - started
    shares = {part: Value(100 * spent / total, "%") for part, spent in seconds.items()}
    return found | shares | {"the rest": Value(100 * (1 - sum(seconds.values()) / total), "%")}


def _factor(bench: Bench, converter: "VoiceConverter", target: str = "") -> Value:
    """The median real-time factor of some conversions; `Bench.memory` is theirs afterwards."""
    for _ in range(bench.plan.warm(1)):
        _convert(bench, converter)
    bench.reset_peak()
    factors = [_convert(bench, converter) for _ in range(bench.plan.repeats(3))]
    return Value(statistics.median(factors), "s/s", target)


@contextlib.contextmanager
def watched(bench: Bench, pipeline: "Pipeline") -> Iterator[dict[str, float]]:
    """Seconds in each of a pipeline's parts, inside; the device is waited for before and after each call."""
    seconds, inner, watching = {}, [], []

    def watch(function: Callable, part: str) -> Callable:
        def timed(*args, **options):
            if inner:  # of a call that is being timed
                return function(*args, **options)
            inner.append(part)
            bench.synchronize()
            started = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                bench.synchronize()
                seconds[part] += time.perf_counter() - started
                inner.pop()

        return timed

    for part, (name, *methods) in PARTS.items():
        if (owner := getattr(pipeline, name)) is not None:
            seconds[part] = 0.0
            for method in methods:
                setattr(owner, method, watch(getattr(owner, method), part))
                watching.append((owner, method))
    try:
        yield seconds
    finally:
        for owner, method in watching:
            delattr(owner, method)


def _batch(bench: Bench, loaded: "Pipeline", shallow: bool, is_on: bool) -> Values:
    from modules.inference.converter import VoiceConverter
    from modules.inference.pipeline import GPU_BATCH_FRAMES

    changes = {"batch_frames": GPU_BATCH_FRAMES if is_on else 0}
    pipeline = replace(loaded, **changes if shallow else changes | {"refiner": None, "refiner_speakers": None})
    refiner = pipeline.refiner
    before = None if refiner is None else refiner.batch_frames
    if refiner is not None:  # on a CPU it never takes more than one
        refiner.batch_frames = before if bench.on_cuda and is_on else 1
    try:
        return {RTF: _factor(bench, VoiceConverter(pipeline)), "memory": bench.memory()}
    finally:
        if refiner is not None:
            refiner.batch_frames = before


def _precision(
    bench: Bench, name: str, loader: Callable, features: "list[VoiceInput]", reference: "list[np.ndarray]"
) -> Values:
    """Both lists are filled in fp32, which comes first."""
    import numpy as np

    from modules.device import allow_tf32

    allow_tf32(name == "tf32")
    converter = loader(bench, "fcpe", precision="fp32" if name == "tf32" else name)
    pipeline = converter.pipeline
    if not features:

        def keep(items: "list[VoiceInput]", options: "ConversionOptions") -> "list[VoiceInput]":
            features.extend(items)
            return items

        pipeline.retrieve = keep
        _convert(bench, converter)
        del pipeline.retrieve
    found = {RTF: _factor(bench, converter), "memory": bench.memory()}
    voice = pipeline.synthesizer
    seconds = bench.clock(lambda: [_synthesize(voice, item) for item in features], 3)
    found["voice model alone"] = Value(statistics.median(seconds), "s")
    wavs = [_synthesize(voice, item).cpu().numpy() for item in features]
    if reference:
        found["SNR against fp32"] = Value(snr_db(np.concatenate(reference), np.concatenate(wavs)), "dB")
    else:
        reference.extend(wavs)
    return found


def _synthesize(voice: "Voice", given: "VoiceInput") -> "torch.Tensor":
    """The wave (T,) of a chunk, from the same seed every time."""
    return voice.infer(given.units, given.f0, given.uv, given.speaker, given.volume).wav


def _block(bench: Bench, converter: "VoiceConverter", seconds: float) -> Values:
    from modules.realtime.engine import Engine
    from modules.realtime.options import RealtimeOptions

    crossfade = min(RealtimeOptions.crossfade, seconds / 2)
    engine = Engine(converter.pipeline, options_of(bench, converter), RealtimeOptions(seconds, crossfade, gate=-120))
    block = timing.make_clips(3.0)[0][: engine.n_block]
    times = bench.clock(lambda: engine.process(block), 50, 5)
    found = {"median": Value(1000 * statistics.median(times), "ms"), "worst": Value(1000 * max(times), "ms")}
    latency = 1000 * (engine.block_seconds + engine.delay_seconds + max(times))
    found["latency"] = Value(latency, "ms", "<= 200" if seconds < 0.1 else "")
    return found | {"share of the block": Value(100 * statistics.median(times) / engine.block_seconds, "%")}
