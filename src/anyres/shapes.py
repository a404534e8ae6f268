"""Tensor shapes in signatures: `Float[Tensor, "tokens channels"]`.

The annotations come from jaxtyping, which is a dependency of the tests only (they check every call against
them, see `tests/conftest.py`). Without it each annotation is plain `Tensor`, so that `anyres.model` and
`anyres.flow` import with torch alone.
"""

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Num, UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, Num, UInt8
    except ImportError:

        class _Shapeless:
            """Stands for a jaxtyping dtype: indexing it with (type, shape) gives the type back."""

            def __class_getitem__(cls, item):
                return item[0]

        Bool = Float = Int = Num = UInt8 = _Shapeless

__all__ = ["Bool", "Float", "Int", "Num", "Tensor", "UInt8"]
