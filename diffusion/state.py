"""Where a diffusion run stands: `model_STEP.pt` in upstream's layout, and beside it what it takes to go on exactly.

model_STEP.pt    {'global_step', 'model'}, with 'optimizer' where `train.save_opt` says so; and epoch, config
state_STEP.pth   optimiser, random numbers and loss scale of the newest step only: three times as large
model_0.pt       somebody's base model: only its weights are read, and it is never written
"""

import itertools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from diffusion.unit2mel import Unit2Mel, fit_unit2mel, weights_of
from modules.config.diffusion import DiffusionConfig
from modules.config.io import to_plain
from modules.errors import CheckpointError
from modules.files import discard
from modules.training.distributed import Group
from modules.training.optim import Updates
from modules.training.resume import TrainState, load_optimizer, say_changed_rate, set_rank_random_state
from modules.weights.checkpoint import DamagedFile, check_whole, list_checkpoints, load_weights, save_together, step_of

logger = logging.getLogger(__name__)

# What must be as it was when the weights were made and no tensor shape shows.
_DATA_KEYS = ("sampling_rate", "block_size", "encoder", "unit_interpolate_mode")


@dataclass(frozen=True)
class Learner:
    """A network with what trains it.

    Args:
        network: on its device.
        optimizer: of its parameters.
        updates: how gradients become steps.
    """

    network: Unit2Mel
    optimizer: torch.optim.Optimizer
    updates: Updates

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device


def load_start(folder: Path, learner: Learner, config: DiffusionConfig, group: Group) -> tuple[TrainState, Path | None]:
    """Goes on from the newest checkpoint of a folder that can be read, or starts from its base model, or from nothing.

    Returns:
        The state, and the checkpoint that it came from (None for a run that starts).

    Raises:
        CheckpointError: every file is damaged, or one does not fit the config; the text names the keys or tensors.
    """
    found = list_checkpoints(folder, "model")[::-1]
    if not found:
        return TrainState(), None
    path, content = _newest_whole([path for path in found if step_of(path) > 0] or found)
    weights = weights_of(content, path)
    step = step_of(path)
    if step == 0:
        _load_base(weights, learner.network, path)
        return TrainState(), None
    _check_config(path, content.get("config"), config)
    learner.network.load_state_dict(fit_unit2mel(weights, learner.network.state_dict(), path, "the diffusion config"))
    _load_rest(path, content, step, learner, config, group)
    items = config.train.batch_size * group.world_size
    batches_done = int(content.get("batches_done", 0)) * int(content.get("items_per_batch", items)) // items
    return TrainState(step, max(int(content.get("epoch", 1)), 1), batches_done), path


def save_state(
    folder: Path,
    state: TrainState,
    learner: Learner,
    config: DiffusionConfig,
    random_states: list[dict[str, torch.Tensor]],
) -> Path:
    """Writes the files of this step and deletes those that need not be kept; returns the model's path.

    As upstream does it, the model saved before is deleted unless its step is a multiple of `interval_force_save`.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    assert state.step > 0, "step 0 is the name of base models"
    model = {
        "global_step": state.step,
        "model": learner.network.state_dict(),
        "epoch": state.epoch,
        "batches_done": state.batches_done,
        "items_per_batch": config.train.batch_size * len(random_states),
        "learning_rate": config.train.lr,
        "config": to_plain(config),
    }
    rest = {
        "global_step": state.step,
        "optimizer": learner.optimizer.state_dict(),
        "random": random_states[0],
        "random_of_other_ranks": random_states[1:],
        "scaler": learner.updates.state_dict(),
    }
    if config.train.save_opt:
        model["optimizer"] = rest["optimizer"]
    path = folder / f"model_{state.step}.pt"
    save_together({path: model, _rest_path(path): rest})
    for old in list_checkpoints(folder, "model"):
        step = step_of(old)
        if 0 < step < state.step and step % config.train.interval_force_save:
            discard(old)
    for old in list_checkpoints(folder, "state"):
        if step_of(old) < state.step:
            discard(old)
    return path


def _rest_path(model: Path) -> Path:
    return model.with_name(f"state_{step_of(model)}.pth")


def _newest_whole(found: list[Path]) -> tuple[Path, dict[str, Any]]:
    """The first of the checkpoints that can be read, with what it holds."""
    for path, before in itertools.zip_longest(found, found[1:]):
        try:
            check_whole(path)
            return path, load_weights(path)
        except DamagedFile as error:
            if before is None:
                raise
            lost = step_of(path) - step_of(before)
            logger.warning("%s Going back to %s instead; %d steps are to be trained again", error, before, lost)
    raise AssertionError("no checkpoints")


def _load_rest(
    path: Path, content: dict[str, Any], step: int, learner: Learner, config: DiffusionConfig, group: Group
) -> None:
    """Optimiser, loss scale and random numbers, as far as they were kept."""
    say_changed_rate(path, content.get("learning_rate"), config.train.lr, "train.lr")
    rest_path = _rest_path(path)
    if not rest_path.is_file():
        load_optimizer(learner.optimizer, content.get("optimizer"), path)
        return
    check_whole(rest_path)
    rest = load_weights(rest_path)
    if rest.get("global_step") != step:
        raise CheckpointError(f"{rest_path}: belongs to step {rest.get('global_step')}. Delete it to go on without it.")
    load_optimizer(learner.optimizer, rest.get("optimizer"), rest_path)
    learner.updates.load_state_dict(rest.get("scaler"))
    states = [rest.get("random", {}), *rest.get("random_of_other_ranks", [])]
    set_rank_random_state(states, group, config.train.seed + step)


def _load_base(weights: dict[str, torch.Tensor], network: Unit2Mel, path: Path) -> None:
    """The weights of a base model; speakers are learned anew where their number differs."""
    wanted = network.state_dict()
    name = "spk_embed.weight"
    if name in wanted and (name not in weights or len(weights[name]) != len(wanted[name])):
        n_found = len(weights[name]) if name in weights else 1
        logger.warning(
            "%s: is for %d speakers, model.n_spk is %d; speaker vectors start untrained",
            path,
            n_found,
            len(wanted[name]),
        )
        weights = {**weights, name: wanted[name]}
    if name in weights and name not in wanted:
        weights = {key: value for key, value in weights.items() if key != name}
    network.load_state_dict(fit_unit2mel(weights, wanted, path, "the diffusion config"))
    logger.info("starting from the weights of %s", path)


def _check_config(path: Path, stored: Any, config: DiffusionConfig) -> None:
    """Compares the config that a checkpoint carries with the run's, where a difference would break the model.

    Raises:
        CheckpointError: names every differing key with both values.
    """
    if not isinstance(stored, dict):
        return  # a published checkpoint; its tensors are compared instead
    try:
        before = DiffusionConfig.model_validate(stored)
    except ValidationError:
        raise CheckpointError(
            f"{path}: the config stored in it cannot be read; it was made by another version"
        ) from None
    pairs = [(f"data.{key}", getattr(before.data, key), getattr(config.data, key)) for key in _DATA_KEYS]
    pairs += [
        (f"the id of {name!r} in spk", number, config.spk[name])
        for name, number in before.spk.items()
        if name in config.spk
    ]
    changed = [f"{key} was {was!r}, now {now!r}" for key, was, now in pairs if was != now]
    if changed:
        raise CheckpointError(
            f"{path}: was trained with another config: {'; '.join(changed)}. Restore these values to go on, or start "
            "a new run in another folder (env.expdir)."
        )
