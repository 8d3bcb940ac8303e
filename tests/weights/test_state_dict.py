"""Tensors are found however a file wraps them, and compared with a network by name and shape."""

import json

import pytest
import torch
from safetensors.torch import save_file

from modules.errors import CheckpointError
from modules.weights.card import card_of
from modules.weights.checkpoint import load_checkpoint
from modules.weights.state_dict import ENTRIES, fit, state_dict, tensors_of

WEIGHTS = {"conv.weight": torch.arange(6.0).view(2, 3), "conv.bias": torch.zeros(2)}


@pytest.mark.parametrize("entry", ["", *ENTRIES])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_are_found_in_every_wrapping(entry, prefix):
    weights = {prefix + name: value for name, value in WEIGHTS.items()}
    content = {entry: weights, "epoch": 3} if entry else {**weights, "epoch": 3}
    assert state_dict(content, "x.pt") == tensors_of(content) == WEIGHTS


def test_a_file_without_weights_says_what_is_in_it():
    with pytest.raises(CheckpointError, match=r"a\.pt: holds no weights \(its entries: 1, epoch\)"):
        state_dict({"epoch": 3, 1: torch.zeros(1)}, "a.pt")


def test_names_that_cannot_be_written_are_named_by_their_kind():
    with pytest.raises(CheckpointError, match=r"its entries: int, tuple"):
        state_dict({10**5000: 1, (1, 2): 3}, "a.pt")


def test_tensors_that_do_not_fit_are_named_with_both_shapes():
    found = {"emb_g.weight": torch.zeros(3, 16), "extra": torch.zeros(1)}
    wanted = {"emb_g.weight": torch.zeros(4, 16), "pre.bias": torch.zeros(2)}
    message = (
        r"x\.pth: does not fit .*: emb_g\.weight is \[3, 16\] but \[4, 16\] is expected; pre\.bias is missing\. Use"
    )
    with pytest.raises(CheckpointError, match=message):
        fit(found, wanted, "x.pth")
    with pytest.raises(CheckpointError, match="is missing; extra has no place in it"):
        fit(found, wanted, "x.pth", no_extra=("ex",))
    assert list(fit(found, {"extra": torch.zeros(1)}, "x.pth")) == ["extra"]


@pytest.mark.parametrize(
    ("wanted", "hint"), [({"a": (2, 4)}, "a (1,)"), ({"a": (2,)}, "a (0,)"), ({"b": (1,)}, "b ()")]
)
def test_a_hint_is_asked_about_the_first_mismatch(wanted, hint):
    wanted = {name: torch.zeros(shape) for name, shape in wanted.items()}
    with pytest.raises(CheckpointError) as caught:
        fit({"a": torch.zeros(2, 3)}, wanted, "x.pth", lambda name, axes: f"{name} {axes}", "c.json")
    assert str(caught.value).startswith("x.pth: does not fit c.json: ") and str(caught.value).endswith(f". {hint}")


def test_a_voice_in_safetensors_has_the_layout_of_a_checkpoint(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(WEIGHTS, path, {"format": "pt", "card": json.dumps({"name": "x"}), "model": "nothing", "note": "plain"})
    content = load_checkpoint(path)
    assert content["model"].keys() == WEIGHTS.keys() and content["note"] == "plain" and "format" not in content
    assert card_of(content, path) == {"name": "x"}
