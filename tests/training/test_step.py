"""A whole update of both networks equals upstream's: losses, gradients and the weights afterwards."""

import json

import golden_rule
import pytest
import torch
from golden_rule import relative_difference, tensor

from models import SynthesizerTrn
from modules.audio.mel import spectrogram
from modules.config.io import parse_config
from modules.data.dataset import Batch
from modules.nn import winograd
from modules.nn.winograd import QuickConv1d, QuickConv2d
from modules.training.loop import TrainState
from modules.training.step import VitsStep, half_dtype, learning_rate, limit_bandwidth
from vdecoder.discriminators import MultiPeriodDiscriminator

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["plain", "quick"])
def stepped(request):
    """The golden, the networks after one step, and what the step reported; also with the quick convolutions of
    training on a CPU wherever they can be, though the goldens were made without dropout."""
    golden = golden_rule.load_golden("rule/train_step_small")
    model = json.loads(str(golden["config_json"]))
    config = parse_config({"model": model})
    net_g = SynthesizerTrn(1025, config.segment_frames, **model).eval()
    golden_rule.fill(net_g)
    net_d = MultiPeriodDiscriminator().eval()
    golden_rule.fill(net_d)
    patch = pytest.MonkeyPatch()
    if request.param == "quick":
        patch.setattr(winograd, "_LEAST_CHANNELS", 8)
        patch.setattr(winograd, "_LEAST_OUTPUTS", 1)
        quick = [m for net in (net_g, net_d) for m in net.modules() if isinstance(m, (QuickConv1d, QuickConv2d))]
        assert len(quick) > 50
        for layer in quick:
            layer.training = True
    wav = tensor(golden["in_wav_int16"]).float() / 32768
    lengths = tensor(golden["in_lengths"])
    batch = Batch(
        units=tensor(golden["in_c"]),
        f0=tensor(golden["in_f0"]),
        uv=tensor(golden["in_uv"]),
        spec=spectrogram(wav, config.audio),
        wav=wav.unsqueeze(1),
        speakers=tensor(golden["in_sid"])[:, 0],
        lengths=lengths,
        volume=tensor(golden["in_vol"]),
        paths=["a.wav", "b.wav"],
    )
    step = VitsStep(net_g, net_d, config, CPU)
    with golden_rule.counted_draws() as log:
        report = step.run([batch])
    patch.undo()
    assert log == golden["noise_log"].tolist()[:-1], "upstream draws one more noise, which it does not use"
    return golden, step, report


def test_losses_equal_upstreams(stepped):
    golden, _, report = stepped
    assert report.losses.stft == 0
    for name in set(report.losses._fields) - {"stft"}:
        assert float(getattr(report.losses, name)) == pytest.approx(float(golden[f"loss_{name}"]), rel=1e-4), name
    assert relative_difference(report.mel_real, golden["y_mel"]) < 1e-4
    assert relative_difference(report.mel_generated, golden["y_hat_mel"]) < 1e-4


def test_gradients_equal_upstreams(stepped):
    golden, step, report = stepped
    assert float(report.norms[0]) == pytest.approx(float(golden["grad_norm_d"]), rel=1e-3)
    assert float(report.norms[1]) == pytest.approx(float(golden["grad_norm_g"]), rel=1e-3)
    wanted = golden["grad_norms_g"]
    for (name, parameter), norm in zip(step.net_g.named_parameters(), wanted, strict=True):
        found = -1 if parameter.grad is None else float(parameter.grad.norm())
        # Below 1 it is rounding of gradients near 1e9: the bias of the keys, say, cancels in the softmax.
        assert found == pytest.approx(float(norm), rel=2e-3, abs=1), name
    for key in [key for key in golden if key.startswith("grad_") and not key.startswith("grad_norm")]:
        gradient = step.net_g.get_parameter(key.removeprefix("grad_")).grad
        assert (gradient - tensor(golden[key])).abs().max() < 1e-3 * abs(golden[key]).max(), key


def test_weights_after_the_step_equal_upstreams(stepped):
    golden, step, _ = stepped
    for key in [key for key in golden if key.startswith("after_")]:
        weight = step.net_g.get_parameter(key.removeprefix("after_"))
        # A gradient that is nearly zero may change its sign, and AdamW makes a full step of 1e-4 the other way: twice
        # that apart, and a rounding.
        torch.testing.assert_close(weight.detach(), tensor(golden[key]), atol=2.01e-4, rtol=0)


def test_the_rate_rises_over_the_warm_up_and_then_decays_from_the_full_rate():
    plain = parse_config({"train": {"learning_rate": 1.0, "lr_decay": 0.5}})
    assert [learning_rate(plain, epoch) for epoch in (1, 2, 3)] == [1, 0.5, 0.25]
    warm = parse_config({"train": {"learning_rate": 1.0, "lr_decay": 0.5, "warmup_epochs": 4}})
    assert [learning_rate(warm, epoch) for epoch in (1, 2, 3, 4, 5, 6)] == [0.25, 0.5, 0.75, 1, 0.5, 0.25]


@pytest.mark.parametrize(
    "train, device, wanted",
    [
        ({}, "cuda", torch.float32),
        ({"fp16_run": True}, "cuda", torch.float16),
        ({"fp16_run": True}, "cpu", torch.float32),
        ({"fp16_run": True, "half_type": "bf16"}, "cpu", torch.bfloat16),
        ({"half_type": "bf16"}, "cuda", torch.float32),
    ],
)
def test_precision_follows_the_config_where_the_device_can(train, device, wanted):
    assert half_dtype(parse_config({"train": train}), torch.device(device)) == wanted


def stage_step(stage: str, train: dict | None = None) -> tuple[VitsStep, Batch]:
    """A step of that stage and a batch of noise, of two speakers."""
    model = json.loads(str(golden_rule.load_golden("rule/train_step_small")["config_json"]))
    config = parse_config({"model": model, "train": train or {}, "spk": {"alto": 0, "bass": 1}})
    torch.manual_seed(5)
    networks = SynthesizerTrn(1025, config.segment_frames, **model), MultiPeriodDiscriminator(channels=16)
    step, n_frames = VitsStep(*networks, config, CPU, stage=stage), config.segment_frames + 4
    wav = 0.1 * torch.randn(2, n_frames * 512)
    batch = Batch(
        units=torch.randn(2, model["ssl_dim"], n_frames),
        f0=torch.full((2, n_frames), 220.0),
        uv=torch.ones(2, n_frames),
        spec=spectrogram(wav, config.audio),
        wav=wav.unsqueeze(1),
        speakers=torch.tensor([0, 1]),
        lengths=torch.full((2,), n_frames),
        volume=torch.rand(2, n_frames),
        paths=["a.wav", "b.wav"],
    )
    step.prepare(TrainState(has_base=True))
    return step, batch


PRIOR_PARTS = {"pre", "enc_p", "flow", "emb_uv", "emb_vol", "f0_decoder"}


@pytest.mark.parametrize(
    "stage, changed",
    [
        ("all", PRIOR_PARTS | {"dec", "enc_q", "emb_g", "discriminators"}),
        ("generator", PRIOR_PARTS | {"dec", "enc_q", "emb_g"}),
        ("prior", PRIOR_PARTS),
    ],
)
def test_a_stage_trains_its_parts_and_leaves_the_others_bit_for_bit(stage, changed):
    step, batch = stage_step(stage)
    before = {name: value.clone() for net in step.networks for name, value in net.named_parameters()}
    report = step.run([batch])
    after = {name: value for net in step.networks for name, value in net.named_parameters()}
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])} == changed
    losses = {name for name, value in report.losses._asdict().items() if value != 0} - {"lf0"}
    wanted = {"all": {"disc", "gen", "fm", "mel", "kl", "total"}, "generator": {"mel", "kl", "total"}}
    assert losses == wanted.get(stage, {"kl", "total"})
    assert (report.mel_generated is None) == (stage == "prior")


def test_what_lies_above_a_speakers_bandwidth_is_neither_wanted_nor_punished():
    """Noise up there changes no loss where it is in clips of the speaker who is said to have none."""
    losses = []
    for noisy in (None, 0, 1):
        step, batch = stage_step("all", {"bandwidth": {"alto": 7500}})
        if noisy is not None:
            noise = torch.randn(batch.wav[noisy].shape)
            batch.wav[noisy] += 0.3 * (noise - limit_bandwidth(noise[None], torch.tensor([9000.0]), 44100)[0])
        torch.manual_seed(9)
        losses.append(step.run([batch]).losses)
    # The window that is decoded cuts the noise anywhere, so that a little of it leaks down.
    for name in ("disc", "fm", "mel"):
        plain, ignored, counted = (float(getattr(found, name)) for found in losses)
        assert abs(counted - plain) > 5 * abs(ignored - plain), name


def test_a_limited_wave_is_the_wave_below_and_nothing_above():
    time = torch.arange(4410, dtype=torch.float64) / 44100
    low, high = (torch.sin(2 * torch.pi * hz * time).float()[None] for hz in (1000, 12000))
    found = limit_bandwidth(torch.stack([low + high, low + high]), torch.tensor([7500.0, float("inf")]), 44100)
    torch.testing.assert_close(found, torch.stack([low, low + high]), atol=1e-5, rtol=0)
