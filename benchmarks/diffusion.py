"""Cost of shallow diffusion: inference_main.py without it and with each sampler.

Prints seconds of work per second of audio (real-time factor, without the loading) of the voice model alone, and for
each sampler and number of evaluations of the network with -shd, and how many times as long that is. With --compare also
of another checkout, in turn with this one.

Weights are random, of the published sizes: the speed is the same. Writes only to a temporary folder.

Example: python benchmarks/diffusion.py --seconds 40 --only dpm-solver++ unipc
"""

import sys
from pathlib import Path

import timing

METHODS = ("ddpm", "ddim", "pndm", "dpm-solver", "dpm-solver++", "unipc")
SPEEDUP = 10  # noise levels per evaluation


def main(argv: list[str] | None = None) -> int:
    """Prints the measurements."""
    parser = timing.make_parser(__file__, __doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=40.0, help="of the made song, without its pauses")
    add("--only", nargs="+", choices=METHODS, default=list(METHODS), help="samplers (default: all)")
    add("--evaluations", type=int, nargs="+", default=[5, 10], help="of the network")
    add("--precision", default="fp32", choices=["fp32", "fp16", "bf16"], help="of the networks")
    args = parser.parse_args(argv)
    shown, values = ("real-time factor", "MB"), (args, "song.wav", "dio")
    machine = f"vec768l12, dio, voice of the base size, {args.precision}, {args.seconds:g} s"
    timing.apart(timing.print_machine, machine)
    with timing.sides(args.compare) as found:
        for side in found:
            timing.write_song(side.workspace / "song.wav", args.seconds)
            timing.apart(timing.write_voice, side.workspace, "base")
            timing.apart(write_diffusion, side.workspace)
        alone = timing.alternate(found, timing.convert, args.rounds, *values)
        timing.show("voice model alone", found, alone, *shown)
        for method in args.only:
            for evaluations in args.evaluations:
                # ddpm visits every noise level: as many levels as evaluations.
                k_step, config = evaluations * (1 if method == "ddpm" else SPEEDUP), f"{method}.yaml"
                flags = ["-shd", "-dm", "model_1.pt", "-dc", config, "-ks", k_step]
                medians = timing.alternate(found, timing.convert, args.rounds, *values, *flags)
                timing.show(f"{method}, {evaluations} evaluations", found, medians, *shown)
                times = medians[0]["real-time factor"] / alone[0]["real-time factor"]
                print(f"{method}, {evaluations} evaluations: {times:.2f} times as long as the voice model alone")
    return 0


def write_diffusion(workspace: Path) -> None:
    """`model_1.pt` with a config for each sampler, and the vocoder."""
    import torch

    from diffusion.unit2mel import build_unit2mel
    from modules.config.diffusion import parse_diffusion_config, save_diffusion_config
    from modules.config.vocoder import VocoderConfig
    from vdecoder.mel_vocoder import build_vocoder

    for method in METHODS:
        infer = {"method": method, "speedup": 1 if method == "ddpm" else SPEEDUP}
        config = parse_diffusion_config({"spk": {timing.SPEAKER: 0}, "infer": infer})
        save_diffusion_config(config, workspace / f"{method}.yaml")
    torch.manual_seed(0)
    torch.save({"model": build_unit2mel(config, 128).state_dict()}, workspace / "model_1.pt")
    values = dict(sampling_rate=44100, num_mels=128, n_fft=2048, win_size=2048, hop_size=512, fmin=40, fmax=16000)
    values |= dict(upsample_rates=[8, 8, 2, 2, 2], upsample_kernel_sizes=[16, 16, 4, 4, 4])
    values |= dict(upsample_initial_channel=512, resblock_kernel_sizes=[3, 7, 11])
    vocoder = VocoderConfig(**values, resblock_dilation_sizes=[[1, 3, 5]] * 3)
    folder = workspace / "pretrain/nsf_hifigan"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(vocoder.model_dump_json(), "utf-8")
    torch.save({"generator": build_vocoder(vocoder).state_dict()}, folder / "model")


if __name__ == "__main__":
    sys.exit(main())
