"""The F0 histograms of a data set's voices, kept in its f0_histograms.json (speaker to histogram).

Training copies them into its checkpoints. What a histogram is stands in `modules.f0.histogram`.
"""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from modules.data.features import COMMAND, FeatureRecipe, read_clip, read_pitch
from modules.data.filelist import speaker_of
from modules.errors import FAILURES, CheckpointError, DataError, reason_of
from modules.f0.doubt import PitchDoubt
from modules.f0.histogram import PitchHistogram, describe_notes
from modules.f0.octaves import find_contradictions
from modules.f0.voice_range import ranges_on
from modules.files import read_bytes, write_text
from modules.text import printable
from modules.weights.card import HISTOGRAMS, read_card
from modules.weights.checkpoint import load_weights

logger = logging.getLogger(__name__)

FILE_NAME = "f0_histograms.json"
LEAST_SHARE = 0.01  # of a speaker's voiced frames, from which on doubt is worth a word


def write_histograms(in_dir: Path, clips: Iterable[Path]) -> None:
    """Writes `in_dir`/f0_histograms.json of clips with a readable F0, unless it says the same already."""
    found: dict[str, PitchHistogram] = {}
    for clip in sorted(clips):
        try:
            f0, uv = read_pitch(clip).numpy()
        except DataError:
            continue  # its reader's caller has said so already, or will
        speaker = speaker_of(clip)
        found[speaker] = found.get(speaker, PitchHistogram()) + PitchHistogram.from_curve(f0, uv)
    lines = [json.dumps({name: found[name].to_plain()}, ensure_ascii=False)[1:-1] for name in sorted(found)]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    path = in_dir / FILE_NAME
    if path.is_dir():
        raise DataError(f"{path}: is a folder, where a file belongs; remove it")
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def find_doubt(clips: Iterable[Path], recipe: FeatureRecipe, show: bool = True) -> dict[str, tuple[str, str]]:
    """Speakers in whose stored pitch the sound contradicts the predictor: what is doubtful, and the command for it."""
    audio = recipe.audio
    hop_seconds = audio.hop_length / audio.sampling_rate
    doubts: dict[str, PitchDoubt] = {}
    notes: dict[str, PitchHistogram] = {}
    bar = {"desc": "check pitch", "unit": "file", "leave": False, "dynamic_ncols": True, "delay": 2}
    for clip in tqdm(sorted(clips), disable=not show, **bar):
        try:
            (f0, uv), wav = read_pitch(clip).numpy(), read_clip(clip, audio)
        except FAILURES:
            continue  # its maker has said so
        speaker, curve = speaker_of(clip), f0 * uv
        heard = find_contradictions(wav, audio.sampling_rate, hop_seconds, curve, recipe.f0_min, recipe.f0_max)
        doubts.setdefault(speaker, PitchDoubt()).add(curve, heard, hop_seconds)
        notes[speaker] = notes.get(speaker, PitchHistogram()) + PitchHistogram.from_curve(f0, uv)
    found = {}
    for speaker, doubt in doubts.items():
        described = doubt.describe(recipe.predictor_name, recipe.f0_min, recipe.f0_max)
        if described is None or doubt.seconds < LEAST_SHARE * notes[speaker].frames * hop_seconds:
            continue
        what, flags = described
        flags = {"--f0_predictor": flags.pop("predictor", recipe.predictor_name), **flags}
        command = " ".join([COMMAND, *(f"{flag} {value}" for flag, value in flags.items())])
        found[speaker] = f"{describe_notes(notes[speaker])}; in {doubt.seconds:.1f} s of it {what}", command
    return found


def warn_of_doubt(clips: Iterable[Path], recipe: FeatureRecipe) -> None:
    """One warning for each speaker in `find_doubt`."""
    for speaker, (text, command) in find_doubt(clips, recipe).items():
        logger.warning("%s %s. Try: %s", printable(speaker), text, command)


def read_histograms(path: Path) -> dict[str, PitchHistogram]:
    """Speaker to histogram; nothing where there is no such file."""
    try:
        return _parse(json.loads(read_bytes(path).decode("utf-8-sig")), path)
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        problem = f"{path}: is not readable JSON"
    except OSError as error:
        problem = f"{path}: cannot be read ({reason_of(error, path)})"
    except DataError as error:
        problem = str(error)
    raise DataError(f"{problem}. Make it again with: {COMMAND}")


def histograms_beside(clips: Iterable[Path], speakers: Iterable[str]) -> dict[str, PitchHistogram]:
    """The histograms of `speakers` in the folders of `clips`; a speaker of several folders gets the sum."""
    found: dict[str, PitchHistogram] = {}
    wanted = set(speakers)
    for folder in sorted({clip.parent.parent for clip in clips}):
        for speaker, histogram in read_histograms(folder / FILE_NAME).items():
            if speaker in wanted:
                found[speaker] = found.get(speaker, PitchHistogram()) + histogram
    return found


def voice_histograms(
    model_path: Path, data_dir: Path = Path("dataset/44k"), card: dict[str, Any] | None = None
) -> dict[str, PitchHistogram]:
    """The histograms of a voice model's speakers: from its checkpoint, or else (published ones) from its data set. The
    measured range of a speaker without any stands in for it, which is said."""
    card_or_none = read_card(model_path) if card is None else card
    found = _kept_histograms(model_path, data_dir, card_or_none, card is None)
    for speaker, known in ranges_on(card_or_none or {}).items():
        if speaker not in found:
            text = "%s: the notes that it was trained on are not known, its measured range counts: %s"
            logger.info(text, printable(speaker), known)
            found[speaker] = known.as_histogram()
    return found


def _kept_histograms(
    model_path: Path, data_dir: Path, card: dict[str, Any] | None, may_read: bool
) -> dict[str, PitchHistogram]:
    stored = (card or {}).get(HISTOGRAMS)
    if may_read and not stored and model_path.suffix not in (".safetensors", ".onnx"):
        stored = load_weights(model_path).get(HISTOGRAMS)  # where checkpoints had them before they had a card
    if stored is None:
        return read_histograms(data_dir / FILE_NAME)
    try:
        return _parse(stored, model_path)
    except DataError as error:
        raise CheckpointError(f"{error}. Give the transposition as a number instead (-t 0).") from None


def _parse(value: object, where: Path) -> dict[str, PitchHistogram]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: holds a {type(value).__name__}, not the pitch histograms of speakers")
    return {str(name): PitchHistogram.from_plain(plain, f"{where}, {name}") for name, plain in value.items()}
