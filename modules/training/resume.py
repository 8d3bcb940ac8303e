"""Where a training of the voice model goes on: the pair G_STEP.pth, D_STEP.pth.

A pair is in so-vits-svc's layout, {'model', 'iteration' (epoch), 'optimizer', 'learning_rate'}, and holds beside it the
step, the batches done in the epoch, the config and the random states: what it takes to go on as if never stopped.
`G_0.pth` and `D_0.pth` are a base model: only their weights are read, and they are never written.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modules.config.fit import TRAINED_WITH, key_of, sizes_of
from modules.config.io import to_plain
from modules.config.schema import Config
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
from modules.training.step import VitsStep
from modules.weights.card import CARD_KEY
from modules.weights.checkpoint import list_checkpoints, load_weights, save_together, step_of
from modules.weights.families import fit_voice, voice_weights
from modules.weights.state_dict import fit

logger = logging.getLogger(__name__)

# What a base should share with the run though no tensor's shape shows it.
HEARD = {"data": ("sampling_rate", "hop_length"), "model": ("speech_encoder", "vocoder_name", "unvoiced_source")}
BEST = "G_best.pth"  # the voice that scored best so far
# In the file of a generator whose weights are averaged, "model" is the average and these are beside it.
_TRAINED, _N_AVERAGED = "trained_model", "n_averaged"


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The complete pairs (G_STEP.pth, D_STEP.pth) in a run's folder, newest first, without base models."""
    found, steps = _steps_of_pairs(folder)
    newest = steps[-1] if steps else 0
    single = [path for prefix in "GD" for step, path in found[prefix].items() if step > newest]
    if single and not steps and any(found["G"]):
        g = single[0]
        raise CheckpointError(
            f"{g}: has no {_partner(g)} beside it, and training needs both. Put that file there; or rename {g.name} "
            f"to G_0.pth to start from it as a base model; or use another run name (-m)."
        )
    for path in single:
        logger.warning("%s: has no %s beside it (stopped while saving?), so it is not used", path, _partner(path))
    return [(found["G"][step], found["D"][step]) for step in reversed(steps)]


def load_start(folder: Path, step: VitsStep, group: Group, base: Path | None = None) -> tuple[TrainState, Path | None]:
    """Brings networks, optimizers and random state to where a run's folder says: on from the newest pair that can be
    read, or to a base model, of `base` where the folder has none, or nowhere. Returns the state, and the generator that
    it came from, of a base if the step is 0; None for a run from nothing."""
    pairs, config = find_pairs(folder), step.config
    if not pairs:
        path = _load_base(folder, step, base)
        return TrainState(has_base=path is not None), path
    (path_g, path_d), (g, d) = read_newest(pairs)
    n_steps = step_of(path_g)
    for path, content in ((path_g, g), (path_d, d)):
        require_same_config(path, content.get("config"), config, TRAINED_WITH, "start a new run with another name (-m)")
        if not isinstance(content.get("iteration"), int):
            raise CheckpointError(f"{path}: holds no epoch ('iteration'); it is not a training checkpoint")
    require_one_save(path_g, g, path_d, d)
    voice = _weights_of(g, path_g)
    _load_generator(step.net_g, _weights_of(g, path_g, _TRAINED) if _TRAINED in g else voice, path_g, config)
    _load_discriminators(step.net_d, d, path_d)
    with refusing_malformed(path_d):
        if step.stage == "all" or d["optimizer"]["state"]:  # empty after a stage without them
            load_optimizer(step.optim_d, d.get("optimizer"), path_d)
    report_changed_rate(path_g, g.get("learning_rate"), config.train.learning_rate, "train.learning_rate")
    with refusing_malformed(path_g):
        if step.averaged is not None:  # the average of the file, or a new one
            _load_generator(step.averaged.module, voice, path_g, config)
            step.averaged.n_averaged.fill_(int(g.get(_N_AVERAGED, 1)))
        load_optimizer(step.optim_g, g.get("optimizer"), path_g)
        step.updates.load_state_dict(g.get("scaler"))
        set_rank_random_state(g, group, config.train.seed + n_steps)
        batches_done = read_place(g, config.train.batch_size, group.world_size)
    return TrainState(n_steps, max(g["iteration"], 1), batches_done, g.get("has_base") is True), path_g


def save_state(
    folder: Path,
    state: TrainState,
    step: VitsStep,
    random_states: list[dict[str, torch.Tensor]],
    card: dict[str, Any] | None = None,
) -> Path:
    """Writes the pair of this step, the generator with the model card, and deletes what `train.keep_ckpts` does not
    keep; returns the generator's path."""
    assert state.step > 0, "step 0 is the name of base models"
    train = step.config.train
    shared = {
        "learning_rate": train.learning_rate,
        "step": state.step,
        "has_base": state.has_base,
        "batches_done": state.batches_done,
        "items_per_batch": train.batch_size * len(random_states),
        "config": to_plain(step.config),
        "random": random_states[0],
        "random_of_other_ranks": random_states[1:],
        "scaler": step.updates.state_dict(),
    }
    g, d = (
        {"model": net.state_dict(), "iteration": state.epoch, "optimizer": optimizer.state_dict(), **shared}
        for net, optimizer in ((step.net_g, step.optim_g), (step.net_d, step.optim_d))
    )
    g |= _card_of(card, state)
    if step.averaged is not None:
        g |= {_TRAINED: g["model"], "model": step.voice.state_dict(), _N_AVERAGED: int(step.averaged.n_averaged)}
    path = folder / f"G_{state.step}.pth"
    save_together({path: g, folder / f"D_{state.step}.pth": d})
    prune_pairs(folder, train.keep_ckpts, state.step)
    return path


def save_best(folder: Path, state: TrainState, step: VitsStep, card: dict[str, Any] | None = None) -> Path:
    """Writes G_best.pth, a voice to convert with: the weights of this step and its card, no more."""
    path = folder / BEST
    content = {
        **_card_of(card, state),
        "model": step.voice.state_dict(),
        "iteration": state.epoch,
        "optimizer": None,
        "learning_rate": step.config.train.learning_rate,
        "step": state.step,
        "config": to_plain(step.config),
    }
    save_together({path: content})
    return path


def prune_pairs(folder: Path, keep: int, step: int) -> None:
    """Keeps the newest `keep` complete pairs up to `step`, and whatever is newer than they are; 0 keeps everything.

    Pairs after `step` are of a run that went on from before them, since they are damaged: they must not count, or they
    would outlive every whole one.
    """
    found, pairs = _steps_of_pairs(folder)
    pairs = [number for number in pairs if number <= step]
    if keep <= 0 or len(pairs) <= keep:
        return
    for number, path in [*found["G"].items(), *found["D"].items()]:
        if 0 < number < pairs[-keep]:
            discard(path)


def _steps_of_pairs(folder: Path) -> tuple[dict[str, dict[int, Path]], list[int]]:
    """The files by prefix and step, and the steps of complete pairs, ascending, without 0."""
    found = {prefix: {step_of(path): path for path in list_checkpoints(folder, prefix)} for prefix in "GD"}
    return found, sorted(set(found["G"]) & set(found["D"]) - {0})


def _partner(path: Path) -> str:
    return ("D" if path.name.startswith("G") else "G") + path.name[1:]


def _card_of(card: dict[str, Any] | None, state: TrainState) -> dict[str, Any]:
    return {CARD_KEY: {**card, "steps": state.step}} if card else {}


def _load_base(folder: Path, step: VitsStep, base: Path | None) -> Path | None:
    """Takes the weights of a base model, of the run's folder or of `base`; returns its generator."""
    (found, _), where = _steps_of_pairs(folder), step.config.path or "the config"
    g, d = found["G"].get(0), found["D"].get(0)
    if base is not None and g is None and d is None:
        g, d = (path if (path := base / f"{prefix}_0.pth").is_file() else None for prefix in "GD")
        if g is None:
            raise CheckpointError(f"--base {base}: holds no G_0.pth. Give a folder with G_0.pth and D_0.pth")
    if g is not None:
        content = load_weights(g)
        report_other_base(g, content.get("config"), step.config, HEARD)
        weights = voice_weights({"model": _with_own_speakers(content, step.net_g, g, step.config)}, g)
        _require_whole(weights, g)
        load_base(step.net_g, weights, g, where, key_of, sizes_of)
    if d is not None:
        load_base(step.net_d, _weights_of(load_weights(d), d), d, where, key_of, sizes_of)
    there = [path for path in (g, d) if path is not None]
    for path in there:
        logger.info("starting from the weights of %s", path)
    if len(there) == 1:
        logger.warning("%s: has no %s beside it; that half of the model starts untrained", there[0], _partner(there[0]))
    return g


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


def require_one_save(path_g: Path, g: dict, path_d: Path, d: dict) -> None:
    """Refuses a pair of which one file is of another step or another run; published ones do not say which."""
    for path, content in ((path_g, g), (path_d, d)):
        if isinstance(saved := content.get("step"), int) and saved != step_of(path):
            name = f"{path.name[0]}_{saved}.pth"
            raise CheckpointError(f"{path}: was saved at step {saved}. Give it its name {name} back, or delete it.")
    states = [content["random"] for content in (g, d) if isinstance(content.get("random"), dict)]
    ours = [state["cpu"] for state in states if isinstance(state.get("cpu"), torch.Tensor)]
    if len(ours) == 2 and not torch.equal(*ours):
        problem = f"{path_g}: was not saved together with {path_d.name}, which is of another run"
        remedy = f"Put the {path_d.name} of the same run beside it, or delete both to go on from the pair before."
        raise CheckpointError(f"{problem}. {remedy}")


def _weights_of(content: dict, path: Path, entry: str = "model") -> dict[str, torch.Tensor]:
    found = content.get(entry)
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise CheckpointError(f"{path}: not a training checkpoint: it holds no weights under '{entry}'")
    return found


def _load_generator(net: nn.Module, found: dict[str, torch.Tensor], path: Path, config: Config) -> None:
    _require_whole(found, path)
    net.load_state_dict(fit_voice(found, net.state_dict(), path, config.path))


def _require_whole(found: dict[str, torch.Tensor], path: Path) -> None:
    if not any(name.startswith(("enc_q.", "enc_p.")) for name in found):
        raise CheckpointError(f"{path}: holds no voice model, but another network. Give a G_STEP.pth, or delete it.")
    if not any(name.startswith("enc_q.") for name in found):
        raise CheckpointError(
            f"{path}: has no posterior encoder (enc_q): it was compressed for conversion and cannot be trained on. "
            "Use the checkpoint that it was made from."
        )


def _load_discriminators(net: nn.Module, content: dict, path: Path) -> None:
    likely = "Likely cause: model.discriminator_channels or model.use_spectral_norm."
    net.load_state_dict(fit(_weights_of(content, path), net.state_dict(), path, likely))
