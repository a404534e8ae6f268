"""Products with a GELU in them, by cuBLASLt: what torch does not hand on of the library that it multiplies with.

A product's epilogue works on its tiles while they are in registers. Forward it adds the bias, keeps the sum for the
backward, and applies the GELU; backward it multiplies by the GELU's slope. The gradient of a bias is made by the
product of the weight's. Each saves a pass over the widest tensors of the network.

Matrices are row-major here; the library's are column-major, so that it is asked for the transposed product.
"""

import ctypes
import functools
from ctypes import c_float, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from typing import Any, NamedTuple

import torch
from torch import Tensor

# cublasLt.h and library_types.h
_LIBRARIES = ("libcublasLt.so.13", "libcublasLt.so.12")  # of the CUDA versions that torch is built with
_FLOAT32, _COMPUTE_FLOAT32, _WORKSPACE_PREFERENCE = 0, 68, 1
_TRANSPOSE_A, _TRANSPOSE_B, _EPILOGUE, _BIAS, _BEFORE, _BEFORE_STRIDE = 3, 4, 7, 8, 11, 12
_KINDS = {torch.float16: 2, torch.bfloat16: 14}
_GELU_BIAS_KEEPING, _GELU_SLOPE, _BIAS_GRADIENT = 164, 192, 512

WORKSPACE = 32 * 2**20  # bytes, as the library advises for Hopper


def usable(x: Tensor, width: int) -> bool:
    """Whether the functions take such tokens, to or from vectors of this width."""
    return x.is_cuda and x.dtype in _KINDS and x.shape[1] % 8 == 0 and width % 8 == 0 and _library() is not None


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens, inputs), (outputs, inputs), (outputs,) → gelu(x·weightᵀ + bias), and what it is the GELU of."""
    (tokens, inputs), outputs = x.shape, len(weight)
    out, before = torch.empty(2, tokens, outputs, device=x.device, dtype=x.dtype).unbind(0)
    shape = _Shape(outputs, tokens, inputs, transpose_a=True, epilogue=_GELU_BIAS_KEEPING)
    _multiply(shape, weight, x, out, bias=bias, before=before)
    return out, before


def gelu_gradient(d_out: Tensor, weight: Tensor, before: Tensor) -> Tensor:
    """(tokens, width) gradient of gelu(before)·weightᵀ, (width, inner) → that of `before`, (tokens, inner)."""
    (tokens, width), inner = d_out.shape, before.shape[1]
    d_before = torch.empty_like(before)
    shape = _Shape(inner, tokens, width, epilogue=_GELU_SLOPE)
    _multiply(shape, weight, d_out, d_before, before=before)
    return d_before


def weight_gradients(d_out: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens, outputs), (tokens, inputs) → gradients of the weight, (outputs, inputs), and of the bias, (outputs,)."""
    (tokens, outputs), inputs = d_out.shape, x.shape[1]
    d_weight = torch.empty(outputs, inputs, device=x.device, dtype=x.dtype)
    d_bias = torch.empty(outputs, device=x.device, dtype=x.dtype)
    shape = _Shape(inputs, outputs, tokens, transpose_b=True, epilogue=_BIAS_GRADIENT)
    _multiply(shape, x, d_out, d_weight, bias=d_bias)
    return d_weight, d_bias


class _Shape(NamedTuple):
    """A product as the library sees it: a (rows, inner) times b (inner, columns), column-major."""

    rows: int
    columns: int
    inner: int
    transpose_a: bool = False
    transpose_b: bool = False
    epilogue: int = 1


class _Plan:
    """The library's descriptions of a product, and the algorithm that it advises."""

    def __init__(self, shape: _Shape, kind: int, handle: c_void_p) -> None:
        self.operation, self.algorithm = c_void_p(), _Advice()
        _call("cublasLtMatmulDescCreate", ctypes.byref(self.operation), _COMPUTE_FLOAT32, _FLOAT32)
        self.set(_TRANSPOSE_A, c_int32(shape.transpose_a))
        self.set(_TRANSPOSE_B, c_int32(shape.transpose_b))
        self.set(_EPILOGUE, c_int32(shape.epilogue))
        if shape.epilogue in (_GELU_BIAS_KEEPING, _GELU_SLOPE):
            self.set(_BEFORE_STRIDE, c_int64(shape.rows))
        self.a = _matrix(kind, shape.rows, shape.inner, transposed=shape.transpose_a)
        self.b = _matrix(kind, shape.inner, shape.columns, transposed=shape.transpose_b)
        self.out = _matrix(kind, shape.rows, shape.columns, transposed=False)
        preference, found = c_void_p(), c_int()
        _call("cublasLtMatmulPreferenceCreate", ctypes.byref(preference))
        size = c_size_t(WORKSPACE)
        _call(
            "cublasLtMatmulPreferenceSetAttribute", preference, _WORKSPACE_PREFERENCE, ctypes.byref(size), c_size_t(8)
        )
        _call(
            "cublasLtMatmulAlgoGetHeuristic", handle, self.operation, self.a, self.b, self.out, self.out, preference, 1,
            ctypes.byref(self.algorithm), ctypes.byref(found),
        )  # fmt: skip
        _call("cublasLtMatmulPreferenceDestroy", preference)

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
    workspace = torch.empty(WORKSPACE, device=a.device, dtype=torch.uint8)
    one, zero = c_float(1), c_float(0)
    _call(
        "cublasLtMatmul", _handle(a.device.index), plan.operation, ctypes.byref(one),
        c_void_p(a.data_ptr()), plan.a, c_void_p(b.data_ptr()), plan.b, ctypes.byref(zero),
        c_void_p(out.data_ptr()), plan.out, c_void_p(out.data_ptr()), plan.out, ctypes.byref(plan.algorithm),
        c_void_p(workspace.data_ptr()), c_size_t(WORKSPACE),
        c_void_p(torch.cuda.current_stream(a.device).cuda_stream),
    )  # fmt: skip


@functools.cache
def _plan(shape: _Shape, kind: int, device: int) -> _Plan:
    return _Plan(shape, kind, _handle(device))


@functools.cache
def _handle(device: int) -> c_void_p:
    handle = c_void_p()
    with torch.cuda.device(device):
        _call("cublasLtCreate", ctypes.byref(handle))
    return handle


def _matrix(kind: int, rows: int, columns: int, *, transposed: bool) -> c_void_p:
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
