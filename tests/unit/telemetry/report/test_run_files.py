"""What a run left is read as it stands: the last record of a step counts, and what is not finite is kept as such."""

from __future__ import annotations

import json
import math

from alignment.telemetry.report.run_files import read_run_files, step_range
from alignment.telemetry.writers import open_writers


def test_a_resumed_run_has_each_step_once(tmp_path):
    for resume_step, steps, value in ((0, range(1, 6), 1.0), (3, range(4, 8), 2.0)):
        writers = open_writers(["none"], output_dir=tmp_path, resume_step=resume_step)
        for step in steps:
            writers.write(step, {"sft/loss": value * step})
        writers.close()
    assert read_run_files(tmp_path).series == {
        "sft/loss": [(1, 1.0), (2, 2.0), (3, 3.0), (4, 8.0), (5, 10.0), (6, 12.0), (7, 14.0)]
    }


def test_of_two_records_of_a_step_the_last_one_counts_whatever_their_order(tmp_path):
    lines = [{"step": 2, "a": 1.0}, {"step": 1, "a": None, "non_finite": {"a": "nan"}}, {"step": 2, "a": 3.0}]
    lines += [{"step": 1, "a": 5.0}, {"step": 3, "a": 7.0}, {"step": 3, "a": None, "non_finite": {"a": "inf"}}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_run_files(tmp_path).series == {"a": [(1, 5.0), (2, 3.0), (3, None)]}


def test_what_is_no_number_is_no_point(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": true, "b": "x", "c": [1], "d": 1e999, "e": 2}\n[1]\nx\n')
    assert read_run_files(tmp_path).series == {"d": [(1, None)], "e": [(1, 2.0)]}


def test_values_that_are_not_finite_come_through_the_writers(tmp_path):
    writers = open_writers(["none"], output_dir=tmp_path)
    for step, value in enumerate((1.0, math.nan, -math.inf), 1):
        writers.write(step, {"policy/loss": value})
    writers.close()
    run = read_run_files(tmp_path)
    assert run.series == {"policy/loss": [(1, 1.0), (2, None), (3, None)]}
    assert run.steps == (1, 3)


def test_the_steps_of_lines_of_different_length():
    assert step_range([[(3, 1.0), (9, None)], [], [(0, 1.0)]]) == (0, 9)
    assert step_range([]) is None


def test_a_number_beyond_every_float_is_infinite_and_a_folder_is_no_file(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "a": 1{"0" * 400}}}\n{{"step": 2, "a": 1}}\n')
    (tmp_path / "ledger.json").mkdir()
    run = read_run_files(tmp_path)
    assert run.series == {"a": [(1, None), (2, 1.0)]} and run.ledger is None
    assert caplog.messages == [f"{tmp_path}/ledger.json is left out of the report: it is a folder"]
