"""Numbers with nouns for messages."""

from __future__ import annotations

import pytest

from alignment.telemetry.wording import counted


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [(0, "row", "0 rows"), (1, "row", "1 row"), (2, "row", "2 rows"), (1, "pass", "1 pass"), (3, "pass", "3 passes")],
)
def test_a_noun_has_the_form_of_its_number(number, noun, said):
    assert counted(number, noun) == said
