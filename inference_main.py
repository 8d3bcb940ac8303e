"""Step 5 of the recipe: converts recordings to a trained voice.

Reads the model and its config (logs/44k/), and recordings of a voice alone: names under raw/, paths, folders, patterns.
Any format (wav, flac, ogg, opus, mp3, m4a, video ...), any rate, any length.
With -shd or -od also a diffusion model and the vocoder in pretrain/nsf_hifigan/.
Writes results/NAME_KEYkey_SPEAKER_KIND_PREDICTOR.FORMAT, mono at the model's rate, exactly as long as the source; KIND
is sovits, sovdiff (with -shd) or diff (with -od). Folders are mirrored below results/. A result of another request with
the same name stays, and the new one gets a number (NAME_2.flac), unless --overwrite is given.

Example: python inference_main.py -m logs/44k/G_8000.pth -c logs/44k/config.json -n song.wav -t 0 -s alto -f0p fcpe
"""

import argparse
import json
import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import check_retriever
from modules.audio.io import probe
from modules.cli import configure_logging, next_step, run
from modules.errors import FAILURES, UsageError, reason_of
from modules.inference import requests
from modules.inference.arguments import conversion_arguments, is_mixed, kind_of, predictor_name, without_effect
from modules.inference.inputs import find_sources
from modules.inference.melody import check_curves, melody_options
from modules.inference.options import MIX_NAME, make_options
from modules.inference.requests import Problems
from modules.inference.results import RESULTS, result_name
from modules.pretrained.needs import require_parts
from modules.text import quote

if TYPE_CHECKING:
    from assemble import VoiceRequest
    from modules.config.diffusion import DiffusionConfig
    from modules.config.schema import Config
    from modules.inference.auto_transpose import KeyChooser
    from modules.inference.batch import Job
    from modules.inference.converter import VoiceConverter
    from modules.inference.inputs import Named
    from modules.inference.report import ConversionReport
    from modules.inference.speaker_mix import SpeakerMix

logger = logging.getLogger("inference_main")


def main(argv: list[str] | None = None) -> int:
    """Converts every file for every speaker; returns 0, or 1 where some of several failed.

    Raises:
        UserError: the request cannot be fulfilled at all, or its only file cannot.
    """
    args = make_arguments().parse_args(argv)
    configure_logging()
    for text in without_effect(args):
        logger.info(text)
    wanted = read_request(args)  # all that can be known beforehand, before torch is imported
    if not wanted.sources:
        return 1

    from assemble import load_converter
    from modules.inference.batch import each_once, run_jobs

    try:
        converter = load_converter(voice_request(args, wanted))
        jobs, all_usable = make_jobs(args, wanted, converter)
        jobs = each_once(jobs)
        finished = run_jobs(jobs, converter, args.resume, print_json if args.json else None, args.overwrite)
    except KeyboardInterrupt:
        words = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--resume"]
        command = " ".join(map(quote, ["python", sys.argv[0] if argv is None else __file__, *words, "--resume"]))
        logger.warning("stopped; this goes on with what is left: %s", command)
        raise
    if finished and not args.json:
        files = f"{quote(finished[0].source.as_posix())} {quote(finished[0].result.as_posix())}"
        print(next_step(f"python compare.py {files}"))
    return 0 if wanted.complete and all_usable and len(finished) == len(jobs) else 1


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help and the web page show them."""
    return conversion_arguments(__file__, __doc__)


@dataclass(frozen=True)
class Wanted:
    """A request, verified as far as that goes without torch."""

    sources: list["Named"]  # what to convert
    complete: bool  # whether all that was named could be found
    model: Path | None  # None: diffusion alone
    config: "Config | None"  # of the model
    diffusion: "tuple[Path, Path, DiffusionConfig] | None"  # the diffusion model, its config's path, its config
    retrieval: Path | None  # cluster centres or an index
    speakers: list[str]  # target voices; `MIX_NAME` for a mix of them
    mix: "SpeakerMix | None"
    keys: list[int | str]  # the transposition of each of the typed names


def read_request(args: argparse.Namespace) -> Wanted:
    """What the flags ask for; everything that is wrong with it is said at once."""
    problems = Problems()
    furthest = max((key for key in args.trans if isinstance(key, int)), key=abs, default=0)
    checked = problems.attempt(make_options, args, speaker="", transpose=furthest)
    problems.attempt(require_parts, predictor=predictor_name(args))
    problems.attempt(requests.check_device, args.device)
    keys = (args.trans + args.trans[:1] * len(args.clean_names))[: len(args.clean_names)]
    sources, complete = problems.attempt(find_sources, args.clean_names, keys=keys) or ([], False)
    if len(sources) == 1:  # a batch goes on past those that are no audio
        problems.attempt(probe, sources[0].path)
    if checked is not None:
        problems.attempt(check_curves, checked.melody, [(source.label, source.path) for source in sources])
    problems.attempt(requests.check_results_folder, RESULTS)
    model, config, diffusion = requests.read_models(args, problems)
    if (retrieval := requests.choose_retrieval(args, model)) is not None:
        problems.attempt(check_retriever, retrieval, args.feature_retrieval)
    if config is not None:
        problems.attempt(require_parts, config.model.speech_encoder)
    mix, speakers, sung_by = None, [], diffusion and diffusion[2] if args.only_diffusion else config
    if config is not None and args.auto_predict_f0:
        problems.attempt(requests.check_pitch_decoder, config)
    if sung_by is not None:
        problems.attempt(requests.check_format, args.wav_format, sung_by.data.sampling_rate)
        mix = problems.attempt(requests.choose_mix, args, sung_by.spk, sources)
        if not is_mixed(args):
            speakers = problems.attempt(requests.choose_speakers, args.spk_list, list(sung_by.spk))
    if is_mixed(args) and any(isinstance(key, str) for key in args.trans):
        problems.add(UsageError("-t auto needs one target voice; with a mix of voices give a number"))
    problems.raise_all()
    speakers = [MIX_NAME] if mix is not None else speakers
    return Wanted(sources, complete, model, config, diffusion, retrieval, speakers, mix, keys)


def voice_request(args: argparse.Namespace, wanted: Wanted) -> "VoiceRequest":
    """The same in the words of `assemble.py`, which loads it."""
    from assemble import RetrievalRequest, make_request

    path, speakers = wanted.retrieval, tuple(wanted.speakers)
    retrieval = None if path is None else RetrievalRequest(path, args.feature_retrieval, speakers)
    return make_request(args, wanted.model, wanted.config, wanted.diffusion, retrieval)


def make_jobs(args: argparse.Namespace, wanted: Wanted, converter: "VoiceConverter") -> tuple[list["Job"], bool]:
    """Every source in every voice, and whether all sources could be used."""
    import torch

    from modules.inference.batch import Job

    chooser = make_chooser(args, wanted, converter) if any(isinstance(key, str) for key in wanted.keys) else None
    jobs, all_usable = [], True
    for source in wanted.sources:
        melody = melody_options(args).for_song(source.label, source.path)
        for speaker in wanted.speakers:
            key = wanted.keys[source.position]
            try:
                if isinstance(key, str):
                    key = chooser.choose(source.path, speaker, key, melody.f0_in)
            except (*FAILURES, torch.OutOfMemoryError) as error:
                if len(wanted.sources) == 1:
                    raise
                logger.error("%s: %s", source.path, reason_of(error, source.path))
                all_usable = False
                break
            options = replace(make_options(args, speaker, key, wanted.mix), melody=melody)
            name = result_name(source.label, options, predictor_name(args), kind_of(args))
            jobs.append(Job(source.path, RESULTS / name, options))
    return jobs, all_usable


def make_chooser(args: argparse.Namespace, wanted: Wanted, converter: "VoiceConverter") -> "KeyChooser":
    """What chooses the keys of `-t auto`."""
    from modules.data.pitch import voice_histograms
    from modules.inference.auto_transpose import KeyChooser

    model, pipeline = wanted.model or wanted.diffusion[0], converter.pipeline
    converter.voices = voices = voice_histograms(model, card=pipeline.card)
    return KeyChooser(voices, wanted.speakers, model, pipeline, args.slice_db)


def print_json(job: "Job", report: "ConversionReport | None") -> None:
    """One line about a finished file on stdout."""
    about = {
        "source": job.source.as_posix(),
        "result": job.result.as_posix(),
        "speaker": job.options.speaker,
        "transpose": job.options.transpose,
        "already_there": report is None,
    }
    if job.options.melody.f0_out is not None:
        about["f0_curve"] = job.options.melody.f0_out.as_posix()
    if report is not None:
        about |= report.to_plain()
    print(json.dumps(about, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    run(main)
