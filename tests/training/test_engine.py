"""What makes a night of training worth it: steps of several batches, clipping, averaging, scores, exact resume."""

import csv
import functools
import logging
import math
import multiprocessing
import signal
import time

import pytest
import torch
from tiny_training import CPU, SMALL_DECODER, Run, names, weights
from tiny_voices import make_workspace
from torch.utils.data import DataLoader

from modules.data import dataset
from modules.errors import UsageError
from modules.f0.base import build_predictor
from modules.training.auto_batch import largest_batch_size, largest_that_fits
from modules.training.optim import AveragedWeights, Updates, make_adamw
from modules.training.scores import Scorer
from modules.weights.checkpoint import load_weights, save_weights


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_workspace(tmp_path, model=SMALL_DECODER, vol_aug=True)


def scored(config, folder, **more) -> Run:
    return Run(config, folder, scorer=Scorer(config.audio, build_predictor("pm", config.audio)), **more)


def rows(folder) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def losses_of(run: Run, max_steps: int) -> list[tuple[float, ...]]:
    """The losses of every step up to `max_steps`, to the last bit."""
    found = []
    original = run.step.run

    def watched(batches):
        report = original(batches)
        found.append(tuple(map(float, report.losses)))
        return report

    run.step.run = watched
    run(max_steps)
    return found


@pytest.mark.parametrize(
    "train",
    [
        {"accumulate": 3, "ema_decay": 0.9, "clip_grad": 5.0, "adversarial_from": 3},
        {"adversarial_from": 2, "linear_upsampling_steps": 4},
    ],
)
def test_losses_after_any_interruption_are_those_of_a_run_without(workspace, tmp_path, train):
    for key, value in train.items():
        setattr(workspace.train, key, value)
    workspace.train.batch_size = 1  # four batches an epoch: of steps of three, every other is cut short by its end
    straight = losses_of(Run(workspace, tmp_path / "logs/straight"), 6)
    parts = []
    for step in range(1, 7):
        run = Run(workspace, tmp_path / "logs/parts")
        original = run.step.run

        def told(batches, original=original):
            signal.raise_signal(signal.SIGTERM)
            return original(batches)

        run.step.run = told
        parts += losses_of(run, 99)
        assert run.state.step == step, "told to stop within its first step"
    assert parts == straight and len(straight) == 6


def test_the_upsampling_stays_linear_and_the_discriminators_wait_at_the_beginning(workspace, tmp_path):
    workspace.train.linear_upsampling_steps, workspace.train.adversarial_from = 3, 2
    changed = []
    for n_steps in range(1, 5):
        run = Run(workspace, tmp_path / "logs/run")
        before = weights(run)
        losses = losses_of(run, n_steps)
        assert len(losses) == 1
        moved = {name for name, value in weights(run).items() if not torch.equal(value, before[name])}
        kernels = [value for name, value in weights(run).items() if name.startswith("0.dec.ups.") and "_v" in name]
        assert len(kernels) == len({name for name in moved if name.startswith("0.dec.ups.") and "_v" in name})
        discriminators = any(name.startswith("1.") for name in moved)
        changed.append((all(map(is_linear, kernels)), discriminators, losses[0][0] > 0, losses[0][1] > 0))
    assert changed == [(True, False, False, False)] * 2 + [(True, True, True, True), (False, True, True, True)]


def is_linear(kernels: torch.Tensor) -> bool:
    """Whether kernels (C, C', K) run up to their middles and down again in a straight line, each in its own height."""
    half = kernels.shape[2] // 2
    line = torch.arange(half) + 0.5
    wanted = kernels[..., :1] * torch.cat([line, line.flip(0)]) / line[0]
    return torch.allclose(kernels, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("linear", [True, False])
def test_on_a_base_the_discriminators_join_at_once_and_its_upsampling_stays_linear_if_it_is(
    workspace, tmp_path, linear
):
    workspace.train.linear_upsampling_steps = workspace.train.adversarial_from = 9
    Run(workspace, tmp_path / "logs/run")(1)
    for letter in "GD":
        (tmp_path / f"logs/run/{letter}_1.pth").rename(tmp_path / f"logs/run/{letter}_0.pth")
    content = load_weights(tmp_path / "logs/run/G_0.pth")
    for name, value in content["model"].items():
        if name.startswith("dec.ups.") and name.endswith("_v"):  # as 8 bits leave it, or as a free training does
            value += (0.005 if linear else 0.05) * value.std() * torch.randn_like(value)
    save_weights(tmp_path / "logs/run/G_0.pth", content)
    for n_steps in (1, 2):  # the second goes on from the first
        run = Run(workspace, tmp_path / "logs/run")
        before = weights(run)
        assert losses_of(run, n_steps)[0][0] > 0
        kernels = {k: v for k, v in weights(run).items() if k.startswith("0.dec.ups.") and "_v" in k}
        assert all(not torch.equal(value, before[name]) for name, value in kernels.items())
        assert {is_linear(value) for value in kernels.values()} == {linear}


def test_clipping_shortens_long_gradients_and_leaves_short_ones():
    for clip, wanted in ((0.0, 5.0), (2.0, 2.0), (9.0, 5.0)):
        net = torch.nn.Linear(2, 1, bias=False)
        before = net.weight.detach().clone()
        updates, optimizer = Updates(CPU, torch.float32, clip), torch.optim.SGD(net.parameters(), lr=1.0)
        updates.backward(net(torch.tensor([[3.0, 4.0]])).sum())
        assert float(updates.step(optimizer)) == pytest.approx(5.0), "the length is told as it was"
        assert float((net.weight - before).detach().norm()) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_neither_weights_nor_moments(value):
    net = torch.nn.Linear(2, 1)
    updates, optimizer = Updates(CPU, torch.float32), make_adamw(net, CPU, 0.1)
    for factor in (1.0, value, 1.0):
        optimizer.zero_grad()
        before = [parameter.detach().clone() for parameter in net.parameters()]
        updates.backward(net(torch.ones(1, 2)).sum() * factor)
        norm = updates.step(optimizer)
        updates.end()
        unchanged = all(torch.equal(a, b) for a, b in zip(before, net.parameters()))
        assert unchanged == (not norm.isfinite())
    assert float(optimizer.state[net.weight]["step"]) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_two_hundred_broken_steps_leave_no_trace_but_in_the_scale_of_fp16(dtype):
    """As on a GPU, whose scaler works on a CPU as well."""
    net = torch.nn.Linear(2, 1)
    updates, optimizer = Updates(CPU, dtype), make_adamw(net, CPU, 0.1)
    first = 1.0 if dtype == torch.float32 else 2.0**16
    updates.scaler = torch.amp.GradScaler("cpu", init_scale=first, growth_interval=2**31 - 1)
    for _ in range(200 if dtype == torch.float32 else 3):
        optimizer.zero_grad()
        updates.backward(net(torch.ones(1, 2)).sum() * math.inf)
        assert not updates.step(optimizer).isfinite()
        updates.end()
    assert updates.scaler.get_scale() == (1.0 if dtype == torch.float32 else 2.0**13)
    optimizer.zero_grad()
    updates.backward(net(torch.ones(1, 2)).sum())
    assert float(updates.step(optimizer)) == pytest.approx(3**0.5)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_gpu_leaves_out_a_broken_step_and_halves_the_scale_of_fp16(dtype):
    device = torch.device("cuda:0")
    net = torch.nn.Linear(2, 1).to(device)
    updates, optimizer = Updates(device, dtype), make_adamw(net, device, 0.1)
    scale, before = updates.scaler.get_scale(), net.weight.detach().clone()
    updates.backward(net(torch.ones(1, 2, device=device)).sum() * math.inf)
    assert not updates.step(optimizer).isfinite()
    updates.end()
    assert torch.equal(net.weight, before) and updates.scaler.get_scale() == (
        scale / 2 if dtype == torch.float16 else 1
    )


def test_the_average_follows_the_weights_ever_more_slowly_up_to_its_decay():
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(net.weight, 0.0)
    averaged, wanted = AveragedWeights(net, 0.5), 0.0
    for n_updates in range(12):
        torch.nn.init.constant_(net.weight, float(n_updates))
        averaged.update_parameters(net)
        kept = min(0.5, (1 + n_updates) / (10 + n_updates)) if n_updates else 0.0
        wanted = kept * wanted + (1 - kept) * n_updates
        assert float(averaged.module.weight.detach()) == pytest.approx(wanted, rel=1e-5)


def test_the_saved_voice_is_the_average_and_the_trained_weights_lie_beside_it(workspace, tmp_path):
    plain = Run(workspace, tmp_path / "logs/plain")
    plain(4)
    workspace.train.ema_decay = 0.9
    run = Run(workspace, tmp_path / "logs/a")
    run(4)
    assert all(torch.equal(a, b) for a, b in zip(weights(run).values(), weights(plain).values())), "it only watches"
    content = load_weights(run.folder / "G_4.pth")
    name = "enc_q.pre.weight"
    assert torch.equal(content["trained_model"][name], run.step.net_g.get_parameter(name))
    assert torch.equal(content["model"][name], run.step.averaged.module.get_parameter(name))
    assert not torch.equal(content["model"][name], content["trained_model"][name])
    workspace.train.ema_decay = 0.0  # switched off: on with the trained weights
    again = Run(workspace, run.folder)
    assert torch.equal(again.step.net_g.get_parameter(name), content["trained_model"][name])


def test_a_stop_that_reaches_the_workers_too_costs_nothing(workspace, tmp_path, monkeypatch):
    """Batch systems send SIGTERM to every process of a job."""
    workers = functools.partial(DataLoader, num_workers=2, persistent_workers=True)
    monkeypatch.setattr(dataset, "DataLoader", lambda *args, **kwargs: workers(*args, **{**kwargs, **workers.keywords}))
    run = Run(workspace, tmp_path / "logs/a")
    original = run.step.run

    def stopping(batches):
        if run.state.step == 2:
            for worker in multiprocessing.active_children():
                worker.terminate()
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.5)
        return original(batches)

    run.step.run = stopping
    outcome = run(99)
    assert outcome.stop.requested and outcome.state.step == 3 and "G_3.pth" in names(run.folder)


def test_a_step_of_several_batches_counts_each_once(workspace, tmp_path):
    workspace.train.batch_size, workspace.train.accumulate, workspace.train.epochs = 1, 3, 2
    sizes, run = [], Run(workspace, tmp_path / "logs/a")
    original = run.step.run

    def watched(batches):
        sizes.append(len(batches))
        return original(batches)

    run.step.run = watched
    assert run(None).state.step == 4 and sizes == [3, 1, 3, 1], "a step does not reach into the next epoch"


def test_each_evaluation_is_scored_and_the_best_voice_kept(workspace, tmp_path, caplog):
    from models import load_synthesizer

    caplog.set_level(logging.INFO)
    workspace.train.eval_interval, workspace.train.keep_ckpts, workspace.train.patience = 1, 1, 2
    run = scored(workspace, tmp_path / "logs/a", card={"notes": "mine", "steps": 0})
    run(3)
    table = rows(run.folder)
    assert [row["step"] for row in table] == ["1", "2", "3"]
    best = min(table, key=lambda row: float(row["mel"]))
    assert [row["best"] for row in table].count("yes") == 1 and best["best"] == "yes"
    assert all(0 <= float(row["voicing"]) <= 1 and row["similarity"] == "" for row in table)
    kept = load_weights(run.folder / "G_best.pth")
    assert kept["step"] == int(best["step"]) and kept["optimizer"] is None
    assert kept["card"] == {"notes": "mine", "steps": kept["step"]}
    assert names(run.folder) == ["D_3.pth", "G_3.pth", "G_best.pth"]
    assert load_synthesizer(run.folder / "G_best.pth", workspace, CPU) is not None
    assert "validation clips, mel " in caplog.text and "the best score so far" in caplog.text


def test_a_run_that_goes_back_to_an_earlier_step_gives_up_the_scores_after_it(workspace, tmp_path):
    workspace.train.eval_interval = 1
    run = scored(workspace, tmp_path / "logs/a")
    run(3)
    before = rows(run.folder)
    for prefix in "GD":
        (run.folder / f"{prefix}_3.pth").write_bytes(b"broken")
    again = scored(workspace, run.folder)
    assert again.state.step == 2
    again(3)
    assert rows(run.folder) == before, "the step trained again scores as it did"


def test_it_is_said_when_the_score_does_not_improve_any_more(workspace, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    workspace.train.eval_interval, workspace.train.patience = 1, 2
    run = scored(workspace, tmp_path / "logs/a")
    mels = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    original = run.monitor.scorer.score

    class Scripted:
        score = staticmethod(lambda generated, real: original(generated, real)._replace(mel=next(mels)))

    run.monitor.scorer = Scripted
    run(6)
    said = [record.getMessage() for record in caplog.records if "has not improved" in record.getMessage()]
    assert len(said) == 2 and "for 2 evaluations" in said[0] and "for 4 evaluations" in said[1]
    assert "G_best.pth holds the best, mel 1.000 of step 2" in said[0]


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 24, 63, 64])
def test_the_largest_batch_is_found_in_few_tries(limit):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= limit

    assert largest_that_fits(fits, 64) == limit and len(tried) == len(set(tried)) <= 13


def test_auto_batch_is_refused_where_memory_has_no_limit_of_its_own(workspace, tmp_path):
    with pytest.raises(UsageError, match=r"--auto_batch needs a CUDA GPU.*train\.batch_size"):
        largest_batch_size(Run(workspace, tmp_path / "logs/a").step, 4)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_auto_batch_finds_a_size_on_a_gpu(workspace, tmp_path):
    assert largest_batch_size(Run(workspace, tmp_path / "logs/a", torch.device("cuda:0")).step, 4) == 4


@pytest.mark.slow
def test_compiled_networks_find_the_same_losses(workspace, tmp_path):
    workspace.model.use_automatic_f0_prediction = False  # less to trace
    plain, compiled = Run(workspace, tmp_path / "logs/plain"), Run(workspace, tmp_path / "logs/compiled")
    batch = next(iter(plain.loader))
    compiled.step.compile(backend="eager")  # all of torch.compile but the C++ compiler, which takes minutes
    losses = []
    for run in (plain, compiled):
        torch.manual_seed(3)
        losses.append(run.step.run([batch]).losses)
    assert torch.stack([*losses[1]]).tolist() == pytest.approx(torch.stack([*losses[0]]).tolist(), rel=1e-4)
    assert compiled.step.net_g.state_dict().keys() == plain.step.net_g.state_dict().keys()
