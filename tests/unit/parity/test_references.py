"""The runs of one process that layouts are compared with: each once, in a folder of its own."""

from __future__ import annotations

import json

from alignment.parity import check
from alignment.parity.subjects import Subject


def test_equal_runs_are_made_once_and_no_folder_is_used_twice(tmp_path, monkeypatch):
    outputs = []

    def run(jobs, **_):
        made = [json.loads(path.read_text())["output_dir"] for _, path in jobs]
        outputs.extend(made)
        return made

    monkeypatch.setattr(check, "run_trainers", run)
    references = check.References(tmp_path, timeout=1)
    first, twin, other, later = (
        Subject(label, "sft", {"seed": seed}) for label, seed in (("a", 1), ("twin of a", 1), ("b", 2), ("c", 3))
    )
    found = references.get(1, {}, [first, twin, other])
    assert found[0] == found[1] != found[2]
    assert references.get(1, {}, [other, later])[0] == found[2]
    assert len(outputs) == 3 == len(set(outputs))
