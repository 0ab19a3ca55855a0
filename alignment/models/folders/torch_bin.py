"""Read torch's pickled weights (``.bin``), current zip files and older plain files, without torch.

A tensor is a window on a storage: offset, shape and strides. Storages are memory-mapped, never read whole.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from alignment.errors import ModelFolderError
from alignment.models.folders.restricted_pickle import TABLES, Constructor, TensorUnpickler
from alignment.models.folders.views import StoredTensor
from alignment.models.safetensors_io import Stored, map_array

SUFFIX = ".bin"
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""The first two objects of a plain file."""
_LARGEST_PICKLE = 256 << 20
_LOCAL_HEADER = struct.Struct("<26xHH")
"""The header of a zip entry: the lengths of the name and extra field, which lie between it and the content."""
_BFLOAT16 = "BFloat16Storage"
_TYPES = {
    "FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", _BFLOAT16: "u2", "LongStorage": "i8",
    "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "b1",
}  # fmt: skip


class StorageType(NamedTuple):
    """The dtype of a storage."""

    name: str

    @property
    def dtype(self) -> np.dtype:
        """The numpy dtype; bfloat16 as uint16 bits."""
        return np.dtype(_TYPES[self.name])


class Storage:
    """One block of numbers in a file."""

    def __init__(self, kind: StorageType, count: int, path: Path, offset: int) -> None:
        self.kind, self.count, self.path, self.offset = kind, count, path, offset

    def map(self) -> np.ndarray:
        """Return a memory map of its numbers [count]."""
        return map_array(self.path, self.kind.dtype, self.offset, (self.count,))


class Window(NamedTuple):
    """A view on a storage, as the pickled object describes it."""

    storage: Storage
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """Counted in numbers, not bytes."""

    @classmethod
    def build(cls, storage: Any, start: Any, shape: Any, strides: Any, *_: Any) -> Window:
        """Return a checked window; the further arguments (gradient flag, hooks) are ignored."""
        numbers = (start, *shape, *strides)
        if not isinstance(storage, Storage) or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise TypeError("a tensor without a storage, or with a negative size")
        if len(shape) != len(strides):
            raise ValueError(f"shape {shape} with strides {strides}")
        window = cls(storage, start, tuple(shape), tuple(strides))
        last = start + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
        if math.prod(shape) and last >= storage.count:
            raise ValueError(f"a tensor that ends at number {last} of a storage of {storage.count}")
        return window


class TorchTensor(NamedTuple):
    """One tensor of a file."""

    name: str
    window: Window

    @property
    def shape(self) -> tuple[int, ...]:
        """The window's shape."""
        return self.window.shape

    @property
    def code(self) -> str:
        """The name of its storage type."""
        return self.window.storage.kind.name

    @property
    def is_float(self) -> bool:
        """Whether the dtype is floating point."""
        kind = self.window.storage.kind
        return kind.dtype.kind == "f" or kind.name == _BFLOAT16

    def read(self, slices: tuple[slice, ...] = ()) -> Stored:
        """Return the tensor or a rectangle of it; only its pages are read."""
        kind = self.window.storage.kind
        if not math.prod(self.shape):
            return Stored(self.name, np.empty(self.shape, kind.dtype)[slices], kind.name == _BFLOAT16)
        numbers = self.window.storage.map()[self.window.start :]
        steps = [step * kind.dtype.itemsize for step in self.window.strides]
        array = np.lib.stride_tricks.as_strided(numbers, self.shape, steps, writeable=False)
        return Stored(self.name, np.array(array[slices]), kind.name == _BFLOAT16)


def _build_parameter(window: Any, *_: Any) -> Window:
    if not isinstance(window, Window):
        raise TypeError("a parameter without a tensor")
    return window


CONSTRUCTORS: Mapping[str, Any] = {
    **TABLES,
    "torch._utils._rebuild_tensor": Constructor(Window.build),
    "torch._utils._rebuild_tensor_v2": Constructor(Window.build),
    "torch._utils._rebuild_parameter": Constructor(_build_parameter),
    **{f"torch.{name}": StorageType(name) for name in _TYPES},
}
"""What a file may construct, by ``module.name``."""


def list_torch_bin(path: Path) -> Iterator[StoredTensor]:
    """Yield the tensors of one file; ModelFolderError if it holds anything else."""
    content = _read_zip(path) if zipfile.is_zipfile(path) else _read_plain(path)
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path}: holds a {type(content).__name__}, expected weights by name")
    for name, value in content.items():
        if not isinstance(value, Window):
            raise ModelFolderError(f"{path}: {name} is not a tensor; a file of weights may hold nothing else")
        yield TorchTensor(str(name), value)


def _read_zip(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            return _ZipReader(path, archive, file).load()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, struct.error) as error:
        raise ModelFolderError(f"{path}: damaged, or not weights of torch ({error})") from error


class _ZipReader:
    """Reads the current format: a zip archive of the pickled object and one entry per storage."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, file: BinaryIO) -> None:
        self._path, self._archive, self._file = path, archive, file
        self._entries = {entry.filename: entry for entry in archive.infolist()}
        names = [name for name in self._entries if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ModelFolderError(f"{path}: holds {len(names)} files data.pkl; weights of torch have exactly one")
        self._root = names[0].removesuffix("data.pkl")
        self._storages: dict[str, Storage] = {}

    def load(self) -> Any:
        """Return the pickled object."""
        order = self._entries.get(f"{self._root}byteorder")
        if order is not None and (order.file_size > 8 or self._archive.read(order).strip() != b"little"):
            raise ModelFolderError(f"{self._path}: its numbers are not little-endian")
        entry = self._entries[f"{self._root}data.pkl"]
        if entry.file_size > _LARGEST_PICKLE:
            raise ModelFolderError(f"{self._path}: data.pkl has {entry.file_size} bytes (at most {_LARGEST_PICKLE})")
        pickled = io.BytesIO(self._archive.read(entry))
        place = f"{self._path} (data.pkl)"
        size = len(pickled.getvalue())
        return TensorUnpickler(pickled, size, CONSTRUCTORS, place=place, find_storage=self._find).load()

    def _find(self, reference: Any) -> Storage:
        kind, key, count = _check_reference(reference)
        if key not in self._storages:
            self._storages[key] = self._locate(kind, key, count)
        return self._storages[key]

    def _locate(self, kind: StorageType, key: str, count: int) -> Storage:
        entry = self._entries[f"{self._root}data/{key}"]
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise ModelFolderError(f"{self._path}: data/{key} is compressed or encrypted, which torch never does")
        if entry.file_size != count * kind.dtype.itemsize:
            raise ValueError(f"data/{key} has {entry.file_size} bytes for {count} numbers of {kind.name}")
        self._file.seek(entry.header_offset)
        name, extra = _LOCAL_HEADER.unpack(self._file.read(_LOCAL_HEADER.size))
        offset = entry.header_offset + _LOCAL_HEADER.size + name + extra
        if offset + entry.file_size > self._path.stat().st_size:
            raise ValueError(f"data/{key} ends after the end of the file")
        return Storage(kind, count, self._path, offset)


def _read_plain(path: Path) -> Any:
    """Read the format from before 2020: four pickled objects, the keys of the storages, then the storages in order."""
    size, storages = path.stat().st_size, {}

    def find(reference: Any) -> Storage:
        kind, key, count = _check_reference(reference)
        return storages.setdefault(key, Storage(kind, count, path, -1))

    with path.open("rb") as file:

        def load(find_storage: Any = None) -> Any:
            return TensorUnpickler(file, size, CONSTRUCTORS, place=str(path), find_storage=find_storage).load()

        if load() != _MAGIC or load() != _PROTOCOL:
            raise ModelFolderError(f"{path}: not written by torch.save: neither a zip file nor torch's magic number")
        system = load()
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise ModelFolderError(f"{path}: its numbers are not little-endian")
        content, keys = load(find), load()
        if not isinstance(keys, list) or set(map(str, keys)) != set(storages):
            raise ModelFolderError(f"{path}: damaged: it does not hold the storages that its tensors name")
        _place_storages(file, [storages[key] for key in keys], size)
    return content


def _place_storages(file: BinaryIO, storages: list[Storage], size: int) -> None:
    """Set the offset of each storage; they follow each other, each preceded by its count."""
    for storage in storages:
        head = file.read(8)
        storage.offset = file.tell()
        end = storage.offset + storage.count * storage.kind.dtype.itemsize
        if head != struct.pack("<q", storage.count) or end > size:
            raise ModelFolderError(f"{storage.path}: damaged or cut short in a storage")
        file.seek(end)


def _check_reference(reference: Any) -> tuple[StorageType, str, int]:
    """Return the checked type, key and count of the storage in a persistent id."""
    word, kind, key, _, count, *views = reference
    is_plain = word == "storage" and isinstance(kind, StorageType) and isinstance(key, str)
    if not is_plain or not isinstance(count, int) or count < 0 or any(view is not None for view in views):
        raise ValueError("a storage without type, key or count, or a view of one")
    return kind, key, count
