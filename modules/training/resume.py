"""Where a run stands: found, loaded and saved as a pair G_STEP.pth, D_STEP.pth in upstream's layout.

A pair holds {'model', 'iteration' (epoch), 'optimizer', 'learning_rate'}, as other tools expect, and beside them the
step, the batches done in the epoch, the config and the random states: what it takes to go on as if never stopped. A
generator's file may carry more for those who use the voice; it is not read here.
`G_0.pth` and `D_0.pth` are somebody's base model: only their weights are read, and they are never written.
"""

import itertools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from modules.config.io import to_plain
from modules.config.schema import Config, ModelConfig
from modules.errors import CheckpointError
from modules.files import discard
from modules.training.distributed import Group
from modules.training.randomness import seed_rank, set_random_state
from modules.training.step import VitsStep
from modules.weights.checkpoint import (
    DamagedFile,
    check_whole,
    list_checkpoints,
    load_weights,
    save_together,
    step_of,
)
from modules.weights.families import fit_voice
from modules.weights.state_dict import fit

logger = logging.getLogger(__name__)

# What must be as it was when the weights were made; all else may be changed between two runs.
_DATA_KEYS = ("sampling_rate", "filter_length", "hop_length", "win_length")
_MODEL_KEYS = tuple(
    key for key in ModelConfig.model_fields if key not in ("n_layers_q", "speaker_embedding", "p_dropout")
)

# In the file of a generator whose weights are averaged, "model" is the average and these are beside it.
_TRAINED, _N_AVERAGED = "trained_model", "n_averaged"


@dataclass
class TrainState:
    """`step` updates made so far, the `epoch` they are in (from 1), and how many of its batches are done.

    `has_base`: the run began with the weights of a base model.
    """

    step: int = 0
    epoch: int = 1
    batches_done: int = 0
    has_base: bool = False


@dataclass(frozen=True)
class Start:
    """The checkpoints that a run starts from: a pair with `step` > 0 to go on, a base with `step` 0, or none."""

    step: int = 0
    g: Path | None = None
    d: Path | None = None


def find_starts(folder: Path, base: Path | None = None) -> list[Start]:
    """The complete pairs in a run's folder, newest first; where there is none, a base model, or nothing.

    Args:
        folder: of the run.
        base: another folder, to take a base model from where the run's has none.

    Raises:
        CheckpointError: there is a generator to go on from, but the discriminators are missing everywhere; or the
            folder of the base has none.
    """
    found = {prefix: {step_of(path): path for path in list_checkpoints(folder, prefix)} for prefix in "GD"}
    pairs = sorted(set(found["G"]) & set(found["D"]) - {0}, reverse=True)
    newest = pairs[0] if pairs else 0
    alone = [path for prefix in "GD" for step, path in found[prefix].items() if step > newest]
    if alone and not pairs and any(step for step in found["G"]):
        g = alone[0]
        raise CheckpointError(
            f"{g}: has no {_partner(g)} beside it, and training needs both. Put that file there; or rename {g.name} "
            f"to G_0.pth to start from it as a base model; or use another run name (-m)."
        )
    for path in alone:
        logger.warning("%s: has no %s beside it (stopped while saving?), so it is not used", path, _partner(path))
    if pairs:
        return [Start(step, found["G"][step], found["D"][step]) for step in pairs]
    own = Start(0, found["G"].get(0), found["D"].get(0))
    if base is None or own.g or own.d:
        return [own]
    g, d = (path if (path := base / f"{prefix}_0.pth").is_file() else None for prefix in "GD")
    if g is None:
        raise CheckpointError(f"--base {base}: holds no G_0.pth. Give a folder with G_0.pth and D_0.pth")
    return [Start(0, g, d)]


def load_start(
    folder: Path, step: VitsStep, config: Config, group: Group, base: Path | None = None
) -> tuple[TrainState, Start]:
    """Brings networks, optimisers and random state to where a run's folder says: on from the newest pair that can be
    read, or to a base model, or nowhere.

    Args:
        folder: of the run.
        step: networks and optimisers.
        config: the run's.
        group: the ranks; each gets its own random state.
        base: as `find_starts`.

    Raises:
        CheckpointError: every pair is damaged, or the newest whole one does not fit the config; the text names the
            keys or tensors.
    """
    starts = find_starts(folder, base)
    if starts[0].step == 0:
        _load_base(starts[0], step, config)
        return TrainState(has_base=starts[0].g is not None), starts[0]
    start, g, d = _newest_whole(starts)
    for path, values in ((start.g, g), (start.d, d)):
        _check_config(path, values.get("config"), config)
        if not isinstance(values.get("iteration"), int):
            raise CheckpointError(f"{path}: holds no epoch ('iteration'); it is not a training checkpoint")
    _load_trained_and_averaged(step, g, start.g, config)
    _load_discriminators(step.net_d, _weights_of(d, start.d), start.d)
    load_optimizer(step.optim_g, g.get("optimizer"), start.g)
    load_optimizer(step.optim_d, d.get("optimizer"), start.d)
    step.updates.load_state_dict(g.get("scaler"))
    set_rank_random_state(
        [g.get("random", {}), *g.get("random_of_other_ranks", [])], group, config.train.seed + start.step
    )
    say_changed_rate(start.g, g.get("learning_rate"), config.train.learning_rate, "train.learning_rate")
    # Batches may have another size now: what counts is how many items of the epoch were seen.
    items = config.train.batch_size * group.world_size
    batches_done = int(g.get("batches_done", 0)) * int(g.get("items_per_batch", items)) // items
    has_base = g.get("has_base") is True
    return TrainState(start.step, max(g["iteration"], 1), batches_done, has_base), start


def save_state(
    folder: Path,
    state: TrainState,
    step: VitsStep,
    config: Config,
    random_states: list[dict[str, torch.Tensor]],
    extras: dict[str, Any] | None = None,
) -> tuple[Path, Path]:
    """Writes the pair of this step and deletes what `train.keep_ckpts` does not keep; returns both paths.

    Args:
        folder: of the run.
        state: where the run stands.
        step: networks and optimisers.
        config: the run's.
        random_states: of the random number generators of each rank.
        extras: plain values that the generator's file carries besides.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    assert state.step > 0, "step 0 is the name of base models"
    paths = folder / f"G_{state.step}.pth", folder / f"D_{state.step}.pth"
    networks = (step.net_g, step.optim_g), (step.net_d, step.optim_d)
    shared = {
        "learning_rate": config.train.learning_rate,
        "step": state.step,
        "batches_done": state.batches_done,
        "has_base": state.has_base,
        "items_per_batch": config.train.batch_size * len(random_states),
        "config": to_plain(config),
        "random": random_states[0],
        "random_of_other_ranks": random_states[1:],
        "scaler": step.updates.state_dict(),
    }
    contents = {
        path: {"model": net.state_dict(), "iteration": state.epoch, "optimizer": optimizer.state_dict(), **shared}
        for path, (net, optimizer) in zip(paths, networks)
    }
    g = contents[paths[0]] = {**(extras or {}), **contents[paths[0]]}
    if step.averaged is not None:
        g |= {_TRAINED: g["model"], "model": step.voice.state_dict(), _N_AVERAGED: int(step.averaged.n_averaged)}
    save_together(contents)
    prune_pairs(folder, config.train.keep_ckpts, state.step)
    return paths


def save_best(folder: Path, state: TrainState, step: VitsStep, config: Config, extras: dict[str, Any]) -> Path:
    """Writes G_best.pth, a voice to sing with: the weights of this step and what is said about them, no more.

    Raises:
        CheckpointError: as `save_state`.
    """
    path = folder / "G_best.pth"
    content = {
        **extras,
        "model": step.voice.state_dict(),
        "iteration": state.epoch,
        "optimizer": None,
        "learning_rate": config.train.learning_rate,
        "step": state.step,
        "config": to_plain(config),
    }
    save_together({path: content})
    return path


def prune_pairs(folder: Path, keep: int, step: int) -> None:
    """Keeps the newest `keep` complete pairs up to `step`, and whatever is newer than they are; 0 keeps everything.

    By step, not by date, and never step 0. Pairs after `step` are of a run that went on from before them, since they
    are damaged: they must not count, or they would outlive every whole one.
    """
    found = {prefix: {step_of(path): path for path in list_checkpoints(folder, prefix)} for prefix in "GD"}
    pairs = sorted(number for number in set(found["G"]) & set(found["D"]) if 0 < number <= step)
    if keep <= 0 or len(pairs) <= keep:
        return
    oldest = pairs[-keep]
    for paths in found.values():
        for number, path in paths.items():
            if 0 < number < oldest:
                discard(path)


def _load_base(start: Start, step: VitsStep, config: Config) -> None:
    if start.g is not None:
        content = load_weights(start.g)
        found = _with_own_speakers(content, step.net_g, start.g, config)
        _load_generator(step.net_g, found, start.g, config)
    if start.d is not None:
        _load_discriminators(step.net_d, _weights_of(load_weights(start.d), start.d), start.d)
    there = [path for path in (start.g, start.d) if path is not None]
    for path in there:
        logger.info("starting from the weights of %s", path)
    if len(there) == 1:
        logger.warning("%s: has no %s beside it; that half of the model starts untrained", there[0], _partner(there[0]))


def _with_own_speakers(content: dict, net: nn.Module, path: Path, config: Config) -> dict[str, torch.Tensor]:
    """The weights of a base, with a vector for each speaker of the run.

    A speaker whom the base knows by name keeps the vector; all others start as the average of its voices, from where
    each is a short way. A base that does not say whose voices it has, with as many as the run wants, is taken as it is.
    """
    found, key, wanted = _weights_of(content, path), "emb_g.weight", net.state_dict()
    if key not in found or key not in wanted or found[key].shape[1:] != wanted[key].shape[1:]:
        return found
    stored = content.get("config")
    known = stored.get("spk") if isinstance(stored, dict) else None
    known = known if isinstance(known, dict) else {}
    if not known and len(found[key]) == len(wanted[key]):
        return found
    # Of a base that names none, all vectors count: those that were never trained lie around zero.
    ids = [number for number in known.values() if isinstance(number, int) and 0 <= number < len(found[key])]
    vectors = found[key].float()
    vectors = vectors[ids].mean(0) if ids else vectors.mean(0)
    own = vectors.repeat(len(wanted[key]), 1)
    for name, number in config.spk.items():
        if known.get(name) in ids:
            own[number] = found[key][known[name]]
    new = [name for name in config.spk if known.get(name) not in ids]
    if new:
        logger.info("%s: new speakers start from the average of its voices: %s", path, ", ".join(new))
    return {**found, key: own}


def _weights_of(content: dict, path: Path) -> dict[str, torch.Tensor]:
    found = content.get("model")
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise CheckpointError(f"{path}: not a training checkpoint: it holds no weights under 'model'")
    return found


def _load_generator(net: nn.Module, found: dict[str, torch.Tensor], path: Path, config: Config) -> None:
    wanted = net.state_dict()
    if not any(name.startswith("enc_q.") for name in found) and any(name.startswith("enc_q.") for name in wanted):
        raise CheckpointError(
            f"{path}: has no posterior encoder (enc_q): it was compressed for conversion and cannot be trained on. "
            "Use the checkpoint that it was made from."
        )
    net.load_state_dict(fit_voice(found, wanted, path, config.path))


def _load_discriminators(net: nn.Module, found: dict[str, torch.Tensor], path: Path) -> None:
    likely = "Likely cause: model.discriminator_channels or model.use_spectral_norm."
    net.load_state_dict(fit(found, net.state_dict(), path, likely))


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Any, path: Path) -> None:
    """Takes the moments; rates and other settings stay those of the config.

    A checkpoint without moments (stripped to save space) trains on with fresh ones.
    """
    saved_state = saved.get("state") if isinstance(saved, dict) else None
    if not saved_state:
        logger.warning("%s: holds no optimizer state; the optimizer starts afresh", path)
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, moments in saved_state.items():
        shape = list(moments["exp_avg"].shape)
        if index >= len(parameters) or shape != list(parameters[index].shape):
            wanted = list(parameters[index].shape) if index < len(parameters) else "no such tensor"
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


def _check_config(path: Path, stored: Any, config: Config) -> None:
    """Compares the config that a checkpoint carries with the run's, where a difference would break the model.

    Raises:
        CheckpointError: names every differing key with both values.
    """
    if not isinstance(stored, dict):
        return  # a published checkpoint; its tensors are compared instead
    try:
        before = Config.model_validate(stored)
    except ValidationError:
        raise CheckpointError(
            f"{path}: the config stored in it cannot be read; it was made by another version"
        ) from None
    changed = []
    for section, keys in (("data", _DATA_KEYS), ("model", _MODEL_KEYS)):
        for key in keys:
            was, is_now = getattr(getattr(before, section), key), getattr(getattr(config, section), key)
            if was != is_now:
                changed.append(f"{section}.{key} was {was!r}, now {is_now!r}")
    for speaker, number in before.spk.items():
        if config.spk.get(speaker, number) != number:
            changed.append(f"spk: the id of {speaker!r} was {number}, now {config.spk[speaker]}")
    if changed:
        raise CheckpointError(
            f"{path}: was trained with another config: {'; '.join(changed)}. Restore these values in "
            f"{config.path or 'the config'} to go on, or start a new run with another name (-m)."
        )


def set_rank_random_state(states: list[dict[str, torch.Tensor]], group: Group, seed: int) -> None:
    """Gives this rank its own random state of a checkpoint, or, if that was made by fewer ranks, a new one.

    Args:
        states: of each rank.
        group: the ranks.
        seed: of new states.
    """
    if group.rank < len(states):
        set_random_state(states[group.rank], group.device)
    else:
        seed_rank(seed, group)


def say_changed_rate(path: Path, before: Any, now: float, key: str) -> None:
    """Says so where a run goes on with another learning rate than it had: it takes effect at once."""
    if isinstance(before, float) and before != now:
        logger.info(
            "%s was %g when %s was saved and is %g now: the new rate counts from here on", key, before, path, now
        )


def _newest_whole(starts: list[Start]) -> tuple[Start, dict, dict]:
    """The first pair of `starts` that can be read, with its contents."""
    for start, before in itertools.zip_longest(starts, starts[1:]):
        try:
            for path in (start.g, start.d):
                check_whole(path)
            return start, load_weights(start.g), load_weights(start.d)
        except DamagedFile as error:
            if before is None:
                raise
            lost = start.step - before.step
            logger.warning("%s Going back to %s instead; %d steps are to be trained again", error, before.g, lost)
    raise AssertionError("no starts")


def _load_trained_and_averaged(step: VitsStep, content: dict, path: Path, config: Config) -> None:
    """The generator's own weights and, where the run wants it, their average: that of the file, or a new one."""
    voice = _weights_of(content, path)
    trained = _weights_of({"model": content[_TRAINED]}, path) if _TRAINED in content else voice
    _load_generator(step.net_g, trained, path, config)
    if step.averaged is not None:
        _load_generator(step.averaged.module, voice, path, config)
        step.averaged.n_averaged.fill_(int(content.get(_N_AVERAGED, 1)))


def _partner(path: Path) -> str:
    return ("D" if path.name.startswith("G") else "G") + path.name[1:]
