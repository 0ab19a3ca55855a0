"""Placeholders for message texts while a template is analysed; they can only be written, joined and stripped."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

from jinja2 import TemplateError

MOST_PARTS = 100
"""The most parts of a joined text; beyond it the size limits of a rendering would need checking each time."""
STRIPPING = ("strip", "lstrip", "rstrip")
"""Methods, called without arguments, that a template may apply to a text."""


class SeenError(TemplateError):
    """A template did something that depends on the content of a text."""


class LookRecord:
    """Remembers whether the content of a text was used, even if the template swallows the error."""

    def __init__(self) -> None:
        self.seen = False

    def notice(self) -> NoReturn:
        """Record the use and stop the template."""
        self.seen = True
        raise SeenError("the template looks at a text")


class TextSlot(NamedTuple):
    """Where a message's text goes in a rendering."""

    number: int
    """The index of the message."""
    method: str = ""
    """The method that strips the text, or nothing."""


class StandIn:
    """A text of unknown content, or several of them joined with constants."""

    __slots__ = ("_parts", "_watch")

    def __init__(self, parts: tuple[str | TextSlot, ...], watch: LookRecord) -> None:
        self._parts, self._watch = parts, watch
        if len(parts) > MOST_PARTS:
            watch.notice()

    def __getattribute__(self, name: str) -> Any:
        """Return the type ``str`` (so that tests for text hold) or a stripping method."""
        if name == "__class__":
            return str
        parts = parts_of(self)
        if name in STRIPPING and len(parts) == 1 and isinstance(parts[0], TextSlot) and parts[0].method in ("", name):
            return Strip(StandIn((TextSlot(parts[0].number, name),), _watch_of(self)))
        return _watch_of(self).notice()

    def __add__(self, other: Any) -> StandIn:
        return StandIn((*parts_of(self), *_parts_beside(self, other)), _watch_of(self))

    def __radd__(self, other: Any) -> StandIn:
        return StandIn((*_parts_beside(self, other), *parts_of(self)), _watch_of(self))

    def _notice(self, *_: Any) -> NoReturn:
        _watch_of(self).notice()

    __str__ = __repr__ = __format__ = __bytes__ = __hash__ = __bool__ = __len__ = __iter__ = __reversed__ = _notice
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __getitem__ = __call__ = _notice
    __mul__ = __rmul__ = __mod__ = __rmod__ = __int__ = __float__ = __index__ = __complex__ = _notice


class Strip:
    """A stripping method of a stand-in."""

    def __init__(self, stripped: StandIn) -> None:
        self._stripped = stripped

    def __call__(self, characters: None = None) -> StandIn:
        return self._stripped if characters is None else self._notice()

    def _notice(self, *_: Any) -> NoReturn:
        _watch_of(self._stripped).notice()

    __eq__ = __ne__ = __hash__ = __repr__ = _notice


def parts_of(text: StandIn) -> tuple[str | TextSlot, ...]:
    """Return the parts of a stand-in."""
    return object.__getattribute__(text, "_parts")


def may_hold(value: Any, harmless: tuple[type, ...]) -> bool:
    """Return whether ``value`` may contain a stand-in; unknown types may, unless they are ``harmless``."""
    if type(value) in (list, tuple):
        return any(may_hold(item, harmless) for item in value)
    if type(value) is dict:
        return any(may_hold(item, harmless) for item in value.values())
    return not issubclass(type(value), (str, int, float, type(None), *harmless))


def _watch_of(text: StandIn) -> LookRecord:
    return object.__getattribute__(text, "_watch")


def _parts_beside(text: StandIn, other: Any) -> tuple[str | TextSlot, ...]:
    """Return the parts of ``other``, which is joined to ``text``; other types may define joining in their own way."""
    if type(other) is StandIn:
        return parts_of(other)
    return (other,) if type(other) is str else _watch_of(text).notice()
