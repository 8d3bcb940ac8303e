"""Step 4 of the recipe: train a voice from the features.

Reads configs/config.json, the file lists that it names, and the clips and features of steps 1 to 3, with
f0_histograms.json beside the speakers' folders, which goes into the checkpoints.
Writes logs/MODEL/: G_STEP.pth and D_STEP.pth (the voice model and its discriminators), G_best.pth (the voice that
scored best so far), scores.csv, config.json, train.log, and TensorBoard events (look at them with:
tensorboard --logdir logs/MODEL); with --preview SONG also preview/STEP.flac, the song in the voice of that step.
A base model put there beforehand as G_0.pth and D_0.pth gives a head start, with the parts of it that fit. Run the same
command again to go on where it stopped. Ctrl-C, SIGTERM and a closing terminal save first.
Trains on all GPUs that it sees, each with a share of the clips. On several machines, run on each:
torchrun --nnodes N --nproc-per-node GPUS --rdzv-backend c10d --rdzv-endpoint HOST:PORT train.py -c ... -m ...

Example: python train.py -c configs/config.json -m 44k
"""

import argparse
import logging
import math
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import CheckpointError, DataError, UsageError, UserError, reason_of
from modules.inference.arguments import AUTO, transposition
from modules.inference.options import MOST_SEMITONES
from modules.text import listing
from modules.training.command import (
    add_flags,
    check_files,
    check_run_name,
    introduce,
    keep_config,
    millions,
    missing_list,
    parse_flags,
    report_end,
    run_folder,
)

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader

    from modules.config.schema import Config
    from modules.data.dataset import VoiceDataset
    from modules.evaluation.preview import Preview
    from modules.training.distributed import Group
    from modules.training.loop import TrainingLoop, TrainState
    from modules.training.scores import Scorer
    from modules.training.step import VitsStep

logger = logging.getLogger(__name__)

VALIDATION_CLIPS = 8
# The range is measured in at most this share of the time that the training took, and in at most so many seconds; less
# than the least is not worth beginning.
RANGE_SHARE, MOST_RANGE_SECONDS, LEAST_RANGE_SECONDS = 0.1, 60.0, 5.0
RANGE_CLIPS = 40  # of each speaker, in which a steady vowel is looked for
PREVIEW_SECONDS, MOST_PREVIEW_SECONDS = 20.0, 300.0


def main(argv: list[str] | None = None) -> int:
    """Trains; returns 0, 130 when told to stop, or 1 when another process of the run has failed and says why."""
    from modules.config.io import read_content

    arguments = parse_flags(make_arguments(), argv)
    check_run_name(arguments.model)
    configure_logging()
    content = read_content(arguments.config)
    _check(arguments, content)
    from modules.training.launch import run_on_devices  # torch: mistakes have been named by now

    return run_on_devices(partial(_train, arguments, content), arguments.gpus, arguments.device)


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help and the web page show them."""
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument
    add("-c", "--config", type=Path, default=Path("./configs/config.json"), help="the config of step 2")
    add("-m", "--model", required=True, help="name of the run; its folder is logs/MODEL")
    add("--base", type=Path, help="folder with G_0.pth and D_0.pth to start from, while logs/MODEL has no checkpoint")
    text = "of the networks; losses and spectra are fp32 always (default: train.fp16_run and train.half_type of the "
    text += "config; without them tf32, which on CUDA is fp32 with shortened factors and elsewhere fp32)"
    text = "what is trained: all; generator: all but the discriminators, in half the time, before they join in; prior: "
    text += "only what leads from units to the decoder, which stays as it is"
    add("--stage", choices=("all", "generator", "prior"), default="all", help=text)
    add("--precision", choices=("fp32", "tf32", "bf16", "fp16"), help=text)
    add("--auto_batch", action="store_true", help="find the largest train.batch_size that fits this GPU, and use it")
    text = "compile the networks with torch.compile: minutes of start for quicker steps; needs a C++ compiler"
    add("--compile", action="store_true", help=text)
    text = "songs, a voice alone, of which the beginning is sung at each evaluation: logs/MODEL/preview/STEP.flac"
    add("--preview", type=Path, nargs="+", action="extend", metavar="FILE", help=text)
    text = f"seconds of each song of --preview, from where its sound begins (default: {PREVIEW_SECONDS:g})"
    add("--preview_seconds", type=float, metavar="S", help=text)
    add("--preview_speaker", metavar="NAME", help="who sings them (default: the config's first speaker)")
    text = "their transposition: semitones, auto or auto-octave (default: auto, what suits the speaker's notes)"
    add("--preview_trans", type=transposition, metavar="N", help=text)
    text = "load everything, make a step, say what would be trained and how long it takes, and stop; writes nothing"
    add("--dry-run", "--dry_run", action="store_true", help=text)
    return add_flags(parser, "cpu, cuda, cuda:1 or mps: one device (default: all GPUs, or the best)")


def _check(arguments: argparse.Namespace, content: bytes) -> None:
    """Refuses a config of nobody's voice, and files that are not there, within half a second."""
    from modules.config.io import load_config

    path, config = arguments.config, load_config(arguments.config, content)
    errors: list[UserError | None] = [
        missing_list(config.data.training_files),
        missing_list(config.data.validation_files),
    ]
    if not config.spk:
        errors.append(DataError(f"{path}: spk names no speaker. Make it with: python preprocess_flist_config.py"))
    for name in config.train.bandwidth.keys() - config.spk.keys():  # a conversion may call its voices otherwise
        text = f"train.bandwidth names {name!r}, who is not in spk ({', '.join(config.spk)}). Correct the name"
        errors.append(DataError(f"{path}: {text}"))
    is_new = not any(Path("logs", arguments.model).glob("G_*.pth"))
    if is_new and (base := arguments.base) is not None and not (base / "G_0.pth").is_file():
        errors.append(CheckpointError(f"--base {base}: holds no G_0.pth. Give a folder with G_0.pth and D_0.pth"))
    check_files(*errors, *_preview_problems(arguments, config))


def _preview_problems(arguments: argparse.Namespace, config: "Config") -> list[UserError]:
    """What is wrong with the songs of --preview and who is to sing them."""
    from modules.audio.io import probe
    from modules.pretrained.needs import require_parts

    seconds, speaker, key = arguments.preview_seconds, arguments.preview_speaker, arguments.preview_trans
    if not arguments.preview:
        given = {"seconds": seconds, "speaker": speaker, "trans": key}
        idle = [f"--preview_{name}" for name, value in given.items() if value is not None]
        return [UsageError(f"{idle[0]} goes with --preview SONG; give a song, or leave it out")] if idle else []
    problems: list[UserError] = []
    if seconds is not None and not 1 <= seconds <= MOST_PREVIEW_SECONDS:
        problems.append(UsageError(f"--preview_seconds {seconds:g}: expected 1 to {MOST_PREVIEW_SECONDS:g}"))
    if isinstance(key, int) and abs(key) > MOST_SEMITONES:
        problems.append(UsageError(f"--preview_trans {key}: expected -{MOST_SEMITONES} to {MOST_SEMITONES}"))
    if speaker is not None and speaker not in config.spk:
        problems.append(UsageError(f"--preview_speaker {speaker!r}: the config's speakers are {listing(config.spk)}"))
    calls = [partial(probe, path) for path in arguments.preview]
    for call in [*calls, partial(require_parts, config.model.speech_encoder)]:
        try:
            call()
        except UserError as error:
            problems.append(UsageError(f"--preview: {error}"))
    return problems


def _make_preview(
    arguments: argparse.Namespace, config: "Config", card: dict[str, Any], step: "VitsStep"
) -> "Preview | None":
    """What sings the songs of --preview."""
    if not arguments.preview:
        return None
    from models import Voice
    from modules.evaluation.preview import Preview, PreviewRequest

    seconds, speaker = arguments.preview_seconds or PREVIEW_SECONDS, arguments.preview_speaker or next(iter(config.spk))
    key = AUTO if arguments.preview_trans is None else arguments.preview_trans
    request = PreviewRequest(tuple(dict.fromkeys(arguments.preview)), seconds, speaker, key)
    return Preview(request, config, card, Voice(step.voice), step.device)


def _train(arguments: argparse.Namespace, content: bytes, group: "Group") -> int:
    """A training on one rank, with the config that the bytes `content` are."""
    configure_logging(level=logging.INFO if group.is_main else logging.WARNING)
    folder = Path("logs") / arguments.model
    if arguments.dry_run:
        return _train_in(folder, arguments, content, group)
    with run_folder(folder, "train.log", group):
        return _train_in(folder, arguments, content, group)


def _train_in(folder: Path, arguments: argparse.Namespace, content: bytes, group: "Group") -> int:
    """The same in the folder of the run, in the order in which it happens."""
    from modules.data.dataset import VoiceDataset, make_loader
    from modules.data.filelist import report_repeats
    from modules.training.distributed import raise_on_all_ranks, seed_rank
    from modules.training.loop import TrainingLoop, require_same_step
    from modules.training.monitor import VoiceMonitor
    from modules.training.resume import load_start, save_state
    from modules.training.step import VitsStep

    # The config and the data. (No rank may leave alone where ranks speak with each other.)
    with raise_on_all_ranks(group):
        config = _load_config(arguments, content)
        training = VoiceDataset(config.data.training_files, config)
        clips = VoiceDataset(config.data.validation_files, config, training=False).evenly_spaced(VALIDATION_CLIPS)
        if group.is_main:
            report_repeats(Path(config.data.training_files), Path(config.data.validation_files))
        scorer = _find_scorer(config) if group.is_main else None
    if arguments.auto_batch:
        _choose_batch_size(config, training, group)
    loader = make_loader(training, group.device, group.rank, group.world_size)

    # The networks with their optimizers, brought to where the newest checkpoint or a base model says.
    step = VitsStep(*_build_networks(config, group.device), config, group.device, group, arguments.stage)
    if arguments.compile:
        step.compile()
    seed_rank(config.train.seed, group)
    with raise_on_all_ranks(group):
        state, saved = load_start(folder, step, group, arguments.base)
    require_same_step(group, folder, state)
    with raise_on_all_ranks(group):
        card = _make_card(config, training, folder, state.step, saved) if group.is_main else {}
    save = partial(save_state, folder, state, step, card=card)
    loop = TrainingLoop(step, state, group, save, saved if state.step else None)

    if group.is_main:
        net_g, net_d = map(millions, step.networks)
        details = f"{net_g} parameters in the voice model, {net_d} in discriminators"
        introduce(loop, loader, arguments.config, folder, "train.segment_size", details)
        _introduce_beginning(step, state)
    if arguments.dry_run:
        return _rehearse(loop, step, loader, arguments.max_steps, folder)
    if group.is_main:
        keep_config(folder / "config.json", content)

    # The steps, until the last one or a request to stop.
    with raise_on_all_ranks(group):
        preview = _make_preview(arguments, config, card, step) if group.is_main else None
    monitor = VoiceMonitor(step, state, folder, clips, scorer, card, preview) if group.is_main else None
    started = time.monotonic()
    loop.train(loader, arguments.max_steps, monitor)
    if code := report_end(loop, arguments.max_steps):
        return code
    if group.is_main:
        _measure_range(config, training, loop.saved, time.monotonic() - started, group.device)
        files = ("-m", loop.saved.as_posix(), "-c", (folder / "config.json").as_posix())
        speaker = next(iter(config.spk))
        print(next_step("python inference_main.py", *files, "-n", "SONG.wav", "-s", speaker, "-t", 0))
    return 0


def _load_config(arguments: argparse.Namespace, content: bytes) -> "Config":
    """The config, with what the flags change in it."""
    from modules.config.io import load_config
    from modules.device import allow_tf32

    config = load_config(arguments.config, content)
    if arguments.precision:
        config.train.fp16_run = arguments.precision in ("fp16", "bf16")
        if config.train.fp16_run:
            config.train.half_type = arguments.precision
    allow_tf32(arguments.precision != "fp32")
    return config


def _find_scorer(config: "Config") -> "Scorer":
    """What scores the voice at evaluations; without a speaker encoder it leaves out the similarity."""
    import torch

    from modules.f0.base import build_predictor
    from modules.metrics.speaker import find_speaker_encoder, load_speaker_encoder
    from modules.training.scores import Scorer

    path = find_speaker_encoder()
    encoder = None if path is None else load_speaker_encoder(path, torch.device("cpu"))
    return Scorer(config.audio, build_predictor("pm", config.audio), encoder)


def _choose_batch_size(config: "Config", training: "VoiceDataset", group: "Group") -> None:
    """Sets train.batch_size to what the memory holds on every rank."""
    from modules.training.auto_batch import largest_batch_size
    from modules.training.distributed import raise_on_all_ranks
    from modules.training.step import VitsStep

    with raise_on_all_ranks(group):
        step = VitsStep(*_build_networks(config, group.device), config, group.device)
        fitting = largest_batch_size(step, max(1, len(training) // group.world_size))
    found = group.lowest(fitting)
    logger.info("train.batch_size is %d in the config; %d fit and are used", config.train.batch_size, found)
    config.train.batch_size = found


def _build_networks(config: "Config", device: "torch.device") -> tuple["nn.Module", "nn.Module"]:
    """Voice model and discriminators, initialised from the config's seed."""
    import torch

    from models import build_synthesizer
    from modules.training.distributed import seed_all
    from modules.training.step import half_dtype
    from vdecoder.discriminators import MultiPeriodDiscriminator

    if config.train.fp16_run and half_dtype(config, device) == torch.float32:
        logger.warning("fp16 needs CUDA; training in fp32 on %s (bf16 works there too)", device)
    seed_all(config.train.seed)
    torch.backends.cudnn.benchmark = True
    net_g = build_synthesizer(config)
    net_d = MultiPeriodDiscriminator(config.model.use_spectral_norm, config.model.discriminator_channels)
    return net_g.to(device), net_d.to(device)


def _make_card(
    config: "Config", training: "VoiceDataset", folder: Path, step: int, saved: Path | None
) -> dict[str, Any]:
    """The model card; the F0 histograms of its speakers are empty where step 3 has not counted them."""
    from modules.data.pitch import histograms_beside
    from modules.files import sha256_of
    from modules.weights.card import make_card, read_card

    if step:
        base = (read_card(saved) or {}).get("base")
    else:
        base = {"file": saved.name, "sha256": sha256_of(saved)} if saved else None
    found = histograms_beside(training.clips, config.spk)
    histograms = {speaker: histogram.to_plain() for speaker, histogram in found.items()}
    volume_peak = training.volume_peak() if config.model.vol_embedding else None
    return make_card(config, folder.name, training.n_seconds / 3600, base, histograms, volume_peak)


def _measure_range(
    config: "Config", training: "VoiceDataset", path: Path, trained_seconds: float, device: "torch.device"
) -> None:
    """Writes which notes the voice sings into its card; a training is neither held up nor spoilt by it."""
    from models import load_synthesizer
    from modules.evaluation.ranges import measure_within, put_on_card
    from modules.evaluation.scale import HIGHEST_HZ, NOTES, ScaleTest, volume_for, vowels_of
    from modules.f0.base import build_predictor
    from modules.weights.card import read_card

    seconds = min(MOST_RANGE_SECONDS, RANGE_SHARE * trained_seconds)
    if seconds < LEAST_RANGE_SECONDS:
        return
    later = f"python evaluate.py --range --card -m {path.as_posix()} measures it"
    try:
        voice, card, audio = load_synthesizer(path, config, device), read_card(path) or {}, config.audio
        judges = [build_predictor(name, audio, device=device, f0_max=HIGHEST_HZ) for name in ("fcpe", "pm")]
        test = ScaleTest(voice, audio, judges, volume_for(card, config.model.vol_embedding), NOTES[::2])
        clips = ((name, number, training.of_speaker(name, RANGE_CLIPS)) for name, number in config.spk.items())
        vowels = ((name, number, vowels_of(items, audio)) for name, number, items in clips)
        logger.info("measuring which notes the voice sings, for at most %.0f s", seconds)
        measured = measure_within(seconds, test, vowels)
        put_on_card(path, card, measured)
    except (Exception, KeyboardInterrupt) as error:  # whatever it is: the training is done and saved
        logger.warning("the voice's range was not measured (%s). %s", reason_of(error), later)
        return
    for name, found in measured.items():
        logger.info("%s: %s", name, found)
    if left := [name for name in config.spk if name not in measured]:
        logger.info("not measured for want of time or of a steady vowel: %s. %s", ", ".join(left), later)


def _introduce_beginning(step: "VitsStep", state: "TrainState") -> None:
    """Says what is different at the beginning of a training."""
    from modules.config.bases import advise_base, base_of

    train = step.config.train
    step.prepare(state)
    if not state.step and not state.has_base:
        text = "training begins from nothing, which takes far longer than from a base model. %s"
        logger.log(logging.WARNING if base_of(step.config) else logging.INFO, text, advise_base(step.config))
    if step.stage != "all":
        logger.info("stage %s: the discriminators stay as they are", step.stage)
    elif not step.is_adversarial:
        logger.info("the discriminators join in at step %d (train.adversarial_from)", train.adversarial_from)
    if step.is_linear:
        until = "the decoder's upsampling is held at linear interpolation until step %d (train.linear_upsampling_steps)"
        logger.info(until, train.linear_upsampling_steps)
    elif state.step < train.linear_upsampling_steps:
        text = "train.linear_upsampling_steps has no effect: the decoder's upsampling is not linear, it was trained"
        logger.info(text)


def _rehearse(loop: "TrainingLoop", step: "VitsStep", loader: "DataLoader", max_steps: int | None, folder: Path) -> int:
    """Makes a step and says what one wants to know before a long night."""
    from modules.device import peak_memory

    state, device = loop.state, loop.group.device
    if loop.group.is_main and state.step == 0:
        logger.info("%s holds no checkpoint to go on from: it would begin at step 0", folder)
    step.prepare(state)
    seconds = loop.rehearse(loader)
    if not loop.group.is_main:
        return 0
    memory = peak_memory(device)
    logger.info("memory at its highest: %s", "unknown here" if memory is None else f"{memory / 2**30:.1f} GB")
    left = max(0, loop.last_step(loader, max_steps) - state.step)
    times = [_duration(seconds * n) for n in (math.ceil(len(loader.batch_sampler) / loop.accumulate), left)]
    logger.info("a step takes %.2f s, an epoch %s, the %d steps that are left %s", seconds, times[0], left, times[1])
    logger.info("nothing was written. Train with the same command without --dry-run")
    return 0


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


if __name__ == "__main__":
    run(main)
