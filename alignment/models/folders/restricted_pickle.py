"""Read pickled weights safely: only tensors are built, and no code of the file runs.

Python's unpickler calls whatever a file names. This one supports the instructions that writers of tensors use, builds
only what the reader of the format allows by name, and refuses everything else. Tensor contents are located, not read,
so that a file of many gigabytes is listed at once.
"""

from __future__ import annotations

import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

from alignment.errors import ModelFolderError

_LONGEST_NAME = 512
_LONGEST_TEXT = 1 << 16
"""Bytes; a longer text holds the content of a tensor (pickle protocol 2) and is not read."""

_PLAIN = {pickle.NONE: None, pickle.NEWTRUE: True, pickle.NEWFALSE: False}
_EMPTY = {pickle.EMPTY_DICT: dict, pickle.EMPTY_LIST: list, pickle.EMPTY_TUPLE: tuple}
_NUMBERS = {pickle.BININT: "<i", pickle.BININT1: "<B", pickle.BININT2: "<H", pickle.BINFLOAT: ">d"}
_TEXTS = {pickle.SHORT_BINUNICODE: "<B", pickle.BINUNICODE: "<I", pickle.BINUNICODE8: "<Q"}
_BYTES = {pickle.SHORT_BINBYTES: "<B", pickle.BINBYTES: "<I", pickle.BINBYTES8: "<Q"}
_PUTS = {pickle.BINPUT: "<B", pickle.LONG_BINPUT: "<I"}
_GETS = {pickle.BINGET: "<B", pickle.LONG_BINGET: "<I"}
_TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}


class Span(NamedTuple):
    """A range of bytes of the file that was skipped."""

    offset: int
    length: int
    is_text: bool = False
    """True: UTF-8 text, each character of which is one byte of the content (pickle protocol 2)."""


class Constructor(NamedTuple):
    """Something that a file may construct."""

    build: Callable[..., Any]
    """Called with the file's arguments; must be harmless whatever they are."""


def _build_table(pairs: Any = ()) -> dict[str, Any]:
    return {key: value for key, value in pairs if isinstance(key, str)}


TABLES: Mapping[str, Constructor] = {"collections.OrderedDict": Constructor(_build_table)}
"""The dictionary class that both formats use."""


class Buildable:
    """An object that a file may fill after constructing it."""

    def set_state(self, state: Any) -> None:
        """Take the file's state; ValueError or TypeError if it is invalid. Do not print it: it can be of any length."""
        raise NotImplementedError


class _Mark:
    """Separates the parts of a list, tuple or dictionary on the stack."""


class TensorUnpickler:
    """Reads one pickled object from ``file`` and leaves the file positioned after it."""

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        constructors: Mapping[str, Constructor],
        *,
        place: str,
        find_storage: Callable[[Any], Any] | None = None,
    ) -> None:
        """``size`` is the file's length in bytes; ``constructors`` are by ``module.name``; ``place`` is for messages.

        ``find_storage`` resolves torch's persistent ids; without it they are refused.
        """
        self._file, self._size, self._constructors, self._place = file, size, constructors, place
        self._find_storage = find_storage
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._actions: dict[bytes, Callable[[], Any]] = {
            pickle.PROTO: lambda: self._take(1),
            pickle.FRAME: lambda: self._take(8),
            pickle.MARK: lambda: self._stack.append(_Mark),
            pickle.MEMOIZE: lambda: self._memo.__setitem__(len(self._memo), self._stack[-1]),
            pickle.LONG1: self._read_long,
            pickle.POP: self._stack.pop,
            pickle.POP_MARK: self._pop_mark,
            pickle.TUPLE: lambda: self._stack.append(tuple(self._pop_mark())),
            pickle.APPEND: lambda: self._append([self._stack.pop()]),
            pickle.APPENDS: lambda: self._append(self._pop_mark()),
            pickle.SETITEM: lambda: self._set_items([self._stack.pop(-2), self._stack.pop()]),
            pickle.SETITEMS: lambda: self._set_items(self._pop_mark()),
            pickle.GLOBAL: lambda: self._name(self._read_line(), self._read_line()),
            pickle.STACK_GLOBAL: lambda: self._name(self._stack.pop(-2), self._stack.pop()),
            pickle.REDUCE: self._reduce,
            pickle.BUILD: self._build,
            pickle.BINPERSID: self._find,
        }

    def load(self) -> Any:
        """Return the object; ModelFolderError if the file is damaged or asks for more than tensors."""
        try:
            while (code := self._take(1)) != pickle.STOP:
                self._run(code)
            return self._stack.pop()
        except ModelFolderError:
            raise
        except (IndexError, KeyError, TypeError, ValueError, struct.error, OSError, OverflowError) as error:
            raise ModelFolderError(f"{self._place}: damaged, or not pickled weights ({error!r})") from error

    def _run(self, code: bytes) -> None:
        if code in self._actions:
            self._actions[code]()
        elif code in _PLAIN:
            self._stack.append(_PLAIN[code])
        elif code in _EMPTY:
            self._stack.append(_EMPTY[code]())
        elif code in _NUMBERS:
            self._stack.append(self._number(_NUMBERS[code]))
        elif code in _TEXTS or code in _BYTES:
            self._stack.append(self._read_text(code) if code in _TEXTS else self._span(self._number(_BYTES[code])))
        elif code in _PUTS:
            self._memo[self._number(_PUTS[code])] = self._stack[-1]
        elif code in _GETS:
            self._stack.append(self._memo[self._number(_GETS[code])])
        elif code in _TUPLES:
            count = _TUPLES[code]
            self._stack[-count:] = [tuple(self._stack[-count:])]
        elif code.decode("latin1") in pickletools.code2op:
            raise self._refusal(f"uses the pickle instruction {pickletools.code2op[code.decode('latin1')].name}")
        else:
            raise ModelFolderError(f"{self._place}: damaged, or not pickled weights (it has the instruction {code!r})")

    def _take(self, length: int) -> bytes:
        taken = self._file.read(length) if length <= self._size - self._file.tell() else b""
        if len(taken) < length:
            raise ModelFolderError(f"{self._place}: cut short")
        return taken

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _span(self, length: int, is_text: bool = False) -> Span:
        offset = self._file.tell()
        if length > self._size - offset:
            raise ModelFolderError(f"{self._place}: cut short")
        self._file.seek(offset + length)
        return Span(offset, length, is_text)

    def _read_text(self, code: bytes) -> str | Span:
        length = self._number(_TEXTS[code])
        return self._take(length).decode("utf-8") if length <= _LONGEST_TEXT else self._span(length, is_text=True)

    def _read_long(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._number("<B")), "little", signed=True))

    def _read_line(self) -> str:
        line = self._file.readline(_LONGEST_NAME)
        if not line.endswith(b"\n"):
            raise ModelFolderError(f"{self._place}: damaged, or not pickled weights (a name does not end)")
        return line[:-1].decode("utf-8")

    def _pop_mark(self) -> list[Any]:
        items = []
        while (item := self._stack.pop()) is not _Mark:
            items.append(item)
        return items[::-1]

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise self._refusal(f"appends to a {type(target).__name__}")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target, keys = self._stack[-1], items[::2]
        if not isinstance(target, dict) or not all(isinstance(key, (str, int)) for key in keys):
            raise self._refusal("fills something other than a dictionary with names as keys")
        target.update(zip(keys, items[1::2], strict=True))

    def _name(self, module: Any, name: Any) -> None:
        wanted = f"{module:.{_LONGEST_NAME}}.{name:.{_LONGEST_NAME}}"  # TypeError if they are not text
        if wanted not in self._constructors:
            raise self._refusal(f"asks for {wanted!r}")
        self._stack.append(self._constructors[wanted])

    def _reduce(self) -> None:
        arguments, constructor = self._stack.pop(), self._stack.pop()
        if not isinstance(constructor, Constructor) or not isinstance(arguments, tuple):
            raise self._refusal("calls something that is not a constructor of tensors")
        self._stack.append(constructor.build(*arguments))

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Buildable):
            target.set_state(state)
        elif not isinstance(target, dict):  # the state of torch's dictionaries is layer versions: ignored
            raise self._refusal(f"fills a {type(target).__name__}")

    def _find(self) -> None:
        if self._find_storage is None:
            raise self._refusal("refers to objects outside the file")
        self._stack.append(self._find_storage(self._stack.pop()))

    def _refusal(self, what: str) -> ModelFolderError:
        return ModelFolderError(
            f"{self._place}: refused, because it {what}; only tensors are read from a pickled file, and nothing in it "
            "is executed"
        )
