"""The F0 histograms of a data set's voices, kept in its f0_histograms.json (speaker to histogram).

Training copies them into its checkpoints. What a histogram is stands in `modules.f0.histogram`.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modules.data.features import COMMAND, read_pitch
from modules.data.filelist import speaker_of
from modules.errors import CheckpointError, DataError, reason_of
from modules.f0.histogram import PitchHistogram
from modules.files import read_bytes, write_text
from modules.weights.card import HISTOGRAMS, read_card
from modules.weights.checkpoint import load_weights

FILE_NAME = "f0_histograms.json"


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
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


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
    """The histograms of a voice model's speakers: from its checkpoint, or else (published ones) from its data set."""
    stored = ((read_card(model_path) if card is None else card) or {}).get(HISTOGRAMS)
    if card is None and not stored and model_path.suffix not in (".safetensors", ".onnx"):
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
