"""Solvers of dx/dt = v(x, t) from t = 1 (noise) to t = 0 (data): pure functions.

A solver knows a velocity, a state, the times of its steps and, for a stochastic one, a source of noise. It knows
nothing of networks, packs or guidance. The state keeps its dtype; use float64 where the device has it.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

from ..shapes import Float, Tensor
from .path import Path

State = Float[Tensor, "tokens values"]


@runtime_checkable
class Velocity(Protocol):
    """A velocity field.

    Besides the time of the evaluation it is told the time at which the solver's step began, since guidance
    holds for whole steps.
    """

    def __call__(self, x: Tensor, t: float, step_start: float) -> Tensor:
        """The velocity of state x at time t."""
        ...


StepCallback = Callable[[int, Tensor], None]


def euler(velocity: Velocity, x: State, times: Sequence[float], on_step: StepCallback | None = None) -> State:
    """Euler's method, of order 1: x ← x + (t' − t)·v(x, t).

    Args:
        velocity: the field.
        x: the state at times[0].
        times: of the steps' ends, from 1 to 0.
        on_step: called after each step with its number, from 0, and the new state.
    """
    for step, (t, t_next) in enumerate(pairwise(times)):
        x = x + (t_next - t) * velocity(x, t, t)
        _report(on_step, step, x)
    return x


def heun(velocity: Velocity, x: State, times: Sequence[float], on_step: StepCallback | None = None) -> State:
    """Heun's method, of order 2: the mean of the velocities at both ends; the last step is Euler's.

    Arguments as for `euler`. Two evaluations a step, one in the last.
    """
    last = len(times) - 2
    for step, (t, t_next) in enumerate(pairwise(times)):
        v = velocity(x, t, t)
        guess = x + (t_next - t) * v
        x = guess if step == last else x + (t_next - t) * 0.5 * (v + velocity(guess, t_next, t))
        _report(on_step, step, x)
    return x


def euler_maruyama(
    velocity: Velocity,
    x: State,
    times: Sequence[float],
    noise: Callable[[int], Tensor],
    path: Path,
    on_step: StepCallback | None = None,
) -> State:
    """Euler–Maruyama on the reverse SDE with diffusion w(t) = 2t, whose marginals are the flow's (arXiv 2401.08740).

    dx = [v − ½·w·s]·dt + √w·dW, with s the score; the last step has no noise.

    Args:
        velocity: the field.
        x: the state at times[0].
        times: of the steps' ends, from 1 to 0; see `flow.time.stochastic_times`.
        noise: step number → standard normal draws of the state's shape.
        path: gives the score from the velocity.
        on_step: called after each step with its number, from 0, and the new state.
    """
    last = len(times) - 2
    for step, (t, t_next) in enumerate(pairwise(times)):
        v = velocity(x, t, t)
        diffusion = 2 * t
        drift = v - 0.5 * diffusion * path.score(x, v, t)
        x = x + (t_next - t) * drift
        if step != last:
            x = x + math.sqrt(diffusion * abs(t_next - t)) * noise(step).to(x)
        _report(on_step, step, x)
    return x


def _report(on_step: StepCallback | None, step: int, x: Tensor) -> None:
    if on_step is not None:
        on_step(step, x)
