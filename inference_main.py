"""Step 5 of the recipe: sings recordings in a trained voice.

Reads the model and its config (logs/44k/), and recordings of a voice alone: names under raw/, or paths. Any format that
soundfile reads (wav, flac, ogg, opus, mp3, aiff), any rate, any length.
With -shd or -od also a diffusion model and the vocoder in pretrain/nsf_hifigan/.
Writes results/NAME_KEYkey_SPEAKER_KIND_PREDICTOR.FORMAT, mono at the model's rate, exactly as long as the source; KIND
is sovits, sovdiff (with -shd) or diff (with -od).

Example: python inference_main.py -m logs/44k/G_8000.pth -c logs/44k/config.json -n song.wav -t 0 -s alto -f0p fcpe
"""

import argparse
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import UsageError
from modules.inference.options import ConversionOptions

if TYPE_CHECKING:
    from assemble import DiffusionRequest
    from modules.inference.converter import VoiceConverter

logger = logging.getLogger("inference_main")

DEFAULT_MODEL = "logs/44k/G_37600.pth"
DEFAULT_CONFIG = "logs/44k/config.json"
DEFAULT_NAME = "君の知らない物語-src.wav"
DEFAULT_SPEAKER = "buyizi"
DIFFUSION_FOLDER = "logs/44k/diffusion"
DEFAULT_K_STEP = 100
LATER = "[comes with a later version]"


def main(argv: list[str] | None = None) -> int:
    """Converts every file for every speaker; returns 0, or 1 where some of several failed.

    Raises:
        UserError: the request cannot be fulfilled at all, or its only file cannot.
    """
    args = make_arguments().parse_args(argv)
    refuse_what_comes_later(args)
    make_options(args, speaker="", transpose=0)  # wrong values are refused before anything is loaded
    configure_logging()
    say_what_is_ignored(args)

    # What follows imports torch; help and wrong flags should not wait for that.
    from modules.inference.jobs import Job, check_results_differ, find_sources, run_jobs

    sources = find_sources(args.clean_names)
    if not sources:
        return 1
    converter, speakers = load_voice(args)
    keys = args.trans + args.trans[:1] * (len(args.clean_names) - len(args.trans))
    jobs = [
        Job.named(name, sources[name], make_options(args, speaker, key), predictor_name(args), kind_of(args))
        for name, key in zip(args.clean_names, keys)
        for speaker in speakers
        if name in sources
    ]
    jobs = check_results_differ(jobs)
    finished = run_jobs(jobs, converter)
    if finished:
        print(next_step(f'python compare.py "{finished[0].source.as_posix()}" "{finished[0].result.as_posix()}"'))
    return 0 if len(finished) == len(jobs) and len(sources) == len(set(args.clean_names)) else 1


def make_arguments() -> argparse.ArgumentParser:
    """The command line: so-vits-svc's flags, grouped."""
    parser = make_parser(__file__, __doc__)
    _add_model_flags(parser.add_argument_group("Model"))
    _add_file_flags(parser.add_argument_group("Input and output"))
    _add_voice_flags(parser.add_argument_group("Voice and pitch"))
    _add_retrieval_flags(parser.add_argument_group("Retrieval"))
    _add_diffusion_flags(parser.add_argument_group("Shallow diffusion"))
    _add_slicing_flags(parser.add_argument_group("Slicing"))
    _add_advanced_flags(parser.add_argument_group("Advanced"))
    return parser


def _add_model_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    newest = f"(default: {DEFAULT_MODEL}, or the newest G_*.pth in logs/44k/)"
    add("-m", "--model_path", metavar="FILE", help=f"trained generator {newest}")
    beside = f"(default: config.json beside the model given with -m, else {DEFAULT_CONFIG})"
    add("-c", "--config_path", metavar="FILE", help=f"config that was saved with the model {beside}")
    add("-d", "--device", metavar="NAME", help="cpu, cuda, cuda:1 or mps (default: the best there is)")
    precision = "precision of the networks (default: fp32; fp16 on CUDA for a model whose path contains 'half')"
    add("--precision", choices=["fp32", "fp16", "bf16"], help=precision)


def _add_file_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    names = "files to convert: names under raw/ (.wav is added where a name has no suffix), or paths"
    add("-n", "--clean_names", nargs="+", default=[DEFAULT_NAME], metavar="NAME", help=names)
    add("-wf", "--wav_format", default="flac", metavar="FORMAT", help="format of the result: flac, wav, mp3, ogg ...")


def _add_voice_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    speakers = f"target voices; every file is converted for each (default: {DEFAULT_SPEAKER}, or the model's only one)"
    add("-s", "--spk_list", nargs="+", metavar="NAME", help=speakers)
    keys = "semitones up (or down: -12) for each file; the first counts for files without one"
    add("-t", "--trans", type=int, nargs="+", default=[0], metavar="N", help=keys)
    predictors = "how the melody is read: pm, dio, harvest, crepe, fcpe, rmvpe or swift; README.md compares them"
    add("-f0p", "--f0_predictor", default="pm", metavar="NAME", help=predictors)
    add("-fmp", "--f0_mean_pooling", action="store_true", help="the same as -f0p crepe (so-vits-svc 4.0's flag)")
    threshold = "confidence below which crepe, fcpe, rmvpe and swift call a frame unvoiced, 0 to 1"
    add("-ft", "--f0_filter_threshold", type=float, default=0.05, metavar="X", help=threshold)
    auto = "the model speaks with its own pitch: for speech; a song goes out of tune"
    add("-a", "--auto_predict_f0", action="store_true", help=auto)
    loudness = "1 keeps the loudness that the model made, 0 follows the source's, values between mix"
    add("-lea", "--loudness_envelope_adjustment", type=float, default=1.0, metavar="X", help=loudness)
    mix = f"mix of several voices that changes over time {LATER}"
    add("-usm", "--use_spk_mix", action="store_true", help=mix)


def _add_retrieval_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("-cm", "--cluster_model_path", default="", metavar="FILE", help=f"cluster centres or index {LATER}")
    ratio = f"share taken from the training voice's own sounds, 0 to 1 {LATER}"
    add("-cr", "--cluster_infer_ratio", type=float, default=0.0, metavar="X", help=ratio)
    add("-fr", "--feature_retrieval", action="store_true", help=f"-cm is a feature index {LATER}")


def _add_diffusion_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    shallow = "refine the result by diffusion: takes the electric sound and the noise off it"
    add("-shd", "--shallow_diffusion", action="store_true", help=shallow)
    add("-od", "--only_diffusion", action="store_true", help="diffusion alone, from noise, without the VITS model")
    newest = f"(default: the newest model_*.pt in {DIFFUSION_FOLDER}/)"
    add("-dm", "--diffusion_model_path", metavar="FILE", help=f"trained diffusion model {newest}")
    beside = f"(default: config.yaml beside the model given with -dm, else {DIFFUSION_FOLDER}/config.yaml)"
    add("-dc", "--diffusion_config_path", metavar="FILE", help=f"config that was saved with it {beside}")
    steps = "noise levels of shallow diffusion: more is cleaner and further from what the VITS model sang"
    add("-ks", "--k_step", type=int, default=DEFAULT_K_STEP, metavar="N", help=steps)
    second = "diffusion hears the words in what the VITS model sang, not in the source: nearer to the voice, less clear"
    add("-se", "--second_encoding", action="store_true", help=second)


def _add_slicing_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    silence = "loudness in dB below which a stretch is silence; -50 keeps quiet breaths, -30 suits a noisy recording"
    add("-sd", "--slice_db", type=float, default=-40, metavar="DB", help=silence)
    add("-p", "--pad_seconds", type=float, default=0.5, metavar="S", help="silence added around every stretch")
    clip = "cut into pieces of this many seconds whatever they hold; 0 cuts at silences only"
    add("-cl", "--clip", type=float, default=0.0, metavar="S", help=clip)
    fade = "seconds by which such pieces overlap and are cross-faded"
    add("-lg", "--linear_gradient", type=float, default=0.0, metavar="S", help=fade)
    retain = "share of that overlap which is really mixed, above 0 up to 1"
    add("-lgr", "--linear_gradient_retain", type=float, default=0.75, metavar="X", help=retain)


def _add_advanced_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    noise = "how much the model varies: lower is cleaner and duller, higher clearer and rougher"
    add("-ns", "--noise_scale", type=float, default=0.4, metavar="X", help=noise)
    add("--noice_scale", dest="noise_scale", type=float, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    enhance = "NSF-HiFiGAN enhancer: cleaner sound for voices with little training data; not together with diffusion"
    add("-eh", "--enhance", action="store_true", help=enhance)
    key = "semitones by which the enhancer hears the voice lower, for notes above its range"
    add("-eak", "--enhancer_adaptive_key", type=int, default=0, metavar="N", help=key)


def refuse_what_comes_later(args: argparse.Namespace) -> None:
    """Names the first flag that asks for something this version has not.

    Raises:
        UsageError: there is one.
    """
    later = {
        "-cr/--cluster_infer_ratio: mixing with clusters or an index": args.cluster_infer_ratio != 0,
        "-fr/--feature_retrieval: mixing with a feature index": args.feature_retrieval,
        "-usm/--use_spk_mix: a mix of voices": args.use_spk_mix,
    }
    for what, asked in later.items():
        if asked:
            raise UsageError(f"{what} comes with a later version; leave that flag out")


def say_what_is_ignored(args: argparse.Namespace) -> None:
    """One line for every flag that was given and has no effect."""
    by_diffusion = kind_of(args) != "sovits"
    without_effect = {
        "-cm has no effect while -cr is 0": args.cluster_model_path,
        "-lg has no effect without -cl": args.linear_gradient and not args.clip,
        "-fmp means -f0p crepe; the predictor given with -f0p is not used": args.f0_mean_pooling
        and args.f0_predictor not in ("pm", "crepe"),
        "-t has more values than there are files; the last ones are not used": len(args.trans) > len(args.clean_names),
        "-eak has no effect without -eh": args.enhancer_adaptive_key and not args.enhance,
        "-eh has no effect with diffusion, which ends in the same vocoder": args.enhance and by_diffusion,
        "-shd has no effect with -od": args.shallow_diffusion and args.only_diffusion,
        "-se has no effect without -shd": args.second_encoding and kind_of(args) != "sovdiff",
        "-ks has no effect without -shd": args.k_step != DEFAULT_K_STEP and kind_of(args) != "sovdiff",
        "-a has no effect with -od": args.auto_predict_f0 and args.only_diffusion,
        "-m and -c have no effect with -od": args.only_diffusion and (args.model_path or args.config_path),
    }
    for text, applies in without_effect.items():
        if applies:
            logger.info(text)


def make_options(args: argparse.Namespace, speaker: str, transpose: int) -> ConversionOptions:
    """The verified request for one speaker and one transposition.

    Raises:
        UsageError: a value is out of range.
    """
    if not (math.isfinite(args.f0_filter_threshold) and 0 <= args.f0_filter_threshold <= 1):
        raise UsageError(f"-ft/--f0_filter_threshold is {args.f0_filter_threshold:g}; it must lie between 0 and 1")
    return ConversionOptions(
        speaker=speaker,
        transpose=transpose,
        predict_f0=args.auto_predict_f0 and not args.only_diffusion,
        noise_scale=args.noise_scale,
        slice_db=args.slice_db,
        pad_seconds=args.pad_seconds,
        clip_seconds=args.clip,
        overlap_seconds=args.linear_gradient,
        overlap_retain=args.linear_gradient_retain,
        loudness_ratio=args.loudness_envelope_adjustment,
        second_encoding=args.second_encoding,
        enhance=args.enhance,
        enhancer_key=args.enhancer_adaptive_key,
        output_format=args.wav_format,
    )


def kind_of(args: argparse.Namespace) -> str:
    """What the result's name says about how it was made."""
    return "diff" if args.only_diffusion else "sovdiff" if args.shallow_diffusion else "sovits"


def predictor_name(args: argparse.Namespace) -> str:
    """The pitch predictor that the flags ask for."""
    return "crepe" if args.f0_mean_pooling else args.f0_predictor


def load_voice(args: argparse.Namespace) -> tuple["VoiceConverter", list[str]]:
    """The converter and the speakers to convert for.

    Raises:
        UserError: a file is missing or does not fit, or a speaker is unknown.
    """
    from assemble import VoiceRequest, load_converter, read_voice_config

    diffusion = choose_diffusion(args)
    model_path = config = None
    if args.only_diffusion:
        known = list(diffusion.config.spk)
    else:
        model_path = choose_model(args.model_path)
        config = read_voice_config(choose_config(args.config_path, args.model_path))
        known = list(config.spk)
    speakers = choose_speakers(args.spk_list, known)
    request = VoiceRequest(
        model_path,
        config,
        predictor_name(args),
        args.f0_filter_threshold,
        args.device,
        args.precision,
        diffusion,
        args.enhance and diffusion is None,
    )
    return load_converter(request), speakers


def choose_diffusion(args: argparse.Namespace) -> "DiffusionRequest | None":
    """The diffusion model that the flags ask for, with its config.

    Raises:
        ConfigError: there is no such config, or it is wrong.
    """
    if kind_of(args) == "sovits":
        return None
    from assemble import DiffusionRequest
    from modules.checkpoint import list_checkpoints
    from modules.config.diffusion import load_diffusion_config

    model = Path(args.diffusion_model_path or f"{DIFFUSION_FOLDER}/model_0.pt")
    if args.diffusion_model_path is None and (found := list_checkpoints(DIFFUSION_FOLDER, "model")):
        model = found[-1]
        logger.info("no -dm given: using the newest diffusion model, %s", model.as_posix())
    config = Path(args.diffusion_config_path or model.parent / "config.yaml")
    if not config.is_file():
        raise UsageError(
            f"-dc/--diffusion_config_path {config}: no such file. Give the config.yaml saved with the diffusion model, "
            "or train one with: python train_diff.py"
        )
    k_step = None if args.only_diffusion else args.k_step
    return DiffusionRequest(model, config, load_diffusion_config(config), k_step)


def choose_model(given: str | None) -> Path:
    """The model named with -m; else upstream's default where it exists; else the newest one beside it."""
    from modules.checkpoint import list_checkpoints

    default = Path(DEFAULT_MODEL)
    if given is not None:
        return Path(given)
    found = list_checkpoints(default.parent, "G")
    if default.is_file() or not found:
        return default
    logger.info("no -m given: using the newest model, %s", found[-1].as_posix())
    return found[-1]


def choose_config(given: str | None, model: str | None) -> Path:
    """The config named with -c; else the one beside the model named with -m; else upstream's default."""
    if given is not None:
        return Path(given)
    beside = Path(model).parent / "config.json" if model is not None else Path(DEFAULT_CONFIG)
    if beside.is_file() and beside != Path(DEFAULT_CONFIG):
        logger.info("no -c given: using %s", beside.as_posix())
        return beside
    return Path(DEFAULT_CONFIG)


def choose_speakers(given: list[str] | None, known: list[str]) -> list[str]:
    """The speakers named with -s, each once; else upstream's default where the model has it; else its only one.

    Raises:
        UserError: a speaker is unknown, or none is named and there are several.
    """
    listed = ", ".join(known)
    for name in given or []:
        if name not in known:
            raise UsageError(f"-s/--spk_list: the model has no speaker {name!r}. It has: {listed}.")
    if given:
        return list(dict.fromkeys(given))
    if DEFAULT_SPEAKER in known:
        return [DEFAULT_SPEAKER]
    if len(known) == 1:
        return known
    raise UsageError(f"name the target voice with -s. The model has: {listed}.")


if __name__ == "__main__":
    run(main)
