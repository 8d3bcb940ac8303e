"""Every form in which voices were published loads and converts; what does not fit, or is no such voice, is named.

Files have the real names, shapes and sizes of `goldens/statedicts`; see `published.py` for how they stay small.
"""

import logging
from pathlib import Path

import pytest
import torch
from published import published, repeated, write_config

from models import Voice, load_synthesizer
from modules.config.io import load_config
from modules.errors import CheckpointError
from modules.weights.families import UNKNOWN, recognise

CPU = torch.device("cpu")
GENERATORS = published("generators")
VOICES = [name for name in GENERATORS if name.startswith("G_")]
# What 4.0 wrote into the model section; all else came with 4.1.
KEYS_40 = (
    "inter_channels hidden_channels filter_channels n_heads n_layers kernel_size p_dropout resblock "
    "resblock_kernel_sizes resblock_dilation_sizes upsample_rates upsample_initial_channel upsample_kernel_sizes "
    "n_layers_q use_spectral_norm gin_channels ssl_dim n_speakers"
).split()
TRAIN_40 = {"log_interval": 200, "use_sr": True, "max_speclen": 512, "segment_size": 10240, "port": "8001"}


def publish(folder: Path, name: str, dtype: torch.dtype = torch.float32, **changes) -> Path:
    """A file G_1.pth with the tensors of a form; None takes a tensor out, another value puts it in."""
    model = {**repeated(GENERATORS[name]["shapes"], dtype), **changes}
    model = {key: value for key, value in model.items() if value is not None}
    content = {"model": model, "iteration": 100, "optimizer": {"state": {}, "param_groups": []}, "learning_rate": 1e-4}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / "G_1.pth")
    return folder / "G_1.pth"


def load(model: Path, **options) -> Voice:
    return load_synthesizer(model, load_config(model.with_name("config.json")), CPU, **options)


def convert(voice: Voice) -> torch.Tensor:
    width, ones = voice.network.pre.in_channels, torch.ones(4)
    return voice.infer(torch.zeros(width, 4), 220 * ones, ones, 0, 0.1 * ones).wav


@pytest.mark.parametrize("name", VOICES)
def test_every_option_of_4_0_and_4_1_loads_and_sings(tmp_path, name):
    path = publish(tmp_path, name)
    write_config(tmp_path, GENERATORS[name]["model"])
    wav = convert(load(path))
    assert wav.shape == (4 * 512,) and wav.isfinite().all() and wav.abs().max() > 1e-3


def test_a_4_0_voice_loads_with_its_own_config_and_its_encoder_is_said(tmp_path, caplog):
    model = {
        key: GENERATORS["G_40_vec256"]["model"][key] for key in KEYS_40 if key in GENERATORS["G_40_vec256"]["model"]
    }
    model |= {"ssl_dim": 256, "gin_channels": 256, "n_speakers": 200}
    path = publish(tmp_path, "G_40_vec256")
    write_config(tmp_path, model, train=TRAIN_40, data={"sampling_rate": 44100, "hop_length": 512, "mel_fmax": 22050})
    with caplog.at_level(logging.INFO):
        config = load_config(tmp_path / "config.json")
    assert (
        config.model.speech_encoder == "vec256l9" and "no speech_encoder; 256-wide units mean vec256l9" in caplog.text
    )
    assert (config.data.unit_interpolate_mode, config.model.vol_embedding) == ("left", False)
    assert convert(load_synthesizer(path, config, CPU)).isfinite().all()


def test_a_compressed_voice_in_half_precision_loads(tmp_path):
    name = "G_41_tiny_vol"
    without = dict.fromkeys(key for key in GENERATORS[name]["shapes"] if key.startswith("enc_q."))
    path = publish(tmp_path, name, torch.float16, **without)
    write_config(tmp_path, GENERATORS[name]["model"])
    voice = load(path)
    assert voice.dtype == torch.float32 and convert(voice).isfinite().all()


def test_a_voice_in_safetensors_loads(tmp_path):
    from safetensors.torch import save_file

    name = "G_41_tiny"
    tensors = {
        key: value.contiguous()
        for key, value in repeated(GENERATORS[name]["shapes"], torch.float16).items()
        if not key.startswith("enc_q.")
    }
    write_config(tmp_path, GENERATORS[name]["model"])
    save_file(tensors, tmp_path / "G_1.safetensors")
    assert convert(load(tmp_path / "G_1.safetensors")).isfinite().all()


def test_further_keys_of_forks_are_kept_and_their_tensors_named(tmp_path, caplog):
    name = "G_41_tiny"
    path = publish(tmp_path, name, **{"spk_proj.weight": torch.zeros(3, 3), "emb_lang.weight": torch.zeros(2)})
    model = {**GENERATORS[name]["model"], "some_fork_option": [1, 2], "another": None}
    write_config(tmp_path, model, fork={"version": "4.1-x"})
    wav = convert(load(path))
    assert "unknown keys kept but not used: fork, model.some_fork_option, model.another" in caplog.text
    assert "has parts that so-vits-svc 4.1 has not, not used: emb_lang, spk_proj" in caplog.text
    assert wav.isfinite().all()


@pytest.mark.parametrize("speakers", [
    {"alto": 0, "tenor": 1}, ["alto", "tenor"], {"初音ミク": 0, "Пётр": 1, "مريم": 2, "नेहा": 3, "a b/c": 4},
    ["초록", "Ünïcode", "🎤"],
])  # fmt: skip
def test_speakers_may_be_listed_either_way_in_any_script(tmp_path, speakers):
    path = write_config(tmp_path, GENERATORS["G_41_tiny"]["model"], spk=speakers)
    config = load_config(path)
    assert list(config.spk) == list(speakers) and list(config.spk.values()) == list(range(len(speakers)))


@pytest.mark.parametrize(("changes", "message"), [
    ({"n_speakers": 10}, r"emb_g\.weight is \[200, 768\] but \[10, 768\] is expected.*model\.n_speakers"),
    ({"ssl_dim": 256, "speech_encoder": "vec256l9"},
     r"pre\.weight is \[192, 768, 5\] but \[192, 256, 5\] is expected.*ssl_dim.*model\.speech_encoder"),
    ({"ssl_dim": 256, "gin_channels": 256, "n_speakers": 1}, r"Likely cause: model\.ssl_dim"),
    ({"vol_embedding": True}, r"emb_vol\.weight is missing.*model\.vol_embedding"),
    ({"use_transformer_flow": True}, r"flow\..* is missing.*model\.use_transformer_flow"),
    ({"vocoder_name": "nsf-snake-hifigan"}, r"dec\..* is missing.*model\.vocoder_name"),
    ({"use_depthwise_conv": False}, r"in_layers.*model\.use_depthwise_conv"),
    ({"upsample_initial_channel": 512}, r"\[200, .* but \[256, .*upsample_initial_channel"),
])  # fmt: skip
def test_a_config_of_another_voice_is_refused_with_tensor_shapes_and_cause(tmp_path, changes, message):
    path = publish(tmp_path, "G_41_tiny")
    write_config(tmp_path, {**GENERATORS["G_41_tiny"]["model"], **changes})
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path)
    assert "config.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_tensor_is_named(tmp_path):
    write_config(tmp_path, GENERATORS["G_41_tiny"]["model"])
    for name in ("emb_uv.weight", "emb_g.weight", "enc_p.enc_.attn_layers.5.conv_q.weight"):
        with pytest.raises(CheckpointError, match=f"{name} is missing"):
            load(publish(tmp_path, "G_41_tiny", **{name: None}))


# What tells other families, from memory of what they published: entries of the file, and names of tensors.
RVC = {"config": [1025, 32], "info": "200epoch", "sr": "40k", "f0": 1, "version": "v2"}
FOREIGN = {
    "RVC": ({"weight": ["enc_p.emb_phone.weight", "dec.m_source.l_linear.weight", "emb_g.weight"], **RVC},
            r"an RVC voice model \(v2, 40k\), another kind of network\. Convert with the project"),
    "RVC in training": ({"model": ["enc_p.emb_phone.weight", "emb_g.weight"], "iteration": 3}, "an RVC voice model"),
    "4.0-v2": ({"model": ["emb_g.weight", "dec_harm.cond.weight", "f0_decoder.x", "posterior_encoder.pre.weight"]},
               r"a so-vits-svc 4\.0-v2 voice model, another kind"),
    "3.0": ({"model": ["emb_g.weight", "enc_p_.pre.weight", "enc_p_.f0_emb.weight", "dec.conv_pre.bias"]},
            r"a so-vits-svc 3\.0 or older voice model, another kind"),
    "GPT-SoVITS": ({"weight": ["enc_p.ssl_proj.weight", "ref_enc.x", "dec.y"], "config": {}, "info": ""},
                   "a GPT-SoVITS voice model"),
    "VITS": ({"model": ["enc_p.emb.weight", "dp.flows.0.m", "emb_g.weight"]}, "a VITS text-to-speech voice"),
    "Bert-VITS2": ({"model": ["enc_p.emb.weight", "enc_p.bert_proj.weight", "emb_g.weight"]}, "a Bert-VITS2 text"),
    "DDSP-SVC": ({"model": ["unit2ctrl.stack.0.weight"], "global_step": 1}, "a DDSP-SVC model with its own synth"),
    "Diffusion-SVC": ({"model": ["unit_embed.weight", "decoder.denoise_fn.input_projection.weight"], "global_step": 1},
                      r"Diffusion-SVC diffusion model\. Give it with -dm"),
    "naive": ({"model": ["naive_model.x"]}, "a Diffusion-SVC model with a naive network in front, another kind"),
}  # fmt: skip


@pytest.mark.parametrize("family", FOREIGN)
def test_other_families_are_refused_by_name(tmp_path, family):
    entries, message = FOREIGN[family]
    content = {
        key: {name: torch.zeros(1) for name in value} if key in ("weight", "model") else value
        for key, value in entries.items()
    }
    torch.save(content, tmp_path / "G_1.pth")
    write_config(tmp_path, GENERATORS["G_41_tiny"]["model"])
    with pytest.raises(CheckpointError, match=message) as caught:
        load(tmp_path / "G_1.pth")
    assert str(caught.value).startswith(f"{tmp_path / 'G_1.pth'}: not a voice model of so-vits-svc 4: it is ")


@pytest.mark.parametrize(("group", "name", "title", "remedy"), [
    ("discriminators", "D", "a so-vits-svc 4.0 or 4.1 discriminator", "Give the G_"),
    ("discriminators", "D_spectral", "a so-vits-svc 4.0 or 4.1 discriminator", "Give the G_"),
    ("generators", "nsf_hifigan_44k128", "a nsf-hifigan mel vocoder", "pretrain/nsf_hifigan/model"),
    ("diffusion", "unit2mel_default_nspk3", "a so-vits-svc 4.1 or Diffusion-SVC diffusion model", "-dm"),
    ("encoders", "hubert_soft", "a hubertsoft speech encoder", "pretrain/hubert-soft-0d54a1f4.pt"),
    ("encoders", "wavlm_base_plus", "a wavlm speech encoder", "pretrain/WavLM-Base+.pt"),
    ("encoders", "dphubert_pattern_2layer_example", "a dphubert speech encoder", "pretrain/DPHuBERT-sp0.75.pth"),
    ("f0_networks", "rmvpe_E2E0", "a rmvpe f0 network", "pretrain/rmvpe.pt"),
    ("f0_networks", "fcpe_default", "a fcpe f0 network", "pretrain/fcpe.pt"),
])  # fmt: skip
def test_pretrained_networks_are_recognised_bare_and_wrapped(group, name, title, remedy):
    found = published(group)[name]
    shapes = found.get("shapes", found)
    for content in ({"model": repeated(shapes)}, repeated(shapes), {"state_dict": repeated(shapes), "epoch": 1}):
        recognised = recognise(content)
        assert recognised.title == title and remedy in recognised.remedy


def test_what_nobody_knows_is_unknown_and_no_content_breaks_the_recognition():
    for content in ({}, {"model": 3}, {"weight": {}}, {1: torch.zeros(1)}, {"model": {2: torch.zeros(1)}}, {"x": {}}):
        assert recognise(content).family is UNKNOWN
    assert recognise({"alto": {"cluster_centers_": 1}}).family.kind == "cluster centres"
