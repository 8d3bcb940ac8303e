"""Dropout drops the share that it is told to, keeps the mean, and is torch's own wherever that is quicker."""

import pytest
import torch

from modules.nn import dropout as module
from modules.nn.dropout import Dropout, dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.999])
def test_a_share_is_dropped_and_the_mean_stays(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(3, 1001, 333, dtype=dtype)
    y = dropout(x, p, True)
    assert y.dtype == dtype and y.shape == x.shape
    share = (p * (1 - p) / x.numel()) ** 0.5  # its deviation
    assert abs(float((y == 0).double().mean()) - p) < 4 * share + 2**-17
    kept = y[y != 0]
    assert (kept == kept[0]).all() and float(kept[0]) == pytest.approx(1 / (1 - p), rel=0.02)
    rows = (y == 0).double().mean(2)
    assert rows.std() < 1.2 * (p * (1 - p) / 333) ** 0.5, "one number says nothing of its neighbours"


def test_gradients_go_where_the_numbers_went():
    x = torch.randn(5, 7, requires_grad=True)
    y = dropout(x, 0.5, True)
    (grad,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(grad * x, y)


def test_the_same_seed_drops_the_same():
    x = torch.randn(4, 50)
    torch.manual_seed(1)
    first, second = dropout(x, 0.3, True), dropout(x, 0.3, True)
    torch.manual_seed(1)
    assert torch.equal(dropout(x, 0.3, True), first) and not torch.equal(first, second)


def test_all_none_and_inference_are_torchs(monkeypatch):
    x = torch.randn(4, 50)
    assert dropout(x, 0.0, True) is not None and torch.equal(dropout(x, 0.0, True), x)
    assert torch.equal(dropout(x, 1.0, True), torch.zeros(4, 50))
    assert torch.equal(Dropout(0.3).eval()(x), x)
    calls = []
    monkeypatch.setattr(module, "dropout", lambda *given: calls.append(given[1:]))
    Dropout(0.3)(x)
    assert calls == [(0.3, True)]
