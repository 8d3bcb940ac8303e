"""A flow is undone by its reverse, starts as a permutation, and shares weights where it is told to."""

import pytest
import torch

from modules.nn.flows import CouplingFlow
from modules.nn.transformer import CausalTransformer, TransformerSpec
from modules.nn.wavenet import WaveNet

SPEC = TransformerSpec(channels=8, filter_channels=12, n_heads=2, n_layers=2, kernel_size=5, p_dropout=0.0)
NETWORKS = {
    "wavenet": lambda: WaveNet(8, 5, 3, gin_channels=4),
    "depthwise": lambda: WaveNet(8, 5, 3, gin_channels=4, depthwise=True),
    "transformer": lambda: CausalTransformer(SPEC, gin_channels=4),
}


def make_flow(network: str, share: bool) -> CouplingFlow:
    flow = CouplingFlow(6, 8, 4, NETWORKS[network], share)
    for coupling in flow.flows[::2]:
        torch.nn.init.normal_(coupling.post.weight)
        torch.nn.init.normal_(coupling.post.bias)
    return flow


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("g_frames", [1, 9])
def test_the_reverse_undoes_the_flow(network, share, g_frames):
    flow = make_flow(network, share)
    mask = torch.arange(9)[None, None] < torch.tensor([9, 6])[:, None, None]
    x, g = torch.randn(2, 6, 9) * mask, torch.randn(2, 4, g_frames)
    there = flow(x, mask, g)
    assert (there - x).abs().max() > 0.1 and not there[1, :, 6:].any()
    torch.testing.assert_close(flow(there, mask, g, reverse=True), x, atol=1e-4, rtol=1e-4)


def test_a_fresh_flow_moves_nothing_but_the_order_of_channels():
    flow, x = CouplingFlow(6, 8, 4, NETWORKS["wavenet"]), torch.randn(1, 6, 5)
    assert torch.equal(flow(x, None, torch.randn(1, 4, 1)), x)


def test_a_shared_network_is_stored_under_every_name_and_counted_once():
    shared, own = make_flow("wavenet", True), make_flow("wavenet", False)
    per_network = len(list(NETWORKS["wavenet"]().parameters()))
    assert len(shared.state_dict()) == len(own.state_dict()) + per_network
    assert len(list(own.parameters())) - len(list(shared.parameters())) == 3 * per_network
    assert shared.flows[0].enc is shared.flows[6].enc is shared.wn
