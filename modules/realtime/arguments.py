"""The command line of realtime.py; flags that inference_main.py has are its own."""

import argparse
from pathlib import Path

from modules.cli import make_parser
from modules.inference.arguments import (
    add_model_flags,
    add_noise_flag,
    add_pitch_flags,
    add_retrieval_flags,
    conversion_arguments,
)
from modules.realtime.options import RealtimeOptions


def realtime_arguments(script: str, description: str) -> argparse.ArgumentParser:
    """The parser of the script with that `__file__` and `__doc__`."""
    parser, usual = make_parser(script, description), RealtimeOptions()
    add_model_flags(parser)
    add = parser.add_argument_group("Voice and pitch").add_argument
    add("-s", "--spk_list", metavar="NAME", help="target voice (default: the model's only one)")
    keys = "semitones up (or down: -12); 12 from most male voices to female ones"
    add("-t", "--trans", type=int, default=0, metavar="N", help=keys)
    add_pitch_flags(add)
    parser.set_defaults(f0_predictor="fcpe")  # so-vits-svc's pm depends on where a block begins
    add_noise_flag(add)
    add_retrieval_flags(parser)
    add = parser.add_argument_group("Stream").add_argument
    block = "seconds that are converted at once: more is safer on a slow computer, less is sooner heard"
    add("--block", type=float, default=usual.block, metavar="S", help=block)
    fade = "seconds in which a block goes over into the next; all of it is latency"
    add("--crossfade", type=float, default=usual.crossfade, metavar="S", help=fade)
    extra = "seconds of past sound that the networks are given with a block: more costs time, not latency"
    add("--extra", type=float, default=usual.extra, metavar="S", help=extra)
    gate = "loudness in dB below which the input is silence, and nothing is computed; -120 lets all through"
    add("--gate", type=float, default=usual.gate, metavar="DB", help=gate)
    add("--bypass", action="store_true", help="start with the voice as it is; Enter turns conversion on and off")
    add = parser.add_argument_group("Devices").add_argument
    add("--list_devices", action="store_true", help="show microphones and outputs, and end")
    device = "number of --list_devices, or a part of its name (default: the system's)"
    add("--device_in", metavar="NAME", help=f"microphone: {device}")
    add("--device_out", metavar="NAME", help=f"output: {device}")
    add = parser.add_argument_group("Files in place of devices").add_argument
    add("--from", dest="source", type=Path, metavar="FILE", help="take this recording for the microphone")
    add("--to", dest="result", type=Path, metavar="FILE", help="write what would be heard here (.wav or .flac)")
    add("--paced", action="store_true", help="as slowly as it would be sung; else as fast as possible")
    add("--overwrite", action="store_true", help="replace a file that is there")
    return parser


def as_conversion(args: argparse.Namespace) -> argparse.Namespace:
    """The same flags as inference_main.py would have them, its defaults for all others."""
    given = vars(conversion_arguments("realtime.py", "").parse_args([])) | vars(args)
    return argparse.Namespace(**given | {"spk_list": [args.spk_list] if args.spk_list else None, "trans": [args.trans]})
