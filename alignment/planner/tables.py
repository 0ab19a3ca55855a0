"""Tables of a plan: sizes in GiB by component and phase."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import floor, log10
from operator import attrgetter

from alignment.planner.machine import GIB
from alignment.planner.memory import COMPONENTS, OFFLOADED, Moment
from alignment.telemetry.tables import print_table


def print_phases(title: str, moments: Mapping[str, Moment], base: int, device: str, always: Sequence[str]) -> None:
    """Print the moment of each phase on ``device`` (``cpu`` or ``gpu``), by component; those in ``always`` have a row
    even if they need nothing. ``base`` is what the process holds besides.
    """
    process = ["process itself, about", *[gib(base)] * len(moments)]
    if device == "cpu":
        rows = _component_rows({phase: moment.by_name for phase, moment in moments.items()}, always)
        rows += [process, _total("total", moments, base, attrgetter("everywhere"))]
    else:
        rows = _component_rows({phase: moment.device for phase, moment in moments.items()}, always)
        rows += [process, _total("total on the device", moments, base, attrgetter("on_device"))]
        on_host = _component_rows({phase: moment.host for phase, moment in moments.items()}, [OFFLOADED])
        rows += [[f"host memory: {row[0]}", *row[1:]] for row in on_host]
    rows.append(["fullest at", *(moment.name for moment in moments.values())])
    print_table(title, ["what", *moments], rows)


EXPLANATION = (
    "each column is the moment of its phase with the largest sum; single rows may be larger at other moments\n"
)
"""Of ``print_phases``."""


def gib(size: float, places: int = 2) -> str:
    """Return ``size`` in GiB, a dash for nothing; see ``digits`` for the places."""
    if not size:
        return "-"
    if size >= 100 * GIB:
        return f"{size / GIB:.0f}"
    return digits(size / GIB, places)


def digits(number: float, places: int) -> str:
    """Return a positive number with so many places, or more if they would be only zeros."""
    return f"{number:.{max(places, -floor(log10(number)))}f}"


def _component_rows(sizes: Mapping[str, Mapping[str, int]], always: Sequence[str]) -> list[list[str]]:
    names = {*always, *(name for size in sizes.values() for name in size)}
    return [
        [name, *(gib(size.get(name, 0)) for size in sizes.values())] for name in sorted(names, key=COMPONENTS.index)
    ]


def _total(what: str, moments: Mapping[str, Moment], base: int, measure: Callable[[Moment], int]) -> list[str]:
    return [what, *(gib(measure(moment) + base) for moment in moments.values())]
