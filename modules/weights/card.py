"""The model card of a voice: what it is, of whom and on what terms, stored as JSON inside its checkpoints, and the
metadata that songs made with it get from it. What the config says stands in for it in published models."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.config.io import to_plain
from modules.config.schema import Config
from modules.errors import CheckpointError
from modules.text import printable
from modules.weights.about import CARD_KEY as CARD_KEY
from modules.weights.about import RANGES
from modules.weights.checkpoint import check_whole, load_checkpoint, read_as_stored, save_weights
from modules.weights.names import check_card_target
from modules.weights.onnx import read_metadata

HISTOGRAMS = "f0_histograms"
VOLUME_PEAK = "volume_peak"  # linear RMS of the loudest frame of a training clip, in the median of all
_TABLES = (HISTOGRAMS, RANGES)  # of all speakers; a song does not carry them
_LONGEST_VALUE, _MOST_KEYS = 1000, 100  # letters of a value, and values of a card, that a song carries


def make_card(
    config: Config,
    name: str,
    hours: float = 0.0,
    base: dict[str, str] | None = None,
    histograms: dict | None = None,
    volume_peak: float | None = None,
) -> dict[str, Any]:
    """The card of a voice that is being trained, in values that JSON can hold; `steps` is 0 until it is written. `base`
    is name and sha256 of the base model, `histograms` are as `PitchHistogram.to_plain` gives them. `volume_peak` is
    how loud its clips are, None for a voice that is given no volume."""
    return {
        **stand_in_card(config, name),
        "hours": round(hours, 4),
        "steps": 0,
        "base": base,
        **config.card.model_dump(mode="json"),
        "config_sha256": config_hash(config),
        HISTOGRAMS: histograms or {},
        **({} if volume_peak is None else {VOLUME_PEAK: round(volume_peak, 4)}),
    }


def volume_peak_of(card: Mapping[str, Any]) -> float | None:
    """How loud the clips of a voice are, where its card says so; what is no volume counts as nothing said."""
    value = card.get(VOLUME_PEAK)
    return float(value) if isinstance(value, (int, float)) and 0 < value <= 1 else None


def stand_in_card(config: Config, name: str) -> dict[str, Any]:
    """What can be said of a voice without a card."""
    return {
        "name": name,
        "speech_encoder": config.model.speech_encoder,
        "sampling_rate": config.data.sampling_rate,
        "speakers": list(config.spk),
    }


def config_hash(config: Config) -> str:
    """SHA-256 of the config's content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(to_plain(config), sort_keys=True).encode("utf-8")).hexdigest()


def card_of(content: Mapping[Any, Any], path: Path | str) -> dict[str, Any] | None:
    """The card in what `load_checkpoint` returned of the file `path`, or None where it has none."""
    card = content.get(CARD_KEY)
    if card is not None and not isinstance(card, dict):
        raise CheckpointError(f"{path}: its card is a {type(card).__name__}, expected a dictionary")
    return card


def read_card(path: Path | str) -> dict[str, Any] | None:
    """The card of a `.pth`, `.safetensors` or `.onnx` file, or None where it has none."""
    path = Path(path)
    if path.suffix != ".onnx":
        return card_of(load_checkpoint(path), path)
    try:
        return card_of({CARD_KEY: json.loads(read_metadata(path).get(CARD_KEY, "null"))}, path)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its card is not JSON ({error}). Export the voice again.") from None


def write_card(path: Path, card: dict[str, Any]) -> None:
    """Gives a `.pth` file that card; all else in it, packed tensors too, stays as it is."""
    check_card_target(path)
    check_whole(path)
    save_weights(path, {**read_as_stored(path), CARD_KEY: card})


def song_metadata(card: dict[str, Any], source: str, speaker: str, settings: dict[str, Any]) -> dict[str, str]:
    """What a song says of how it was made, under the names that audio files have for such texts; `source` is the name
    of the recording that was converted, `settings` are plain values."""
    voice = {str(key): _short(value) for key, value in list(card.items())[:_MOST_KEYS] if key not in _TABLES}
    about = {
        "converted_from": source,
        "voice": {key: value for key, value in voice.items() if value not in ("", None)},
        "settings": settings,
    }
    texts = {
        "title": Path(source).stem,
        "artist": f"{speaker} (converted voice)",
        "software": "Singing voice conversion you train yourself (VITS-SVC)",
        "comment": json.dumps(about, ensure_ascii=False, sort_keys=True),
        "license": str(_short(card.get("licence") or "")),
        "copyright": str(_short(card.get("credits") or "")),
    }
    return {name: printable(text, None) for name, text in texts.items() if text}


def _short(value: Any) -> Any:
    """A value of a card as songs carry it: one that is too long is cut, so that no song grows by it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return value if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
