"""Cost of shallow diffusion: inference_main.py without it and with each sampler.

Prints seconds of work per second of audio (real-time factor, without the loading) of the voice model alone, and for
each sampler and number of evaluations of the network with -shd, and how many times as long that is. With --compare also
of another checkout, in turn with this one.

Weights are random, of the published sizes: the speed is the same. Writes only to a temporary folder.

Example: python benchmarks/diffusion.py --seconds 40 --only dpm-solver++ unipc
"""

import sys

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
    # ddpm visits every noise level.
    speedups = {method: 1 if method == "ddpm" else SPEEDUP for method in METHODS}
    with timing.sides(args.compare) as found:
        for side in found:
            timing.write_song(side.workspace / "song.wav", args.seconds)
            timing.apart(timing.write_voice, side.workspace, "base")
            timing.apart(timing.write_diffusion, side.workspace, speedups)
        alone = timing.alternate(found, timing.convert, args.rounds, *values)
        timing.show("voice model alone", found, alone, *shown)
        for method in args.only:
            for evaluations in args.evaluations:
                k_step, config = evaluations * speedups[method], f"{method}.yaml"
                flags = ["-shd", "-dm", "model_1.pt", "-dc", config, "-ks", k_step]
                medians = timing.alternate(found, timing.convert, args.rounds, *values, *flags)
                timing.show(f"{method}, {evaluations} evaluations", found, medians, *shown)
                times = medians[0]["real-time factor"] / alone[0]["real-time factor"]
                print(f"{method}, {evaluations} evaluations: {times:.2f} times as long as the voice model alone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
