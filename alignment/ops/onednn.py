"""Matrix products by oneDNN, the library that Paddle brings along but whose layers do not reach it outside a graph.

Called through its C interface (oneDNN 3): https://uxlfoundation.github.io/oneDNN/dev_guide_matmul.html
"""

from __future__ import annotations

import ctypes
import weakref
from ctypes import byref, c_int, c_int64, c_size_t, c_void_p
from functools import cache, lru_cache
from pathlib import Path

import paddle

_CPU, _IN_ORDER = 1, 1
_TYPES = {paddle.bfloat16: 2, paddle.float32: 3}
_SOURCE, _DESTINATION, _WEIGHTS = 1, 17, 33
_MAX_AXES = 12
_KEPT_SHAPES = 1024
"""Products of so many shapes stay prepared; batches by tokens have many."""


class OneDnnError(RuntimeError):
    """A call of the library failed."""


class _Argument(ctypes.Structure):
    _fields_ = (("kind", c_int), ("memory", c_void_p))


class _OneDnn:
    """The library, an engine for the CPU, and a stream; calls that fail raise ``OneDnnError``."""

    def __init__(self) -> None:
        path = Path(paddle.__file__).parent / "libs" / "libdnnl.so.3"
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise OneDnnError(f"Paddle's oneDNN cannot be opened: {error}") from error
        self.engine = self.make("engine_create", c_int(_CPU), c_size_t(0))
        self.stream = self.make("stream_create", self.engine, c_int(_IN_ORDER))

    def call(self, name: str, *arguments: object) -> None:
        """Call ``dnnl_name``."""
        status = getattr(self._library, f"dnnl_{name}")(*arguments)
        if status:
            raise OneDnnError(f"dnnl_{name} returned {status}")

    def make(self, name: str, *arguments: object) -> c_void_p:
        """Return what the function ``dnnl_name`` makes; its first argument is where."""
        made = c_void_p()
        self.call(name, byref(made), *arguments)
        return made

    def drop(self, kind: str, *made: c_void_p) -> None:
        """Free what ``make`` made."""
        for one in made:
            self.call(f"{kind}_destroy", one)

    def matrix(self, rows: int, columns: int, dtype: paddle.dtype, *, transposed: bool = False) -> c_void_p:
        """Return the description of a matrix [rows, columns], kept as [columns, rows] if ``transposed``."""
        axes = c_int64 * _MAX_AXES
        strides = axes(1, rows) if transposed else axes(columns, 1)
        sizes, kind = axes(rows, columns), c_int(_TYPES[dtype])
        return self.make("memory_desc_create_with_strides", c_int(2), sizes, kind, strides)


@cache
def _library() -> _OneDnn:
    return _OneDnn()


class _MatrixProduct:
    """The product of two matrices of fixed shapes."""

    def __init__(self, m: int, k: int, n: int, dtype: paddle.dtype, *, transpose_x: bool, transpose_y: bool) -> None:
        library = _library()
        x, y = library.matrix(m, k, dtype, transposed=transpose_x), library.matrix(k, n, dtype, transposed=transpose_y)
        places = (x, y, library.matrix(m, n, paddle.float32))
        plan = library.make("matmul_primitive_desc_create", library.engine, x, y, None, places[2], None)
        self._primitive = library.make("primitive_create", plan)
        self._memories = [library.make("memory_create", place, library.engine, None) for place in places]
        library.drop("primitive_desc", plan)
        library.drop("memory_desc", *places)
        for kind, made in {"primitive": (self._primitive,), "memory": self._memories}.items():
            weakref.finalize(self, library.drop, kind, *made).atexit = False
        kinds = (_SOURCE, _WEIGHTS, _DESTINATION)
        pairs = zip(kinds, self._memories, strict=True)
        self._arguments = (_Argument * 3)(*(_Argument(kind, memory) for kind, memory in pairs))

    def __call__(self, *matrices: paddle.Tensor) -> None:
        """Write the product of the first two matrices into the third."""
        library = _library()
        for memory, matrix in zip(self._memories, matrices, strict=True):
            library.call("memory_set_data_handle", memory, c_void_p(matrix.data_ptr()))
        library.call("primitive_execute", self._primitive, library.stream, c_int(3), self._arguments)
        library.call("stream_wait", library.stream)


@lru_cache(maxsize=_KEPT_SHAPES)
def _prepared(m: int, k: int, n: int, dtype: paddle.dtype, **transposed: bool) -> _MatrixProduct:
    return _MatrixProduct(m, k, n, dtype, **transposed)


def matmul(
    x: paddle.Tensor, y: paddle.Tensor, *, transpose_x: bool = False, transpose_y: bool = False
) -> paddle.Tensor:
    """Return x @ y [M, N] in float32, x [M, K] or [K, M], y [K, N] or [N, K], both float32 or bfloat16, on the CPU.

    Sums are float32. Raises ``OneDnnError`` for bfloat16 on a processor without such products. Not differentiable.
    """
    (m, k), n = (x.shape[::-1] if transpose_x else x.shape), y.shape[0 if transpose_y else 1]
    out = paddle.empty([m, n], paddle.float32)
    if out.size:
        if not k:
            return out.zero_()
        product = _prepared(m, k, n, x.dtype, transpose_x=transpose_x, transpose_y=transpose_y)
        product(x.contiguous(), y.contiguous(), out)
    return out


def find_obstacle() -> str | None:
    """Return why this processor has no products of bfloat16, or None."""
    numbers = paddle.eye(64, dtype=paddle.float32) * (1.0 + 2.0**-7)  # which bfloat16 holds, but not its square
    try:
        products = matmul(*[numbers.astype(paddle.bfloat16)] * 2)
    except OneDnnError as error:
        return f"{error} for a product of bfloat16"
    return None if bool((products == numbers * numbers).all()) else "a product of bfloat16 came out wrong"
