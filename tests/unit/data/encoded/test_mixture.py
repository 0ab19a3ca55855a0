"""The rows of several datasets, one dataset after the other, each with its place and its fault."""

from __future__ import annotations

from alignment.data.encoded.mixture import Mixture
from alignment.data.raw.dataset_spec import parse_datasets


def _mixture(text, **options):
    return Mixture(parse_datasets(text), seed=3, **options)


def test_rows_come_dataset_by_dataset_with_their_places(make_dataset):
    many = make_dataset([{"input": f"a {n}", "answer": "b"} for n in range(6)], "six")
    few = make_dataset([{"input": "c", "answer": "\ud800"}, {"input": "d", "answer": "b"}], "two")
    mixture = _mixture(f"{many}:0.5, {few}")
    rows = list(mixture)
    assert len(mixture) == len(rows) == 5
    assert [row.position for row in rows] == list(range(5))
    assert [row.dataset for row in rows] == [many] * 3 + [few] * 2
    assert all(str(row.place) == f"dataset {row.dataset!r}, row {row.index}" for row in rows)
    assert all(row.sample["input"] == f"a {row.index}" for row in rows[:3])
    broken = {row.index: row for row in rows[3:]}
    assert (broken[0].fault.reason, broken[0].sample) == ("broken_text", {})
    assert (broken[1].fault, broken[1].sample["input"]) == (None, "d")
