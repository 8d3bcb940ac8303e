"""The papers of a voice: a JSON card inside its checkpoints that says what it is, of whom and on what terms, and what
of that goes into the songs made with it.

Published models have no card; what their config says stands in for it.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.config.io import to_plain
from modules.config.schema import Config
from modules.errors import CheckpointError
from modules.weights.checkpoint import load_weights
from modules.weights.onnx import read_metadata

logger = logging.getLogger(__name__)

CARD_KEY = "card"
HISTOGRAMS = "f0_histograms"
_SOFTWARE = "Singing voice conversion you train yourself (VITS-SVC)"


def make_card(
    config: Config, name: str, hours: float = 0.0, base: dict[str, str] | None = None, histograms: dict | None = None
) -> dict[str, Any]:
    """The card of a voice that is being trained; `steps` is 0 until a checkpoint is written.

    Args:
        config: of the run; its section `card` is the user's own words.
        name: of the run.
        hours: of recordings.
        base: name and sha256 of the base model that the run started from.
        histograms: which notes each speaker sings, as `PitchHistogram.to_plain` gives them.

    Returns:
        Values that JSON can hold.
    """
    return {
        "name": name,
        "speech_encoder": config.model.speech_encoder,
        "sampling_rate": config.data.sampling_rate,
        "speakers": list(config.spk),
        "hours": round(hours, 4),
        "steps": 0,
        "base": base,
        **config.card.model_dump(mode="json"),
        "config_sha256": config_hash(config),
        HISTOGRAMS: histograms or {},
    }


def config_hash(config: Config) -> str:
    """A number of the config's content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(to_plain(config), sort_keys=True).encode("utf-8")).hexdigest()


def card_of(content: Mapping[Any, Any], path: Path | str) -> dict[str, Any] | None:
    """The card in what `load_checkpoint` returned of the file `path`, or None where it has none.

    Raises:
        CheckpointError: it is no dictionary.
    """
    card = content.get(CARD_KEY)
    if card is not None and not isinstance(card, dict):
        raise CheckpointError(f"{path}: its card is a {type(card).__name__}, expected a dictionary")
    return card


def read_card(path: Path | str) -> dict[str, Any] | None:
    """The card of a model file, or None where it has none.

    Raises:
        CheckpointError: the file cannot be read, or its card is none.
    """
    path = Path(path)
    readers = {".safetensors": _safetensors_card, ".onnx": _onnx_card}
    card = readers[path.suffix](path) if path.suffix in readers else load_weights(path).get(CARD_KEY)
    return card_of({CARD_KEY: card}, path)


def stand_in_card(config: Config, name: str) -> dict[str, Any]:
    """What can be said of a voice without a card."""
    return {
        "name": name,
        "speech_encoder": config.model.speech_encoder,
        "sampling_rate": config.data.sampling_rate,
        "speakers": list(config.spk),
    }


def song_tags(card: dict[str, Any], source: str, speaker: str, settings: dict[str, Any]) -> dict[str, str]:
    """What a song says of how it was made, under the names that audio files have for such texts.

    Args:
        card: of the voice.
        source: name of the recording that was converted.
        speaker: who sings it now.
        settings: of the conversion, plain values.

    Returns:
        Texts for `title`, `artist`, `software`, `comment` and, where the card has one, `license` and `copyright`.
    """
    about = {
        "converted_from": source,
        "voice": {key: value for key, value in card.items() if key != HISTOGRAMS and value not in ("", None)},
        "settings": settings,
    }
    tags = {
        "title": Path(source).stem,
        "artist": f"{speaker} (converted voice)",
        "software": _SOFTWARE,
        "comment": json.dumps(about, ensure_ascii=False, sort_keys=True),
        "license": str(card.get("licence") or ""),
        "copyright": str(card.get("credits") or ""),
    }
    return {name: text for name, text in tags.items() if text}


def _onnx_card(path: Path) -> Any:
    text = read_metadata(path).get(CARD_KEY)
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: its card is not JSON ({error}). Export the voice again.") from None


def _safetensors_card(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(CARD_KEY)
        return None if text is None else json.loads(text)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({str(error)[:160]})") from None
