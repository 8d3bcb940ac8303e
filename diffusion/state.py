"""Where a diffusion run stands: `model_STEP.pt` in so-vits-svc's layout, and beside it what it takes to go on exactly.

model_STEP.pt    {'global_step', 'model'}, with 'optimizer' where `train.save_opt` says so; and epoch, config
state_STEP.pth   optimizer, random numbers and loss scale of the newest step only: three times as large
model_0.pt       a base model: only its weights are read, and it is never written
"""

import logging
from pathlib import Path

import torch

from diffusion.trainer import DiffusionStep
from diffusion.unit2mel import fit_unit2mel, key_of, sizes_of, weights_of
from modules.config.fit import DIFFUSION_TRAINED_WITH
from modules.config.io import to_plain
from modules.errors import CheckpointError
from modules.files import discard
from modules.training.checkpoints import (
    load_base,
    load_optimizer,
    read_newest,
    read_place,
    refusing_malformed,
    report_changed_rate,
    report_other_base,
    require_same_config,
    set_rank_random_state,
)
from modules.training.distributed import Group
from modules.training.loop import TrainState
from modules.weights.checkpoint import list_checkpoints, load_weights, save_together, step_of

logger = logging.getLogger(__name__)


def load_start(folder: Path, step: DiffusionStep, group: Group) -> tuple[TrainState, Path | None]:
    """Goes on from the newest checkpoint of a folder that can be read, or starts from its base model, or from nothing;
    returns the state and the checkpoint that it came from, None for a run that starts."""
    found, config = list_checkpoints(folder, "model")[::-1], step.config
    if not found:
        return TrainState(), None
    (path,), (content,) = read_newest([(path,) for path in found if step_of(path) > 0] or [(found[0],)])
    weights = weights_of(content, path)
    n_steps = step_of(path)
    if n_steps and isinstance(saved := content.get("global_step"), int) and saved != n_steps:
        raise CheckpointError(
            f"{path}: was saved at step {saved}. Give it its name model_{saved}.pt back, or delete it."
        )
    if n_steps == 0:
        report_other_base(path, content.get("config"), config, DIFFUSION_TRAINED_WITH)
        load_base(step.network, weights, path, "the diffusion config", key_of, sizes_of)
        logger.info("starting from the weights of %s", path)
        return TrainState(), None
    remedy = "start a new run in another folder (env.expdir)"
    require_same_config(path, content.get("config"), config, DIFFUSION_TRAINED_WITH, remedy)
    step.network.load_state_dict(fit_unit2mel(weights, step.network.state_dict(), path, "the diffusion config"))
    report_changed_rate(path, content.get("learning_rate"), config.train.lr, "train.lr")
    rest_path = folder / f"state_{n_steps}.pth"
    if rest_path.is_file():
        rest = load_weights(rest_path)
        if (found_step := rest.get("global_step")) != n_steps:
            raise CheckpointError(f"{rest_path}: belongs to step {found_step}. Delete it to go on without it.")
        with refusing_malformed(rest_path):
            load_optimizer(step.optimizer, rest.get("optimizer"), rest_path)
            step.updates.load_state_dict(rest.get("scaler"))
            set_rank_random_state(rest, group, config.train.seed + n_steps)
    with refusing_malformed(path):
        if not rest_path.is_file():
            load_optimizer(step.optimizer, content.get("optimizer"), path)
        batches_done = read_place(content, config.train.batch_size, group.world_size)
        return TrainState(n_steps, max(int(content.get("epoch", 1)), 1), batches_done), path


def save_state(
    folder: Path, state: TrainState, step: DiffusionStep, random_states: list[dict[str, torch.Tensor]]
) -> Path:
    """Writes the files of this step and deletes those that need not be kept; returns the model's path.

    As so-vits-svc does it, the model saved before is deleted unless its step is a multiple of `interval_force_save`.
    """
    assert state.step > 0, "step 0 is the name of base models"
    train = step.config.train
    model = {
        "global_step": state.step,
        "model": step.network.state_dict(),
        "epoch": state.epoch,
        "batches_done": state.batches_done,
        "items_per_batch": train.batch_size * len(random_states),
        "learning_rate": train.lr,
        "config": to_plain(step.config),
    }
    rest = {
        "global_step": state.step,
        "optimizer": step.optimizer.state_dict(),
        "random": random_states[0],
        "random_of_other_ranks": random_states[1:],
        "scaler": step.updates.state_dict(),
    }
    if train.save_opt:
        model["optimizer"] = rest["optimizer"]
    path = folder / f"model_{state.step}.pt"
    save_together({path: model, folder / f"state_{state.step}.pth": rest})
    models = [old for old in list_checkpoints(folder, "model") if step_of(old) % train.interval_force_save]
    for old in models + list_checkpoints(folder, "state"):
        if step_of(old) < state.step:
            discard(old)
    return path
