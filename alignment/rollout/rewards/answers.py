"""Find the final number of an answer and compare numbers exactly, with fractions, units and thousands separators.

The library math-verify was weighed and not taken: it pins one version of latex2sympy2_extended, brings sympy and
a parser runtime, and is made for whole expressions. Numbers need none of that.
"""

from __future__ import annotations

import re
from fractions import Fraction

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_PLAIN = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{{1,3}})?"
_FRACTION = r"\\[dt]?frac\s*\{\s*-?[\d,.]+\s*\}\s*\{\s*-?[\d,.]+\s*\}"
_NUMBER = re.compile(rf"(?P<sign>(?<![\w.)}}])[-+]\$?)?(?P<value>{_FRACTION}|{_PLAIN}(?:\s*/\s*{_PLAIN})?)")
_TEX = (
    (r"\left", ""),
    (r"\right", ""),
    (r"\!", ""),
    (r"\,", ""),
    (r"\$", "$"),
    (r"\%", "%"),
    ("{,}", ","),
    ("\u2212", "-"),
)
_LONGEST = 10_000
"""Only the last characters of a text are searched."""


def final_answer(text: str) -> str | None:
    r"""Return the part of ``text`` that holds the answer: in the last ``\boxed{}``, after the last ``####``, or all.

    None: a box or a mark is there, but empty.
    """
    text = text[-_LONGEST:]
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed.strip() or None
    _, mark, behind = text.rpartition("####")
    return (behind.strip().partition("\n")[0] or None) if mark else text


def final_number(text: str) -> Fraction | None:
    r"""Return the number of the answer in ``text``, None if there is none.

    In a box or behind ``####`` it is the first number (``12 apples in 3 bags`` is 12), else the last of the text. A
    unit, a currency or a percent sign around it is ignored: 50 % is 50.
    """
    answer = final_answer(text)
    if answer is None:
        return None
    for written, plain in _TEX:
        answer = answer.replace(written, plain)
    found = list(_NUMBER.finditer(answer))
    is_marked = answer != text[-_LONGEST:] and ("####" in text or "boxed" in text)
    return _value(found[0] if is_marked else found[-1]) if found else None


def _last_boxed(text: str) -> str | None:
    """Return what is inside the last ``\\boxed{}`` with balanced braces; an unclosed one reaches to the end."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    begin = text.index("{", start) + 1
    depth = 1
    for end in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[begin:end]
    return text[begin:]


def _value(found: re.Match[str]) -> Fraction | None:
    written = found["value"].replace(",", "")
    above, below = re.findall(r"\{\s*(.*?)\s*\}", written) if "frac" in written else (written.split("/") + ["1"])[:2]
    try:
        value = Fraction(above.strip()) / Fraction(below.strip())
    except (ValueError, ZeroDivisionError):
        return None
    return -value if found["sign"] and found["sign"].startswith("-") else value
