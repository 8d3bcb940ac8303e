"""Measures a trained voice: converts recordings in each of its speakers and says in numbers how good the results are.

Reads the model and its config, and recordings of a voice alone: names under raw/, paths, folders, patterns; of each at
most --max_seconds. With the speaker encoder (pretrain/README.md) it also says how like the target the voice sounds,
with faster-whisper (pip install faster-whisper) and a model in pretrain/faster-whisper/ how many words are lost, with
speechmos (pip install speechmos onnxruntime requests) how natural it sounds; without them these columns stay empty.
Recordings of the targets are looked for in dataset/44k/SPEAKER/, a target's own takes of the sources in
PARALLEL/SPEAKER/SOURCE.wav.
Writes scores.csv (a row for each source and speaker), summary.csv (means with 95 % bootstrap intervals), report.html
(tables, players and pictures in one file) and audio/ with the results; and says in words what the numbers mean.
With --range each speaker sings a scale from C2 to C7 on vowels of its recordings in --targets (without any, on
synthesized ones): which notes are in tune, and which are as loud and clear as its best. Needs no -i; writes range.json.

Example: python evaluate.py -m logs/44k/G_8000.pth -c logs/44k/config.json -i raw/test -s alto -t auto
Example: python evaluate.py -m logs/44k/G_8000.pth --range --card
"""

import argparse
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.cli import configure_logging, make_parser, run
from modules.errors import UsageError
from modules.files import make_folder
from modules.inference.arguments import AUTO_OCTAVE, add_consonants_flag, add_noise_flag, transposition
from modules.inference.options import MOST_SEMITONES, outside
from modules.text import listing

if TYPE_CHECKING:
    from modules.config.schema import Config
    from modules.contracts import F0
    from modules.evaluation.evaluator import Scorers
    from modules.evaluation.report import Row
    from modules.evaluation.scale import Measured
    from modules.inference.converter import VoiceConverter
    from modules.inference.inputs import Named

logger = logging.getLogger("evaluate")

MODEL_FOLDER = "logs/44k"
TARGETS = "dataset/44k"
SHARED_ENCODER = "wer flatters this voice: its encoder, {}, is of the family of the Whisper that recognizes its words"
SCORES, SUMMARY, REPORT, RANGE = "scores.csv", "summary.csv", "report.html", "range.json"


def main(argv: list[str] | None = None) -> int:
    """Converts, measures and writes the tables; returns 0, or 1 where some clips failed."""
    args = make_arguments().parse_args(argv)
    args.second_f0_predictor = args.second_f0_predictor or ("fcpe" if args.f0_predictor == "pm" else "pm")
    check(args)
    configure_logging()
    sources, complete, model, config = read_request(args)
    if args.input and not sources:
        return 1
    speakers = choose_speakers(args.spk_list, list(config.spk))

    # What follows imports torch; help and what is wrong should not wait for that.
    from assemble import VoiceRequest, check_encoder, load_converter
    from modules.evaluation.evaluator import Evaluator, Plan
    from modules.evaluation.report import write_scores

    check_encoder(config)
    refuse_collisions(args.output, sources, speakers)
    converter = load_converter(VoiceRequest(model, config, args.f0_predictor, device=args.device))
    measured = measure_range(args, model, speakers, converter) if args.range else {}
    if not args.input:
        return 0
    choose_key = key_chooser(args.trans, model, speakers, converter.pipeline.card)
    scorers, notes = load_scorers(args, speakers, converter)
    if scorers.transcriber is not None and config.model.speech_encoder.startswith("whisper-ppg"):
        notes.append(SHARED_ENCODER.format(config.model.speech_encoder))
    notes += find_gaps(args.parallel, sources, speakers)
    for note in notes:
        logger.info("%s", note)
    output, players = args.output, not args.no_players
    how = args.noise_scale, args.keep_consonants
    plan = Plan(sources, speakers, output, args.f0_predictor, choose_key, *how, args.max_seconds, players)
    evaluator, rows = Evaluator(converter, scorers, plan), []
    for row in evaluator.run():
        rows.append(row)
        write_scores(args.output / SCORES, rows)  # an interrupted run leaves its rows
    if not rows:
        raise UsageError("no clip could be evaluated; see the reasons above")
    notes += evaluator.notes
    notes += [f"Failed: {failure}" for failure in evaluator.failures]
    facts = {
        "model": model.as_posix(),
        "speakers": ", ".join(speakers),
        "sources": f"{len(sources)}, of each at most {args.max_seconds:g} s",
        "transposition": str(args.trans),
        "noise scale": f"{args.noise_scale:g}",
        "consonants kept": f"{args.keep_consonants:g}",
        "F0 predictor": f"{args.f0_predictor}, for converting and for measuring",
        "second F0 predictor": args.second_f0_predictor,
        **{f"range of {speaker}": str(found) for speaker, found in measured.items()},
    }
    report(args.output, f"Evaluation of {model.name}", facts, rows, notes)
    if evaluator.failures:
        logger.error("%d clips or sources failed; see the reasons above", len(evaluator.failures))
    return 0 if complete and not evaluator.failures else 1


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help and the web page show them."""
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument
    newest = f"trained generator (default: the newest G_*.pth in {MODEL_FOLDER}/)"
    add("-m", "--model_path", metavar="FILE", help=newest)
    add("-c", "--config_path", metavar="FILE", help="config saved with it (default: config.json beside the model)")
    recordings = "recordings: files, folders or patterns; not needed with --range"
    add("-i", "--input", nargs="+", metavar="NAME", help=recordings)
    add("-s", "--spk_list", nargs="+", metavar="NAME", help="target voices (default: all that the model has)")
    keys = "semitones up; auto: what suits the notes that the voice was trained on; auto-octave: whole octaves only"
    add("-t", "--trans", type=transposition, default=0, metavar="N", help=keys)
    scale = "also measure which notes each speaker sings: a scale from C2 to C7, heard by both F0 predictors"
    add("--range", action="store_true", help=scale)
    card = "write the range into the model's card, for inference_main.py --extend_range and -t auto; changes the model"
    add("--card", action="store_true", help=card)
    predictor = "F0 predictor, for converting and for measuring"
    add("-f0p", "--f0_predictor", default="fcpe", metavar="NAME", help=predictor)
    add_noise_flag(add)
    add_consonants_flag(add)
    second = "another F0 predictor, for measuring melody and voicing once more (default: pm; where -f0p is pm, fcpe)"
    add("--second_f0_predictor", metavar="NAME", help=second)
    targets = f"folder with recordings of the target voices in SPEAKER/ (default: {TARGETS} where it is)"
    add("--targets", type=Path, metavar="FOLDER", help=targets)
    parallel = "folder with the targets' own takes of the sources, SPEAKER/SOURCE.wav, for the mel-cepstral distance"
    add("--parallel", type=Path, metavar="FOLDER", help=parallel)
    whisper = "folder of a Whisper model for CTranslate2, for the word errors (default: pretrain/faster-whisper)"
    add("--whisper", type=Path, metavar="FOLDER", help=whisper)
    language = "language of the words as a code such as en (default: what Whisper hears in each source)"
    add("--language", metavar="CODE", help=language)
    add("-o", "--output", type=Path, default=Path("results/evaluation"), metavar="FOLDER", help="folder to write to")
    add("--overwrite", action="store_true", help="replace the tables and results of an earlier evaluation there")
    seconds = "most seconds of each source, from where its sound begins"
    add("--max_seconds", type=float, default=30.0, metavar="S", help=seconds)
    add("--no_players", action="store_true", help="leave the sound out of the page, which makes it smaller")
    add("-d", "--device", metavar="NAME", help="cpu, cuda, cuda:1 or mps (default: the best there is)")
    return parser


def check(args: argparse.Namespace) -> None:
    """Refuses wrong values, and an output folder that holds an evaluation."""
    if not (math.isfinite(args.max_seconds) and 1 <= args.max_seconds <= 600):
        raise UsageError(f"--max_seconds is {args.max_seconds:g}; it must lie between 1 and 600")
    if isinstance(args.trans, int) and abs(args.trans) > MOST_SEMITONES:
        raise UsageError(f"-t/--trans is {args.trans}; it must lie between -{MOST_SEMITONES} and {MOST_SEMITONES}")
    for short, name in (("-ns", "noise_scale"), ("", "keep_consonants")):
        if problem := outside(short, name, getattr(args, name)):
            raise UsageError(problem)
    for flag, folder in (("--targets", args.targets), ("--parallel", args.parallel)):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{flag} {folder}: no such folder. Expected {folder}/SPEAKER/recording.wav")
    if not args.input and not args.range:
        raise UsageError("the following arguments are required: -i/--input, recordings to convert; or --range")
    if args.card and not args.range:
        raise UsageError("--card writes down what --range measures; add --range")
    if args.second_f0_predictor == args.f0_predictor:
        raise UsageError(f"--second_f0_predictor is {args.f0_predictor}, as is -f0p; name another one, or leave it out")
    if args.whisper or args.language:
        from modules.evaluation.extras import find_whisper

        find_whisper(args.whisper)
    if args.output.exists() and not args.output.is_dir():
        raise UsageError(f"-o/--output {args.output}: is a file; name a folder")
    earlier = ", ".join(name for name in (SCORES, SUMMARY, REPORT, RANGE, "audio") if (args.output / name).exists())
    if earlier and not args.overwrite:
        raise UsageError(f"-o/--output {args.output}: holds {earlier} already; use another folder, or add --overwrite")


def read_request(args: argparse.Namespace) -> tuple[list["Named"], bool, Path, "Config"]:
    """The recordings, whether all could be found, and the voice with its config; all that is wrong is said at once."""
    from modules.audio.io import probe
    from modules.inference import requests
    from modules.inference.inputs import find_sources
    from modules.pretrained.needs import require_parts
    from modules.weights.names import check_card_target

    problems, config = requests.Problems(), None
    sources, complete = problems.attempt(find_sources, args.input) or ([], False) if args.input else ([], True)
    if len(sources) == 1:  # of several those that are no audio are reported, and the rest goes on
        problems.attempt(probe, sources[0].path)
    if (model := problems.attempt(choose_model, args.model_path)) is not None:
        problems.attempt(requests.check_model, model)
        if args.card:
            problems.attempt(check_card_target, model)
        path = Path(args.config_path) if args.config_path else model.parent / "config.json"
        config = problems.attempt(requests.read_config, path)
    problems.attempt(require_parts, config and config.model.speech_encoder)
    for predictor in (args.f0_predictor, args.second_f0_predictor):
        problems.attempt(require_parts, predictor=predictor)
    problems.attempt(requests.check_device, args.device)
    problems.raise_all()
    return sources, complete, model, config


def choose_model(given: str | None) -> Path:
    """The model named with -m, else the newest one of the recipe."""
    from modules.weights.names import list_checkpoints

    if given is not None:
        return Path(given)
    found = list_checkpoints(MODEL_FOLDER, "G")
    if not found:
        raise UsageError(f"there is no G_*.pth in {MODEL_FOLDER}/; give the path of a trained model with -m")
    logger.info("no -m given: using the newest model, %s", found[-1].as_posix())
    return found[-1]


def choose_speakers(given: list[str] | None, known: list[str]) -> list[str]:
    """The speakers named with -s, each once; else all."""
    for name in given or []:
        if name not in known:
            raise UsageError(f"-s/--spk_list: the model has no speaker {name!r}. It has: {listing(known)}.")
    return list(dict.fromkeys(given)) if given else known


def refuse_collisions(output: Path, sources: list["Named"], speakers: list[str]) -> None:
    """Refuses sources of one name, whose results would replace each other, before anything is converted."""
    from modules.inference.batch import Job, check_results_differ
    from modules.inference.options import ConversionOptions
    from modules.inference.results import result_name

    jobs = []
    for options in (ConversionOptions(speaker=speaker) for speaker in speakers):
        for source in sources:
            jobs.append(Job(source.path, output / "audio" / result_name(source.label, options, "any"), options))
    check_results_differ(jobs)


def measure_range(
    args: argparse.Namespace, model: Path, speakers: list[str], converter: "VoiceConverter"
) -> dict[str, "Measured"]:
    """The range of each speaker; prints it, writes range.json, and with --card the model's card."""
    from modules.evaluation.ranges import describe_ranges, measure_ranges, put_on_card, write_ranges
    from modules.evaluation.scale import HIGHEST_HZ
    from modules.f0.base import build_predictor

    pipeline = converter.pipeline
    judges = [
        build_predictor(name, converter.audio, device=pipeline.device, f0_max=HIGHEST_HZ)
        for name in (args.f0_predictor, args.second_f0_predictor)
    ]
    measured = measure_ranges(pipeline, speakers, args.targets or Path(TARGETS), judges)
    make_folder(args.output)
    write_ranges(args.output / RANGE, model, measured)
    print(describe_ranges(measured))
    print(f"Notes: {(args.output / RANGE).as_posix()}")
    if args.card:
        put_on_card(model, pipeline.card, measured)
    return measured


def key_chooser(key: int | str, model: Path, speakers: list[str], card: dict[str, Any]) -> Callable[["F0", str], int]:
    """The function from a song's F0 and a speaker to the transposition in semitones."""
    if isinstance(key, int):
        return lambda curve, speaker: key
    from modules.data.pitch import voice_histograms
    from modules.f0.histogram import PitchHistogram, choose_shift

    voices = voice_histograms(model, card=card)
    for speaker in speakers:
        if speaker not in voices:
            places = f"neither {model} nor dataset/44k/f0_histograms.json says"
            raise UsageError(f"-t {key}: {places} which notes {speaker!r} was trained on. Give a number (-t 0).")

    def choose(curve: "F0", speaker: str) -> int:
        song = PitchHistogram.from_curve(curve.f0, curve.uv)
        return int(choose_shift(song, voices[speaker], key == AUTO_OCTAVE).semitones)

    return choose


def load_scorers(
    args: argparse.Namespace, speakers: list[str], converter: "VoiceConverter"
) -> tuple["Scorers", list[str]]:
    """What the results are measured with, and a sentence for each measure that stays empty."""
    from modules.evaluation.evaluator import Scorers, target_embedding
    from modules.evaluation.extras import NaturalnessScorer, Transcriber, find_whisper
    from modules.f0.base import build_predictor
    from modules.metrics.speaker import find_speaker_encoder, load_speaker_encoder

    device = converter.pipeline.device
    second = build_predictor(args.second_f0_predictor, converter.audio, device=device)
    notes, encoder, targets = [], None, {}
    if (path := find_speaker_encoder()) is None:
        remedy = "pip install --no-deps resemblyzer, or see pretrain/README.md"
        notes.append(f"similarity_target and similarity_source are empty: there is no speaker encoder: {remedy}")
    else:
        encoder = load_speaker_encoder(path, "cpu")
        folder = args.targets or Path(TARGETS)
        targets = {speaker: target_embedding(folder, speaker, encoder) for speaker in speakers}
        if names := ", ".join(speaker for speaker, embedding in targets.items() if embedding is None):
            where = "give their folder with --targets" if args.targets is None else "put some there"
            notes.append(f"similarity_target is empty for {names}: no recordings in {folder}/SPEAKER/; {where}")
    transcriber = naturalness = None
    try:
        folder = find_whisper(args.whisper)
        transcriber = Transcriber(folder, "cuda" if device.type == "cuda" else "cpu", args.language)
    except UsageError as error:
        if args.whisper or args.language:
            raise
        notes.append(f"wer is empty: {error}")
    try:
        naturalness = NaturalnessScorer()
    except UsageError as error:
        notes.append(f"dnsmos and dnsmos_source are empty: {error}")
    return Scorers(second, encoder, targets, transcriber, naturalness, args.parallel), notes


def find_gaps(parallel: Path | None, sources: list["Named"], speakers: list[str]) -> list[str]:
    """A sentence on the parallel takes that are not there, if any."""
    from modules.evaluation.evaluator import find_parallel

    if parallel is None:
        return ["mcd_db is empty: there are no parallel takes; give their folder with --parallel"]
    pairs = [(speaker, source.path) for source in sources for speaker in speakers]
    absent = [f"{speaker}/{path.stem}.wav" for speaker, path in pairs if find_parallel(parallel, speaker, path) is None]
    if not absent:
        return []
    more = ", ..." if len(absent) > 3 else ""
    return [f"mcd_db is empty for {len(absent)} of {len(pairs)} clips: {parallel} has no {', '.join(absent[:3])}{more}"]


def report(output: Path, title: str, facts: dict[str, str], rows: list["Row"], notes: list[str]) -> None:
    """Writes summary.csv and report.html, and prints the means over all clips."""
    from modules.evaluation.report import ALL, MEASURES, build_page, describe, summarise, verdict, write_summary
    from modules.files import write_text

    summary = summarise(rows)
    write_summary(output / SUMMARY, summary)
    write_text(output / REPORT, build_page(title, facts, rows, summary, notes))
    print(f"Means over {len(rows)} clips, with 95 % intervals:")
    for measure in MEASURES:
        if (interval := summary[ALL].get(measure.name)) is not None:
            print(f"  {measure.name:21} {describe(interval, measure.digits)}")
    print("In words:")
    for speaker in dict.fromkeys(row.speaker for row in rows):
        print(f"  {speaker}: {verdict(summary[speaker])}")
    print(f"Report: {(output / REPORT).as_posix()}")


if __name__ == "__main__":
    run(main)
