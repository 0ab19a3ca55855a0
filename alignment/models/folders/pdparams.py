"""Locate the tensors in Paddle's pickled weights (``.pdparams``), a dictionary of numpy arrays.

``paddle.save`` writes them with pickle protocols 2 to 4. bfloat16 is stored as uint16. An array may be paired with the
name of its variable; one of more than 2**30 bytes is stored in pieces (protocols 2 and 3).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignment.errors import ModelFolderError
from alignment.models.folders.restricted_pickle import TABLES, Buildable, Constructor, Span, TensorUnpickler
from alignment.models.folders.views import Joined, Renamed, Reshaped, StoredTensor, Transposed
from alignment.models.safetensors_io import Stored, map_array

SUFFIX = ".pdparams"
NAME_TABLE = "StructuredToParameterName@@"
"""Key of a table of variable names, which is ignored."""
PIECES = "UnpackBigParamInfor@@"
"""Key of the table that gives the shape and the keys of the pieces of each array stored in pieces."""
TYPES = ("f2", "f4", "f8", "u2", "b1", "u1", "i1", "i2", "i4", "i8")
"""The numpy dtypes that are accepted."""


class PickledType(Buildable):
    """A numpy dtype in the file."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in TYPES:
            raise ValueError(f"dtype {code if isinstance(code, str) else type(code)} (readable: {', '.join(TYPES)})")
        self.dtype = np.dtype(code)

    def set_state(self, state: Any) -> None:
        """Check the byte order."""
        if state[1] not in ("<", "|", "="):
            raise ValueError("numbers that are not little-endian")


class PickledArray(Buildable):
    """A numpy array in the file."""

    shape: tuple[int, ...] = ()
    dtype: PickledType | None = None
    is_fortran = False
    content: Span | bytes | None = None

    def set_state(self, state: Any) -> None:
        """Take shape, dtype, memory order and content."""
        _, shape, self.dtype, self.is_fortran, self.content = state
        if not isinstance(self.dtype, PickledType) or not isinstance(self.content, (Span, bytes)):
            raise TypeError("an array without dtype or content")
        if not isinstance(shape, tuple) or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ValueError("an array whose shape is not a tuple of sizes")
        self.shape = shape


class PickledTensor(NamedTuple):
    """The location of an array's numbers."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    path: Path
    content: Span | bytes
    """The bytes themselves if they are few and were written as text."""

    @property
    def code(self) -> str:
        """The dtype's name."""
        return self.dtype.name

    @property
    def is_float(self) -> bool:
        """Whether the dtype is floating point; bfloat16 is stored as uint16."""
        return self.dtype.kind == "f" or self.dtype == np.uint16

    def read(self, slices: tuple[slice, ...] = ()) -> Stored:
        """Return the tensor or a rectangle of it; only its pages are read, except that text is read whole."""
        return Stored(self.name, np.array(self._map()[slices]), self.dtype == np.uint16)

    def _map(self) -> np.ndarray:
        if isinstance(self.content, bytes):
            return np.frombuffer(self.content, self.dtype).reshape(self.shape)
        if not self.content.is_text:
            return map_array(self.path, self.dtype, self.content.offset, self.shape)
        with self.path.open("rb") as file:
            file.seek(self.content.offset)
            content = file.read(self.content.length).decode("utf-8").encode("latin1")
        return np.frombuffer(content, self.dtype).reshape(self.shape)


def _encode(text: Any, encoding: Any) -> Span | bytes:
    """Replace ``codecs.encode(text, 'latin1')``, by which protocol 2 writes bytes."""
    if encoding != "latin1" or not isinstance(text, (str, Span)):
        raise TypeError("text that does not encode bytes")
    return text if isinstance(text, Span) else text.encode("latin1")


CONSTRUCTORS: Mapping[str, Constructor] = {
    **TABLES,
    "numpy.dtype": Constructor(PickledType),
    "numpy.ndarray": Constructor(PickledArray),
    "numpy.core.multiarray._reconstruct": Constructor(lambda *_: PickledArray()),
    "numpy._core.multiarray._reconstruct": Constructor(lambda *_: PickledArray()),
    "builtins.tuple": Constructor(tuple),
    "__builtin__.tuple": Constructor(tuple),
    "_codecs.encode": Constructor(_encode),
    "__builtin__.bytes": Constructor(lambda: b""),  # the bytes of an empty array in protocol 2
}
"""What a file may construct, by ``module.name``."""


def list_pdparams(path: Path) -> Iterator[StoredTensor]:
    """Yield the tensors of one file; ModelFolderError if it holds anything else."""
    size = path.stat().st_size
    with path.open("rb") as file:
        content = TensorUnpickler(file, size, CONSTRUCTORS, place=str(path)).load()
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path}: holds a {type(content).__name__}, expected weights by name")
    pieces = content.pop(PIECES, {})
    content.pop(NAME_TABLE, None)
    tensors = {name: _locate(str(name), value, path) for name, value in content.items()}
    for name, entry in pieces.items() if isinstance(pieces, dict) else ():
        tensors[name] = _join(name, entry, tensors, path)
    yield from tensors.values()


def _locate(name: str, value: Any, path: Path) -> StoredTensor:
    """Return the tensor of an entry, which is an array or a (variable name, array) pair."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    if not isinstance(value, PickledArray) or value.dtype is None or value.content is None:
        raise ModelFolderError(f"{path}: {name} is not an array; a file of weights may hold nothing else")
    shape = value.shape[::-1] if value.is_fortran else value.shape
    tensor = PickledTensor(name, shape, value.dtype.dtype, path, value.content)
    _check_size(tensor)
    return Transposed(tensor) if value.is_fortran else tensor


def _check_size(tensor: PickledTensor) -> None:
    needed = math.prod(tensor.shape) * tensor.dtype.itemsize
    held = len(tensor.content) if isinstance(tensor.content, bytes) else tensor.content.length
    # In UTF-8 text, bytes above 127 take two bytes.
    fits = needed <= held <= 2 * needed if getattr(tensor.content, "is_text", False) else needed == held
    if not fits:
        raise ModelFolderError(
            f"{tensor.path}: {tensor.name} has {held} bytes where shape {list(tensor.shape)} needs {needed}"
        )


def _join(name: str, entry: Any, tensors: dict[str, StoredTensor], path: Path) -> StoredTensor:
    """Return the array ``name`` joined from its pieces, which are removed from ``tensors``."""
    try:
        pieces, shape = [tensors.pop(piece) for piece in entry["slices"]], tuple(entry["OriginShape"])
        whole = Reshaped(Renamed(Joined.of(pieces, axis=0), name), shape)
        if whole.tensor.shape != (math.prod(shape),):
            raise ValueError(f"pieces of {whole.tensor.shape} numbers for the shape {shape}")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelFolderError(f"{path}: the pieces of {name} do not fit ({error!r})") from error
    return whole
