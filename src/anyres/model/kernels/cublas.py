"""Products by cuBLASLt: what torch does not hand on of the library that it multiplies with.

*A GELU in the product.* A product's epilogue works on its tiles while they are in registers. Forward it adds the bias,
keeps the sum for the backward, and applies the GELU; backward it multiplies by the GELU's slope. Each saves a pass over
the widest tensors of the network.

*A choice of algorithms.* The library advises several for a product, and the first is not always the fastest: within
`choosing` each is timed on the product at hand. Only those are asked for that add up in one go, so that all give the
same bits, and it does not matter to a result which one is chosen. Products too small to fill the device are left to
torch, where the library may split their sums.

Matrices are row-major here; the library's are column-major, so that it is asked for the transposed product.
"""

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# cublasLt.h and library_types.h
_LIBRARIES = ("libcublasLt.so.13", "libcublasLt.so.12")  # of the CUDA versions that torch is built with
_FLOAT32, _COMPUTE_FLOAT32 = 0, 68
_MOST_WORKSPACE, _REDUCTIONS = 1, 3  # preferences
_TRANSPOSE_A, _TRANSPOSE_B, _EPILOGUE, _BIAS, _BEFORE, _BEFORE_STRIDE = 3, 4, 7, 8, 11, 12
_KINDS = {torch.float16: 2, torch.bfloat16: 14}
_PLAIN, _ADD_BIAS, _GELU_BIAS, _GELU_BIAS_KEEPING, _GELU_SLOPE = 1, 4, 36, 164, 192  # epilogues

WORKSPACE = 32 * 2**20  # bytes at most, as the library advises for Hopper
ADVISED = 8  # algorithms that the library is asked for
REPEATS = 5  # of a product, to time an algorithm
TILE = 128**2  # of a product's values, made by one multiprocessor at a time

_choosing = False


def usable(x: Tensor, *weights: Tensor) -> bool:
    """Whether the functions take such tokens, with such weights and biases."""
    # under autocast dtypes may differ: the products of torch convert, the library's do not
    alike = all(weight.dtype == x.dtype for weight in weights)
    widths = [x.shape[1], *(len(weight) for weight in weights)]
    return x.is_cuda and x.dtype in _KINDS and alike and not any(w % 8 for w in widths) and _library() is not None


@contextmanager
def choosing() -> Iterator[None]:
    """Around a pass that is to be repeated: each of its products takes the fastest algorithm from then on."""
    global _choosing  # of all products at once, wherever in a network they are
    before, _choosing = _choosing, True
    try:
        yield
    finally:
        _choosing = before


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(tokens, inputs), (outputs, inputs), (outputs,) → x·weightᵀ (+ bias)."""
    (tokens, inputs), outputs = x.shape, len(weight)
    if not _fills(x.device, tokens * outputs):
        return F.linear(x, weight, bias)
    out = torch.empty(tokens, outputs, device=x.device, dtype=x.dtype)
    epilogue = _PLAIN if bias is None else _ADD_BIAS
    _multiply(_Shape(outputs, tokens, inputs, epilogue, transpose_a=True), weight, x, out, bias=bias)
    return out


def input_gradient(d_out: Tensor, weight: Tensor) -> Tensor:
    """(tokens, outputs), (outputs, inputs) → that of `linear`'s x, (tokens, inputs)."""
    (tokens, outputs), inputs = d_out.shape, weight.shape[1]
    if not _fills(d_out.device, tokens * inputs):
        return d_out @ weight
    d_x = torch.empty(tokens, inputs, device=d_out.device, dtype=d_out.dtype)
    _multiply(_Shape(inputs, tokens, outputs, _PLAIN), weight, d_out, d_x)
    return d_x


def weight_gradient(d_out: Tensor, x: Tensor) -> Tensor:
    """(tokens, outputs), (tokens, inputs) → that of `linear`'s weight, (outputs, inputs)."""
    (tokens, outputs), inputs = d_out.shape, x.shape[1]
    if not _fills(x.device, outputs * inputs):
        return d_out.t() @ x
    d_weight = torch.empty(outputs, inputs, device=x.device, dtype=x.dtype)
    _multiply(_Shape(inputs, outputs, tokens, _PLAIN, transpose_b=True), x, d_out, d_weight)
    return d_weight


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(tokens, inputs), (outputs, inputs), (outputs,) → gelu(x·weightᵀ + bias)."""
    (tokens, inputs), outputs = x.shape, len(weight)
    if not _fills(x.device, tokens * outputs):
        return torch.ops.aten._addmm_activation.default(bias, x, weight.t(), use_gelu=True)
    out = torch.empty(tokens, outputs, device=x.device, dtype=x.dtype)
    _multiply(_Shape(outputs, tokens, inputs, _GELU_BIAS, transpose_a=True), weight, x, out, bias=bias)
    return out


def linear_gelu_keeping(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and what it is the GELU of."""
    (tokens, inputs), outputs = x.shape, len(weight)
    out, before = torch.empty(2, tokens, outputs, device=x.device, dtype=x.dtype).unbind(0)
    shape = _Shape(outputs, tokens, inputs, _GELU_BIAS_KEEPING, transpose_a=True)
    _multiply(shape, weight, x, out, bias=bias, before=before)
    return out, before


def gelu_gradient(d_out: Tensor, weight: Tensor, before: Tensor) -> Tensor:
    """(tokens, width) gradient of gelu(before)·weightᵀ, (width, inner) → that of `before`, (tokens, inner)."""
    (tokens, width), inner = d_out.shape, before.shape[1]
    d_before = torch.empty_like(before)
    shape = _Shape(inner, tokens, width, _GELU_SLOPE)
    _multiply(shape, weight, d_out, d_before, before=before)
    return d_before


def _fills(device: torch.device, values: int) -> bool:
    """Whether a product of so many values has a tile for each multiprocessor."""
    return values >= TILE * torch.cuda.get_device_properties(device).multi_processor_count


class _Shape(NamedTuple):
    """A product as the library sees it: a (rows, inner) times b (inner, columns), column-major."""

    rows: int
    columns: int
    inner: int
    epilogue: int
    transpose_a: bool = False
    transpose_b: bool = False


class _Plan:
    """The library's description of a product, the algorithms that it advises, and the one that is taken."""

    def __init__(self, shape: _Shape, kind: int, handle: c_void_p) -> None:
        self.operation = c_void_p()
        _call("cublasLtMatmulDescCreate", ctypes.byref(self.operation), _COMPUTE_FLOAT32, _FLOAT32)
        self.set(_TRANSPOSE_A, c_int32(shape.transpose_a))
        self.set(_TRANSPOSE_B, c_int32(shape.transpose_b))
        self.set(_EPILOGUE, c_int32(shape.epilogue))
        if shape.epilogue in (_GELU_BIAS_KEEPING, _GELU_SLOPE):
            self.set(_BEFORE_STRIDE, c_int64(shape.rows))
        self.a = _matrix(kind, shape.rows, shape.inner, transposed=shape.transpose_a)
        self.b = _matrix(kind, shape.inner, shape.columns, transposed=shape.transpose_b)
        self.out = _matrix(kind, shape.rows, shape.columns)
        self.algorithms = self._advised(handle)
        self.algorithm, self.chosen = self.algorithms[0], False

    def _advised(self, handle: c_void_p) -> list["_Advice"]:
        preference, found, advice = c_void_p(), c_int(), (_Advice * ADVISED)()
        _call("cublasLtMatmulPreferenceCreate", ctypes.byref(preference))
        # no sums in parts, which have other bits
        for attribute, value in ((_MOST_WORKSPACE, c_size_t(WORKSPACE)), (_REDUCTIONS, c_uint32(0))):
            size = c_size_t(ctypes.sizeof(value))
            _call("cublasLtMatmulPreferenceSetAttribute", preference, attribute, ctypes.byref(value), size)
        _call(
            "cublasLtMatmulAlgoGetHeuristic", handle, self.operation, self.a, self.b, self.out, self.out, preference,
            ADVISED, advice, ctypes.byref(found),
        )  # fmt: skip
        _call("cublasLtMatmulPreferenceDestroy", preference)
        return list(advice[: found.value])

    def choose(self, multiply: Callable[["_Advice"], None]) -> None:
        """Take the algorithm that is fastest, by what does the product with one."""
        times = []
        for algorithm in self.algorithms:
            multiply(algorithm)  # the first time a kernel is loaded
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(REPEATS):
                multiply(algorithm)
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        self.algorithm, self.chosen = self.algorithms[times.index(min(times))], True

    def set(self, attribute: int, value: Any) -> None:
        _call(
            "cublasLtMatmulDescSetAttribute",
            self.operation,
            attribute,
            ctypes.byref(value),
            c_size_t(ctypes.sizeof(value)),
        )


class _Advice(ctypes.Structure):
    """`cublasLtMatmulHeuristicResult_t`; it begins with the algorithm."""

    _fields_ = (
        ("algorithm", c_uint64 * 8),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


def _multiply(
    shape: _Shape, a: Tensor, b: Tensor, out: Tensor, *, bias: Tensor | None = None, before: Tensor | None = None
) -> None:
    a, b = a.contiguous(), b.contiguous()
    plan = _plan(shape, _KINDS[a.dtype], a.device.index)
    if bias is not None:
        plan.set(_BIAS, c_void_p(bias.data_ptr()))
    if before is not None:
        plan.set(_BEFORE, c_void_p(before.data_ptr()))
    handle, stream = _handle(a.device.index), c_void_p(torch.cuda.current_stream(a.device).cuda_stream)
    workspace = torch.empty(WORKSPACE, device=a.device, dtype=torch.uint8)
    one, zero = c_float(1), c_float(0)

    def multiply(algorithm: _Advice) -> None:
        _call(
            "cublasLtMatmul", handle, plan.operation, ctypes.byref(one),
            c_void_p(a.data_ptr()), plan.a, c_void_p(b.data_ptr()), plan.b, ctypes.byref(zero),
            c_void_p(out.data_ptr()), plan.out, c_void_p(out.data_ptr()), plan.out, ctypes.byref(algorithm),
            c_void_p(workspace.data_ptr()), c_size_t(WORKSPACE), stream,
        )  # fmt: skip

    if _choosing and not plan.chosen:
        plan.choose(multiply)
    multiply(plan.algorithm)


@functools.cache
def _plan(shape: _Shape, kind: int, device: int) -> _Plan:
    return _Plan(shape, kind, _handle(device))


@functools.cache
def _handle(device: int) -> c_void_p:
    handle = c_void_p()
    with torch.cuda.device(device):
        _call("cublasLtCreate", ctypes.byref(handle))
    return handle


def _matrix(kind: int, rows: int, columns: int, *, transposed: bool = False) -> c_void_p:
    if transposed:
        rows, columns = columns, rows
    matrix = c_void_p()
    _call(
        "cublasLtMatrixLayoutCreate", ctypes.byref(matrix), kind, c_uint64(rows), c_uint64(columns), c_int64(rows)
    )  # fmt: skip
    return matrix


@functools.cache
def _library() -> Any:
    """The library that torch has loaded, or None."""
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _call(function: str, *arguments: Any) -> None:
    status = getattr(_library(), function)(*arguments)
    if status:
        raise RuntimeError(f"{function} failed with status {status}")
