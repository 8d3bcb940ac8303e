"""The command line of conversion: so-vits-svc's flags, in groups, and a few of our own. Names and help only."""

import argparse
from collections.abc import Callable

from modules.cli import make_parser
from modules.f0.limits import F0_MAX, F0_MIN
from modules.inference.melody import CHROMATIC, CONCERT_PITCH, add_melody_flags

DEFAULT_MODEL = "logs/44k/G_37600.pth"
DEFAULT_CONFIG = "logs/44k/config.json"
DEFAULT_NAME = "君の知らない物語-src.wav"
DEFAULT_SPEAKER = "buyizi"
DIFFUSION_FOLDER = "logs/44k/diffusion"
DEFAULT_K_STEP = 100
MIX_FILES = ("configs/spkmix.json", "spkmix.py")
# What suits most songs better than so-vits-svc's defaults; the README's walk and a button of the web page set it.
RECOMMENDED = {
    "trans": "auto",
    "f0_predictor": "fcpe",
    "loudness_envelope_adjustment": 0.0,
    "noise_scale": 0.2,
    "keep_consonants": 1.0,
    "precision": "auto",
}
AUTO, AUTO_OCTAVE = "auto", "auto-octave"


def conversion_arguments(script: str, description: str, for_covers: bool = False) -> argparse.ArgumentParser:
    """The parser of the script with that `__file__` and `__doc__`.

    `for_covers`: songs with their music, named without a flag, which are always resumed and stay in their key.
    """
    parser = make_parser(script, description)
    add_model_flags(parser)
    _add_file_flags(parser, for_covers)
    _add_voice_flags(parser, for_covers)
    add_melody_flags(parser)
    add_retrieval_flags(parser)
    _add_method_flags(parser)
    return parser


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Which voice, on which device."""
    add = parser.add_argument_group("Model").add_argument
    newest = f"(default: {DEFAULT_MODEL}, or the newest G_*.pth in logs/44k/)"
    add("-m", "--model_path", metavar="FILE", help=f"trained generator, or the .onnx made of one {newest}")
    beside = f"(default: config.json beside the model given with -m, else {DEFAULT_CONFIG})"
    add("-c", "--config_path", metavar="FILE", help=f"config that was saved with the model {beside}")
    add("-d", "--device", metavar="NAME", help="cpu, cuda, cuda:1 or mps (default: the best there is)")
    precision = "of the networks; auto: bf16 on a CPU that computes it, which is quicker and sounds the same, "
    precision += "else as by default (default: fp32; fp16 on CUDA for a model whose path contains 'half')"
    add("--precision", choices=["auto", "fp32", "fp16", "bf16"], help=precision)


def _add_file_flags(parser: argparse.ArgumentParser, for_covers: bool) -> None:
    add = parser.add_argument_group("Input and output").add_argument
    names = "files to convert: names under raw/ (a suffix may be left out), paths, folders, or "
    names += "patterns like 'album/*.flac'"
    if for_covers:
        add("clean_names", nargs="*", metavar="SONG", help=names)
    else:
        add("-n", "--clean_names", nargs="+", default=[DEFAULT_NAME], metavar="NAME", help=names)
    formats = "format of the result: flac, wav, mp3, m4a, ogg ..."
    add("-wf", "--wav_format", default="flac", metavar="FORMAT", help=formats)
    resume = "go on where an interrupted run of the same command stopped: finished files stay, unfinished ones go on"
    add("--resume", action="store_true", help=argparse.SUPPRESS if for_covers else resume)
    overwrite = "replace results of other requests that have the same name; without it the new one gets a number"
    add("--overwrite", action="store_true", help=overwrite)
    metadata = "leave out of the result what it was made from, by which voice and on what terms"
    add("--no_metadata", action="store_true", help=metadata)
    add("--json", action="store_true", help="print one line of JSON on stdout for each finished file")


def _add_voice_flags(parser: argparse.ArgumentParser, for_covers: bool) -> None:
    add = parser.add_argument_group("Voice and pitch").add_argument
    speakers = f"target voices; every file is converted for each (default: {DEFAULT_SPEAKER}, or the model's only one)"
    add("-s", "--spk_list", nargs="+", metavar="NAME", help=speakers)
    keys = "semitones up (or down: -12) for each name; the first counts for names without one. auto: what suits the "
    keys += "notes that the voice was trained on"
    if for_covers:
        keys += ", by whole octaves, since the music stays in its key; other numbers than -12, 0, 12 are out of tune"
    else:
        keys += "; auto-octave: whole octaves only, so that the song keeps its key"
    add("-t", "--trans", type=transposition, nargs="+", default=[0], metavar="N", help=keys)
    add_pitch_flags(add)
    extend = "sing phrases outside the voice's comfortable notes inside them, and move them back with the same "
    extend += "formants; the model must know its range: evaluate.py --range --card"
    add("--extend_range", action="store_true", help=extend)
    add_consonants_flag(add)
    auto = "the model predicts the pitch itself: for speech; a song goes out of tune"
    add("-a", "--auto_predict_f0", action="store_true", help=auto)
    loudness = "1 keeps the loudness that the model made, 0 follows the source's, values between mix"
    add("-lea", "--loudness_envelope_adjustment", type=float, default=1.0, metavar="X", help=loudness)
    mix = f"mix of several voices that changes over the song, as written in {' or '.join(MIX_FILES)}"
    add("-usm", "--use_spk_mix", action="store_true", help=mix)
    add("--mix_path", metavar="FILE", help="another file with such a mix; implies -usm")
    constant = "the same mix all through the song, such as: alto=0.7 tenor=0.3"
    add("--mix", nargs="+", metavar="NAME=X", help=constant)


def add_pitch_flags(add: Callable[..., argparse.Action]) -> None:
    """How the pitch is found."""
    predictors = "F0 predictor: pm, dio, harvest, crepe, fcpe, rmvpe or swift; docs/encoders-and-f0.md compares them"
    add("-f0p", "--f0_predictor", default="pm", metavar="NAME", help=predictors)
    add("-fmp", "--f0_mean_pooling", action="store_true", help="the same as -f0p crepe (so-vits-svc 4.0's flag)")
    threshold = "confidence below which crepe, fcpe, rmvpe and swift call a frame unvoiced, 0 to 1"
    add("-ft", "--f0_filter_threshold", type=float, default=0.05, metavar="X", help=threshold)
    highest = "highest pitch in Hz that is looked for; up to 2000 for whistle notes and high sopranos"
    add("--f0_max", type=float, default=F0_MAX, metavar="HZ", help=highest)
    add("--f0_min", type=float, default=F0_MIN, metavar="HZ", help="lowest pitch in Hz that is looked for; from 36 on")


def add_retrieval_flags(parser: argparse.ArgumentParser) -> None:
    """What is taken from the training voice."""
    add = parser.add_argument_group("Retrieval").add_argument
    made = "cluster centres or index (default: kmeans_10000.pt, or with -fr feature_and_index.json or so-vits-svc's "
    made += ".pkl, beside the model or in logs/44k/)"
    add("-cm", "--cluster_model_path", default="", metavar="FILE", help=made)
    ratio = "share taken from the training voice's own sounds, 0 to 1: more is nearer to the voice, less clear in words"
    add("-cr", "--cluster_infer_ratio", type=float, default=0.0, metavar="X", help=ratio)
    index = "take them from a feature index (python train_index.py), not from cluster centres"
    add("-fr", "--feature_retrieval", action="store_true", help=index)


def _add_method_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("Shallow diffusion").add_argument
    shallow = "refine the result by diffusion: takes the electric sound and the noise off it"
    add("-shd", "--shallow_diffusion", action="store_true", help=shallow)
    add("-od", "--only_diffusion", action="store_true", help="diffusion alone, from noise, without the VITS model")
    newest = f"(default: the newest model_*.pt in {DIFFUSION_FOLDER}/)"
    add("-dm", "--diffusion_model_path", metavar="FILE", help=f"trained diffusion model {newest}")
    beside = f"(default: config.yaml beside the model given with -dm, else {DIFFUSION_FOLDER}/config.yaml)"
    add("-dc", "--diffusion_config_path", metavar="FILE", help=f"config that was saved with it {beside}")
    steps = "noise levels of shallow diffusion: more is cleaner and further from what the VITS model made"
    add("-ks", "--k_step", type=int, default=DEFAULT_K_STEP, metavar="N", help=steps)
    second = "units of diffusion from what the VITS model made, not from the source: nearer to the voice, less clear"
    add("-se", "--second_encoding", action="store_true", help=second)
    add = parser.add_argument_group("Slicing").add_argument
    silence = "loudness in dB below which a segment is silent; -50 keeps quiet breaths, -30 suits a noisy recording"
    add("-sd", "--slice_db", type=float, default=-40, metavar="DB", help=silence)
    add("-p", "--pad_seconds", type=float, default=0.5, metavar="S", help="silence added around every segment")
    clip = "cut into chunks of this many seconds whatever they hold; 0 cuts at silences only"
    add("-cl", "--clip", type=float, default=0.0, metavar="S", help=clip)
    fade = "seconds by which such chunks overlap and are cross-faded"
    add("-lg", "--linear_gradient", type=float, default=0.0, metavar="S", help=fade)
    cap = "most seconds at once; longer segments are cut where they are quietest, which bounds the memory"
    add("--max_segment", type=float, default=30.0, metavar="S", help=cap)
    retain = "share of that overlap which is really mixed, above 0 up to 1"
    add("-lgr", "--linear_gradient_retain", type=float, default=0.75, metavar="X", help=retain)
    add = parser.add_argument_group("Advanced").add_argument
    add_noise_flag(add)
    enhance = "NSF-HiFiGAN enhancer: cleaner sound for voices with little training data; not together with diffusion"
    add("-eh", "--enhance", action="store_true", help=enhance)
    key = "semitones by which the enhancer takes the voice lower, for notes above its range"
    add("-eak", "--enhancer_adaptive_key", type=int, default=0, metavar="N", help=key)
    formant = "with -shd, -od or -eh: how many of the semitones of -t the vocoder makes, which keeps the formants, and "
    formant += "not the voice; needs PC-NSF-HiFiGAN"
    add("--formant_key", type=float, default=0.0, metavar="N", help=formant)


def add_noise_flag(add: Callable[..., argparse.Action]) -> None:
    """How much the model varies, under both of its names."""
    noise = "how much the model varies: with 0.2 words are clearer, higher is rougher"
    add("-ns", "--noise_scale", type=float, default=0.4, metavar="X", help=noise)
    add("--noice_scale", dest="noise_scale", type=float, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_consonants_flag(add: Callable[..., argparse.Action]) -> None:
    """How much of the recording's consonants stays."""
    kept = "share of voiceless consonants (s, f, t, breaths; above 2 kHz) that comes from the recording, 0 to 1: words "
    kept += "are clearer; whatever else is heard in the recording there comes too"
    add("--keep_consonants", type=float, default=0.0, metavar="X", help=kept)


def transposition(text: str) -> int | str:
    """A number of semitones, or a word for choosing it."""
    if text in (AUTO, AUTO_OCTAVE):
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {AUTO} or {AUTO_OCTAVE}") from None


def without_effect(args: argparse.Namespace) -> list[str]:
    """What was given and has no effect, in words."""
    kind, mixed, mixes_from_file = kind_of(args), is_mixed(args), args.use_spk_mix or args.mix_path
    checks = {
        "-cm has no effect while -cr is 0": args.cluster_model_path and not args.cluster_infer_ratio,
        "-fr has no effect while -cr is 0": args.feature_retrieval and not args.cluster_infer_ratio,
        "-cr has no effect on a mix of voices": args.cluster_infer_ratio and mixed,
        "-s has no effect with a mix of voices": args.spk_list and mixed,
        "--mix stays the same all through the song; -usm has no effect": args.mix and mixes_from_file,
        "-lg has no effect without -cl": args.linear_gradient and not args.clip,
        "-fmp means -f0p crepe; the predictor given with -f0p is not used": args.f0_mean_pooling
        and args.f0_predictor not in ("pm", "crepe"),
        "-t has more values than there are names; the last ones are not used": len(args.trans) > len(args.clean_names),
        "-eak has no effect without -eh": args.enhancer_adaptive_key and not args.enhance,
        "--formant_key has no effect without -shd, -od or -eh": args.formant_key
        and not args.enhance
        and kind == "sovits",
        "-eh has no effect with diffusion, which ends in the same vocoder": args.enhance and kind != "sovits",
        "-shd has no effect with -od": args.shallow_diffusion and args.only_diffusion,
        "-se has no effect without -shd": args.second_encoding and kind != "sovdiff",
        "-ks has no effect without -shd": args.k_step != DEFAULT_K_STEP and kind != "sovdiff",
        "--scale and --tuning have no effect without --autotune": not args.autotune
        and (args.scale != CHROMATIC or args.tuning != CONCERT_PITCH),
        "-a has no effect with -od": args.auto_predict_f0 and args.only_diffusion,
        "-m and -c have no effect with -od": args.only_diffusion and (args.model_path or args.config_path),
    }
    return [text for text, applies in checks.items() if applies]


def is_mixed(args: argparse.Namespace) -> bool:
    """Whether a mix of voices is wanted."""
    return bool(args.mix or args.use_spk_mix or args.mix_path)


def kind_of(args: argparse.Namespace) -> str:
    """What the result's name says about how it was made."""
    return "diff" if args.only_diffusion else "sovdiff" if args.shallow_diffusion else "sovits"


def predictor_name(args: argparse.Namespace) -> str:
    """The F0 predictor that the flags ask for."""
    return "crepe" if args.f0_mean_pooling else args.f0_predictor
