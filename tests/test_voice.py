"""A trained voice loads lean from every kind of checkpoint, sounds like upstream's, and refuses what does not fit."""

import json
from pathlib import Path

import golden_rule
import pytest
import torch
from golden_rule import relative_difference, tensor
from tiny_voices import tiny_config

from models import SynthesizerTrn, Voice, build_synthesizer, load_synthesizer
from modules.config.schema import Config
from modules.contracts import VoiceInput
from modules.device import WithoutDrawing
from modules.errors import CheckpointError, UsageError
from modules.weights.checkpoint import save_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def golden() -> dict:
    return golden_rule.load_golden("tiny/G_depthwise_shared")


@pytest.fixture(scope="module")
def config(golden) -> Config:
    return Config(model=json.loads(str(golden["config_json"])))


@pytest.fixture(scope="module")
def weights(golden, config) -> dict[str, torch.Tensor]:
    """The golden's whole checkpoint: stored tensors, their second names, and any posterior encoder."""
    model = build_synthesizer(config).state_dict()
    stored = {key[3:]: tensor(value) for key, value in golden.items() if key.startswith("sd/")}
    for name in model:
        first = name.replace("flow.wn.", "flow.flows.0.enc.")
        for index in (2, 4, 6):
            first = first.replace(f"flow.flows.{index}.enc.", "flow.flows.0.enc.")
        model[name] = stored.get(name, stored.get(first, model[name]))
    return model


@pytest.fixture
def save(tmp_path, weights):
    """Writes the golden's checkpoint with changes; a value of None takes the tensor out."""

    def write(**changes) -> Path:
        model = {**weights, **{name.replace("__", "."): value for name, value in changes.items()}}
        path = tmp_path / "G_8.pth"
        save_weights(path, {"model": {name: value for name, value in model.items() if value is not None}})
        return path

    return write


def sing(voice: Voice, golden: dict, **options):
    units, f0, uv = (tensor(golden[key])[0] for key in ("c", "f0", "uv"))
    return voice.infer(units, f0, uv, int(golden["sid"].item()), None, 0.4, **options)


def test_a_loaded_voice_equals_upstreams_audio(save, config, golden):
    voice = load_synthesizer(save(), config, CPU)
    out = sing(voice, golden)
    assert out.wav.shape == (24 * 512,) and out.wav.dtype == torch.float32
    assert relative_difference(out.wav, golden["audio_seed52468_ns04"][0, 0]) < 1e-5
    out = sing(voice, golden, predict_f0=True)
    assert relative_difference(out.f0, golden["f0_auto"][0]) < 1e-5
    assert relative_difference(out.wav, golden["audio_autof0"][0, 0]) < 1e-4


def test_a_loaded_voice_is_lean(save, config):
    voice = load_synthesizer(save(), config, CPU)
    names = list(voice.network.state_dict())
    assert not [name for name in names if name.startswith("enc_q.") or name.endswith(("weight_g", "weight_v"))]
    assert not voice.network.training and not any(p.requires_grad for p in voice.network.parameters())
    assert (voice.sampling_rate, voice.hop_length, voice.n_speakers) == (44100, 512, 3)


def test_a_compressed_checkpoint_in_half_precision_loads_and_sounds_the_same(save, weights, config, golden):
    half = {name: None if name.startswith("enc_q.") else value.half() for name, value in weights.items()}
    voice = load_synthesizer(save(**half), config, CPU)
    assert voice.dtype == torch.float32
    assert relative_difference(sing(voice, golden).wav, golden["audio_seed52468_ns04"][0, 0]) < 5e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_pitch_phase_and_output_in_fp32(save, config, golden, dtype):
    voice = load_synthesizer(save(), config, CPU, dtype)
    assert voice.network.dec.m_source.l_linear.weight.dtype == torch.float32
    out = sing(voice, golden)
    assert out.wav.dtype == out.f0.dtype == torch.float32
    wanted = tensor(golden["audio_seed52468_ns04"])[0, 0]
    signal_to_noise = 10 * torch.log10(wanted.square().mean() / (out.wav - wanted).square().mean())
    assert signal_to_noise > 20


@pytest.mark.parametrize(
    ("tensor_name", "shape", "message"),
    [
        ("emb_g.weight", (5, 8), r"emb_g\.weight is \[5, 8\] but \[3, 8\] is expected.*model\.n_speakers"),
        ("emb_g.weight", (3, 9), r"model\.gin_channels"),
        ("pre.weight", (16, 256, 5), r"pre\.weight is \[16, 256, 5\] but .*model\.ssl_dim"),
        ("pre.weight", (32, 12, 5), r"model\.hidden_channels"),
        ("dec.cond.weight", (50, 256, 1), r"model\.gin_channels"),
        ("enc_p.enc_.ffn_layers.0.conv_1.weight", (99, 16, 3), r"model\.filter_channels"),
        ("dec.conv_pre.bias", (64,), r"model\.upsample_initial_channel"),
        ("dec.resblocks.0.convs1.0.weight_v", (25, 25, 5), r"model\.resblock_kernel_sizes"),
        ("f0_decoder.cond.weight", None, r"is missing.*model\.use_automatic_f0_prediction"),
        ("flow.flows.0.enc.in_layers.0.depth_conv.bias", None, r"model\.use_depthwise_conv"),
        ("enc_p.enc_.attn_layers.1.emb_rel_k", None, r"model\.n_layers"),
        ("emb_vol.weight", (16, 1), r"emb_vol\.weight has no place.*model\.vol_embedding"),
        ("dec.snakes.0.act.alpha", (50,), r"model\.vocoder_name"),
        ("flow.flows.8.pre.weight", (16, 8, 1), r"model\.n_flow_layer"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_with_the_likely_key(save, config, tensor_name, shape, message):
    value = None if shape is None else torch.zeros(shape)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_synthesizer(save(**{tensor_name: value}), config, CPU)
    assert "G_8.pth" in str(caught.value) and "\n" not in str(caught.value)


def test_second_names_and_a_pitch_decoder_without_use_do_no_harm(save, config, golden):
    other = {"flow_share_parameter": False, "use_automatic_f0_prediction": False}
    changed = config.model_copy(update={"model": config.model.model_copy(update=other)})
    voice = load_synthesizer(save(), changed, CPU)
    assert relative_difference(sing(voice, golden).wav, golden["audio_seed52468_ns04"][0, 0]) < 1e-5


def test_something_else_than_a_voice_is_refused(tmp_path, config):
    for content in ({"model": {"discriminators.0.bias": torch.zeros(1)}}, {"generator": {}}):
        save_weights(tmp_path / "D_8.pth", content)
        with pytest.raises(CheckpointError, match=r"D_8\.pth: not a voice model"):
            load_synthesizer(tmp_path / "D_8.pth", config, CPU)


@pytest.mark.parametrize("speaker", [-1, 3])
def test_a_speaker_that_the_model_lacks_is_refused(save, config, golden, speaker):
    voice = load_synthesizer(save(), config, CPU)
    with pytest.raises(UsageError, match="this model has ids 0 to 2"):
        voice.infer(tensor(golden["c"])[0], tensor(golden["f0"])[0], tensor(golden["uv"])[0], speaker)


def test_speaker_zero_and_a_mix_are_valid_speakers(save, config, golden):
    voice = load_synthesizer(save(), config, CPU)
    units, f0, uv = (tensor(golden[key])[0] for key in ("c", "f0", "uv"))
    weights = torch.zeros(3, 24)
    weights[0] = 1
    torch.testing.assert_close(
        voice.infer(units, f0, uv, weights).wav, voice.infer(units, f0, uv, 0).wav, atol=1e-5, rtol=1e-4
    )


def test_a_network_is_built_from_every_part_of_the_config(config):
    network = build_synthesizer(Config(model=config.model, data={"sampling_rate": 32000, "mel_fmax": 16000}))
    assert isinstance(network, SynthesizerTrn)
    assert network.sampling_rate == 32000 and network.segment_size == 20
    assert network.enc_q.pre.in_channels == 1025


@pytest.mark.parametrize("changes", [{}, {"use_transformer_flow": True}, {"vocoder_name": "nsf-snake-hifigan"}])
@pytest.mark.parametrize("with_mix", [False, True])
def test_segments_synthesized_together_are_what_they_are_alone(changes, with_mix):
    """Padding, masks and everyone's own noise leave only rounding; 3e-7 measured."""
    network = build_synthesizer(tiny_config(changes)).eval()
    voice, items = Voice(network), []
    for index, n_frames in enumerate((50, 33, 47)):
        speaker = torch.rand(2, n_frames).softmax(0) if with_mix else index % 2
        units, f0, volume = torch.randn(6, n_frames), 100 + 300 * torch.rand(n_frames), torch.rand(n_frames)
        items.append(VoiceInput(units, f0, (torch.rand(n_frames) > 0.3).float(), speaker, volume))
    for item, together in zip(items, voice.infer_batch(items, 0.4)):
        alone = voice.infer(item.units, item.f0, item.uv, item.speaker, item.volume, 0.4)
        assert torch.equal(together.f0, alone.f0)
        assert torch.allclose(together.wav, alone.wav, atol=3e-6)
        assert alone.wav.abs().max() > 0.01


def test_a_network_built_without_drawing_holds_what_is_put_into_it():
    """Filters and other buffers that no file holds are made as usual; the random state is left alone."""
    config = tiny_config({"vocoder_name": "nsf-snake-hifigan"})
    drawn = build_synthesizer(config)
    state = torch.get_rng_state()
    with WithoutDrawing():
        empty = build_synthesizer(config)
    assert torch.equal(torch.get_rng_state(), state)
    kept = set(drawn.state_dict())
    buffers = {name: value for name, value in drawn.named_buffers() if name not in kept}
    assert all(torch.equal(value, dict(empty.named_buffers())[name]) for name, value in buffers.items())
    empty.load_state_dict(drawn.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(drawn.state_dict().values(), empty.state_dict().values()))
