"""Presets are differences, the diffusion config reads and writes, and the table of keys is complete."""

import re
import shlex
from pathlib import Path

import pytest
from pydantic import BaseModel

from models import build_synthesizer
from modules.config.diffusion import (
    DiffusionConfig,
    dump_diffusion_config,
    load_diffusion_config,
    parse_diffusion_config,
    save_diffusion_config,
)
from modules.config.edits import Design, command_of, keep_edits
from modules.config.io import parse_config
from modules.config.presets import DIFFUSION_PRESETS, PRESETS, preset_values
from modules.config.schema import Config
from modules.errors import ConfigError
from vdecoder.discriminators import MultiPeriodDiscriminator

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("width", [256, 384, 512, 768, 1024, 1280])
def test_every_preset_is_valid_for_every_encoder_width(preset, width):
    assert parse_config(preset_values(preset, "x", width)).model.ssl_dim == width


@pytest.mark.parametrize(("width", "feed_forward"), [(256, 768), (768, 768), (1024, 1024), (1280, 1280)])
def test_widths_follow_the_encoder_as_in_so_vits_svc(width, feed_forward):
    model = parse_config(preset_values("base", "x", width)).model
    assert (model.gin_channels, model.filter_channels) == (width, feed_forward)
    tiny = parse_config(preset_values("tiny", "x", width)).model
    assert (tiny.filter_channels, tiny.upsample_initial_channel) == (512, 400)
    assert tiny.use_depthwise_conv and tiny.flow_share_parameter


def test_a_preset_holds_only_what_differs_from_the_defaults():
    defaults = Config().model_dump()
    for preset in PRESETS.values():
        for section, values in preset.items():
            for key, value in values.items():
                if key != "segment_size":
                    assert defaults[section][key] != value, f"{section}.{key} repeats the default"


def test_presets_of_one_call_do_not_share_state():
    preset_values("base", "a", 256)["data"]["unit_interpolate_mode"] = "left"
    assert preset_values("base", "a", 256)["data"]["unit_interpolate_mode"] == "nearest"


def keys_of(schema, prefix=""):
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_of(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


@pytest.mark.parametrize(("schema", "heading"), [(Config, "config.json"), (DiffusionConfig, "diffusion.yaml")])
def test_the_readme_explains_every_key_and_no_other(schema, heading):
    text = (ROOT / "configs" / "README.md").read_text("utf-8")
    part = text.split(f"## {heading}")[1].split("\n## ")[0]
    explained = set(re.findall(r"^\| `([\w.]+)`", part, flags=re.MULTILINE))
    assert explained == set(keys_of(schema))


def test_the_diffusion_config_round_trips(tmp_path):
    path = tmp_path / "d.yaml"
    config = parse_diffusion_config({"spk": {"голос": 0}, "model": {"n_spk": 1}, "data": {"encoder": "x", "odd": 3}})
    save_diffusion_config(config, path)
    assert dump_diffusion_config(load_diffusion_config(path)) == path.read_text("utf-8")
    assert "голос" in path.read_text("utf-8") and load_diffusion_config(path).data.model_extra == {"odd": 3}


def test_published_diffusion_configs_lack_keys_and_have_nulls():
    config = parse_diffusion_config({"data": {"encoder": "vec768l12"}, "model": {"k_step_max": None}, "spk": None})
    assert config.data.unit_interpolate_mode == "left" and config.model.timesteps == 1000 and config.spk == {}


@pytest.mark.parametrize(("text", "message"), [
    ("model: {n_layrs: 3}", r"model\.n_layrs\. Did you mean model\.n_layers"), ("a: [", "YAML"), ("3", "holds a int"),
    ("train: {lr: fast}", r"train\.lr"), ("!!python/object/apply:os.system ['true']", "YAML"),
])  # fmt: skip
def test_a_mistake_in_the_diffusion_config_is_one_line(tmp_path, text, message):
    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_diffusion_config(tmp_path / "d.yaml")
    assert "\n" not in str(caught.value)


def test_other_projects_names_of_encoders_are_understood():
    for theirs, ours in (("contentvec768l12", "vec768l12"), ("contentvec", "vec256l9"), ("hubertsoft", "hubertsoft")):
        assert parse_diffusion_config({"data": {"encoder": theirs}}).data.encoder == ours


@pytest.mark.parametrize("name", DIFFUSION_PRESETS)
def test_every_diffusion_preset_is_a_valid_config(name):
    config = parse_diffusion_config(DIFFUSION_PRESETS[name])
    assert config.data.unit_interpolate_mode == "nearest" and config.model.timesteps == 1000
    assert (config.model.n_chans < 512) == (name in ("small", "micro"))


def test_the_small_voice_fits_21_megabytes_and_with_its_discriminators_30():
    config = parse_config(preset_values("small", "whisper-ppg-base", 512))
    config.model.n_speakers, config.model.vol_embedding = 6, True
    nets = build_synthesizer(config), MultiPeriodDiscriminator(channels=config.model.discriminator_channels)
    sizes = [2 * sum(parameter.numel() for parameter in net.parameters()) for net in nets]
    assert sizes[0] < 21.5e6 and sum(sizes) < 30e6


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("width", [256, 512, 768, 1280])
@pytest.mark.parametrize("flags", [(False, False), (True, False), (False, True)])
def test_the_design_of_a_config_is_found_again(preset, width, flags):
    design = Design(preset, "x", width, *flags)
    assert Design.of(design.config()["model"]) == design
    assert keep_edits(design.config(), design) == (design.config(), [])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("flags", [(False, False), (True, True)])
def test_the_command_of_a_config_has_the_flags_that_it_was_made_with(preset, flags):
    config = parse_config(Design(preset, "whisper-ppg-base", 512, *flags).config())
    wanted = [f"--{preset}"] * (preset != "base") + ["--vol_aug"] * flags[0] + ["--tf_flow"] * flags[1]
    assert command_of(config).split()[2:] == [*wanted, "--speech_encoder", "whisper-ppg-base"]
    assert command_of(config, "vec768l12").endswith("--speech_encoder vec768l12")
    config.data.training_files = "my lists/train.txt"
    assert shlex.split(command_of(config))[-2:] == ["--train_list", "my lists/train.txt"]
