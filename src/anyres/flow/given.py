"""Tokens whose data are given: each stays on its own path until a time of its own, then the solver makes it.

So one mechanism does image to image (all tokens are given until the strength), inpainting and outpainting (some are
given to the end), and an image from noise alone (none is ever). Solvers do not see it: a given token's velocity is that
of its path, whatever the network says, and carries it from its noise to its data.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from ..shapes import Float, Tensor
from .path import Path
from .solvers import Velocity

SAME_TIME = 1e-6  # 1 − 7/10 is not the 0.3 that was asked for


@dataclass(frozen=True, eq=False, kw_only=True)
class GivenTokens:
    """What is known of a pack's tokens.

    Attributes:
        data: x₀ of each; of no meaning where a token is never given.
        release: t of each from which on the solver makes it: 1, at once; 0, never.
    """

    data: Float[Tensor, "tokens values"]
    release: Float[Tensor, "tokens 1"]

    @cached_property
    def first_release(self) -> float:
        """The greatest t at which any token is released."""
        return float(self.release.max())

    @cached_property
    def last_release(self) -> float:
        """The least t at which any token is released; 0 where some never are."""
        return float(self.release.min())

    def finished(self, state: Float[Tensor, "tokens values"]) -> Float[Tensor, "tokens values"]:
        """A solver's result, with the tokens that were given to the end exactly as they were given."""
        return torch.where(self.release > 0, state, self.data)


@dataclass(frozen=True, eq=False, kw_only=True)
class PartlyGivenVelocity:
    """A `Velocity` in which given tokens follow their path.

    Their velocity is the path's own for known data, u_t(x | x₀) (arXiv 2210.02747, theorem 3). On the linear path the
    solvers of the ODE then keep them at (1 − t)·x₀ + t·ε, as if they were put back there after each step (the
    imputation of arXiv 2011.13456); and the SDE of this velocity has the same marginals. Where no token is free yet,
    the network is not asked.

    Whether a token is free is judged at the start of a step, as guidance is, so that a step is of one field.

    Attributes:
        velocity: of the free tokens; it sees all.
        path: that the network was trained on.
        given: which tokens are given, until when.
    """

    velocity: Velocity
    path: Path
    given: GivenTokens

    def __call__(self, x: Tensor, t: float, step_start: float) -> Tensor:
        """The velocity of state x at time t > 0."""
        start = step_start - SAME_TIME
        if start > self.given.first_release:
            return self.path.velocity_given(x, self.given.data, t)
        made = self.velocity(x, t, step_start)
        if start <= self.given.last_release:
            return made
        return torch.where(self.given.release < start, self.path.velocity_given(x, self.given.data, t), made)
