"""Step 5 of the recipe: converts recordings to a trained voice.

Reads the model and its config (logs/44k/), and recordings of a voice alone: names under raw/, paths, folders, patterns.
Any format that soundfile reads (wav, flac, ogg, opus, mp3, aiff), any rate, any length.
With -shd or -od also a diffusion model and the vocoder in pretrain/nsf_hifigan/.
Writes results/NAME_KEYkey_SPEAKER_KIND_PREDICTOR.FORMAT, mono at the model's rate, exactly as long as the source; KIND
is sovits, sovdiff (with -shd) or diff (with -od). Folders are mirrored below results/.

Example: python inference_main.py -m logs/44k/G_8000.pth -c logs/44k/config.json -n song.wav -t 0 -s alto -f0p fcpe
"""

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from modules.cli import configure_logging, next_step, run
from modules.errors import UsageError, UserError
from modules.inference.arguments import (
    DEFAULT_CONFIG,
    DEFAULT_MODEL,
    DEFAULT_SPEAKER,
    DIFFUSION_FOLDER,
    MIX_FILES,
    is_mixed,
    kind_of,
    make_arguments,
    predictor_name,
    without_effect,
)
from modules.inference.options import MIX_NAME, ConversionOptions

if TYPE_CHECKING:
    from assemble import DiffusionRequest, RetrievalRequest, VoiceRequest
    from modules.inference.batch import Job
    from modules.inference.converter import ConversionReport, VoiceConverter
    from modules.inference.inputs import Named
    from modules.inference.speaker_mix import SpeakerMix

logger = logging.getLogger("inference_main")


def main(argv: list[str] | None = None) -> int:
    """Converts every file for every speaker; returns 0, or 1 where some of several failed.

    Raises:
        UserError: the request cannot be fulfilled at all, or its only file cannot.
    """
    args = make_arguments(__file__, __doc__).parse_args(argv)
    make_options(args, speaker="", transpose=0)  # wrong values are refused before anything is loaded
    configure_logging()
    for text in without_effect(args):
        logger.info(text)

    # What follows imports torch; help and wrong flags should not wait for that.
    from assemble import load_converter
    from modules.inference.batch import check_results_differ, run_jobs
    from modules.inference.inputs import find_sources

    sources, complete = find_sources(args.clean_names)
    if not sources:
        return 1
    request, speakers, mix = choose_voice(args, sources)
    converter = load_converter(request)
    jobs, all_usable = make_jobs(args, sources, request, speakers, mix, converter)
    jobs = check_results_differ(jobs)
    finished = run_jobs(jobs, converter, args.resume, print_json if args.json else None)
    if finished and not args.json:
        print(next_step(f'python compare.py "{finished[0].source.as_posix()}" "{finished[0].result.as_posix()}"'))
    return 0 if complete and all_usable and len(finished) == len(jobs) else 1


def make_options(
    args: argparse.Namespace, speaker: str, transpose: int, mix: "SpeakerMix | None" = None
) -> ConversionOptions:
    """The verified request for one speaker and one transposition."""
    if not 0 <= args.f0_filter_threshold <= 1:
        raise UsageError(f"-ft/--f0_filter_threshold is {args.f0_filter_threshold:g}; it must lie between 0 and 1")
    return ConversionOptions(
        speaker=speaker,
        mix=mix,
        retrieval_ratio=args.cluster_infer_ratio,
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
        max_segment_seconds=args.max_segment,
        with_metadata=not args.no_metadata,
    )


def choose_voice(
    args: argparse.Namespace, sources: list["Named"]
) -> tuple["VoiceRequest", list[str], "SpeakerMix | None"]:
    """What to load, the target voices, and their mix where the flags ask for one (`MIX_NAME` stands for its name)."""
    from assemble import VoiceRequest, read_voice_config

    diffusion = choose_diffusion(args)
    model_path = config = None
    if args.only_diffusion:
        known = diffusion.config.spk
    else:
        model_path = choose_model(args.model_path)
        config = read_voice_config(choose_config(args.config_path, args.model_path))
        known = config.spk
    mix = choose_mix(args, known, sources)
    speakers = [MIX_NAME] if mix is not None else choose_speakers(args.spk_list, list(known))
    request = VoiceRequest(
        model_path,
        config,
        predictor_name(args),
        args.f0_filter_threshold,
        args.device,
        args.precision,
        diffusion,
        args.enhance and diffusion is None,
        choose_retrieval(args, model_path, speakers),
    )
    return request, speakers, mix


def make_jobs(
    args: argparse.Namespace,
    sources: list["Named"],
    request: "VoiceRequest",
    speakers: list[str],
    mix: "SpeakerMix | None",
    converter: "VoiceConverter",
) -> tuple[list["Job"], bool]:
    """Every source in every voice, and whether all sources could be used."""
    from modules.inference.batch import RESULTS, Job, result_name

    keys = args.trans + args.trans[:1] * (len(args.clean_names) - len(args.trans))
    chooser = None
    if any(isinstance(key, str) for key in args.trans):
        if mix is not None:
            raise UsageError("-t auto needs one target voice; with a mix of voices give a number")
        from modules.data.pitch import voice_histograms
        from modules.inference.auto_transpose import KeyChooser

        model, pipeline = request.model_path or request.diffusion.model_path, converter.pipeline
        voices = voice_histograms(model, card=pipeline.card)
        chooser = KeyChooser(voices, speakers, model, pipeline, args.slice_db)
    jobs, all_usable = [], True
    for source in sources:
        for speaker in speakers:
            key, warnings = keys[source.position], ()
            try:
                if isinstance(key, str):
                    key, warnings = chooser.choose(source.path, speaker, key)
            except UserError as error:
                if len(sources) == 1:
                    raise
                logger.error("%s", error)
                all_usable = False
                break
            options = make_options(args, speaker, key, mix)
            name = result_name(source.label, options, predictor_name(args), kind_of(args))
            jobs.append(Job(source.path, RESULTS / name, options, warnings))
    return jobs, all_usable


def print_json(job: "Job", report: "ConversionReport | None") -> None:
    """One line about a finished file on stdout."""
    about = {
        "source": job.source.as_posix(),
        "result": job.result.as_posix(),
        "speaker": job.options.speaker,
        "transpose": job.options.transpose,
        "already_there": report is None,
    }
    if report is not None:
        about |= {name: round(getattr(report, name), 3) for name in ("seconds", "voiced_seconds", "resumed_seconds")}
        about |= {
            "elapsed_seconds": round(report.elapsed, 3),
            "realtime_factor": round(report.realtime_factor, 4),
            "f0_range_hz": report.f0_range and [round(hz, 1) for hz in report.f0_range],
            "warnings": [*job.warnings, *report.warnings],
        }
    print(json.dumps(about, ensure_ascii=False), flush=True)


def choose_mix(args: argparse.Namespace, known: dict[str, int], sources: list["Named"]) -> "SpeakerMix | None":
    """The mix of voices that the flags ask for."""
    if not is_mixed(args):
        return None
    from modules.audio.io import probe
    from modules.inference.speaker_mix import constant_mix, load_mix

    if args.mix:
        return constant_mix(args.mix, known)
    path = Path(args.mix_path or next((name for name in MIX_FILES if Path(name).is_file()), MIX_FILES[0]))
    return load_mix(path, known, probe(sources[0].path).seconds)


def choose_retrieval(
    args: argparse.Namespace, model_path: Path | None, speakers: list[str]
) -> "RetrievalRequest | None":
    """The cluster centres or the index that the flags ask for; by default beside the model, else in logs/44k/."""
    if not args.cluster_infer_ratio or is_mixed(args):
        return None
    from assemble import RetrievalRequest

    names = ("feature_and_index.json", "feature_and_index.pkl") if args.feature_retrieval else ("kmeans_10000.pt",)
    usual = Path(DEFAULT_MODEL).parent
    folders = [usual] if model_path is None else [model_path.parent, usual]
    places = [folder / name for folder in folders for name in names]
    path = next((place for place in places if place.is_file()), usual / names[0])
    return RetrievalRequest(Path(args.cluster_model_path or path), args.feature_retrieval, tuple(speakers))


def choose_diffusion(args: argparse.Namespace) -> "DiffusionRequest | None":
    """The diffusion model that the flags ask for, with its config."""
    if kind_of(args) == "sovits":
        return None
    from assemble import DiffusionRequest
    from modules.config.diffusion import load_diffusion_config
    from modules.weights.checkpoint import list_checkpoints

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
    from modules.weights.checkpoint import list_checkpoints

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
    """The speakers named with -s, each once; else upstream's default where the model has it; else its only one."""
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
