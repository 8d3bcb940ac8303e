"""Speed of shallow diffusion, of each sampler and as a part of a whole conversion.

First the denoiser alone, at the published size: real-time factor (seconds of work per second of audio) for each sampler
and number of evaluations, in three ways on the same segments:
    plain     one segment at a time at its own length, conditioner projections anew in every evaluation (so-vits-svc)
    single    one at a time, projections once for each segment
    batched   as converted: segments together, padded to a few lengths
Then, with --whole, a song of --seconds through inference_main's converter with -shd at k_step 100 (10 evaluations):
real-time factor of the first and the second pass, and the share of each stage.

Weights are random, of the published sizes: the speed is the same. Writes only to a temporary folder.

Example: python benchmarks/diffusion.py --seconds 40 --only dpm-solver++ --whole
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

METHODS = ("ddpm", "ddim", "pndm", "dpm-solver", "dpm-solver++", "unipc")
FRAME_RATE = 44100 / 512
SEGMENT_SECONDS = (3.0, 5.5, 8.0, 4.2, 6.7)


def main() -> int:
    """Prints tables; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0, help="audio for each measurement (default: %(default)s)")
    parser.add_argument("--only", nargs="*", choices=METHODS, default=list(METHODS), help="samplers (default: all)")
    parser.add_argument("--evaluations", type=int, nargs="*", default=[5, 10], help="of the network (default: 5 10)")
    parser.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "fp16", "bf16"], help="(default: %(default)s)")
    parser.add_argument("--whole", action="store_true", help="convert a song with all parts too")
    arguments = parser.parse_args()

    import torch

    from modules.device import choose_device, choose_dtype

    device, dtype = choose_device(arguments.device), choose_dtype(arguments.precision)
    print(
        f"{os.cpu_count()} cores, {device}, {arguments.precision}, torch {torch.__version__}, {arguments.seconds:g} s"
    )
    with torch.inference_mode():
        measure_samplers(arguments, device, dtype)
    if arguments.whole:
        measure_whole(arguments.seconds, device, arguments.precision)
    return 0


def measure_samplers(arguments: argparse.Namespace, device, dtype) -> None:
    """Prints one line for each sampler and number of evaluations."""
    import torch

    from diffusion.refine import DiffusionRefiner, SamplerSettings
    from diffusion.unit2mel import Unit2Mel

    torch.manual_seed(0)
    network = Unit2Mel(768, 1).eval().requires_grad_(False)
    torch.nn.init.normal_(network.decoder.denoise_fn.output_projection.weight, std=0.01)
    network.decoder.denoise_fn.to(dtype)
    network.to(device)
    chunks = make_chunks(arguments.seconds, device)
    seconds = sum(len(given.f0) for _, given in chunks) / FRAME_RATE
    print(f"{'sampler':14} {'evaluations':>11} {'plain':>9} {'single':>9} {'batched':>9}   plain / batched")
    for method in arguments.only:
        for evaluations in arguments.evaluations:
            # "ddpm" at speedup 1 visits every level: as many levels as evaluations.
            speedup = 1 if method == "ddpm" else 10
            settings = SamplerSettings(speedup * evaluations, method, speedup)
            refiner = DiffusionRefiner(network, FakeVocoder(), settings, show_progress=False)
            factors = [spent / seconds for spent in time_ways(network, refiner, chunks, device)]
            shown = " ".join(f"{factor:9.4f}" for factor in factors)
            print(f"{method:14} {evaluations:11d} {shown}   {factors[0] / factors[2]:.2f}", flush=True)


def time_ways(network, refiner, chunks: list, device) -> list[float]:
    """Seconds of the three ways."""
    return [
        timed(lambda: [plainly(network, chunk, refiner.settings) for chunk in chunks], device),
        timed(lambda: [refiner.mels([chunk]) for chunk in chunks], device),
        timed(lambda: refiner.refine(*zip(*chunks)), device),
    ]


class FakeVocoder:
    """The mel is measured alone: a mel of a constant for any wave, and silence for any mel."""

    def mel(self, wav):
        """(128, N) of (N * 512,)."""
        return wav.new_full((128, len(wav) // 512), -5.0)

    def synthesize(self, mel, f0):
        """Nothing."""
        return mel.new_zeros(0)


def make_chunks(seconds: float, device) -> list:
    """Segments of the usual lengths, `seconds` together."""
    import torch

    from modules.contracts import Synthesis, VoiceInput

    chunks, total = [], 0.0
    while total < seconds:
        n_frames = int(SEGMENT_SECONDS[len(chunks) % len(SEGMENT_SECONDS)] * FRAME_RATE) + len(chunks)
        values = torch.zeros(n_frames * 512), torch.randn(768, n_frames), torch.full((n_frames,), 220.0)
        wav, units, f0 = (value.to(device) for value in values)
        given = VoiceInput(units, f0, torch.ones_like(f0), 0, torch.full_like(f0, 0.1))
        chunks.append((Synthesis(wav, f0), given))
        total += n_frames / FRAME_RATE
    return chunks


def plainly(network, chunk, settings):
    """One segment as so-vits-svc denoises it: the whole network from its condition in every evaluation."""
    import torch

    from diffusion.samplers.base import sample

    output, given = chunk
    speaker = torch.zeros(1, dtype=torch.long, device=given.f0.device)
    condition = network.condition(given.units[None], given.f0[None], given.volume[None], speaker)
    mel = FakeVocoder().mel(output.wav)[None]
    decoder = network.decoder
    level = torch.full((1,), settings.k_step - 1, device=mel.device)
    start = decoder.normalise(mel)[:, None]
    x = decoder.add_noise(start, level, torch.randn_like(start))

    def denoise(x, t):
        return decoder.denoise_fn(x, torch.full((1,), t, device=x.device), condition)

    return decoder.denormalise(
        sample(settings.method, denoise, x, decoder.schedule, settings.k_step, settings.speedup)[:, 0]
    )


def timed(work, device) -> float:
    """Seconds of the first pass on a CPU, as a conversion has it; of a second pass on a GPU."""
    import torch

    if device.type == "cuda":
        work()
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure_whole(seconds: float, device, precision: str) -> None:
    """A song through the converter: vec768l12, dio, default voice, shallow diffusion and vocoder."""
    import torch
    from published import Stages, write_contentvec, write_song, write_voice

    import assemble
    from diffusion.unit2mel import build_unit2mel
    from modules.config.diffusion import load_diffusion_config, parse_diffusion_config, save_diffusion_config
    from modules.config.vocoder import VocoderConfig
    from modules.inference.options import ConversionOptions
    from vdecoder.mel_vocoder import build_vocoder

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_song(Path("song.wav"), seconds)
        write_voice(Path())
        write_contentvec(Path())
        config = assemble.read_voice_config(Path("config.json"))
        save_diffusion_config(parse_diffusion_config({"spk": {"voice": 0}}), "config.yaml")
        diffusion = load_diffusion_config("config.yaml")
        torch.save({"model": build_unit2mel(diffusion, 128).state_dict()}, "model_1.pt")
        Path("pretrain/nsf_hifigan").mkdir(parents=True)
        values = dict(sampling_rate=44100, num_mels=128, n_fft=2048, win_size=2048, hop_size=512, fmin=40, fmax=16000)
        values |= dict(upsample_rates=[8, 8, 2, 2, 2], upsample_kernel_sizes=[16, 16, 4, 4, 4])
        values |= dict(upsample_initial_channel=512, resblock_kernel_sizes=[3, 7, 11])
        vocoder = VocoderConfig(**values, resblock_dilation_sizes=[[1, 3, 5]] * 3)
        Path("pretrain/nsf_hifigan/config.json").write_text(vocoder.model_dump_json(), "utf-8")
        torch.save({"generator": build_vocoder(vocoder).state_dict()}, "pretrain/nsf_hifigan/model")

        for name, request in (
            ("voice model alone", None),
            ("with shallow diffusion", assemble.DiffusionRequest(Path("model_1.pt"), Path("config.yaml"), diffusion)),
        ):
            started = time.perf_counter()
            voice = assemble.VoiceRequest(Path("G_1.pth"), config, "dio", 0.05, str(device), precision, request)
            converter = assemble.load_converter(voice)
            if converter.pipeline.refiner is not None:
                converter.pipeline.refiner.show_progress = False
            loaded = time.perf_counter() - started
            stages = Stages(converter.pipeline, device)
            options = ConversionOptions("voice", output_format="wav")
            for number in ("first", "second"):
                stages.clear()
                report = converter.convert(Path("song.wav"), Path("out.wav"), options, progress=False)
                shares = stages.shares(report.elapsed)
                print(f"{name}, {number} pass: real-time factor {report.realtime_factor:.3f} ({shares})", flush=True)
            print(f"{name}: loaded in {loaded:.1f} s")
        os.chdir("/")


if __name__ == "__main__":
    sys.exit(main())
