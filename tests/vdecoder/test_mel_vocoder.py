"""A vocoder's files become a vocoder that sounds as upstream's does, or a line that says what is wrong with them."""

import json
import math
from pathlib import Path

import golden_rule
import pytest
import torch

from modules.config.vocoder import VocoderConfig
from modules.errors import CheckpointError, ConfigError, MissingWeights
from modules.nn.weight_norm import fold_weight_norm
from vdecoder.mel_vocoder import build_vocoder, load_vocoder

CPU = torch.device("cpu")
SMALL = {
    "sampling_rate": 8000,
    "num_mels": 6,
    "n_fft": 128,
    "win_size": 128,
    "hop_size": 8,
    "fmin": 40,
    "fmax": 4000,
    "resblock": "1",
    "upsample_rates": [4, 2],
    "upsample_kernel_sizes": [8, 4],
    "upsample_initial_channel": 16,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
}
# The mel of the published vocoder, which the golden's config.json leaves out.
PUBLISHED_MEL = {"n_fft": 2048, "win_size": 2048, "hop_size": 512, "fmin": 40, "fmax": 16000}


def write_files(folder: Path, config: dict, content: dict | None) -> Path:
    """`model` and `config.json` of a vocoder in `folder`; returns the model's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(content, folder / "model")
    return folder / "model"


def small_state() -> dict[str, torch.Tensor]:
    """Random weights that fit SMALL."""
    return build_vocoder(VocoderConfig.model_validate(SMALL)).state_dict()


@pytest.fixture
def small(tmp_path) -> Path:
    return write_files(tmp_path / "small", SMALL, {"generator": small_state()})


def synthesize(vocoder, mel: torch.Tensor, f0: torch.Tensor) -> torch.Tensor:
    """`synthesize` without the noise of the source and the random phases of its overtones."""
    with golden_rule.counted_draws(zero=True):
        return vocoder.synthesize(mel, f0)


def test_a_loaded_vocoder_repeats_upstreams_samples(tmp_path):
    golden = golden_rule.load_golden("tiny/nsf_hifigan")
    state = {key[3:]: golden_rule.tensor(value) for key, value in golden.items() if key.startswith("sd/")}
    config = json.loads(str(golden["config_json"])) | PUBLISHED_MEL
    vocoder = load_vocoder(write_files(tmp_path, config, {"generator": state}), CPU)
    assert vocoder.audio.hop_length == 512 and vocoder.audio.n_mels == 8
    mel, f0 = golden_rule.tensor(golden["mel"]).transpose(1, 2), golden_rule.tensor(golden["f0"])
    wanted = golden_rule.tensor(golden["audio_seed5"])[0, 0]
    for batched in (True, False):
        torch.manual_seed(5)
        wav = vocoder.synthesize(mel, f0)[0] if batched else vocoder.synthesize(mel[0], f0[0])
        # fp32 sums in another order: folded weights, other convolution kernels.
        torch.testing.assert_close(wav, wanted, atol=1e-4, rtol=0)


def test_a_loaded_vocoder_sounds_as_the_one_that_was_saved_and_is_lean(small):
    original = build_vocoder(VocoderConfig.model_validate(SMALL)).eval()
    original.load_state_dict(torch.load(small, weights_only=True)["generator"])
    vocoder = load_vocoder(small, CPU)
    assert not vocoder.generator.training
    assert not any(parameter.requires_grad for parameter in vocoder.generator.parameters())
    assert not [name for name in vocoder.generator.state_dict() if name.endswith(("weight_g", "weight_v"))]
    mel, f0 = torch.randn(1, 6, 20), torch.full((1, 20), 200.0)
    with golden_rule.counted_draws(zero=True), torch.no_grad():
        wanted = original(mel, f0)[:, 0]
    torch.testing.assert_close(synthesize(vocoder, mel, f0), wanted, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_long_mels_sound_the_same_although_they_are_made_in_windows(small):
    vocoder = load_vocoder(small, CPU)
    mel, f0 = torch.randn(6, 1500), 100 + 200 * torch.rand(1500)
    torch.manual_seed(3)
    wanted = vocoder.generator(mel[None], f0[None])[0, 0]
    torch.manual_seed(3)
    torch.testing.assert_close(vocoder.synthesize(mel, f0), wanted, atol=1e-6, rtol=1e-5)


def test_a_batch_is_its_items_one_by_one(small):
    vocoder = load_vocoder(small, CPU)
    mel, f0 = torch.randn(3, 6, 11), 100 + 200 * torch.rand(3, 11)
    batch = synthesize(vocoder, mel, f0)
    assert batch.shape == (3, 11 * 8) and batch.dtype == torch.float32
    for item in range(3):
        single = synthesize(vocoder, mel[item], f0[item])
        assert single.shape == (11 * 8,)
        torch.testing.assert_close(single, batch[item], atol=1e-6, rtol=1e-5)


def test_a_vocoder_of_decimal_logarithms_takes_the_same_mels(small):
    natural, decimal = load_vocoder(small, CPU), load_vocoder(small, CPU, kind="nsf-hifigan-log10")
    mel, f0 = torch.randn(6, 11), torch.full((11,), 200.0)
    wav = synthesize(decimal, mel, f0)
    torch.testing.assert_close(wav, synthesize(natural, mel / math.log(10), f0), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(wav, synthesize(natural, mel, f0), atol=1e-4)
    clip = torch.randn(800) * 0.1
    assert torch.equal(decimal.mel(clip), natural.mel(clip))


def test_the_mel_of_a_clip_has_a_frame_per_hop(small):
    vocoder = load_vocoder(small, CPU)
    assert vocoder.mel(torch.randn(805) * 0.1).shape == (6, 100)
    assert vocoder.mel(torch.randn(2, 3, 800) * 0.1, key_shift=-4.5).shape == (2, 3, 6, 100)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_source_and_the_samples_in_fp32(small, dtype):
    exact, vocoder = load_vocoder(small, CPU), load_vocoder(small, CPU, dtype)
    kept = {name for name, value in vocoder.generator.state_dict().items() if value.dtype == torch.float32}
    assert kept == {"m_source.l_linear.weight", "m_source.l_linear.bias"}
    mel, f0 = torch.randn(6, 40), torch.full((40,), 200.0)
    wav, wanted = synthesize(vocoder, mel, f0), synthesize(exact, mel, f0)
    assert wav.dtype == torch.float32
    # bf16 has 8 significant bits: 0.4 % per operation, over a handful of layers.
    assert (wav - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_a_bare_state_dictionary_and_safetensors_load_too(small):
    from safetensors.torch import save_file

    state = torch.load(small, weights_only=True)["generator"]
    torch.save(state, small.with_name("bare.pt"))
    save_file(state, small.with_name("bare.safetensors"))
    mel, f0 = torch.randn(6, 11), torch.full((11,), 200.0)
    wanted = synthesize(load_vocoder(small, CPU), mel, f0)
    for name in ("bare.pt", "bare.safetensors"):
        assert torch.equal(synthesize(load_vocoder(small.with_name(name), CPU), mel, f0), wanted)


def test_a_vocoder_is_found_in_the_workspace_and_then_beside_the_code(tmp_path, monkeypatch):
    code, workspace = tmp_path / "code", tmp_path / "workspace"
    workspace.mkdir()
    monkeypatch.chdir(workspace)
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", code)
    write_files(code / "pretrain/nsf_hifigan", SMALL, {"generator": small_state()})
    assert load_vocoder("pretrain/nsf_hifigan/model", CPU).audio.fmin == 40
    write_files(workspace / "pretrain/nsf_hifigan", SMALL | {"fmin": 30}, {"generator": small_state()})
    assert load_vocoder("pretrain/nsf_hifigan/model", CPU).audio.fmin == 30


@pytest.mark.parametrize("ckpt", ["pretrain/nsf_hifigan/model", "my/own_vocoder"])
def test_a_missing_vocoder_is_one_line_with_its_path_and_a_command(ckpt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", tmp_path)
    with pytest.raises(MissingWeights) as caught:
        load_vocoder(ckpt, CPU)
    text = str(caught.value)
    assert ckpt in text and "python pretrain/download.py nsf-hifigan" in text and "vocoder.ckpt" in text
    assert "\n" not in text


def test_weights_without_their_config_are_refused(small):
    small.with_name("config.json").unlink()
    with pytest.raises(ConfigError, match=r"small/config\.json: no such file.*pretrain/download\.py nsf-hifigan"):
        load_vocoder(small, CPU)


def test_an_unknown_kind_is_answered_with_the_known_ones(small):
    with pytest.raises(ConfigError, match="'hifigan'; known are nsf-hifigan, nsf-hifigan-log10"):
        load_vocoder(small, CPU, kind="hifigan")


def test_weights_of_another_size_are_named_with_both_shapes(small):
    config = SMALL | {"num_mels": 7}
    small.with_name("config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json: conv_pre\.weight_v is \[16, 6, 7\] but \[16, 7, 7\]"):
        load_vocoder(small, CPU)


def test_a_tensor_too_few_and_one_too_many_are_named(small):
    state = small_state()
    fewer = {name: value for name, value in state.items() if name != "conv_post.bias"}
    with pytest.raises(CheckpointError, match=r"conv_post\.bias is missing"):
        load_vocoder(write_files(small.parent, SMALL, {"generator": fewer}), CPU)
    more = state | {"ups.2.bias": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"ups\.2\.bias"):
        load_vocoder(write_files(small.parent, SMALL, {"generator": more}), CPU)


@pytest.mark.parametrize(
    "content",
    [{}, {"generator": 3}, {"generator": {}}, {"model": {"emb_g.weight": 1}}, {0: torch.zeros(3)}],
    ids=["empty", "number", "no weights", "another model", "numbered"],
)
def test_a_file_of_another_layout_is_no_vocoder(small, content):
    with pytest.raises(CheckpointError, match=r"model: not a vocoder.*python pretrain/download\.py nsf-hifigan"):
        load_vocoder(write_files(small.parent, SMALL, content), CPU)


def test_weights_are_folded_in_fp32_before_the_cast(small):
    state = torch.load(small, weights_only=True)["generator"]
    generator = build_vocoder(VocoderConfig.model_validate(SMALL))
    generator.load_state_dict(state)
    wanted = fold_weight_norm(generator).conv_pre.weight.half()
    assert torch.equal(load_vocoder(small, CPU, torch.float16).generator.conv_pre.weight, wanted)


def test_a_scalar_is_not_called_missing(small):
    state = small_state() | {"conv_post.bias": torch.tensor(0.0)}
    with pytest.raises(CheckpointError, match=r"conv_post\.bias is \[\] but \[1\] is expected"):
        load_vocoder(write_files(small.parent, SMALL, {"generator": state}), CPU)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hop_size": 16}, r"hop_size is 16 but upsample_rates \[4, 2\] multiply to 8"),
        ({"fmax": 4100}, "4100.* lies above half the sampling rate"),
        ({"num_mels": "many"}, "num_mels"),
        ({"n_fft": None}, "n_fft"),
    ],
)
def test_a_wrong_config_is_named_with_its_value(small, change, text):
    small.with_name("config.json").write_text(json.dumps(SMALL | change))
    with pytest.raises(ConfigError, match=rf"(?s)small/config\.json.*{text}"):
        load_vocoder(small, CPU)


def test_a_damaged_file_is_named(small):
    small.write_bytes(small.read_bytes()[:900])
    with pytest.raises(CheckpointError, match="small/model"):
        load_vocoder(small, CPU)
