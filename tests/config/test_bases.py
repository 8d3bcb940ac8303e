"""The base model that step 2 and train.py name for a config, and the way to it."""

from pathlib import Path

import pytest

from modules.config.bases import advise_base, base_of
from modules.config.edits import Design
from modules.config.io import load_config, parse_config
from modules.pretrained.catalogue import weights_of
from modules.pretrained.find import CODE_ROOT


@pytest.fixture(autouse=True)
def empty_workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made(*design):
    return parse_config(Design(*design).config())


@pytest.mark.parametrize(("design", "name"), [
    (("base", "vec768l12", 768), "base-vec768l12"),
    (("base", "vec768l12", 768, True), "base-vec768l12-vol"),
    (("base", "vec768l12-onnx", 768, True), "base-vec768l12-vol"),
    (("small", "whisper-ppg-base", 512, True), "base-small"),
    (("small", "whisper-ppg-base", 512), ""),
    (("base", "vec768l12", 768, False, True), ""),
    (("base", "vec256l9", 256), ""),
    (("tiny", "vec768l12", 768), ""),
])  # fmt: skip
def test_the_base_follows_encoder_volume_embedding_and_size(design, name):
    assert base_of(made(*design)) == name
    said = advise_base(made(*design))
    assert (
        "\n" not in said and f"{design[1]}, {design[2]} wide, with{'' if design[3:4] == (True,) else 'out'} vol" in said
    )
    assert said.startswith(f"Base model: {name} (" if name else "Base model: none fits this config (")


def test_a_config_edited_to_another_shape_has_none():
    config = made("base", "vec768l12", 768)
    config.model.n_speakers, config.model.hidden_channels = 3, 128
    assert base_of(config) == ""


def test_the_included_base_fits_by_its_own_config():
    config = load_config(CODE_ROOT / "pretrain/base-small/config.json")
    assert base_of(config) == "base-small" and "It is here: give train.py --base " in advise_base(config)


def test_a_base_that_is_here_is_not_fetched_again():
    config = made("base", "vec768l12", 768, True)
    assert "download.py base-vec768l12-vol, then give train.py --base pretrain/base-vec768l12-vol" in advise_base(
        config
    )
    path = Path(weights_of("base-vec768l12-vol")[0].path)
    path.parent.mkdir(parents=True)
    path.touch()
    assert advise_base(config).endswith(". It is here: give train.py --base pretrain/base-vec768l12-vol")


def test_both_bases_come_from_one_repository():
    loud, plain = weights_of("base-vec768l12-vol"), weights_of("base-vec768l12")
    assert [each.url.replace("vol_emb", "sovits_768l12_pre_large_320k") for each in loud] == [
        each.url for each in plain
    ]
