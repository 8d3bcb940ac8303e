"""config.json: published forms load, typing mistakes are named, nothing a user wrote is lost."""

import json
import logging
from pathlib import Path

import pytest

from modules.config.audio import AudioSpec
from modules.config.diffusion import load_diffusion_config
from modules.config.io import load_config, parse_config, save_config, to_plain
from modules.config.schema import Config
from modules.errors import ConfigError

# so-vits-svc 4.1's template, from the file contract: every key and value.
TEMPLATE = {
    "train": {
        "log_interval": 200, "eval_interval": 800, "seed": 1234, "epochs": 10000, "learning_rate": 0.0001,
        "betas": [0.8, 0.99], "eps": 1e-09, "batch_size": 6, "fp16_run": False, "half_type": "fp16",
        "lr_decay": 0.999875, "segment_size": 10240, "init_lr_ratio": 1, "warmup_epochs": 0, "c_mel": 45, "c_kl": 1.0,
        "use_sr": True, "max_speclen": 512, "port": "8001", "keep_ckpts": 3, "all_in_mem": False, "vol_aug": False,
    },
    "data": {
        "training_files": "filelists/train.txt", "validation_files": "filelists/val.txt", "max_wav_value": 32768.0,
        "sampling_rate": 44100, "filter_length": 2048, "hop_length": 512, "win_length": 2048, "n_mel_channels": 80,
        "mel_fmin": 0.0, "mel_fmax": 22050, "unit_interpolate_mode": "nearest",
    },
    "model": {
        "inter_channels": 192, "hidden_channels": 192, "filter_channels": 768, "n_heads": 2, "n_layers": 6,
        "kernel_size": 3, "p_dropout": 0.1, "resblock": "1", "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]], "upsample_rates": [8, 8, 2, 2, 2],
        "upsample_initial_channel": 512, "upsample_kernel_sizes": [16, 16, 4, 4, 4], "n_layers_q": 3,
        "n_layers_trans_flow": 3, "n_flow_layer": 4, "use_spectral_norm": False, "gin_channels": 768, "ssl_dim": 768,
        "n_speakers": 200, "vocoder_name": "nsf-hifigan", "speech_encoder": "vec768l12", "speaker_embedding": False,
        "vol_embedding": False, "use_depthwise_conv": False, "flow_share_parameter": False,
        "use_automatic_f0_prediction": True, "use_transformer_flow": False,
    },
    "spk": {"nyaru": 0, "huiyu": 1},
}  # fmt: skip
ABSENT_IN_40 = {
    "train": ["half_type", "vol_aug"], "data": ["unit_interpolate_mode"],
    "model": ["n_layers_trans_flow", "n_flow_layer", "vocoder_name", "speech_encoder", "speaker_embedding",
              "vol_embedding", "use_depthwise_conv", "flow_share_parameter", "use_automatic_f0_prediction",
              "use_transformer_flow"],
}  # fmt: skip


def template(**changes):
    """A copy of the template; `model_n_heads=3` changes model.n_heads, None takes the key out."""
    values = json.loads(json.dumps(TEMPLATE))
    for name, value in changes.items():
        section, _, key = name.partition("_")
        if value is None:
            del values[section][key]
        else:
            values[section][key] = value
    return values


def config_40():
    values = template(model_ssl_dim=256, model_gin_channels=256)
    for section, keys in ABSENT_IN_40.items():
        for key in keys:
            del values[section][key]
    return values


@pytest.mark.parametrize("values", [TEMPLATE, template(model_filter_channels=512, model_use_depthwise_conv=True)])
def test_the_templates_of_4_1_load_unchanged_and_in_their_order(values):
    plain = to_plain(parse_config(values))
    for section, keys in values.items():
        assert {key: plain[section][key] for key in keys} == keys
        assert [key for key in plain[section] if key in keys] == list(keys)
    assert [key for key in plain if key in values] == list(values) and set(plain) - set(values) == {"card"}


def test_loading_what_was_saved_gives_the_same_and_keeps_foreign_keys(tmp_path):
    values = template(model_my_fork_option=[1, {"ü": None}], train_note="привет")
    values["extra"] = {"deep": 1}
    first = parse_config(values)
    save_config(first, tmp_path / "config.json")
    second = load_config(tmp_path / "config.json")
    assert to_plain(second) == to_plain(first) and second.path == tmp_path / "config.json"
    assert to_plain(second)["model"]["my_fork_option"] == [1, {"ü": None}] and to_plain(second)["extra"] == {"deep": 1}
    assert "привет" in (tmp_path / "config.json").read_text("utf-8")


def test_a_4_0_config_means_what_it_meant(caplog):
    with caplog.at_level(logging.INFO):
        config = parse_config(config_40())
    assert config.model.speech_encoder == "vec256l9" and "vec256l9" in caplog.text
    assert config.data.unit_interpolate_mode == "left" and config.train.half_type == "fp16"
    assert config.model.use_automatic_f0_prediction and not config.model.vol_embedding


def fork(**changes):
    """A config of so-vits-svc-fork 4, with all keys that its templates have and so-vits-svc's have not."""
    values = config_40()
    values["train"] |= {"bf16_run": False, "num_workers": 4, "log_version": 0, "ckpt_name_by_step": False}
    values["train"] |= {"accumulate_grad_batches": 2, "fft_sizes": [768], "hop_sizes": [60], "win_lengths": [300]}
    values["train"] |= {"window": "hann_window", "batch_size": "auto-2-10"}
    values["data"]["contentvec_final_proj"] = False
    values["model"] |= {"ssl_dim": 768, "type_": "hifi-gan", "pretrained": {"G_0.pth": "https://..."}, **changes}
    values["model"] |= {"gen_istft_n_fft": 16, "gen_istft_hop_size": 4, "subbands": 4}
    del values["train"]["fp16_run"]  # "bf16_run" is no slip of it
    return values


def test_a_config_of_so_vits_svc_fork_brings_no_warning(caplog):
    with caplog.at_level(logging.INFO):
        config = parse_config(fork())
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert (config.model.speech_encoder, config.model.gin_channels) == ("vec768l12", 256)
    assert config.model.clamp_f0_high and not parse_config(config_40()).model.clamp_f0_high
    assert (config.train.accumulate, config.train.batch_size) == (2, 6) and "--auto_batch" in caplog.text
    assert to_plain(config)["data"]["contentvec_final_proj"] is False


@pytest.mark.parametrize("kind", ["istft", "ms-istft", "mb-istft", 7])
def test_other_decoders_of_so_vits_svc_fork_are_refused_by_name(kind):
    with pytest.raises(ConfigError, match=rf"^config: model\.type_ is '{kind}', a decoder of so-vits-svc-fork"):
        parse_config(fork(type_=kind, upsample_rates=[4, 8], upsample_kernel_sizes=[16, 16]))


def test_speakers_may_be_a_list_and_aliases_are_understood():
    values = template(data_hop_length=None, data_hop_size=512)
    values["spk"] = ["alto", "tenor"]
    config = parse_config(values)
    assert config.spk == {"alto": 0, "tenor": 1} and config.data.hop_length == 512


def test_the_audio_parameters_are_those_of_the_data_section():
    assert parse_config(TEMPLATE).audio == AudioSpec(44100, 2048, 512, 2048, 80, 0.0, 22050.0)
    assert parse_config(template(data_mel_fmax=22050.0)).segment_frames == 20
    null = template()
    null["data"]["mel_fmax"] = None
    assert parse_config(null).audio.fmax == 22050.0


@pytest.mark.parametrize(("changes", "message"), [
    ({"data_hop_length": None, "data_hop_lenght": 512}, r"data\.hop_lenght\. Did you mean data\.hop_length"),
    ({"train_batch_size": None, "train_batchsize": 4}, r"train\.batchsize\. Did you mean train\.batch_size"),
    ({"train_batch_size": "six"}, r'train\.batch_size is "six"; expected'),
    ({"train_batch_size": 0}, r"train\.batch_size is 0; expected greater than 0"),
    ({"train_betas": [0.8]}, r"train\.betas"),
    ({"data_hop_length": 500}, r"hop_length is 500 .* multiply to 512\. Set data\.hop_length to 512"),
    ({"train_segment_size": 10000}, r"segment_size 10000 is not a multiple .* Set it to 10240"),
    ({"train_window_frames": 19}, r"window_frames 19 is less than the 20 frames .* at least 20"),
    ({"data_win_length": 4096}, r"win_length 4096 is longer than the FFT size 2048"),
    ({"data_mel_fmax": 30000}, r"mel_fmax 30000\.0 lies above half the sampling rate"),
    ({"data_unit_interpolate_mode": "cubic"}, r"unit_interpolate_mode is 'cubic'\. Known: left, nearest, linear"),
    ({"model_n_heads": 5}, r"n_heads 5 does not divide model\.hidden_channels 192"),
    ({"model_inter_channels": 191}, r"inter_channels is 191; .* even"),
    ({"model_upsample_kernel_sizes": [16, 16, 4, 4]}, r"5 entries and model\.upsample_kernel_sizes 4"),
    ({"model_upsample_kernel_sizes": [15, 16, 4, 4, 4]}, r"has 15 for the rate 8; .* Use 16"),
    ({"model_upsample_initial_channel": 16}, r"cannot be halved 5 times"),
    ({"model_resblock_kernel_sizes": [3, 7]}, r"as many entries"),
    ({"model_resblock": "3"}, r"model\.resblock is '3'\. Known: 1, 2"),
    ({"model_vocoder_name": "hifigan"}, r"vocoder_name is 'hifigan'\. Known: nsf-hifigan, nsf-snake-hifigan"),
    ({"spk_other": 0}, r"'nyaru' and 'other' have the same id 0"),
    ({"model_n_speakers": 1}, r"'huiyu' has the id 1 but model\.n_speakers is 1"),
])  # fmt: skip
def test_a_mistake_is_one_line_with_file_key_and_remedy(tmp_path, changes, message):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(template(**changes)), "utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [
    (b'{"train": {\n  "a": 1 2\n}}', "line 2, column 10"), (b"[1]", "holds a list"), (b"", "line 1"),
    (b"\xff\xfe", "UTF-8"),
    (b'{"spk": {"alto": 0, "alto": 1}}', "'alto' is there twice, as 0 and as 1"),
    (b'{"data": {"hop_length": 512}, "data": {"hop_length": 256}}', "'data' is there twice"),
    (b'{"spk": {"\\ud800": 0}}', "surrogates not allowed"),
])  # fmt: skip
def test_a_file_that_is_not_a_config_says_where(tmp_path, content, message):
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "c.json")


def test_a_missing_file_names_the_command_and_a_byte_order_mark_is_accepted(tmp_path):
    with pytest.raises(ConfigError, match=r"python preprocess_flist_config\.py"):
        load_config(tmp_path / "none.json")
    (tmp_path / "c.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(TEMPLATE).encode())
    assert load_config(tmp_path / "c.json").spk == TEMPLATE["spk"]


def test_unknown_keys_that_resemble_nothing_are_one_warning(caplog):
    parse_config(template(model_zzz=1, data_yyy=2))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "data.yyy, model.zzz" in caplog.text


def test_the_generator_gets_its_own_keys_only():
    kwargs = Config().model.generator_kwargs()
    assert kwargs["inter_channels"] == 192 and "speech_encoder" not in kwargs and "discriminator_channels" not in kwargs


def test_a_config_that_never_ends_is_refused_at_once(tmp_path):
    for path in [tmp_path, *filter(Path.exists, [Path("/dev/zero")])]:
        with pytest.raises(ConfigError, match=r"is a folder|no regular file"):
            load_config(path)
        with pytest.raises(ConfigError, match=r"is a folder|no regular file"):
            load_diffusion_config(path)


def test_aliases_that_multiply_are_refused_and_few_are_read(tmp_path):
    path = tmp_path / "diffusion.yaml"
    path.write_text("a: &a {x: 1}\ntrain: {other: *a, more: *a}\n")
    load_diffusion_config(path)
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="aliases repeat"):
        load_diffusion_config(path)
    path.write_text("spk: &a [*a]\n")
    with pytest.raises(ConfigError):
        load_diffusion_config(path)


@pytest.mark.parametrize(("text", "message"), [
    ("spk:\n  a: 0\n  b: 1\n  a: 1\n", r"'a' is there twice, line 4, column 3"),
    ("data:\n\tencoder: x\n", "line 2, column 1"),
    ("data: [1,\nmodel: 2\n", "line 3, column 1"),
])  # fmt: skip
def test_a_mistake_in_yaml_is_one_line_with_its_place(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_diffusion_config(tmp_path / "d.yaml", text.encode())
    assert "\n" not in str(caught.value)


def test_yaml_may_merge_and_override(tmp_path):
    text = b"env: &a {gpu_id: 1}\ntrain: &b\n  <<: *a\n  lr: 2\ninfer:\n  <<: *b\n  speedup: 4\n"
    assert load_diffusion_config(tmp_path / "d.yaml", text).infer.speedup == 4


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000])
def test_a_config_that_is_nested_without_end_is_one_line(tmp_path, text):
    path = tmp_path / "config"
    path.write_text(text)
    for load in (load_config, load_diffusion_config):
        with pytest.raises(ConfigError, match="config: "):
            load(path)
