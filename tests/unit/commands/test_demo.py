"""The demo when a stage fails: what is said, and what is kept."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from alignment.commands import demo
from alignment.commands.demo import SeedOutcome
from alignment.errors import UserError
from alignment.telemetry import tables

GOOD = ["-c", "pass"]
DIES = ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGILL)"]


def make_outcome(seed, folder):
    return SeedOutcome(
        objective="ppo",
        seed=seed,
        scores={"sft": 0.5, "ppo": 1.0},
        figures={figure.title: 0.875 for figure in demo.RECIPES["ppo"].figures},
        seconds={"sft": 1.0},
        folder=folder,
    )


def test_a_stage_that_a_signal_ends_is_named_with_the_signal_and_what_is_kept(monkeypatch, tmp_path):
    stages = {"sft": GOOD, "rm": GOOD, "ppo": DIES, "judge": GOOD}
    monkeypatch.setattr(demo, "list_commands", lambda objective, seed, folder: stages)
    with pytest.raises(UserError) as caught:
        demo.run_seed("ppo", 7, tmp_path)
    message = str(caught.value)
    assert message.startswith("seed 7: ppo was ended by SIGILL (Illegal instruction): the processor lacks")
    assert f"finished and kept: {tmp_path / 'sft'}, {tmp_path / 'rm'}; what failed: python -c import os" in message


def test_a_stage_that_fails_by_itself_has_said_why():
    with pytest.raises(UserError, match=r"^sft failed with exit status 3 \(see its message above\); what failed: "):
        demo.run(["-c", "raise SystemExit(3)"], title="sft")


def test_the_seeds_before_a_failure_are_kept_and_shown(monkeypatch, tmp_path, capsys):
    def run_seed(objective, seed, folder):
        if seed == 3:
            raise UserError("seed 3: rm was ended by SIGKILL")
        return make_outcome(seed, folder)

    monkeypatch.setattr(demo, "run_seed", run_seed)
    with pytest.raises(UserError, match="SIGKILL"):
        demo.main(["--seeds", "1,2,3,4", "--output_dir", str(tmp_path)])
    assert [kept["seed"] for kept in json.loads((tmp_path / "outcomes.json").read_text())] == [1, 2]
    printed = capsys.readouterr().out
    assert "seed 1" in printed and "seed 2" in printed and "seed 3" not in printed


def test_the_table_shows_scores_and_figures(monkeypatch, tmp_path):
    shown = {}
    monkeypatch.setattr(tables, "print_table", lambda title, heads, rows: shown.update({r[0]: r[1:] for r in rows}))
    demo.print_outcomes([make_outcome(1, tmp_path), make_outcome(2, tmp_path)])
    assert shown["true score on held-out prompts, after sft"] == ("0.500", "0.500")
    assert shown["true score on held-out prompts, after ppo"] == ("1.000", "1.000")
    assert shown["reward model accuracy on held-out pairs"] == ("87.5%", "87.5%")
    assert shown["report"] == (str(tmp_path / "ppo" / "report.html"),) * 2


def test_every_stage_is_a_process_and_the_judge_is_the_last(tmp_path):
    commands = demo.list_commands("ppo", 5, tmp_path)
    assert list(commands) == ["sft", "rm", "ppo", "export", "judge"]
    assert commands["judge"] == ["-m", "alignment", "demo", "--objective", "ppo", "--judge", str(tmp_path)]
    assert commands["ppo"][-4:] == [
        "--actor_model_name_or_path", str(tmp_path / "sft/policy"),
        "--reward_model_name_or_path", str(tmp_path / "rm/reward"),
    ]  # fmt: skip


def test_each_objective_has_its_files_and_stages_that_start_from_earlier_ones(tmp_path):
    for objective, recipe in demo.RECIPES.items():
        made = set()
        for stage in recipe.stages:
            assert (demo.CONFIGS / f"{stage.name}_argument.json").is_file()
            assert {folder.partition("/")[0] for folder in stage.models.values()} <= made
            made.add(stage.name)
        assert {figure.stage for figure in recipe.figures} <= made
        commands = demo.list_commands(objective, 1, tmp_path)
        assert commands["export"][-2:] == [str(tmp_path / recipe.stages[-1].name), str(tmp_path / "exported-policy")]
    assert list(demo.list_commands("dpo", 1, tmp_path)) == ["sft", "dpo", "export", "judge"]


def test_one_seed_alone_goes_where_its_argument_files_and_the_readme_look(monkeypatch, tmp_path):
    """What the demo adds to a file of ``config/tiny`` is what stands in it, so that README's commands follow a demo."""
    seen = []

    def run_seed(objective, seed, folder):
        seen.append((objective, seed, folder))
        return make_outcome(seed, folder)

    monkeypatch.setattr(demo, "run_seed", run_seed)
    monkeypatch.setattr(demo, "replace_file", lambda path, text: None)
    demo.main([])
    commands = demo.list_commands(*seen[0])
    for stage in ("sft", "rm", "ppo"):
        given = commands[stage]
        file = json.loads(Path(given[1]).read_text())
        added = dict(zip(given[2::2], given[3::2], strict=True))
        assert added == {key: str(file[key.removeprefix("--")]).lower() for key in added}
    shown = set(re.findall(r"output/demo/[\w/-]+", (demo.ROOT / "README.md").read_text()))
    made = {"sft/policy", "rm/reward", "ppo", "exported-policy"}
    assert {path.removeprefix("output/demo/") for path in shown} - {"ppo-tp2-sh2"} <= made
    demo.main(["--seeds", "1,2", "--output_dir", str(tmp_path)])
    assert seen[1:] == [("ppo", 1, tmp_path / "seed-1"), ("ppo", 2, tmp_path / "seed-2")]


def test_the_judge_writes_the_score_of_each_policy(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "judge", lambda folder: {"sft": 0.25, "ppo": 1.0, "dpo": 0.75}[folder.parent.name])
    for objective, score in (("ppo", 1.0), ("dpo", 0.75)):
        demo.main(["--judge", str(tmp_path), "--objective", objective])
        assert json.loads((tmp_path / demo.SCORES).read_text()) == {"sft": 0.25, objective: score}
