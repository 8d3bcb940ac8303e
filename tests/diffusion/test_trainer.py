"""Training of the diffusion model: it learns, goes on exactly where it stopped, and never saves anything broken."""

import logging
import signal
import threading
from functools import partial

import pytest
import torch
from tiny_diffusion import make_diffusion_workspace, make_vocoder_files
from tiny_voices import tiny_config

from diffusion.dataset import DiffusionDataset, make_loader
from diffusion.state import load_start, save_state
from diffusion.trainer import DiffusionMonitor, DiffusionStep
from diffusion.unit2mel import build_unit2mel
from modules.config.vocoder import PUBLISHED_MEL
from modules.errors import CheckpointError, UserError
from modules.training.distributed import Group, random_state
from modules.training.loop import TrainingLoop
from modules.weights.checkpoint import load_weights, save_weights
from vdecoder.mel_vocoder import load_vocoder

CPU = torch.device("cpu")


class Run:
    """A training in `logs/NAME`, put together as train_diff.py does it; calling it goes on up to a step."""

    def __init__(self, config, folder, device=CPU, vocoder=None):
        audio = tiny_config().audio
        torch.manual_seed(config.train.seed)
        network = build_unit2mel(config, 128).to(device)
        self.folder, group = folder, Group(device=device)
        folder.mkdir(parents=True, exist_ok=True)
        self.step = DiffusionStep(network, config, group)
        self.state, saved = load_start(folder, self.step, group)
        save = partial(save_state, folder, self.state, self.step)
        self.loop = TrainingLoop(self.step, self.state, group, save, saved, show_progress=False)
        self.loader = make_loader(DiffusionDataset("filelists/train.txt", config, audio, PUBLISHED_MEL), device)
        clips = [DiffusionDataset("filelists/val.txt", config, audio, PUBLISHED_MEL, training=False).item(0)]
        self.monitor = DiffusionMonitor(self.step, self.state, folder / "logs", clips, vocoder)

    def __call__(self, max_steps):
        self.loop.train(self.loader, max_steps, self.monitor)
        return self.loop

    @property
    def weights(self):
        return {name: value.clone() for name, value in self.step.network.named_parameters()}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_diffusion_workspace(tmp_path)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".pt", ".pth"))


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_loss_falls(workspace, tmp_path):
    workspace.train.lr, workspace.train.batch_size = 1e-3, 4
    workspace.model.n_chans = 160  # narrower than the mel, it could not copy its noise
    run = Run(workspace, tmp_path / "logs/a")
    losses = []
    original = run.step.run

    def watched(batches):
        report = original(batches)
        losses.append(float(report.losses.noise))
        return report

    run.step.run = watched
    run(200)
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


def test_resuming_is_identical_to_not_stopping(workspace, tmp_path):
    straight = Run(workspace, tmp_path / "logs/straight")
    straight(7)
    for steps in (1, 3, 4, 7):
        resumed = Run(workspace, tmp_path / "logs/resumed")
        resumed(steps)
    assert equal(straight.weights, resumed.weights)
    assert vars(resumed.state) == vars(straight.state)
    before, after = (load_weights(run.folder / "state_7.pth")["optimizer"]["state"] for run in (straight, resumed))
    assert all(torch.equal(before[key]["exp_avg_sq"], after[key]["exp_avg_sq"]) for key in before)


def test_validation_does_not_change_what_is_learned_and_logs_upstreams_names(workspace, tmp_path):
    plain = Run(workspace, tmp_path / "logs/plain")
    plain(3)
    workspace.train.interval_val = workspace.train.interval_log = 1
    vocoder = load_vocoder(make_vocoder_files(tmp_path / "voc"), CPU)
    watched = Run(workspace, tmp_path / "logs/watched", vocoder=vocoder)
    watched(3)
    assert equal(plain.weights, watched.weights)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(watched.folder / "logs"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/lr", "train/grad_norm", "validation/loss"} <= set(tags["scalars"])
    assert tags["images"] == ["alto_clip 0.wav"]
    assert set(tags["audio"]) == {"alto_clip 0.wav_gt.wav", "alto_clip 0.wav_pred.wav"}
    assert [event.step for event in events.Scalars("validation/loss")] == [1, 2, 3]


def test_a_model_is_replaced_by_the_next_unless_it_is_to_be_kept(workspace, tmp_path):
    workspace.train.interval_val, workspace.train.interval_force_save = 2, 4
    run = Run(workspace, tmp_path / "logs/a")
    run(11)
    assert names(run.folder) == ["model_11.pt", "model_4.pt", "model_8.pt", "state_11.pth"]
    found = load_weights(run.folder / "model_11.pt")
    assert found["global_step"] == 11 and "optimizer" not in found
    workspace.train.save_opt = True
    Run(workspace, run.folder)(12)
    assert "state" in load_weights(run.folder / "model_12.pt")["optimizer"]


def test_a_base_model_is_started_from_and_never_written(workspace, tmp_path, caplog):
    folder = tmp_path / "logs/a"
    donor = Run(workspace, tmp_path / "logs/donor")
    donor(3)
    folder.mkdir()
    content = {"global_step": 0, "model": donor.step.network.state_dict()}
    save_weights(folder / "model_0.pt", content)
    before = (folder / "model_0.pt").read_bytes()
    run = Run(workspace, folder)
    assert equal(run.weights, donor.weights) and run.state.step == 0
    run(2)
    assert (folder / "model_0.pt").read_bytes() == before and names(folder)[:2] == ["model_0.pt", "model_2.pt"]
    workspace.model.n_spk = 3
    other = tmp_path / "logs/other"
    other.mkdir()
    save_weights(other / "model_0.pt", content)
    run = Run(workspace, other)
    assert "model_0.pt: fits in part: 99." in caplog.text and "untrained: spk_embed (model.n_spk" in caplog.text
    assert torch.equal(run.weights["unit_embed.weight"], donor.weights["unit_embed.weight"])


def test_a_base_of_another_preset_is_refused_by_its_values(workspace, tmp_path):
    content = {"model": Run(workspace, tmp_path / "logs/donor").step.network.state_dict()}
    folder = tmp_path / "logs/a"
    folder.mkdir()
    save_weights(folder / "model_0.pt", content)
    workspace.model.n_chans, workspace.model.n_hidden = 64, 24
    with pytest.raises(
        CheckpointError, match=r"model_0\.pt: .*model\.n_hidden is 8, .* 24; model\.n_chans is 16, .* 64"
    ):
        Run(workspace, folder)


def test_upstreams_checkpoint_is_gone_on_from(workspace, tmp_path, caplog):
    donor = Run(workspace, tmp_path / "logs/donor")
    donor(3)
    folder = tmp_path / "logs/a"
    folder.mkdir()
    save_weights(folder / "model_500.pt", {"global_step": 500, "model": donor.step.network.state_dict()})
    run = Run(workspace, folder)
    assert run.state.step == 500 and "holds no optimizer state" in caplog.text
    assert run(501).state.step == 501


def test_the_rate_falls_by_gamma_and_a_restart_does_not_repeat_it(workspace, tmp_path):
    workspace.train.decay_step, workspace.train.gamma = 2, 0.5
    run = Run(workspace, tmp_path / "logs/a")
    rates = []
    for step in range(5):
        run.state.step = step
        rates.append(run.step.prepare(run.state))
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4])


def test_another_config_is_refused_with_both_values(workspace, tmp_path):
    Run(workspace, tmp_path / "logs/a")(1)
    workspace.data.unit_interpolate_mode = "left"
    with pytest.raises(CheckpointError, match="unit_interpolate_mode was 'nearest', now 'left'"):
        Run(workspace, tmp_path / "logs/a")
    workspace.data.unit_interpolate_mode = "nearest"
    workspace.model.n_layers = 3
    with pytest.raises(CheckpointError, match=r"residual_layers\.2.*is missing.*model.n_layers"):
        Run(workspace, tmp_path / "logs/a")


def test_damaged_files_are_named(workspace, tmp_path):
    run = Run(workspace, tmp_path / "logs/a")
    run(1)
    (run.folder / "state_1.pth").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"state_1\.pth: damaged"):
        Run(workspace, run.folder)
    (run.folder / "state_1.pth").unlink()
    (run.folder / "model_1.pt").write_bytes((run.folder / "model_1.pt").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model_1\.pt: damaged"):
        Run(workspace, run.folder)


def test_a_loss_that_is_not_finite_stops_and_nothing_is_saved(workspace, tmp_path):
    run = Run(workspace, tmp_path / "logs/a")
    with torch.no_grad():
        run.step.network.unit_embed.bias.fill_(float("nan"))
    with pytest.raises(UserError, match=r"step 10: for 10 steps in a row .*\(noise nan\).*clip.*train\.lr"):
        run(30)
    assert names(run.folder) == []


def test_a_clip_that_goes_missing_does_not_cost_the_steps_before(workspace, tmp_path):
    run = Run(workspace, tmp_path / "logs/a")
    run(2)
    next(iter((tmp_path / "dataset/44k/bass").glob("*.wav.mel.npy"))).unlink()
    with pytest.raises(UserError, match="--use_diff"):
        run(9)
    assert any(name.startswith("model_") for name in names(run.folder))


def test_a_request_to_stop_saves_the_current_step(workspace, tmp_path):
    run = Run(workspace, tmp_path / "logs/a")
    original = run.step.run

    def stopping(batches):
        if run.state.step == 2:
            signal.raise_signal(signal.SIGINT)
        return original(batches)

    assert threading.current_thread() is threading.main_thread()
    run.step.run = stopping
    outcome = run(9)
    assert outcome.stop.requested and outcome.state.step == 3 and "model_3.pt" in names(run.folder)


def test_half_precision_finds_nearly_the_same_loss(workspace, tmp_path):
    full = Run(workspace, tmp_path / "logs/full")
    workspace.train.amp_dtype = "bf16"
    half = Run(workspace, tmp_path / "logs/half")
    batch = next(iter(full.loader))
    losses = []
    for run in (full, half):
        torch.manual_seed(3)
        losses.append(float(run.step.run([batch]).losses.noise))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_only_the_trained_levels_are_drawn_and_shallow_validation_starts_from_the_clip(workspace, tmp_path, caplog):
    workspace.model.k_step_max, workspace.train.interval_val = 10, 1
    caplog.set_level(logging.INFO)
    run = Run(workspace, tmp_path / "logs/a")
    assert run.step.network.decoder.k_step_max == 10
    assert run(1).state.step == 1 and "validation clips, loss" in caplog.text


def test_a_full_disk_leaves_the_checkpoint_before(workspace, tmp_path, monkeypatch):
    run = Run(workspace, tmp_path / "logs/a")
    run(1)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    run.state.step = 2
    with pytest.raises(CheckpointError, match="Free some disk space"):
        save_state(run.folder, run.state, run.step, [random_state(CPU)])
    assert names(run.folder) == ["model_1.pt", "state_1.pth"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
@pytest.mark.parametrize("amp_dtype", ["fp32", "fp16", "bf16"])
def test_a_run_on_a_gpu_saves_resumes_and_validates(workspace, tmp_path, amp_dtype):
    workspace.train.amp_dtype, workspace.train.interval_val = amp_dtype, 2
    for steps in (3, 5):
        outcome = Run(workspace, tmp_path / "logs/a", torch.device("cuda:0"))(steps)
    assert outcome.state.step == 5
