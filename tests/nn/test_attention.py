"""Relative attention equals its formula however it is cut up; causal attention never looks ahead."""

import math

import pytest
import torch

from modules.errors import ConfigError
from modules.nn import attention as module
from modules.nn.attention import CausalAttention, RelativeAttention
from modules.nn.transformer import CausalTransformer, RelativeTransformer, TransformerSpec

SPEC = TransformerSpec(channels=8, filter_channels=12, n_heads=2, n_layers=2, kernel_size=3, p_dropout=0.0)


def by_the_formula(layer: RelativeAttention, x: torch.Tensor, n_real: int) -> torch.Tensor:
    """Shaw et al. equations 3 and 4, frame by frame and in double precision."""
    layer, x = layer.double(), x.double()
    q, k, v = (conv(x)[0].unflatten(0, (layer.n_heads, -1)) for conv in (layer.conv_q, layer.conv_k, layer.conv_v))
    out = torch.zeros_like(v)
    for head in range(layer.n_heads):
        for i in range(x.shape[2]):
            scores, values = [], []
            for j in range(n_real):
                near = abs(j - i) <= layer.window
                key_table = layer.emb_rel_k[0, j - i + 4] if near else 0
                value_table = layer.emb_rel_v[0, j - i + 4] if near else 0
                scores.append(q[head, :, i] @ (k[head, :, j] + key_table) / math.sqrt(q.shape[1]))
                values.append(v[head, :, j] + value_table)
            out[head, :, i] = torch.softmax(torch.stack(scores), 0) @ torch.stack(values)
    return layer.conv_o(out.flatten(0, 1)[None])


@pytest.mark.parametrize(("n_frames", "n_real"), [(1, 1), (3, 3), (13, 13), (13, 7)])
def test_relative_attention_equals_the_formula_at_real_frames(n_frames, n_real):
    layer, x = RelativeAttention(8, 2), torch.randn(1, 8, n_frames)
    mask = None if n_real == n_frames else (torch.arange(n_frames) < n_real)[None, None]
    found = layer(x, mask)[..., :n_real]
    wanted = by_the_formula(layer, x, n_real)[..., :n_real]
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)


def test_attention_in_blocks_of_queries_equals_attention_at_once(monkeypatch):
    layer, x = RelativeAttention(8, 2), torch.randn(2, 8, 23)
    mask = torch.arange(23)[None, None] < torch.tensor([23, 17])[:, None, None]
    at_once = layer(x, mask)
    monkeypatch.setattr(module, "QUERY_BLOCK", 5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, mask), at_once, atol=1e-6, rtol=1e-5)


def test_the_relative_tables_get_the_gradients_of_finite_differences():
    layer = RelativeAttention(4, 2, window=2).double()
    x = torch.randn(1, 4, 6, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values)), (x, None))

    values = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]
    assert torch.autograd.gradcheck(run, (x, *values))


def test_causal_attention_of_a_frame_ignores_later_frames():
    layer, x = CausalAttention(8, 2), torch.randn(1, 8, 12)
    changed = x.clone()
    changed[..., 7:] += 1
    before, after = layer(x), layer(changed)
    torch.testing.assert_close(before[..., :7], after[..., :7])
    assert (before[..., 7:] - after[..., 7:]).abs().min() > 0


def test_causal_attention_starts_with_equal_keys_and_queries():
    layer = CausalAttention(8, 2)
    assert torch.equal(layer.conv_q.weight, layer.conv_k.weight) and torch.equal(layer.conv_q.bias, layer.conv_k.bias)


@pytest.mark.parametrize("stack", [RelativeTransformer(SPEC), CausalTransformer(SPEC)], ids=["relative", "causal"])
def test_padding_changes_nothing_at_the_real_frames(stack):
    x = torch.randn(1, 8, 10)
    padded = torch.cat([x, torch.randn(1, 8, 5)], dim=2)
    mask = (torch.arange(15) < 10)[None, None]
    out = stack.eval()(padded, mask)
    torch.testing.assert_close(out[..., :10], stack(x, None), atol=1e-6, rtol=1e-5)
    assert not out[..., 10:].any()


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ConfigError, match="hidden_channels 10 is not a multiple of n_heads 4"):
        RelativeAttention(10, 4)
