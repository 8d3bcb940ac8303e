"""Reading and writing config.json: key order and unknown keys (those of forks) survive, typing mistakes are named."""

import json
import logging
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from modules.config.schema import Config, ModelConfig, Section
from modules.errors import ConfigError, reason_of
from modules.files import read_bytes, write_json
from modules.text import printable

logger = logging.getLogger(__name__)

# One word for each quantity here; these are what other projects call the same thing.
ALIASES = {
    "train": {"steady_steps": "linear_upsampling_steps", "accumulate_grad_batches": "accumulate"},
    "data": {"block_size": "hop_length", "hop_size": "hop_length"},
    "model": {"encoder": "speech_encoder", "encoder_out_channels": "ssl_dim"},
}
# What so-vits-svc-fork writes beside so-vits-svc's keys: kept, and not used here.
FORK_KEYS = {
    "train": "bf16_run ckpt_name_by_step fft_sizes hop_sizes log_version num_workers win_lengths window".split(),
    "data": ["contentvec_final_proj"],
    "model": "gen_istft_hop_size gen_istft_n_fft pretrained subbands type_".split(),
}
LARGEST_BYTES = 1 << 24
# Unlike 0.8, this cutoff takes `hop_lenght` for a mistake but leaves keys that forks really have (see the tests).
_MISTAKE_CUTOFF = 0.85


def load_config(path: Path | str, content: bytes | None = None) -> Config:
    """A checked config from a file, or from its `content`; a ConfigError names the file and what is wrong in it."""
    return parse_config(read_json(Path(path), content), Path(path))


def read_json(path: Path, content: bytes | None = None) -> dict[str, Any]:
    """The JSON object in a file; a byte-order mark is accepted, what is not one is a ConfigError."""
    try:
        value = json.loads(read_text(path, content), object_pairs_hook=_unique)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # a UnicodeEncodeError, which is a ValueError
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}. Fix that line."
        ) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; nested thousands deep
        reason = str(error).split(";")[0][:120] or type(error).__name__
        raise ConfigError(f"{path}: not a config ({reason}). Restore it from a copy.") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds a {type(value).__name__}; expected an object with train, data, model, spk")
    return value


def read_text(path: Path, content: bytes | None = None) -> str:
    """The text of a config, of its bytes where those have been read; a ConfigError where it cannot be had."""
    try:
        return (read_content(path) if content is None else content).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text. Save it as UTF-8 text.") from None


def read_content(path: Path) -> bytes:
    """The bytes of a config; a ConfigError where they cannot be had."""
    try:
        return read_bytes(path, LARGEST_BYTES)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. Make it with: python preprocess_flist_config.py") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(f"{path}: {reason_of(error, path)}. Give a config file that can be read.") from None


def parse_config(values: dict[str, Any], path: Path | None = None) -> Config:
    """A checked config from parsed JSON, with the errors of `load_config`; `path` is for messages and `Config.path`."""
    name = str(path) if path else "config"
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for section, aliases in ALIASES.items():
        if isinstance(values.get(section), dict):
            values[section] = {aliases.get(key, key): value for key, value in values[section].items()}
    if isinstance(values.get("spk"), list):
        names = [str(speaker) for speaker in values["spk"]]
        values["spk"] = {speaker: index for index, speaker in enumerate(names)}
        if len(values["spk"]) < len(names):
            twice = next(speaker for speaker in names if names.count(speaker) > 1)
            raise ConfigError(f"{name}: spk lists {twice!r} twice. Give each speaker a name of its own.")
    _infer_encoder(values, name)
    _read_fork(values, name)
    report_unknown_keys(Config, values, name)
    config = validate(Config, values, name)
    try:
        config.check()
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    config._path, config._order = path, values
    return config


def save_config(config: Config, path: Path | str) -> None:
    """Writes plain JSON: indent 2, UTF-8, keys in their order, unknown keys included."""
    write_json(path, to_plain(config))


def to_plain(config: BaseModel) -> dict[str, Any]:
    """The config as JSON-ready values."""
    return _in_order(config.model_dump(mode="json"), getattr(config, "_order", {}))


def validate(schema: type[Section], values: dict[str, Any], name: str) -> Any:
    """Builds a schema from values; a ConfigError names the key of the first value of a wrong type or range."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        found = json.dumps(first["input"], ensure_ascii=False, default=str)[:80]
        wanted = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        raise ConfigError(f"{name}: {key} is {found}; expected {wanted}{more}. Correct that value.") from None


def report_unknown_keys(schema: type[BaseModel], values: dict[str, Any], name: str) -> None:
    """Refuses keys close to a known one that is itself absent, and warns once about the other unknown ones."""
    unknown = []
    sections = [("", schema, values)]
    for key, field in schema.model_fields.items():
        is_section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        if is_section and isinstance(values.get(key), dict):
            sections.append((f"{key}.", field.annotation, values[key]))
    for prefix, section, found in sections:
        for key in found:
            if not isinstance(key, str):  # in YAML
                raise ConfigError(f"{name}: {prefix}{key!r} is not a name. Expected names of settings there.")
            if key in section.model_fields or key in FORK_KEYS.get(prefix[:-1], ()):
                continue
            candidates = [field for field in section.model_fields if field not in found]
            near = get_close_matches(key, candidates, n=1, cutoff=_MISTAKE_CUTOFF)
            if near:
                raise ConfigError(f"{name}: unknown key {prefix}{key}. Did you mean {prefix}{near[0]}?")
            unknown.append(prefix + key)
    if unknown:
        logger.warning("%s: unknown keys kept but not used: %s", name, printable(", ".join(unknown)))


def _read_fork(values: dict[str, Any], name: str) -> None:
    """What a config of so-vits-svc-fork means here; its decoders that are not here are refused."""
    train, data, model = (values[key] if isinstance(values.get(key), dict) else {} for key in FORK_KEYS)
    if not ("type_" in model or "contentvec_final_proj" in data):
        return
    if (kind := model.get("type_", "hifi-gan")) != "hifi-gan":
        problem = (
            f"model.type_ is {printable(str(kind), 40)!r}, a decoder of so-vits-svc-fork; only hifi-gan is known here"
        )
        raise ConfigError(f"{name}: {problem}. Convert with so-vits-svc-fork, or train the voice anew here.")
    model.setdefault("clamp_f0_high", True)  # its highest notes never fell back to row 0
    if isinstance(size := train.get("batch_size"), str):  # "auto", "power-2-10"
        logger.info("%s: train.batch_size %s is so-vits-svc-fork's; here it is --auto_batch", name, printable(size, 40))
        del train["batch_size"]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; a ValueError where it gives one key two values, of which the first would be lost."""
    values = dict(pairs)
    for key, value in pairs:
        if values[key] != value and value == value:  # a NaN, which differs from itself, is refused by name
            raise ValueError(f"{printable(key, 40)!r} is there twice, as {value!s:.30} and as {values[key]!s:.30}")
    return values


def _in_order(values: dict[str, Any], order: dict[str, Any]) -> dict[str, Any]:
    """`values` with the keys that `order` has in that order, and the others after them."""
    keys = [key for key in order if key in values] + [key for key in values if key not in order]
    nested = {key: order.get(key) if isinstance(order.get(key), dict) else {} for key in keys}
    return {key: _in_order(values[key], nested[key]) if isinstance(values[key], dict) else values[key] for key in keys}


def _infer_encoder(values: dict[str, Any], name: str) -> None:
    """A 4.0 config names no encoder: 256-wide units came from layer 9 of ContentVec, wider ones from layer 12."""
    model = values.get("model")
    if isinstance(model, dict) and "speech_encoder" not in model and "ssl_dim" in model:
        inferred = "vec256l9" if model["ssl_dim"] == 256 else ModelConfig.model_fields["speech_encoder"].default
        model["speech_encoder"] = inferred
        logger.info("%s: no speech_encoder; %s-wide units mean %s", name, model["ssl_dim"], inferred)
