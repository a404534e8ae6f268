"""Addressed randomness: a draw is a function of its address alone."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anyres.noise import Address, generator, key, normal, normal_of, uniform

parts = st.one_of(st.integers(-(2**70), 2**70), st.text(max_size=5))
addresses = st.lists(parts, max_size=4).map(tuple)


def keyed(shape: tuple[int, ...], *address: Address) -> torch.Tensor:
    return normal_of(key(*address), shape)


@pytest.mark.parametrize("draw", [normal, uniform, keyed])
def test_an_address_is_its_numbers_whatever_was_drawn_before(draw) -> None:
    first = draw((3, 5), 7, "noise", 2)
    normal((1000,), 7, "noise", 1)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - ambient randomness must not matter
    assert torch.equal(draw((3, 5), 7, "noise", 2), first)
    assert first.shape == (3, 5)
    assert first.dtype == torch.float32


def test_ambient_randomness_is_left_alone() -> None:
    state, old = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    normal((10,), 1)
    uniform((10,), 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == old).all()  # noqa: NPY002


def test_the_numbers_stay_those_recorded_once() -> None:
    """A run that was begun elsewhere, or with an older version, must go on with the same noise."""
    assert generator(1, "noise", 2).integers(2**63, size=2).tolist() == [
        8281634823744785261,
        1388736766823220316,
    ]
    assert keyed((4,), 1, "noise", 2).tolist() == pytest.approx(
        [2.0522618293762207, -1.532898187637329, 0.6196957230567932, 0.8593612909317017]
    )


def test_a_keyed_value_does_not_depend_on_how_many_are_drawn() -> None:
    many = keyed((7, 5), 1, "noise").flatten()
    for count in (1, 2, 9, 34):
        assert torch.equal(keyed((count,), 1, "noise"), many[:count])


@given(addresses, addresses)
def test_only_equal_addresses_share_numbers(one: tuple, other: tuple) -> None:
    draws = [generator(*address).integers(2**63, size=2).tolist() for address in (one, other)]
    assert (draws[0] == draws[1]) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "b"), ("ab",)),
        (("1", 2), (1, "2")),
        ((1, 2), (12,)),
        ((1, 2), (2, 1)),
        ((1,), (1, "")),
        ((1,), (-1,)),
        (("a;str:b",), ("a", "b")),
        (("a;str:1:b",), ("a", "b")),
        (("a", "b"), ("a;str:1:b;",)),
        (("ab", "c"), ("a", "bc")),
        ((0,), ()),
    ],
)
def test_addresses_that_read_alike_do_not_collide(one: tuple, other: tuple) -> None:
    assert not torch.equal(normal((4,), *one), normal((4,), *other))


def test_neighbouring_addresses_are_uncorrelated() -> None:
    draws = torch.stack([normal((4096,), 0, "noise", step) for step in range(6)])
    products = draws @ draws.T / 4096
    for i, j in itertools.combinations(range(6), 2):
        assert abs(products[i, j]) < 5 / 64  # five standard deviations of 1/√4096


@pytest.mark.float64
@pytest.mark.parametrize("draw", [normal, keyed])
def test_normal_draws_have_the_moments_of_a_standard_normal(draw) -> None:
    x = draw((200, 1000), 3, "moments").double()
    deviation = x.numel() ** -0.5
    assert abs(x.mean()) < 5 * deviation
    assert abs(x.pow(2).mean() - 1) < 5 * deviation * 2**0.5
    assert abs(x.pow(3).mean()) < 5 * deviation * 15**0.5
    assert abs(x.pow(4).mean() - 3) < 5 * deviation * 96**0.5
    assert abs(x[:, :-1] * x[:, 1:]).mean() > 0.1  # not constant
    assert abs((x[:, :-1] * x[:, 1:]).mean()) < 5 * deviation


def test_uniform_draws_fill_the_half_open_unit_interval_evenly() -> None:
    x = uniform((200_000,), 3, "moments")
    assert x.min() >= 0
    assert x.max() < 1
    counts = torch.histc(x, bins=20, min=0, max=1)
    assert (counts - 10_000).abs().max() < 5 * (200_000 * 0.05 * 0.95) ** 0.5
