"""Settings of separators, from files of others: read without running anything, and checked."""

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from modules.errors import CheckpointError, ConfigError, reason_of
from modules.files import read_bytes

_LARGEST = 1 << 20  # bytes of a yaml


class _Loader(yaml.SafeLoader):
    """Plain values; tuples, as trainings write them, become lists. Any other tag is an error."""


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", yaml.SafeLoader.construct_sequence)


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a yaml file, a mapping; a ConfigError where it is none."""
    try:
        found = _Loader(read_bytes(path, _LARGEST).decode("utf-8-sig")).get_single_data()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({reason_of(error, path)})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"{path}: is no yaml that can be read ({reason}). Get it again.") from None
    if not isinstance(found, Mapping):
        raise ConfigError(f"{path}: holds no settings. Give the yaml that was published with the model.")
    return dict(found)


def section(settings: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    """A part of a yaml that must be there."""
    found = settings.get(name)
    if not isinstance(found, Mapping):
        text = f"{path}: has no section {name!r}, so it is not the yaml of a separator"
        raise ConfigError(f"{text}. Give the one that was published with the model.")
    return found


def checked_number(value: Any, name: str, least: float, most: float, path: Path) -> int | float | Fraction:
    """A number in a range; else a CheckpointError."""
    is_number = isinstance(value, (int, float, Fraction)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not least <= value <= most:
        found = str(value)[:40]
        raise CheckpointError(f"{path}: {name} is {found}, expected {least:g} to {most:g}. Get it again.")
    return value


def stem_names(value: Any, path: Path) -> tuple[str, ...]:
    """Names of stems; else a CheckpointError."""
    is_list = isinstance(value, (list, tuple)) and 0 < len(value) <= 100
    if not is_list or not all(isinstance(name, str) and 0 < len(name) <= 100 for name in value):
        raise CheckpointError(f"{path}: names no stems that it separates. Get it again.")
    return tuple(value)
