"""The model card of a voice goes into the metadata of its songs, where the container has room for it."""

import json

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from tiny_voices import tiny_config

from modules.audio.io import StreamWriter
from modules.errors import CheckpointError
from modules.weights.card import config_hash, make_card, read_card, song_metadata, stand_in_card
from modules.weights.checkpoint import save_weights

TAGS = {"title": "Lied", "artist": "Åsa", "software": "x", "comment": '{"a": "ß"}', "license": "CC0", "copyright": "we"}


@pytest.mark.parametrize(
    "container, kept",
    [("wav", {"title", "artist", "software", "comment"}), ("flac", set(TAGS)), ("ogg", set(TAGS)), ("aiff", {"title"})],
)
def test_texts_are_written_where_the_container_has_room(tmp_path, container, kept):
    path = tmp_path / f"song.{container}"
    wav = np.linspace(-0.5, 0.5, 4410).astype(np.float32)
    with StreamWriter(path, 44100, container, TAGS) as writer:
        writer.write(wav)
    with soundfile.SoundFile(path) as file:
        found = file.copy_metadata()
        assert len(file) == 4410
    for name in kept:
        assert found[name].startswith(TAGS[name]), name  # libsndfile adds its own name to `software`


@pytest.mark.parametrize("container", ["mp3", "opus", "au", "w64", "caf"])
def test_no_container_refuses_a_song_for_its_texts(tmp_path, container):
    with StreamWriter(tmp_path / f"song.{container}", 48000, container, TAGS) as writer:
        writer.write(np.zeros(48000, np.float32))
    assert (tmp_path / f"song.{container}").stat().st_size > 100


def test_a_song_says_what_it_was_made_from_and_leaves_out_what_is_not_known():
    config = tiny_config()
    config.card.licence = "CC BY 4.0"
    card = make_card(config, "alto", 1.5, None, {"alto": {"counts": [1] * 999}})
    tags = song_metadata(card, "Lied.flac", "alto", {"transpose": -3})
    assert tags["title"] == "Lied" and tags["artist"] == "alto (converted voice)" and tags["license"] == "CC BY 4.0"
    assert "copyright" not in tags, "the card gives no credits"
    about = json.loads(tags["comment"])
    assert about["converted_from"] == "Lied.flac" and about["settings"] == {"transpose": -3}
    assert about["voice"]["hours"] == 1.5 and not {"f0_histograms", "base", "notes"} & set(about["voice"])
    assert set(song_metadata(stand_in_card(config, "G_1"), "a.wav", "alto", {})) == {
        "title",
        "artist",
        "software",
        "comment",
    }


def test_cards_are_read_from_every_kind_of_model_file(tmp_path):
    card = make_card(tiny_config(), "alto")
    weights = {"emb_g.weight": torch.zeros(1, 2)}
    save_weights(tmp_path / "G_1.pth", {"model": weights, "card": card})
    save_weights(tmp_path / "G_2.pth", {"model": weights})
    save_weights(tmp_path / "G_3.pth", {"model": weights, "card": [1]})
    save_file(weights, tmp_path / "a.safetensors", {"card": json.dumps(card)})
    assert read_card(tmp_path / "G_1.pth") == read_card(tmp_path / "a.safetensors") == card
    assert read_card(tmp_path / "G_2.pth") is None
    for name in ("G_3.pth", "nothing.safetensors", "nothing.pth"):
        with pytest.raises(CheckpointError, match=name):
            read_card(tmp_path / name)


def test_the_hash_of_a_config_is_of_its_content():
    one, two = tiny_config(), tiny_config()
    assert config_hash(one) == config_hash(two)
    two.train.c_mel = 44
    assert config_hash(one) != config_hash(two)


def test_a_song_carries_no_more_of_a_card_than_it_needs():
    card = {
        "notes": "x" * 10**6,
        "speakers": ["a\x00\x1b[31m"],
        "credits": "y" * 10**6,
        "deep": {"z": ["w" * 10**5] * 10},
    }
    texts = song_metadata({**card, **{f"key {n}": n for n in range(10**4)}}, "song\x1b.wav", "a\x00b", {})
    assert sum(map(len, texts.values())) < 8000
    assert not any(ord(letter) < 32 for text in texts.values() for letter in text)
    assert json.loads(texts["comment"])["converted_from"] == "song\x1b.wav"
