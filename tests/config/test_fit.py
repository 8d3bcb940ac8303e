"""A config that is not the one a model was trained with is refused where that would be heard, and only there."""

import pytest
import torch
from tiny_diffusion import diffusion_config
from tiny_voices import tiny_config

from diffusion.unit2mel import build_unit2mel, load_unit2mel
from models import build_synthesizer, load_synthesizer
from modules.config.fit import CONVERTS_WITH, DIFFUSION_CONVERTS_WITH, require_own_config
from modules.config.io import parse_config, to_plain
from modules.config.schema import Config, ModelConfig
from modules.errors import ConfigError
from modules.weights.checkpoint import save_weights

CPU = torch.device("cpu")


def check(config: Config, stored: object = None) -> None:
    stored = to_plain(tiny_config()) if stored is None else stored
    require_own_config("G_8.pth", stored, config, CONVERTS_WITH, "other.json")


def changed(section: str, **values) -> Config:
    plain = to_plain(tiny_config())
    plain[section] |= values
    return Config.model_validate(plain)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("data", "sampling_rate", 48000),
        ("data", "hop_length", 256),
        ("data", "filter_length", 1024),
        ("data", "unit_interpolate_mode", "nearest"),
        ("model", "speech_encoder", "vec256l9"),
        ("model", "vocoder_name", "nsf-snake-hifigan"),
        ("model", "clamp_f0_high", True),
        ("model", "n_heads", 1),
        ("model", "resblock_dilation_sizes", [[1, 2, 5]] * 3),
        ("model", "vol_embedding", False),
    ],
)
def test_what_changes_the_sound_is_refused_with_both_values_and_both_files(section, key, value):
    was = to_plain(tiny_config())[section][key]
    with pytest.raises(ConfigError) as caught:
        check(changed(section, **{key: value}))
    assert f"{section}.{key} was {was!r}, now {value!r}" in str(caught.value)
    assert "other.json" in str(caught.value) and "G_8.pth" in str(caught.value) and "Give the one" in str(caught.value)


@pytest.mark.parametrize(
    ("speakers", "message"),
    [
        ({"bass": 0, "alto": 1}, "the id of 'alto' was 0, now 1; spk: the id of 'bass' was 1, now 0"),
        ({"alto": 1}, "the id of 'alto' was 0, now 1"),
        ({"alto": 0, "bass": 1, "tenor": 5}, r"'tenor' has the id 5, of no voice in it \(0 alto, 1 bass\)"),
    ],
)
def test_a_speaker_who_would_be_somebody_else_is_refused(speakers, message):
    config = tiny_config({"n_speakers": 2})
    config.spk = speakers
    with pytest.raises(ConfigError, match=message):
        check(config)


@pytest.mark.parametrize("speakers", [{"Åsa": 0, "bass": 1}, {"x": 1, "y": 0}, {"bass": 1}, {}])
def test_speakers_may_have_other_names_and_be_left_out(speakers):
    config = tiny_config()
    config.spk = speakers
    check(config)


def test_what_is_not_heard_may_be_changed():
    config = tiny_config({"p_dropout": 0.4, "discriminator_channels": 64}, batch_size=9, learning_rate=1.0)
    config.data.training_files = "elsewhere.txt"
    config.card.notes = "new"
    check(config)


@pytest.mark.parametrize(
    "stored", [None, [8], {}, {"model": {"hidden_channels": 3}}, {"data": 3, "model": {}, "spk": {}}]
)
def test_models_without_a_config_of_ours_are_taken_as_they_are(stored):
    require_own_config("G_8.pth", stored, tiny_config(), CONVERTS_WITH, "c.json")


def test_the_onnx_form_of_an_encoder_gives_the_same_units():
    stored = to_plain(changed("model", speech_encoder="vec768l12"))
    check(changed("model", speech_encoder="vec768l12-onnx"), stored)


def test_a_config_in_the_model_that_makes_no_sense_is_said_and_not_compared(caplog):
    check(tiny_config(), {"data": {"hop_length": "wide"}, "model": {}, "spk": {}})
    assert "G_8.pth: the config stored in it is of another version" in caplog.text


def test_every_key_of_the_model_section_is_compared_or_known_not_to_matter():
    unheard = {"n_layers_q", "speaker_embedding", "p_dropout", "discriminator_channels", "use_spectral_norm"}
    assert set(ModelConfig.model_fields) - set(CONVERTS_WITH["model"]) == unheard | {"use_automatic_f0_prediction"}


def test_a_voice_is_compared_when_it_is_loaded(tmp_path):
    config = tiny_config()
    path = tmp_path / "G_8.pth"
    save_weights(path, {"model": build_synthesizer(config).state_dict(), "config": to_plain(config)})
    assert load_synthesizer(path, tiny_config(), CPU).n_speakers == 2
    other = parse_config({**to_plain(config), "spk": {"bass": 0, "alto": 1}}, tmp_path / "mine.json")
    with pytest.raises(ConfigError, match=r"mine\.json: is not the config that .*G_8\.pth was trained with"):
        load_synthesizer(path, other, CPU)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("data", "encoder", "vec256l9"),
        ("data", "unit_interpolate_mode", "left"),
        ("data", "sampling_rate", 32000),
        ("model", "k_step_max", 50),
        ("vocoder", "type", "nsf-hifigan-log10"),
    ],
)
def test_a_diffusion_model_is_compared_when_it_is_loaded(tmp_path, section, key, value):
    config, path = diffusion_config(), tmp_path / "model_8.pt"
    save_weights(path, {"model": build_unit2mel(config, 128).state_dict(), "config": to_plain(config)})
    load_unit2mel(path, diffusion_config(), 128, CPU)
    setattr(getattr(config, section), key, value)
    with pytest.raises(ConfigError, match=rf"my\.yaml: is not .*model_8\.pt.* {section}\.{key} was "):
        load_unit2mel(path, config, 128, CPU, where="my.yaml")


def test_a_diffusion_models_speakers_keep_their_ids():
    config = diffusion_config()
    stored = to_plain(config)
    config.spk = {"alto": 1, "bass": 0}
    with pytest.raises(ConfigError, match="the id of 'alto' was 0, now 1"):
        require_own_config("model_8.pt", stored, config, DIFFUSION_CONVERTS_WITH, "d.yaml")


def test_voices_that_have_other_names_are_said(caplog):
    caplog.set_level("INFO")
    require_own_config("G_8.pth", to_plain(tiny_config()), changed_names(), CONVERTS_WITH, "c.json")
    assert "c.json calls the voices of G_8.pth by other names: 'kim' is 'alto'" in caplog.text


def changed_names():
    config = tiny_config()
    config.spk = {"kim": 0, "bass": 1}
    return config
