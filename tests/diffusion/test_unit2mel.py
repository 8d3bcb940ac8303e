"""The conditioned network: masks, mixes of speakers, what is computed once, and files that do not fit."""

import golden_rule
import pytest
import torch
from tiny_diffusion import diffusion_config

from diffusion.unit2mel import Unit2Mel, build_unit2mel, load_unit2mel
from diffusion.wavenet import ResidualLayer
from modules.errors import CheckpointError
from modules.weights.checkpoint import save_weights

CPU = torch.device("cpu")
LENGTHS = (20, 13, 7)


@pytest.fixture
def network() -> Unit2Mel:
    network = Unit2Mel(6, 3, n_mels=8, n_layers=2, n_chans=16, n_hidden=12, timesteps=100)
    golden_rule.fill(network)
    return network.eval().requires_grad_(False)


def inputs(n_frames: int = 20) -> dict[str, torch.Tensor]:
    torch.manual_seed(n_frames)
    return {
        "units": torch.randn(1, 6, n_frames),
        "f0": 200 + 50 * torch.rand(1, n_frames),
        "volume": torch.rand(1, n_frames),
    }


@pytest.mark.parametrize("method", ["ddim", "pndm", "dpm-solver", "dpm-solver++", "unipc"])
def test_a_masked_batch_of_different_lengths_equals_each_alone(network, method):
    torch.manual_seed(0)
    conditions = [network.condition(**inputs(n), speaker=torch.tensor([1])) for n in LENGTHS]
    noises, mels = ([torch.randn(1, *shape, n) for n in LENGTHS] for shape in ((1, 8), (8,)))

    def pad(tensors):
        return torch.cat([torch.nn.functional.pad(tensor, (0, 20 - tensor.shape[-1])) for tensor in tensors])

    mask = (torch.arange(20) < torch.tensor(LENGTHS)[:, None]).float()[:, None]
    made = network.decoder.sample(pad(conditions), 50, method, 10, pad(mels), pad(noises), mask)
    for row, n, condition, mel, noise in zip(made, LENGTHS, conditions, mels, noises):
        alone = network.decoder.sample(condition, 50, method, 10, mel, noise)[0]
        assert golden_rule.relative_difference(row[:, :n], alone.numpy()) < 1e-5


def test_what_the_condition_adds_is_computed_once_whatever_the_steps(network, monkeypatch):
    calls = []
    original = ResidualLayer.project
    monkeypatch.setattr(ResidualLayer, "project", lambda self, c: calls.append(1) or original(self, c))
    condition = network.condition(**inputs(), speaker=torch.tensor([0]))
    network.decoder.sample(condition, 100, "dpm-solver++", 5)
    assert len(calls) == 2, "one for each layer"


def test_a_mix_of_speakers_is_the_mix_of_their_vectors(network):
    one = [network.condition(**inputs(), speaker=torch.tensor([index])) for index in range(3)]
    only_second = torch.tensor([[0.0, 1.0, 0.0]])
    torch.testing.assert_close(network.condition(**inputs(), speaker=only_second), one[1])
    halves = torch.tensor([[0.5, 0.5, 0.0]])
    torch.testing.assert_close(network.condition(**inputs(), speaker=halves), (one[0] + one[1]) / 2)
    over_time = torch.zeros(1, 3, 20)
    over_time[:, 0, :10], over_time[:, 2, 10:] = 1, 1
    found = network.condition(**inputs(), speaker=over_time)
    torch.testing.assert_close(found, torch.cat([one[0][..., :10], one[2][..., 10:]], dim=2))


def test_one_speaker_has_no_vector_and_no_shift_adds_nothing(network):
    single = Unit2Mel(6, 1, n_mels=8, n_layers=1, n_chans=16, n_hidden=12, timesteps=10)
    speakers = [single.condition(**inputs(), speaker=torch.tensor([index])) for index in (0, 7)]
    assert torch.equal(*speakers)
    given = {**inputs(), "speaker": torch.tensor([0])}
    plain, zero, shifted = (
        network.condition(**given, aug_shift=shift) for shift in (None, torch.zeros(1), torch.ones(1))
    )
    assert torch.equal(plain, zero) and not torch.equal(plain, shifted)
    without = Unit2Mel(6, 1, use_pitch_aug=False, n_mels=8, n_layers=1, n_chans=16, n_hidden=12, timesteps=10)
    assert torch.equal(*(without.condition(**given, aug_shift=shift) for shift in (None, torch.ones(1))))


def test_training_on_one_batch_falls():
    torch.manual_seed(0)
    network = Unit2Mel(6, 1, n_mels=8, n_layers=2, n_chans=32, n_hidden=16, timesteps=100)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    given, mel = {**inputs(), "speaker": torch.tensor([0])}, torch.linspace(-8, 0, 20).repeat(1, 8, 1)
    losses = []
    for _ in range(150):
        loss = network(**given, aug_shift=None, mel=mel)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])


@pytest.fixture
def saved(tmp_path):
    """A model of the tiny config in upstream's layout."""
    network = build_unit2mel(diffusion_config(), 128)
    torch.nn.init.normal_(network.decoder.denoise_fn.output_projection.weight, std=0.1)
    path = tmp_path / "model_5.pt"
    save_weights(path, {"global_step": 5, "model": network.state_dict()})
    return path, network


def test_a_saved_model_loads_as_it_was(saved):
    path, network = saved
    found = load_unit2mel(path, diffusion_config(), 128, CPU)
    wanted = network.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in found.state_dict().items())


def test_a_denoiser_in_half_precision_is_close_and_its_chain_is_not_halved(saved):
    path, _ = saved
    config = diffusion_config()
    full, half = (load_unit2mel(path, config, 128, CPU, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert half.decoder.betas.dtype == torch.float32 == half.unit_embed.weight.dtype
    given, noise = {**inputs(), "speaker": torch.tensor([0])}, torch.randn(1, 1, 128, 20)
    mels = [net.decoder.sample(net.condition(**given), 100, "dpm-solver++", 10, None, noise) for net in (full, half)]
    assert mels[1].dtype == torch.float32
    assert 0 < golden_rule.relative_difference(mels[1], mels[0].numpy()) < 0.02


@pytest.mark.parametrize(
    ("model", "data", "n_mels", "message"),
    [
        ({}, 7, 128, r"unit_embed.weight is \[8, 6\].*\[8, 7\].*data.encoder_out_channels"),
        ({"n_spk": 3}, 6, 128, r"spk_embed.weight is \[2, 8\].*\[3, 8\].*model.n_spk"),
        ({"n_spk": 1}, 6, 128, r"spk_embed.weight has no place.*model.n_spk"),
        ({}, 6, 80, r"input_projection.weight is \[16, 128, 1\].*\[16, 80, 1\].*vocoder"),
        ({"n_layers": 3}, 6, 128, r"residual_layers\.2\.\S+ is missing.*model.n_layers"),
        ({"n_layers": 1}, 6, 128, r"residual_layers\.1\.\S+ has no place.*model.n_layers"),
        ({"n_chans": 32}, 6, 128, r"is \[16, 128, 1\].*\[32, 128, 1\].*model.n_chans"),
        ({"n_hidden": 16}, 6, 128, r"unit_embed.weight is \[8, 6\].*\[16, 6\].*model.n_hidden"),
        ({"use_pitch_aug": False}, 6, 128, r"aug_shift_embed.weight has no place.*model.use_pitch_aug"),
        ({"timesteps": 50}, 6, 128, r"betas is \[100\].*\[50\].*model.timesteps"),
    ],
)
def test_what_does_not_fit_names_tensor_shapes_and_key(saved, model, data, n_mels, message):
    config = diffusion_config(model)
    config.data.encoder_out_channels = data
    with pytest.raises(CheckpointError, match=message):
        load_unit2mel(saved[0], config, n_mels, CPU, where="d.yaml")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["enc_p.proj.weight", "dec.conv_pre.bias"], "a so-vits-svc 4.0 or 4.1 voice model. Give it with -m"),
        (["ddsp_model.unit_embed.weight", "diff_model.decoder.x"], "DDSP-SVC model with its own synthesiser"),
        (["naive_model.x"], "Diffusion-SVC model with a naive network"),
        (["decoder.denoise_fn.conformer.weight"], "not the WaveNet"),
        (["something.else"], "Give a file like"),
    ],
)
def test_other_families_are_refused_by_name(tmp_path, names, message):
    path = tmp_path / "x.pt"
    save_weights(path, {"model": {name: torch.zeros(1) for name in names}})
    with pytest.raises(CheckpointError, match=message):
        load_unit2mel(path, diffusion_config(), 128, CPU)


@pytest.mark.parametrize("content", [{"model": 3}, {1: torch.zeros(1)}, {"model": {2: torch.zeros(1)}}, {}])
def test_something_else_is_refused(tmp_path, content):
    save_weights(tmp_path / "x.pt", content)
    with pytest.raises(CheckpointError, match="not a diffusion model"):
        load_unit2mel(tmp_path / "x.pt", diffusion_config(), 128, CPU)


def test_another_chain_of_noise_is_refused(saved):
    path, network = saved
    state = network.state_dict()
    state["decoder.betas"] = state["decoder.betas"] * 3
    save_weights(path, {"model": state})
    with pytest.raises(CheckpointError, match=r"noise levels run from 0.0003 to 0.06"):
        load_unit2mel(path, diffusion_config(), 128, CPU)
