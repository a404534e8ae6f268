"""Products in 8 bits against exact ones, up to the format's rounding; on a CPU in Triton's interpreter.

`tests/gpu/test_float8.py` runs the same checks on a GPU.
"""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from anyres.grid import Grid
from anyres.model.config import NiTConfig
from anyres.model.elementwise import Branch, Elementwise, elementwise_for
from anyres.model.float8 import Float8Weights, Rows, product
from anyres.model.nit import NiT
from anyres.packing.pack import PackLayout, PackShape

pytest.importorskip("triton")
from anyres.model.kernels import float8 as kernels

GRIDS = [Grid(1, 1), Grid(5, 7), Grid(8, 8), Grid(3, 11)]
PADDED = PackShape(tokens=151, images=6, max_seqlen=80)


@pytest.mark.parametrize("width", [16, 48, 80])
def test_rows(width):
    x = torch.randn(13, width) * torch.logspace(-12, 12, 13)[:, None]
    x[3] = 0
    rows = kernels.rows_of(x)
    print(((rows.exact() - x).norm(dim=1) / x.norm(dim=1)))
    assert torch.equal(rows.exact()[3], torch.zeros(width))
    
def test_net():
    config = NiTConfig(channels=4, hidden_size=32, depth=2, num_heads=2, num_classes=3)
    plain = NiT(config, attention="sdpa", kernels="eager")
    for weight in plain.parameters():
        nn.init.normal_(weight, std=0.2)
    fused = copy.deepcopy(plain)
    fused.use_float8(training=True)
    layout = PackLayout.from_grids(GRIDS, PADDED)
    tokens, t = torch.randn(layout.shape.tokens, 4), torch.rand(layout.shape.images)
    labels = torch.randint(4, (layout.shape.images,))
    upstream = torch.randn_like(tokens) * layout.is_real()[:, None]
    outs=[]
    for network in (plain, fused):
        outs.append(network(tokens, t, labels, layout))
        (outs[-1] * upstream).sum().backward()
    print((outs[0]-outs[1]).norm()/outs[0].norm())
    for (name, one), other in zip(plain.named_parameters(), fused.parameters(), strict=True):
        print(name, (one.grad - other.grad).norm() / one.grad.norm())
    with torch.no_grad():
        o=fused(tokens, t, labels, layout)
        print((outs[1]-o).norm()/outs[0].norm())
    assert 0
