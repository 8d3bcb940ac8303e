"""The diffusion model against upstream's numbers: denoiser, chain, condition, loss, and every sampler."""

import json
import lzma
from functools import cache

import golden_rule
import pytest
import torch
from golden_rule import counted_draws, load_golden, relative_difference, tensor

from diffusion.unit2mel import Unit2Mel

RULE = ["rule/unit2mel_small", "rule/unit2mel_small_k100"]
METHODS = ["ddim", "pndm", "dpm-solver", "dpm-solver++", "unipc"]


@cache
def rule_case(name: str) -> tuple[dict, Unit2Mel]:
    """A golden and its network filled by the rule; shared, not to be changed."""
    golden = load_golden(name)
    units, speakers, pitch_aug, *sizes = golden["args"].tolist()
    network = Unit2Mel(units, speakers, bool(pitch_aug), *sizes).eval().requires_grad_(False)
    assert [name for name, _ in network.named_parameters()] == golden["param_keys"].tolist()
    golden_rule.fill(network)
    return golden, network


def rule_condition(golden: dict, network: Unit2Mel, aug_shift: torch.Tensor | None = None) -> torch.Tensor:
    f0, volume = tensor(golden["in_f0"])[..., 0], tensor(golden["in_vol"])[..., 0]
    units, speaker = tensor(golden["in_units"]).transpose(1, 2), tensor(golden["in_spk"])[:, 0]
    return network.condition(units, f0, volume, speaker, aug_shift)


@pytest.mark.parametrize("n_speakers", [1, 3])
def test_names_and_shapes_are_those_of_published_checkpoints(n_speakers):
    fixture = json.loads(lzma.decompress((golden_rule.GOLDENS / "statedicts/diffusion.json.xz").read_bytes()))
    with torch.device("meta"):
        found = Unit2Mel(768, n_speakers).state_dict()
    assert {name: list(value.shape) for name, value in found.items()} == fixture[f"unit2mel_default_nspk{n_speakers}"]


@pytest.mark.parametrize("name", RULE)
def test_the_denoiser_repeats_upstreams_noise_at_whole_and_broken_levels(name):
    golden, network = rule_case(name)
    denoise = network.decoder.denoise_fn
    x, condition = tensor(golden["denoise_in_x"]), tensor(golden["denoise_in_cond"])
    for t, wanted in ((37, "denoise_t37"), (12.5, "denoise_t12p5")):
        assert relative_difference(denoise(x, torch.tensor([t]), condition), golden[wanted]) < 1e-6


@pytest.mark.parametrize("name", RULE)
def test_the_training_loss_is_upstreams(name):
    golden, network = rule_case(name)
    condition = rule_condition(golden, network, tensor(golden["train_loss_aug_shift"]).reshape(1))
    with counted_draws() as log:
        loss = network.decoder.loss(condition, tensor(golden["in_gt"]).transpose(1, 2))
    assert [log[0].split()[0], *log[1:]] == golden["train_noise_log"].tolist()
    assert float(loss) == pytest.approx(float(golden["train_loss"]), rel=1e-6)


@pytest.mark.parametrize("method", [*METHODS, "ddpm", None])
@pytest.mark.parametrize("name", RULE)
def test_shallow_diffusion_is_upstreams(name, method):
    golden, network = rule_case(name)
    mel = tensor(golden["in_gt"]).transpose(1, 2)
    k_step, speedup, wanted = (100, 10, f"k100_s10_{method}") if method in METHODS else (50, 1, "k50_ddpm")
    with counted_draws():
        found = network.decoder.sample(rule_condition(golden, network), k_step, method, speedup, mel)
    assert relative_difference(found.transpose(1, 2), golden[f"shallow_{wanted}"]) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_diffusion_from_noise_is_upstreams(method):
    golden, network = rule_case(RULE[0])
    with counted_draws():
        found = network.decoder.sample(rule_condition(golden, network), 1000, method, 50)
    assert relative_difference(found.transpose(1, 2), golden[f"full_t1000_s50_{method}"]) < 1e-5


@pytest.fixture(scope="module")
def seeded():
    """The golden with stored weights: network, condition, mel to start from, and the numbers."""
    golden = load_golden("tiny/unit2mel")
    config = json.loads(str(golden["config_json"]))
    names = ("input_channel", "n_spk", "use_pitch_aug", "out_dims", "n_layers", "n_chans", "n_hidden", "timesteps")
    network = Unit2Mel(*(config[name] for name in names), config["k_step_max"]).eval().requires_grad_(False)
    network.load_state_dict({name[3:]: tensor(value) for name, value in golden.items() if name.startswith("sd/")})
    inputs = [tensor(golden["units"]).transpose(1, 2), *(tensor(golden[name])[..., 0] for name in ("f0", "volume"))]
    inputs.append(tensor(golden["spk_id"])[:, 0])
    return network, inputs, tensor(golden["gt_mel"]).transpose(1, 2), golden


@pytest.mark.parametrize("method", METHODS)
def test_seeded_runs_are_upstreams(seeded, method):
    network, inputs, mel, golden = seeded
    condition = network.condition(*inputs)
    for k_step in (100, 50):
        torch.manual_seed(99)
        # Upstream draws into a transposed tensor, which takes the generator's numbers in another order.
        found = network.decoder.sample(condition, k_step, method, 10, mel, torch.randn_like(mel[:, None]))
        assert relative_difference(found.transpose(1, 2), golden[f"shallow_{method}_k{k_step}_s10"]) < 1e-5
    torch.manual_seed(99)
    found = network.decoder.sample(condition, 1000, method, 50)
    assert relative_difference(found.transpose(1, 2), golden[f"full_{method}_s50"]) < 1e-5


def test_seeded_ancestral_sampling_and_loss_are_upstreams(seeded):
    network, inputs, mel, golden = seeded
    torch.manual_seed(99)
    found = network.decoder.sample(network.condition(*inputs), 12, None, 1, mel, torch.randn_like(mel[:, None]))
    assert relative_difference(found.transpose(1, 2), golden["naive_k12"]) < 1e-5
    torch.manual_seed(99)
    loss = network(*inputs, torch.tensor([2.5]), mel)
    assert float(loss) == pytest.approx(float(golden["train_loss_aug"]), rel=1e-6)
