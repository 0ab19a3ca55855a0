"""Raise gloo's timeout of 30 seconds for processes that are late.

Paddle has no setting for it, so this calls gloo's own function on the group's context. Every step is checked first: if
a symbol or a value is not as expected (another version of Paddle), the timeout stays at 30 seconds.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_KEY_TYPE = "RKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
_SYMBOLS = {
    "manager": "_ZZN3phi11distributed18CommContextManager11GetInstanceEvE8instance",
    "context_class": "_ZTVN4gloo10rendezvous7ContextE",
    "has": "_ZNK3phi11distributed18CommContextManager3HasE" + _KEY_TYPE,
    "get": "_ZNK3phi11distributed18CommContextManager3GetE" + _KEY_TYPE,
    "get_timeout": "_ZNK4gloo7Context10getTimeoutEv",
    "set_timeout": "_ZN4gloo7Context10setTimeoutENSt6chrono8durationIlSt5ratioILl1ELl1000EEEE",
}


@dataclass(frozen=True, slots=True)
class _Library:
    """The two addresses and four functions of Paddle's library that are used here."""

    manager: int
    context_class: int
    has: Any
    get: Any
    get_timeout: Any
    set_timeout: Any


class _ShortString(ctypes.Structure):
    """A C++ string of at most 15 characters in libstdc++'s layout."""

    _fields_ = [("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("text", ctypes.c_char * 16)]


class _Communicator(ctypes.Structure):
    """Paddle's handle of a gloo group."""

    _fields_ = [("kind", ctypes.c_void_p), ("rank", ctypes.c_int), ("size", ctypes.c_int), ("context", ctypes.c_void_p)]


def wait_longer(group_id: int, seconds: float, *, rank: int, size: int) -> bool:
    """Set the timeout of the group ``group_id`` to ``seconds``; return False if that is not possible.

    ``rank`` and ``size`` are this process's in the group, to check that it is the right one.
    """
    library = _load()
    if library is None:
        return False
    text = str(group_id).encode()
    key = _ShortString(size=len(text), text=text)
    key.data = ctypes.addressof(key) + _ShortString.text.offset
    if not library.has(library.manager, ctypes.byref(key)):
        return False
    found = _Communicator.from_address(library.get(library.manager, ctypes.byref(key)))
    if (found.rank, found.size) != (rank, size) or not found.context:
        return False
    # A C++ object begins with a pointer into its class's vtable, just after the vtable's two header words.
    if ctypes.c_void_p.from_address(found.context).value != library.context_class + 16:
        return False
    milliseconds = int(seconds * 1000)
    library.set_timeout(found.context, milliseconds)
    return library.get_timeout(found.context) == milliseconds


@cache
def _load() -> _Library | None:
    """Return the handles into Paddle's library, None if any is missing."""
    import paddle

    try:
        library = ctypes.CDLL(str(Path(paddle.__file__).parent / "libs" / "libphi_core.so"))
        manager, context_class = (
            ctypes.addressof(ctypes.c_char.in_dll(library, _SYMBOLS[name])) for name in ("manager", "context_class")
        )
        has, get, get_timeout, set_timeout = (
            getattr(library, _SYMBOLS[name]) for name in ("has", "get", "get_timeout", "set_timeout")
        )
    except (OSError, AttributeError, ValueError):
        return None
    address = ctypes.c_void_p
    has.restype, has.argtypes = ctypes.c_bool, [address, address]
    get.restype, get.argtypes = address, [address, address]
    get_timeout.restype, get_timeout.argtypes = ctypes.c_long, [address]
    set_timeout.restype, set_timeout.argtypes = None, [address, ctypes.c_long]
    return _Library(manager, context_class, has, get, get_timeout, set_timeout)
