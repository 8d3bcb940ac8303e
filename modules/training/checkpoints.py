"""Reading checkpoints of runs: what the trainings of the voice model and of the diffusion model have in common."""

import contextlib
import itertools
import logging
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modules.config.fit import Keys, changes, stored_config
from modules.config.schema import Section
from modules.errors import CheckpointError, is_out_of_memory
from modules.training.distributed import Group, seed_rank, set_random_state
from modules.weights.checkpoint import DamagedFile, first_line, load_weights, step_of
from modules.weights.state_dict import fit_in_part, mismatches

logger = logging.getLogger(__name__)

_LEAST_SHARE = 0.1  # of a network, that a base must fit: one of another encoder fits 0.5, one of another preset 0.0


def read_newest(checkpoints: list[tuple[Path, ...]]) -> tuple[tuple[Path, ...], list[dict[str, Any]]]:
    """The first of the checkpoints, newest first, that can be read, with the contents of its files; each damaged one is
    warned about, and the last raises."""
    for paths, before in itertools.zip_longest(checkpoints, checkpoints[1:]):
        try:
            return paths, [load_weights(path) for path in paths]
        except DamagedFile as error:
            if before is None:
                raise
            lost = step_of(paths[0]) - step_of(before[0])
            logger.warning("%s Going back to %s instead; %d steps are to be trained again", error, before[0], lost)
    raise AssertionError("no checkpoints")


def require_same_config(path: Path, stored: Any, config: Section, keys: Keys, remedy: str) -> None:
    """Refuses a checkpoint whose `stored` config differs from the run's in `keys`, where that would break the model;
    names all of them with both values. `remedy` is how else than by restoring them a user goes on."""
    before = stored_config(stored, type(config), path)
    if before is not None and (changed := list(changes(before, config, keys))):
        raise CheckpointError(
            f"{path}: was trained with another config: {'; '.join(changed)}. Restore these values in "
            f"{getattr(config, 'path', None) or 'the config'} to go on, or {remedy}."
        )


@contextlib.contextmanager
def refusing_malformed(path: Path) -> Iterator[None]:
    """What a checkpoint holds in another form than trainings write is an error of that file, a CheckpointError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        problem = f"{path}: its training state cannot be used ({type(error).__name__}: {first_line(error)})"
        raise CheckpointError(f"{problem}. Delete it to go on from the checkpoint before it.") from None


def report_other_base(path: Path, stored: Any, config: Section, keys: Keys) -> None:
    """Warns about a base whose own config differs in `keys`, though its tensors may fit."""
    before = stored_config(stored, type(config), path)
    differ = [text for text in changes(before, config, keys) if not text.startswith("spk")] if before else []
    if differ:
        text = "%s: this base was trained otherwise, so it helps less: %s"
        logger.warning(text, path, "; ".join(differ))


def load_base(
    net: nn.Module,
    found: dict[str, torch.Tensor],
    path: Path,
    where: Path | str,
    key_of: Callable[[str, tuple[int, ...]], str | None],
    sizes_of: Callable[[dict[str, torch.Tensor]], dict[str, int]],
) -> None:
    """Takes from a base model all that fits a network by name and shape, as so-vits-svc does; the rest stays as it was
    initialised, and is named with the keys of the config `where` that explain it. One of another preset, of which next
    to nothing fits, is refused.

    Args:
        key_of: the config key behind a tensor with a name, of another size along axes, or missing, or too many.
        sizes_of: the sizes of a network by their config keys, from its tensors.
    """
    wanted = net.state_dict()
    taken, wrong = fit_in_part(found, wanted, path), mismatches(found, wanted)
    share = sum(tensor.numel() for tensor in taken.values()) / sum(tensor.numel() for tensor in wanted.values())
    theirs, ours = sizes_of(found), sizes_of(wanted)
    differ = [f"{key} is {theirs[key]}, in {where} {ours.get(key)}" for key in theirs if theirs[key] != ours.get(key)]
    if share < _LEAST_SHARE:
        keys = list(dict.fromkeys(filter(None, (key_of(name, axes) for name, axes in wrong.items()))))
        said = "; ".join(differ) or f"other {', '.join(keys) or 'tensors'}"
        remedy = "Use a base of the config's preset, or the preset of the base (preprocess_flist_config.py)"
        raise CheckpointError(f"{path}: is of another preset than the config: {said}. {remedy}.")
    net.load_state_dict(taken, strict=False)
    texts = [
        _shortfall("untrained", wanted, wrong, key_of),
        _shortfall("not used", [name for name in found if name not in wanted], wrong, key_of),
    ]
    if any(texts):
        text = "%s: fits in part: %.1f %% of the network start from it; %s"
        if differ:
            texts.append(f"{', '.join(differ)}. With the base's sizes a new voice starts from all of it")
        logger.warning(text, path, 100 * share, "; ".join(filter(None, texts)))


def _shortfall(
    said: str,
    names: Collection[str],
    wrong: dict[str, tuple[int, ...]],
    key_of: Callable[[str, tuple[int, ...]], str | None],
) -> str:
    """The parts of a network, those that come before the first dot, which have `names` that are wrong, and why."""
    missed = [name for name in names if name in wrong]
    parts = dict.fromkeys(name.split(".")[0] for name in missed)
    shown = [
        part if all(name in wrong for name in names if name.split(".")[0] == part) else f"some of {part}"
        for part in parts
    ]
    keys = filter(None, dict.fromkeys(key_of(name, wrong[name]) for name in missed))
    because = f" ({', '.join(keys)})"
    return f"{said}: {', '.join(shown)}{because if because != ' ()' else ''}" if missed else ""


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Any, path: Path) -> None:
    """Takes the moments; rates and other settings stay those of the config. Without any, it starts afresh."""
    saved_state = saved.get("state") if isinstance(saved, dict) else None
    if not saved_state:
        logger.warning("%s: holds no optimizer state; the optimizer starts afresh", path)
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, moments in saved_state.items():
        shape = list(moments["exp_avg"].shape)
        wanted = list(parameters[index].shape) if index < len(parameters) else "no such tensor"
        if shape != wanted:
            raise CheckpointError(
                f"{path}: the optimizer state of tensor {index} has the shape {shape}, the network {wanted}. "
                "Use the config.json that was saved with this checkpoint."
            )
    # Clones: the file is memory-mapped, and the moments are changed in place from now on.
    state = {
        index: {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in moments.items()}
        for index, moments in saved_state.items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def read_place(content: dict[str, Any], batch_size: int, world_size: int) -> int:
    """The batches done in the epoch that a checkpoint was made in; of another size now, they count by their items."""
    items = batch_size * world_size
    return int(content.get("batches_done", 0)) * int(content.get("items_per_batch", items)) // items


def set_rank_random_state(content: dict[str, Any], group: Group, seed: int) -> None:
    """Gives this rank its own random state of a checkpoint, or, if that was made by fewer ranks, one from `seed`."""
    states = [content.get("random", {}), *content.get("random_of_other_ranks", [])]
    if group.rank < len(states):
        set_random_state(states[group.rank], group.device)
    else:
        seed_rank(seed, group)


def report_changed_rate(path: Path, before: Any, now: float, key: str) -> None:
    """Says so where a run goes on with another learning rate than it had: it takes effect at once."""
    if isinstance(before, float) and before != now:
        text = "%s was %g when %s was saved and is %g now: the new rate counts from here on"
        logger.info(text, key, before, path, now)
