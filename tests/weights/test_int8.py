"""Packed weights come back within the error that eight bits have, and files that pack them wrongly are refused."""

import pytest
import torch

from modules.errors import CheckpointError
from modules.weights.checkpoint import load_weights, save_weights
from modules.weights.int8 import _inflated, deflate, halve, is_packed, pack, unpack


def test_no_number_is_off_by_more_than_half_a_step():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 8, 9, generator=generator) * torch.logspace(-6, 3, 40)[:, None, None]
    rows[7] = 0
    tensors = {"layer.weight": rows, "layer.bias": torch.randn(2000, generator=generator), "count": torch.tensor(7)}
    packed = pack(tensors)
    assert is_packed(packed) and not is_packed(tensors)
    assert packed["layer.weight.int8"].dtype == torch.uint8 and packed["layer.bias"].dtype == torch.float16
    found = unpack(packed)
    assert found.keys() == tensors.keys() and found["count"] == 7
    step = rows.abs().flatten(1).amax(1)[:, None, None] / 127
    assert ((found["layer.weight"] - rows).abs() <= 0.5001 * step).all()
    assert torch.equal(found["layer.weight"][7], torch.zeros(8, 9))
    assert unpack(pack(found)).keys() == tensors.keys()
    torch.testing.assert_close(unpack(pack(found))["layer.weight"], found["layer.weight"], atol=0, rtol=1e-6)


def test_names_that_share_a_tensor_share_the_packed_one(tmp_path):
    weight = torch.randn(64, 320)
    halved = halve({"a": weight, "b": weight, "c": weight.clone()})
    assert halved["a"].data_ptr() == halved["b"].data_ptr() != halved["c"].data_ptr()
    save_weights(tmp_path / "x.pth", pack({"a": weight, "b": weight, "c": weight.clone()}))
    assert (tmp_path / "x.pth").stat().st_size < 2.2 * weight.numel()
    found = load_weights(tmp_path / "x.pth")
    assert found["a"].data_ptr() == found["b"].data_ptr() and torch.equal(found["a"], found["c"])


def test_a_file_comes_back_unpacked_at_any_place(tmp_path):
    weight = torch.randn(64, 32)
    for content in ({"model": pack({"w": weight}), "iteration": 3}, pack({"w": weight})):
        save_weights(tmp_path / "x.pth", content)
        found = load_weights(tmp_path / "x.pth")
        found = found.get("model", found)
        assert list(found) == ["w"] and (found["w"] - weight).abs().max() < 0.05


@pytest.mark.parametrize(("convert", "tensor", "message"), [
    (halve, torch.full((64, 64), 1e6), r"w has numbers up to 1e\+06, and 16 bits end at 65504"),
    (pack, torch.full((64,), 1e6), r"w has numbers up to 1e\+06, and 16 bits end at 65504"),
    (pack, torch.full((64, 64), torch.nan), "w has numbers that are not finite"),
])  # fmt: skip
def test_numbers_that_do_not_fit_are_named(convert, tensor, message):
    with pytest.raises(ValueError, match=message):
        convert({"w": tensor})


def test_a_large_number_in_a_matrix_is_no_obstacle_to_packing():
    assert torch.equal(unpack(pack({"w": torch.full((64, 64), 1e6)}))["w"], torch.full((64, 64), 1e6))


def test_matrices_that_are_not_deflated_are_read_as_before():
    packed = pack({"w": torch.randn(64, 32)})
    plain = {"w.int8": _inflated("w", packed["w.int8"], packed["w.shape"], 2048), "w.scale": packed["w.scale"]}
    assert plain["w.int8"].dtype == torch.int8 and list(unpack(plain)) == ["w"]
    assert torch.equal(unpack(plain)["w"], unpack(packed)["w"])


MISFIT = r"w is packed, but w\.scale is not there or does not fit"
NO_SHAPE = r"w is packed, but w\.shape is no shape of a matrix that a model could have"
NO_BYTES = "w is packed, and its bytes are (bfloat16|float32)"


@pytest.mark.parametrize(("change", "message"), [
    (lambda packed: packed.pop("w.scale"), MISFIT),
    (lambda packed: packed.update({"w.scale": torch.ones(3)}), MISFIT),
    (lambda packed: packed.update({"w.int8": 5}), MISFIT),
    (lambda packed: packed.update({"w.int8": torch.tensor(1, dtype=torch.int8), "w.shape": None}), MISFIT),
    (lambda packed: packed.update({"w.shape": 5}), NO_SHAPE),
    (lambda packed: packed.update({"w.shape": torch.ones(2)}), NO_SHAPE),
    (lambda packed: packed.update({"w.shape": torch.tensor([64, -32])}), NO_SHAPE),
    (lambda packed: packed.update({"w.shape": torch.tensor([64, 1 << 40])}), NO_SHAPE),
    (lambda packed: packed.update({"w.shape": torch.tensor([64, 0, 1 << 62, 1 << 62])}), NO_SHAPE),
    (lambda packed: packed.update({"w.shape": torch.ones(1, dtype=torch.int64).expand(1 << 20)}), NO_SHAPE),
    (lambda packed: packed.update({"w.int8": packed["w.int8"].bfloat16()}), NO_BYTES),
    (lambda packed: packed.update({"w.int8": packed["w.int8"].float().requires_grad_()}), NO_BYTES),
    (lambda packed: packed.update({"w.shape": torch.tensor([64, 31])}), r"w is packed, and its bytes are not those of"),
    (lambda packed: packed.update({"w.shape": torch.tensor([64, 33])}), r"w is packed, and its bytes are not those of"),
    (lambda packed: packed.update({"w.int8": packed["w.int8"][:-9]}), r"w is packed, and its bytes are not those of"),
    (lambda packed: packed.update({"w.int8": packed["w.int8"] * 0 + 7}), "w is packed, and cannot be unpacked"),
])  # fmt: skip
def test_what_does_not_fit_together_is_refused(tmp_path, change, message):
    packed = pack({"w": torch.randn(64, 32)})
    change(packed)
    save_weights(tmp_path / "x.pth", {"model": packed})
    with pytest.raises(CheckpointError, match=r"x\.pth: damaged: " + message):
        load_weights(tmp_path / "x.pth")


def test_a_bomb_is_not_unpacked():
    zeros = {**deflate(torch.zeros(1, 1 << 24, dtype=torch.int8)), ".scale": torch.ones(1)}
    assert zeros[".int8"].numel() < 20_000  # bytes of a file, for 64 MB of memory
    with pytest.raises(ValueError, match=r"w32 is packed, but w32\.shape is no shape"):
        unpack({f"w{n}{suffix}": part.clone() for n in range(33) for suffix, part in zeros.items()})
