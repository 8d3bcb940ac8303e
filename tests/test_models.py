"""The voice model repeats upstream's numbers in every variant, and its checkpoints have upstream's names."""

import json
import lzma
from dataclasses import replace
from functools import cache

import golden_rule
import pytest
import torch
from golden_rule import relative_difference, tensor

from models import INFERENCE_SEED, SynthesizerTrn
from modules.contracts import Draws
from modules.device import seeded
from modules.errors import ConfigError, UsageError
from modules.f0.convert import f0_to_coarse

VARIANTS = ["", "_novol_noautof0", "_depthwise_shared", "_snake", "_transflow", "_transflow_shared"]
GENERATORS = json.loads(lzma.decompress((golden_rule.GOLDENS / "statedicts/generators.json.xz").read_bytes()))
VOICES = [name for name in GENERATORS if name.startswith("G_")]
# Samples of audio; upstream's sine phase is a float32 sum, ours is exact, and both were made on other machines.
AUDIO = 1e-4
STAGE = 1e-5


@cache
def golden_voice(name: str) -> tuple[dict, SynthesizerTrn, torch.Tensor | None]:
    """A golden, its network filled by the rule, and the volume if the network takes one; shared, not to be changed."""
    golden = golden_rule.load_golden(f"rule/{name}")
    config = json.loads(str(golden["config_json"]))
    network = SynthesizerTrn(1025, 8, **config).eval()
    golden_rule.fill(network)
    return golden, network, tensor(golden["in_vol"]) if config["vol_embedding"] else None


def small_voice(**changes) -> SynthesizerTrn:
    config = json.loads(str(golden_rule.load_golden("rule/syn_small")["config_json"]))
    return SynthesizerTrn(1025, 8, **{**config, **changes}).eval()


def inputs_of(golden: dict) -> list[torch.Tensor]:
    return [tensor(golden[key]) for key in ("in_c", "in_f0", "in_uv", "in_sid")]


@pytest.mark.parametrize("name", VOICES)
def test_the_names_shapes_and_order_of_a_checkpoint_are_upstreams(name):
    wanted = GENERATORS[name]
    with torch.device("meta"):
        network = SynthesizerTrn(1025, 20, **wanted["model"])
    found = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert found == wanted["shapes"] and list(found) == list(wanted["shapes"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_order_of_parameters_is_upstreams_so_that_its_optimizer_states_fit(variant):
    golden, network, _ = golden_voice(f"syn_small{variant}")
    assert [name for name, _ in network.named_parameters()] == golden["param_keys"].tolist()


@pytest.mark.parametrize("variant", [f"syn_small{variant}" for variant in VARIANTS] + ["syn_full_tiny"])
def test_conversion_equals_upstreams(variant):
    golden, network, vol = golden_voice(variant)
    with golden_rule.counted_draws() as log:
        wav, f0 = network.infer(*inputs_of(golden), noise_scale=0.4, seed=None, vol=vol)
    assert log == golden["infer_noise_log"].tolist()
    assert torch.equal(f0, tensor(golden["infer_f0"]))
    # The filled snake network saturates its last tanh, which makes steps of rounding errors; see the next test.
    assert relative_difference(wav, golden["infer_audio"]) < (1e-3 if "snake" in variant else AUDIO)


@pytest.mark.parametrize("variant", [f"syn_small{variant}" for variant in VARIANTS])
@torch.no_grad()
def test_each_stage_of_a_conversion_equals_upstreams(variant):
    golden, network, vol = golden_voice(variant)
    units, f0, uv, speaker = inputs_of(golden)
    with golden_rule.counted_draws():
        g = network._speaker_vector(speaker)
        z_p, m_p, logs_p = network.enc_p(network._content(units, uv, vol, None), f0_to_coarse(f0), None, 0.4)
        z = network.flow(z_p, None, g, reverse=True)
        before_tanh = network.dec.filter(z, network.dec.m_source(f0), g)
    for found, key in ((z_p, "z_p"), (m_p, "m_p"), (logs_p, "logs_p"), (z, "dec_in"), (before_tanh, "pre_tanh")):
        assert relative_difference(found, golden[f"infer_{key}"]) < 2 * STAGE, key


@pytest.mark.parametrize("variant", ["syn_small", "syn_full_tiny"])
def test_predicted_pitch_equals_upstreams_and_is_used(variant):
    golden, network, vol = golden_voice(variant)
    units, f0, uv, speaker = inputs_of(golden)
    with golden_rule.counted_draws():
        _, predicted = network.infer(units, f0, uv, speaker, 0.4, None, predict_f0=True, vol=vol)
    assert relative_difference(predicted, golden["infer_f0_predf0"]) < STAGE
    # From upstream's own prediction: the last digit of a pitch of some kHz moves the phase by more than we allow.
    with golden_rule.counted_draws():
        wav, _ = network.infer(units, tensor(golden["infer_f0_predf0"]), uv, speaker, 0.4, None, vol=vol)
    assert relative_difference(wav, golden["infer_audio_predf0"]) < AUDIO


def test_a_mix_of_speakers_per_frame_equals_upstreams():
    golden, network, vol = golden_voice("syn_small")
    units, f0, uv, _ = inputs_of(golden)
    mix = tensor(golden["in_mix"]).T  # (S, N)
    for weights in (mix, mix[None]):
        with golden_rule.counted_draws():
            wav, _ = network.infer(units, f0, uv, weights, 0.4, None, vol=vol)
        assert relative_difference(wav, golden["infer_audio_mix"]) < AUDIO


def test_a_mix_of_one_speaker_is_that_speaker():
    golden, network, vol = golden_voice("syn_small")
    units, f0, uv, _ = inputs_of(golden)
    one_hot = torch.zeros(3, 24)
    one_hot[2] = 1
    alone, _ = network.infer(units, f0, uv, torch.tensor([2]), vol=vol)
    torch.testing.assert_close(network.infer(units, f0, uv, one_hot, vol=vol)[0], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", [f"syn_small{variant}" for variant in VARIANTS] + ["syn_full_tiny"])
@torch.no_grad()
def test_a_training_pass_equals_upstreams(variant):
    golden, network, vol = golden_voice(variant)
    lengths = tensor(golden["fw_in_lengths"])
    units, f0, uv, speaker = (tensor(golden[f"fw_in_{key}"]) for key in ("c", "f0", "uv", "sid"))
    vol = None if vol is None else tensor(golden["fw_in_vol"])
    with golden_rule.counted_draws() as log:
        out = network(units, f0, uv, golden_rule.forward_spec(), speaker, lengths, lengths, vol)
    # The last draw of upstream's log is thrown away there, and left out here.
    assert log == golden["fw_noise_log"].tolist()[:-1]
    assert out.ids_slice.tolist() == golden["fw_ids"].tolist()
    assert torch.equal(out.z_mask.float(), tensor(golden["fw_mask"]))
    assert relative_difference(out.y_hat, golden["fw_y"]) < (1e-3 if "snake" in variant else AUDIO)
    for key in ("z", "z_p", "m_p", "logs_p", "m_q", "logs_q", "pred_lf0", "norm_lf0", "lf0"):
        if f"fw_{key}" in golden:
            assert relative_difference(getattr(out, key), golden[f"fw_{key}"]) < STAGE, key
    if "noautof0" in variant:
        assert out.pred_lf0 is out.norm_lf0 is out.lf0 is None


def test_every_parameter_gets_a_gradient_from_a_training_pass():
    network = small_voice(use_transformer_flow=True, flow_share_parameter=True).train()
    with torch.no_grad():
        for coupling in network.flow.flows[::2]:  # they start at zero, which keeps gradients from what is before them
            torch.nn.init.normal_(coupling.post.weight)
    lengths = torch.tensor([12, 10])
    out = network(
        torch.randn(2, 24, 12),
        torch.full((2, 12), 220.0),
        torch.ones(2, 12),
        torch.rand(2, 1025, 12),
        torch.tensor([0, 2]),
        lengths,
        lengths,
        torch.rand(2, 12),
    )
    sum(value.float().square().mean() for value in (out.y_hat, out.z_p, out.m_p, out.logs_p, out.pred_lf0)).backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not without


def test_conversion_leaves_the_callers_random_numbers_alone_and_repeats_itself():
    network = small_voice(vol_embedding=False)
    inputs = (torch.randn(1, 24, 6), torch.full((1, 6), 220.0), torch.ones(1, 6), torch.tensor([1]))
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    first, _ = network.infer(*inputs)
    assert torch.equal(torch.rand(3), wanted)
    assert torch.equal(network.infer(*inputs)[0], first)
    assert not torch.equal(network.infer(*inputs, seed=None)[0], first)


def test_draws_that_are_given_take_the_place_of_drawn_ones():
    network = small_voice(vol_embedding=False)
    inputs = (torch.randn(1, 24, 6), torch.full((1, 6), 220.0), torch.ones(1, 6), torch.tensor([1]))
    with seeded(torch.device("cpu"), INFERENCE_SEED):
        latent = torch.randn(1, network.dec.conv_pre.in_channels, 6)[0]
        phases = torch.rand(1, 9)[0]
        draws = Draws(latent, phases * (torch.arange(9) > 0), torch.randn(1, 6 * network.hop_length, 9)[0])
    noise = draws.noise.clone()
    assert torch.equal(network.infer(*inputs, draws=draws)[0], network.infer(*inputs)[0])
    assert torch.equal(draws.noise, noise), "they serve the next block too"
    moved = network.infer(*inputs, draws=replace(draws, phases=(draws.phases + 0.25) % 1))[0]
    assert not torch.allclose(moved, network.infer(*inputs)[0])


def test_the_source_gets_the_sampling_rate_of_the_config():
    network = small_voice(sampling_rate=32000)
    assert network.sampling_rate == network.dec.m_source.sampling_rate == 32000 and network.hop_length == 512


def test_what_the_model_cannot_do_is_refused_by_name():
    network = small_voice(vol_embedding=False, use_automatic_f0_prediction=False)
    inputs = (torch.randn(1, 24, 6), torch.full((1, 6), 220.0), torch.ones(1, 6), torch.tensor([1]))
    with pytest.raises(UsageError, match="trained without pitch prediction"):
        network.infer(*inputs, predict_f0=True)
    with pytest.raises(ConfigError, match="Known: nsf-hifigan, nsf-snake-hifigan"):
        small_voice(vocoder_name="hifigan")


@pytest.mark.parametrize("clamp", [False, True])
def test_pitch_above_the_last_step_is_embedded_as_the_config_says(clamp):
    golden = golden_rule.load_golden("rule/syn_small")
    network = small_voice(clamp_f0_high=clamp)
    units, f0, uv, speaker = inputs_of(golden)
    seen = []
    network.enc_p.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    network.infer(units, torch.full_like(f0, 1500.0), uv, speaker, vol=tensor(golden["in_vol"]))
    assert (seen[0] == (255 if clamp else 0)).all()


@pytest.mark.parametrize("is_unvoiced", [False, True])
def test_the_decoder_of_an_unvoiced_source_hears_no_pitch_where_there_is_none(is_unvoiced):
    """Conversion alone and in a batch, and training: what the source is given; the prior and the caller get all."""
    golden, network = golden_rule.load_golden("rule/syn_small"), small_voice(unvoiced_source=is_unvoiced)
    units, f0, _, speaker = inputs_of(golden)
    uv = (torch.arange(f0.shape[1]) % 3 > 0).float().expand(f0.shape)
    volume, lengths, wanted = tensor(golden["in_vol"]), [f0.shape[1]] * len(f0), f0 * uv if is_unvoiced else f0
    heard, pitches = [], []
    network.dec.m_source.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    network.enc_p.register_forward_pre_hook(lambda module, inputs: pitches.append(inputs[1]))
    _, used = network.infer(units, f0, uv, speaker, vol=volume)
    network.infer_batch(units, f0, uv, speaker, lengths, vol=volume)
    assert torch.equal(used, f0) and torch.equal(heard[0], wanted) and torch.equal(torch.cat(heard[1:]), wanted)
    spec, lengths = torch.rand(len(f0), 1025, f0.shape[1]), torch.tensor(lengths)
    out = network(units, f0, uv, spec, speaker, lengths, lengths, volume)
    for row, start in enumerate(out.ids_slice.tolist()):
        assert torch.equal(heard[-1][row], wanted[row, start : start + 8])
    assert all(torch.equal(coarse, f0_to_coarse(f0)) for coarse in pitches)


def test_a_pass_that_decodes_nothing_finds_the_same_latents():
    network, lengths = small_voice(), torch.tensor([12, 12])
    given = torch.randn(2, 24, 12), torch.full((2, 12), 220.0), torch.ones(2, 12), torch.rand(2, 1025, 12)
    passes = []
    for decode in (True, False):
        torch.manual_seed(3)
        passes.append(network(*given, torch.tensor([0, 1]), lengths, lengths, torch.rand(2, 12), decode=decode))
    assert passes[1].y_hat is None
    for name in ("z", "z_p", "m_p", "logs_q", "ids_slice"):
        assert torch.equal(getattr(passes[0], name), getattr(passes[1], name)), name
