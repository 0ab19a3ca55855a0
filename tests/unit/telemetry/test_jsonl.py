"""JSON lines stay valid JSON, survive kills, and are cut back to the step of a resume."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from alignment.errors import UserError
from alignment.telemetry.jsonl import JsonLines, read_json_lines


def write(path, steps, resume_step=0):
    lines = JsonLines(path, resume_step=resume_step)
    for step in steps:
        lines.append({"step": step, "loss": step / 3})
    lines.close()


def strictly(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_each_record_is_on_disk_before_the_next(tmp_path):
    lines = JsonLines(tmp_path / "m.jsonl", resume_step=0)
    lines.append({"step": 1, "loss": 0.1})
    assert (tmp_path / "m.jsonl").read_text() == '{"step": 1, "loss": 0.1}\n'
    lines.close()
    lines.close()


def test_nan_and_infinity_become_null_with_a_note(tmp_path):
    lines = JsonLines(tmp_path / "m.jsonl", resume_step=0)
    lines.append({"step": 1, "a": math.nan, "b": -math.inf, "c": np.float32(0.5), "d": np.float64("nan"), "e": "nan"})
    lines.close()
    assert strictly((tmp_path / "m.jsonl").read_text()) == {
        "step": 1, "a": None, "b": None, "c": 0.5, "d": None, "e": "nan",
        "non_finite": {"a": "nan", "b": "-inf", "d": "nan"},
    }  # fmt: skip


def test_text_with_line_ends_stays_on_one_line(tmp_path):
    lines = JsonLines(tmp_path / "s.jsonl", resume_step=0)
    lines.append({"step": 1, "prompt": "a\nb\u2028\u00e9\r\n"})
    lines.close()
    assert [record["prompt"] for record in read_json_lines(tmp_path / "s.jsonl")] == ["a\nb\u2028\u00e9\r\n"]


def test_resume_drops_later_records_and_keeps_the_rest_exactly(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, [0, 1, 2, 3, 4])
    write(path, [3], resume_step=2)
    assert [(record["step"], record["loss"]) for record in read_json_lines(path)] == [
        (0, 0.0), (1, 1 / 3), (2, 2 / 3), (3, 1.0),
    ]  # fmt: skip
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.jsonl"]


def test_a_fresh_run_starts_empty(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, [0, 1, 2])
    write(path, [0])
    assert [record["step"] for record in read_json_lines(path)] == [0]


@pytest.mark.parametrize(
    "torn", ['{"step": 3, "lo', '{"step": 2, "loss": 0.7}', "[1, 2]\n", '{"loss": 1}\n', "\x00\x00\n"]
)
def test_a_torn_last_line_never_spoils_the_next_record(tmp_path, torn):
    path = tmp_path / "m.jsonl"
    write(path, [1])
    with path.open("a") as file:
        file.write(torn)
    write(path, [3], resume_step=2)
    assert [record["step"] for record in read_json_lines(path)] in ([1, 3], [1, 2, 3])
    for line in path.read_text().splitlines():
        strictly(line)


def test_an_untouched_file_is_not_rewritten(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, [1, 2])
    before = path.stat().st_ino
    write(path, [], resume_step=2)
    assert path.stat().st_ino == before


def test_full_disk_is_one_message_with_the_path(tmp_path):
    (tmp_path / "m.jsonl").symlink_to("/dev/full")
    lines = JsonLines.__new__(JsonLines)
    lines.path = tmp_path / "m.jsonl"
    lines._file = lines.path.open("a")
    with pytest.raises(UserError, match=r"cannot write .*m\.jsonl: No space left"):
        lines.append({"step": 1})


def test_what_json_cannot_hold_is_a_mistake(tmp_path):
    lines = JsonLines(tmp_path / "m.jsonl", resume_step=0)
    with pytest.raises(TypeError, match="object"):
        lines.append({"step": 1, "x": object()})
    lines.close()


@pytest.mark.parametrize("resume_step", [0, 5])
def test_an_empty_file_has_nothing_to_drop(tmp_path, caplog, resume_step):
    path = tmp_path / "m.jsonl"
    path.touch()
    write(path, [], resume_step=resume_step)
    assert "dropped" not in caplog.text
