"""Gradients summed over processes in buckets, as a recorded step has them; `tests/gpu/test_many_gpus.py` records."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from anyres.ranks import Ranks
from anyres.train import exchange
from anyres.train.exchange import Exchange
from tests.distributed.processes import together
from tests.model.helpers import random_model, small_config


@pytest.mark.parametrize("bucket", [1, 10_000, 2**26])
def test_what_is_left_is_the_sum_of_all_gradients_of_the_step(bucket: int) -> None:
    """Of two passes in each process, the first without the exchange; a weight that nothing used has none."""
    found = together(2, exchanged, bucket)
    assert found[0]["sent"] == found[1]["sent"]
    assert (found[0]["sent"] == 1) == (bucket == 2**26)
    for name, own in found[0]["own"].items():
        expected = own + found[1]["own"][name]
        for one in found:
            np.testing.assert_allclose(one["summed"][name], expected, rtol=1e-5, atol=1e-7)
    assert found[0]["half"] == found[1]["half"]
    assert found[0]["half"] == torch.tensor(found[0]["half"]).bfloat16().tolist()


def exchanged(bucket: int) -> dict[str, Any]:
    exchange.BUCKET = bucket
    ranks = Ranks.from_environment()
    ranks.wait()
    model = random_model(small_config())
    spare = torch.nn.Parameter(torch.zeros(3))
    model.register_parameter("spare", spare)
    passes = Exchange(model)

    def backward(seed: int) -> None:
        torch.manual_seed(seed)
        sum(
            (weight * torch.randn_like(weight)).sum() for weight in model.parameters() if weight is not spare
        ).backward()

    seeds = (10 * ranks.rank, 10 * ranks.rank + 1)
    for seed in seeds:
        backward(seed)
    own = gradients(model)
    model.zero_grad()
    sent = watched(passes)
    backward(seeds[0])
    with passes.during():
        backward(seeds[1])
    assert spare.grad is None
    summed, count = gradients(model), len(sent)
    model.to(torch.bfloat16).zero_grad()
    half = Exchange(model)
    with half.during():
        backward(seeds[0])
    result = {"own": own, "summed": summed, "sent": count, "half": model.patch_embedding.bias.grad.tolist()}
    dist.destroy_process_group()
    return result


def watched(passes: Exchange) -> list[int]:
    """How many tensors each message has."""
    sent, honest = [], passes._send

    def send() -> None:
        if passes._ready:
            sent.append(len(passes._ready))
        honest()

    passes._send = send
    return sent


def gradients(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: weight.grad.numpy().copy() for name, weight in model.named_parameters() if weight.grad is not None}
