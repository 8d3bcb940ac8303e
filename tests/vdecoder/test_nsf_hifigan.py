"""One generator is decoder and vocoder: names of published files, upstream's samples, any stride."""

import json
import lzma
from inspect import signature

import golden_rule
import pytest
import torch

from modules.errors import ConfigError
from modules.nn.weight_norm import fold_weight_norm
from vdecoder.activations import AliasFreeSnake, kaiser_sinc_filter
from vdecoder.nsf_hifigan import GeneratorSpec, NSFGenerator

SMALL = GeneratorSpec(44100, (4, 2), (8, 4), 16, "1", (3, 5), ((1, 3), (1, 3)))


def vocoder_of(config: dict) -> NSFGenerator:
    """The mel vocoder that a published config.json describes."""
    spec = GeneratorSpec(**{name: config[name] for name in signature(GeneratorSpec).parameters if name in config})
    return NSFGenerator(config["num_mels"], spec, slow_start=True).eval()


def test_a_mel_vocoder_has_the_names_and_shapes_of_the_published_one():
    fixture = json.loads(lzma.decompress((golden_rule.GOLDENS / "statedicts/generators.json.xz").read_bytes()))
    wanted = fixture["nsf_hifigan_44k128"]
    with torch.device("meta"):
        found = vocoder_of(wanted["model"]).state_dict()
    assert {name: list(value.shape) for name, value in found.items()} == wanted["shapes"]


@torch.no_grad()
def test_a_mel_vocoder_repeats_upstreams_samples():
    golden = golden_rule.load_golden("rule/nsf_hifigan_small")
    vocoder = vocoder_of(json.loads(str(golden["config_json"])))
    assert [name for name, _ in vocoder.named_parameters()] == golden["param_keys"].tolist()
    golden_rule.fill(vocoder)
    mel, f0 = golden_rule.tensor(golden["in_mel"]), golden_rule.tensor(golden["in_f0"])
    with golden_rule.counted_draws() as log:
        wav = vocoder(mel, f0)
    assert log == golden["noise_log"].tolist()
    assert golden_rule.relative_difference(wav, golden["audio"]) < 1e-5
    with golden_rule.counted_draws(zero=True):
        assert golden_rule.relative_difference(vocoder(mel, f0), golden["audio_zero_noise"]) < 1e-5


@pytest.mark.parametrize(
    ("rates", "kernels"), [((8, 8, 2, 2, 2), (16, 16, 4, 4, 4)), ((5, 3, 2), (11, 6, 5)), ((4, 1), (4, 1))]
)
def test_every_frame_becomes_hop_length_samples_for_any_rates_and_kernels(rates, kernels):
    spec = GeneratorSpec(32000, rates, kernels, 32, "2", (3,), ((1, 3),))
    generator = NSFGenerator(6, spec)
    wav = generator(torch.randn(2, 6, 7), torch.full((2, 7), 200.0))
    assert wav.shape == (2, 1, 7 * spec.hop_length) and wav.abs().max() <= 1


@pytest.mark.parametrize("activation", ["lrelu", "snake"])
@torch.no_grad()
def test_folding_and_a_condition_per_frame_keep_the_waveform(activation):
    spec = GeneratorSpec(44100, (4, 2), (8, 4), 16, "1", (3, 5), ((1, 3), (1, 3)), activation)
    generator = NSFGenerator(6, spec, cond_channels=3).eval()
    x, f0, g = torch.randn(1, 6, 9), torch.full((1, 9), 300.0), torch.randn(1, 3, 1)
    torch.manual_seed(1)
    wanted = generator(x, f0, g)
    fold_weight_norm(generator)
    assert not [name for name in generator.state_dict() if "weight_g" in name]
    for condition in (g, g.expand(-1, -1, 9)):
        torch.manual_seed(1)
        torch.testing.assert_close(generator(x, f0, condition), wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("rates", "kernels"), [((8, 2), (16, 4)), ((5, 3), (11, 7)), ((4, 5), (8, 9))])
@pytest.mark.parametrize("activation", ["lrelu", "snake"])
def test_the_wave_is_that_of_plain_layers_whatever_the_order_in_memory(rates, kernels, activation):
    torch.manual_seed(3)
    spec = GeneratorSpec(44100, rates, kernels, 32, "1", (3, 7), ((1, 3), (1, 3)), activation)
    generator = NSFGenerator(6, spec, cond_channels=3).eval()
    x, excitation, g = torch.randn(2, 6, 9), torch.randn(2, 1, 9 * spec.hop_length), torch.randn(2, 3, 1)
    wanted = generator.filter(x, excitation, g)  # with gradients: torch's layers
    with torch.no_grad():
        torch.testing.assert_close(generator.filter(x, excitation, g), wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("activation", ["lrelu", "snake"])
@pytest.mark.parametrize(("frames_over_two_reaches", "window_over_two_reaches"), [(40, 1), (40, 39), (150, 5), (0, 9)])
@pytest.mark.parametrize("g_frames", [1, None])
@torch.no_grad()
def test_decoding_in_windows_equals_decoding_at_once(
    activation, frames_over_two_reaches, window_over_two_reaches, g_frames
):
    spec = GeneratorSpec(44100, (4, 2), (8, 4), 16, "1", (3, 11), ((1, 3, 5), (1, 3, 5)), activation)
    generator = NSFGenerator(6, spec, cond_channels=3).eval()
    n_frames, window = 2 * generator.reach + frames_over_two_reaches, 2 * generator.reach + window_over_two_reaches
    for parameter in generator.parameters():  # far-reaching weights, or the test would not see a context too short
        parameter.abs_()
    x, f0 = torch.randn(1, 6, n_frames), 200 + 100 * torch.rand(1, n_frames)
    g = torch.randn(1, 3, g_frames or n_frames)
    torch.manual_seed(5)
    wanted = generator(x, f0, g)
    torch.manual_seed(5)
    found = generator.in_windows(x, f0, g, window)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("needed", [slice(3, 91), slice(50, 51), slice(60, 100), slice(0, 40)])
@pytest.mark.parametrize("window_over_two_reaches", [1, 12, 300])
@torch.no_grad()
def test_only_the_needed_frames_are_decoded_and_they_are_what_they_were(needed, window_over_two_reaches, monkeypatch):
    spec = GeneratorSpec(44100, (4, 2), (8, 4), 16, "1", (3, 11), ((1, 3, 5), (1, 3, 5)))
    generator = NSFGenerator(6, spec, cond_channels=3).eval()
    for parameter in generator.parameters():
        parameter.abs_()
    x, f0, g = torch.randn(1, 6, 100), 200 + 100 * torch.rand(1, 100), torch.randn(1, 3, 100)
    torch.manual_seed(5)
    wanted = torch.zeros(1, 1, 800)
    samples = slice(needed.start * 8, needed.stop * 8)
    wanted[..., samples] = generator(x, f0, g)[..., samples]
    decoded, honest = [], generator.filter
    monkeypatch.setattr(generator, "filter", lambda x, *others: decoded.append(x.shape[2]) or honest(x, *others))
    torch.manual_seed(5)
    found = generator.in_windows(x, f0, g, 2 * generator.reach + window_over_two_reaches, needed)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    if window_over_two_reaches == 300:
        assert sum(decoded) <= needed.stop - needed.start + 2 * generator.reach


def test_the_reach_of_a_frame_is_what_is_measured():
    spec = GeneratorSpec(44100, (4, 2), (8, 4), 16, "1", (3, 11), ((1, 3, 5), (1, 3, 5)))
    generator = NSFGenerator(6, spec).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.abs_()
    x = torch.ones(1, 6, 101, requires_grad=True)
    out = generator.filter(x, torch.zeros(1, 1, 101 * 8))[0, 0]
    out[50 * 8 : 51 * 8].sum().backward()
    touched = x.grad[0].abs().sum(0).nonzero().flatten()
    measured = max(50 - touched.min().item(), touched.max().item() - 50)
    assert measured <= generator.reach <= measured + 3


def test_the_decoder_without_its_condition_is_the_vocoder():
    decoder, vocoder = NSFGenerator(6, SMALL, cond_channels=3), NSFGenerator(6, SMALL)
    assert set(decoder.state_dict()) - set(vocoder.state_dict()) == {"cond.weight", "cond.bias"}
    vocoder.load_state_dict({name: value for name, value in decoder.state_dict().items() if "cond." not in name})
    torch.nn.init.zeros_(decoder.cond.bias)
    x, excitation = torch.randn(1, 6, 5), torch.randn(1, 1, 40)
    assert torch.equal(decoder.filter(x, excitation, torch.zeros(1, 3, 1)), vocoder.filter(x, excitation))


def test_contradicting_sizes_are_refused_by_name():
    with pytest.raises(ConfigError, match="upsample_kernel_sizes"):
        GeneratorSpec(44100, (4, 2), (8,), 16, "1", (3,), ((1,),))
    with pytest.raises(ConfigError, match='resblock is \'3\'; known are "1" and "2"'):
        GeneratorSpec(44100, (4,), (8,), 16, "3", (3,), ((1,),))


def test_the_alias_filter_passes_low_and_stops_high_frequencies():
    taps = kaiser_sinc_filter().flatten()
    assert taps.sum().item() == pytest.approx(1, abs=1e-6) and torch.allclose(taps, taps.flip(0))
    response = torch.fft.rfft(taps, 512).abs()
    assert response[:20].min() > 0.95 and response[-20:].max() < 0.05


def test_the_snake_keeps_a_slow_wave_of_small_size():
    # With alpha = beta = 1 the snake adds sin^2(x), which vanishes for small x; up and down again is the identity.
    wave = 0.01 * torch.sin(torch.arange(200) * 0.2)[None, None].expand(1, 3, -1)
    out = AliasFreeSnake(3)(wave)
    assert (out - wave)[..., 12:-12].abs().max() < 3e-4


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_an_untrained_generator_follows_its_frames_without_a_buzz_at_their_rate(seed):
    torch.manual_seed(seed)
    spec = GeneratorSpec(44100, (8, 8, 2, 2, 2), (16, 16, 4, 4, 4), 128, "1", (3, 7), ((1, 3, 5),) * 2)
    generator = NSFGenerator(32, spec).eval()
    generator.m_source.l_linear.weight.zero_()
    slow = torch.nn.functional.interpolate(torch.randn(1, 32, 13), size=130, mode="linear")
    wav = generator(slow, torch.full((1, 130), 230.0))[0, 0, 4096 : 4096 + 44100]
    power = torch.fft.rfft((wav - wav.mean()) * torch.hann_window(44100)).abs().square()  # bins of 1 Hz
    peaks = [round(k * 44100 / 512) for k in range(1, 40)]
    assert sum(power[peak - 4 : peak + 5].sum() for peak in peaks) < 0.01 * power[:40].sum()


@torch.no_grad()
def test_held_upsampling_interpolates_linearly_between_frames_and_keeps_what_it_mixes():
    torch.manual_seed(0)
    generator = NSFGenerator(8, SMALL)
    up = generator.ups[0]
    begun = up.weight_v.clone()
    generator.hold_interpolation()
    torch.testing.assert_close(up.weight_v, begun, msg="one that starts untrained is so already")
    turned = begun.flip(1) + torch.tensor([1.0, -1.0] * 4)  # another mix, and pulses on top, to which the line is blind
    assert generator.is_interpolation()
    up.weight_v.copy_(turned)
    assert not generator.is_interpolation()
    generator.hold_interpolation()
    assert generator.is_interpolation()
    torch.testing.assert_close(up.weight_v, begun.flip(1))
    line = up(torch.arange(12.0).expand(1, begun.shape[0], -1))[..., 4:-4]
    assert line.diff().abs().min() > 0 and line.diff(n=2).abs().max() < 1e-4 * line.abs().max()
