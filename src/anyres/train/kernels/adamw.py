"""The gradient's norm, AdamW and the average of the weights over all parameters at once.

Two passes: one reads the gradient for its norm; the other reads gradient, weight, both moments and the average once and
writes all but the gradient, and the weight once more as the network computes with it. Between them one program decides
whether the step is applied, and how far the gradient is clipped, so that nothing waits for the host. Parameters stay
where they are: kernels find them through a table of addresses.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK, BLOCK = 32768, 1024  # values of a program, and those that it takes at once
KINDS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}
COLUMNS = 7  # of the table of addresses: the fields of `Parameter`


class Parameter(NamedTuple):
    """What belongs to one parameter; contiguous, and all but the gradient from a multiple of 16 bytes on.

    Of a sharded one it is this process's part, which may be empty.

    Attributes:
        weight: float32, as all without a word.
        first: moment.
        second: moment.
        average: of the weights.
        step: how often it was updated, ().
        used: the weight that the network computes with: itself, or a copy in another dtype.
        gradient: of `used`, in its dtype.
    """

    weight: Tensor
    first: Tensor
    second: Tensor
    average: Tensor
    step: Tensor
    used: Tensor
    gradient: Tensor


class Table(NamedTuple):
    """Where the parameters are.

    Attributes:
        addresses: (parameters, COLUMNS) int64.
        sizes: (parameters,) int64, in values.
        chunks: (chunks, 2) int32: parameter, number of the chunk in it.
        dtype: of `Parameter.used` and `gradient`.
        step: bytes that the address of every gradient is a multiple of: 16 if it can be; FSDP2 lays parts end to end.
    """

    addresses: Tensor
    sizes: Tensor
    chunks: Tensor
    dtype: torch.dtype
    step: int


class Verdict(NamedTuple):
    """What the second pass is told, on the device, float32 () each.

    Attributes:
        norm: of the gradient, before clipping.
        finite: 1 where the step is applied, else 0.
        scale: what the gradient is multiplied by.
    """

    norm: Tensor
    finite: Tensor
    scale: Tensor


class Rates(NamedTuple):
    """Of one step: learning rate, decay of both moments, ε, weight decay, decay of the average."""

    learning_rate: float
    first_decay: float
    second_decay: float
    eps: float
    weight_decay: float
    average_decay: float


def addresses(parameters: Sequence[Parameter]) -> list[list[int]]:
    """The table's rows, on the host."""
    return [[tensor.data_ptr() for tensor in parameter] for parameter in parameters]


def tabulate(parameters: Sequence[Parameter], device: torch.device, before: Table | None = None) -> Table:
    """The table on the device; of the same parameters elsewhere in memory, only their addresses are new."""
    rows, dtype = addresses(parameters), parameters[0].used.dtype
    step = 16 if all(row[-1] % 16 == 0 for row in rows) else dtype.itemsize
    places = torch.tensor(rows, dtype=torch.int64).to(device)
    if before is not None and len(before.sizes) == len(rows):
        return before._replace(addresses=places, step=step)
    sizes = [parameter.weight.numel() for parameter in parameters]
    chunks = [(number, chunk) for number, size in enumerate(sizes) for chunk in range(triton.cdiv(size, CHUNK))]
    return Table(
        places,
        torch.tensor(sizes, dtype=torch.int64).to(device),
        torch.tensor(chunks, dtype=torch.int32).reshape(-1, 2).to(device),
        dtype,
        step,
    )


def squares(table: Table) -> Tensor:
    """The gradient's squares, summed a chunk: (chunks,), float32."""
    partial = torch.empty(len(table.chunks), device=table.chunks.device, dtype=torch.float32)
    if len(partial):
        _sum_squares[(len(partial),)](
            *table[:3], partial,
            KIND=KINDS[table.dtype], STEP=table.step, COLUMNS=COLUMNS, CHUNK=CHUNK, BLOCK=BLOCK, num_warps=8,
        )  # fmt: skip
    return partial


def judge(table: Table, squares: Tensor, loss: Tensor, clip: float) -> Verdict:
    """The gradient's norm, whether it and the loss are finite, the clipping; counts the step where it is applied.

    Args:
        table: the parameters.
        squares: sums of the gradient's squares that together are all of it.
        loss: which must be finite, too.
        clip: greatest norm.
    """
    verdict = torch.empty(3, device=loss.device, dtype=torch.float32)
    _judge[(1,)](
        squares, len(squares), loss, table.addresses, len(table.sizes), verdict, clip,
        COLUMNS=COLUMNS, BLOCK=4096, num_warps=8,
    )  # fmt: skip
    return Verdict(*verdict.unbind(0))


def update(table: Table, verdict: Verdict, rates: Rates) -> None:
    """AdamW (arXiv 1711.05101) and the average, in place, where the verdict lets it be applied."""
    if not len(table.chunks):
        return
    _update[(len(table.chunks),)](
        *table[:3], verdict.finite, verdict.scale, *rates,
        KIND=KINDS[table.dtype], STEP=table.step, COPY=table.dtype != torch.float32,
        COLUMNS=COLUMNS, CHUNK=CHUNK, BLOCK=BLOCK, num_warps=8,
    )  # fmt: skip


@triton.jit
def _at(addresses, parameter, column: tl.constexpr, KIND: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr = 16):
    """The address in a column of the table, a multiple of so many bytes."""
    address = tl.load(addresses + parameter * COLUMNS + column)
    return tl.multiple_of(address.to(tl.pointer_type(KIND)), STEP)


@triton.jit
def _sum_squares(
    addresses, sizes, chunks, partial,
    KIND: tl.constexpr, STEP: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    parameter, start = tl.load(chunks + 2 * chunk), tl.load(chunks + 2 * chunk + 1).to(tl.int64) * CHUNK
    gradient = _at(addresses, parameter, 6, KIND, COLUMNS, STEP)
    size = tl.load(sizes + parameter)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, CHUNK, BLOCK):
        at = start + first + tl.arange(0, BLOCK)
        g = tl.load(gradient + at, mask=at < size, other=0.0).to(tl.float32)
        total += g * g
    tl.store(partial + chunk, tl.sum(total, axis=0))


@triton.jit
def _judge(partial, count, loss, addresses, parameters, verdict, clip, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, BLOCK):
        at = first + tl.arange(0, BLOCK)
        total += tl.load(partial + at, mask=at < count, other=0.0)
    norm = tl.sqrt(tl.sum(total, axis=0))
    of_loss = tl.load(loss)
    # a difference with itself is 0 unless it is infinite or no number
    finite = tl.where((norm - norm == 0) & (of_loss - of_loss == 0), 1.0, 0.0)
    tl.store(verdict, norm)
    tl.store(verdict + 1, finite)
    tl.store(verdict + 2, tl.minimum(1.0, clip / (norm + 1e-6)))  # the ε of torch's clipping
    for first in range(0, parameters, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < parameters
        steps = tl.load(addresses + at * COLUMNS + 4, mask=inside, other=0).to(tl.pointer_type(tl.float32))
        tl.store(steps, tl.load(steps, mask=inside, other=0.0) + finite, mask=inside)


@triton.jit
def _update(
    addresses, sizes, chunks, finite, scale,
    learning_rate, first_decay, second_decay, eps, weight_decay, average_decay,
    KIND: tl.constexpr, STEP: tl.constexpr, COPY: tl.constexpr,
    COLUMNS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    if tl.load(finite) != 0.0:
        chunk = tl.program_id(0)
        parameter, start = tl.load(chunks + 2 * chunk), tl.load(chunks + 2 * chunk + 1).to(tl.int64) * CHUNK
        weight = _at(addresses, parameter, 0, tl.float32, COLUMNS)
        first, second = (
            _at(addresses, parameter, 1, tl.float32, COLUMNS),
            _at(addresses, parameter, 2, tl.float32, COLUMNS),
        )
        average = _at(addresses, parameter, 3, tl.float32, COLUMNS)
        used = _at(addresses, parameter, 5, KIND, COLUMNS)
        gradient = _at(addresses, parameter, 6, KIND, COLUMNS, STEP)
        size = tl.load(sizes + parameter)
        times = tl.load(scale)
        step = tl.load(_at(addresses, parameter, 4, tl.float32, COLUMNS))
        # the moments start at zero: 1 − β^step is what they have seen of the gradient
        rate = learning_rate / (1 - tl.exp2(step * tl.log2(first_decay)))
        spread = 1 / tl.sqrt(1 - tl.exp2(step * tl.log2(second_decay)))
        for begin in range(0, CHUNK, BLOCK):
            at = start + begin + tl.arange(0, BLOCK)
            here = at < size
            g = tl.load(gradient + at, mask=here, other=0.0).to(tl.float32) * times
            m = tl.load(first + at, mask=here, other=0.0)
            v = tl.load(second + at, mask=here, other=0.0)
            w = tl.load(weight + at, mask=here, other=0.0)
            a = tl.load(average + at, mask=here, other=0.0)
            m += (1 - first_decay) * (g - m)
            v = second_decay * v + (1 - second_decay) * g * g
            w -= learning_rate * weight_decay * w
            w -= rate * m / (tl.sqrt(v) * spread + eps)
            tl.store(first + at, m, mask=here)
            tl.store(second + at, v, mask=here)
            tl.store(weight + at, w, mask=here)
            if COPY:
                tl.store(used + at, w.to(KIND), mask=here)
            tl.store(average + at, a + (1 - average_decay) * (w - a), mask=here)
