"""Tables print user text as it is and numbers readably."""

from __future__ import annotations

import pytest

from alignment.telemetry.tables import format_number, print_table


def test_table_keeps_brackets_and_aligns_numbers(capsys):
    print_table("Demo [x]", ["name [y]", "score"], [["[bold]a[/bold]", 0.123456], ["b", 12345], [None, 7.0]])
    text = capsys.readouterr().out
    assert "Demo [x]" in text
    assert "name [y]" in text
    assert "[bold]a[/bold]" in text
    cells = [line.split("\u2502")[2] for line in text.splitlines() if "\u2502" in line]
    assert [cell.strip() for cell in cells] == ["0.1235", "12,345", "7"]
    assert len({len(cell.rstrip()) for cell in cells}) == 1
    names = [line.split("\u2502")[1] for line in text.splitlines() if "\u2502" in line]
    assert names[1].startswith(" b "), "text stands on the left"
    assert "\x1b" not in text


def test_a_short_row_is_a_mistake():
    with pytest.raises(AssertionError, match="2 values"):
        print_table("t", ["a", "b"], [["only"]])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (1234567, "1,234,567"),
        (0.000012345, "1.234e-05"),
        (52002.4, "52,002"),
        (float("nan"), "nan"),
        (True, "True"),
        (-0.5, "-0.5"),
        (-0.0, "0"),
        (float("inf"), "inf"),
    ],
)
def test_format_number(value, text):
    assert format_number(value) == text
