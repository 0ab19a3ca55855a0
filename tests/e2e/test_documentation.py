"""What README.md and docs/ show is what happens: commands run, examples work, generated parts are up to date."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import runs

from alignment.trainers.registered import TRAINERS

README = (runs.ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(page.read_text(encoding="utf-8") for page in sorted((runs.ROOT / "docs" / "how-to").glob("*.md")))]
SHELL_BLOCKS = [block for page in PAGES for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]
COMMANDS = [line for block in SHELL_BLOCKS for line in block.replace("\\\n", " ").splitlines() if line.strip()]
SHORTENED = {"sft": 30, "rm": 20, "pairwise": 20, "dpo": 8, "kd": 8, "kto": 8, "ppo": 8}
"""Updates that the trainers make here instead of those in their files; everything else is run as it is written."""

SHORT_LOOP = ["--rounds", "1", "--prompts", "packing-prompts/train:24/-1", "--train.max_steps", "3"]
"""What a loop is given here; its evaluation stays as it is."""

pytestmark = pytest.mark.e2e


def _example(name: str, language: str) -> str:
    pattern = rf"<!-- example: {name} -->\n```{language}\n(.*?)^```"
    return re.search(pattern, "\n".join(PAGES), re.MULTILINE | re.DOTALL).group(1)


def _trainer(words: list[str]) -> str | None:
    """Return the trainer that a command starts."""
    if "train" in words[:4]:
        return words[words.index("train") + 1]
    return next((name for name in TRAINERS if any(word.endswith(TRAINERS[name].door or "/") for word in words)), None)


def _run(command: str, folder: Path) -> subprocess.CompletedProcess:
    words = shlex.split(command)
    assert words[0] == "python", command
    trainer = _trainer(words)
    if trainer in SHORTENED and "--max_steps" not in words:
        is_resume = "--resume_from_checkpoint" in words
        words += ["--max_steps", str(SHORTENED[trainer] + 4 * is_resume), "--save_steps", "4"]
        words += [] if trainer != "ppo" else ["--eval_steps", "4"]
    if "loop" in words[:4] and words[-1].endswith(".json"):
        words += SHORT_LOOP
    return subprocess.run(
        [sys.executable, *words[1:]],
        cwd=folder,
        env={**runs.environment(), "PYTHONPATH": str(runs.ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@contextmanager
def _served(command: str, folder: Path) -> Iterator[None]:
    """Run a server until its end is asked for, which it must reach without an error."""
    log = folder / "server.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, *shlex.split(command)[1:]],
            cwd=folder,
            env={**runs.environment(), "PYTHONPATH": str(runs.ROOT)},
            stderr=stream,
        )
    try:
        while "listening on" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        status = process.wait(timeout=60)
    assert status == 0, log.read_text()


@pytest.mark.timeout(1500)  # over fifty commands, one after the other
def test_every_command_of_the_documentation_runs(tmp_path):
    """One after the other, as a reader would, in a folder that sees the repository's files."""
    for name in ("alignment", "config"):
        (tmp_path / name).symlink_to(runs.ROOT / name)
    (tmp_path / "my_reward.py").write_text(_example("reward", "python"))
    (tmp_path / "solved.py").write_text(_example("solved", "python"))
    (tmp_path / "rows.jsonl").write_text(_example("rows.jsonl", "jsonl"))
    assert len(COMMANDS) >= 6
    outputs = {}
    with ExitStack() as servers:
        for command in COMMANDS:
            if command.endswith(" &"):
                servers.enter_context(_served(command.removesuffix(" &"), tmp_path))
                continue
            done = _run(command, tmp_path)
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
            outputs[command] = done.stdout + done.stderr
    ppo = tmp_path / "output/demo/ppo"
    for name in ("policy", "value", "metrics.jsonl", "samples.jsonl", "ledger.json", "arguments.json", "report.html"):
        assert (ppo / name).exists(), name
    assert (tmp_path / "output/demo/rm/plots/calibration.png").stat().st_size > 1000
    readiness = json.loads((tmp_path / "output/demo/rm/readiness.json").read_text())
    assert readiness["tables"][0]["rows"][-1][0] == "all, rendered with the template none"
    assert [r["step"] for r in runs.metrics(ppo)][-1] == SHORTENED["ppo"] + 4
    resumed = next(command for command in COMMANDS if "--resume_from_checkpoint" in command)
    assert "resuming from" in outputs[resumed]


def test_the_dataset_example_registers_and_mixes(tmp_path):
    code, settings = _example("dataset", "python"), json.loads(re.search(r"```json\n(.*?)```", README, re.S).group(1))
    (tmp_path / settings["dataset_modules"]).write_text(code)
    check = (
        "from pathlib import Path\n"
        "from alignment.data.raw.modules import load_dataset_modules\n"
        "from alignment.data.raw.raw_dataset import RawDataset\n"
        f"load_dataset_modules([{settings['dataset_modules']!r}], Path('.'))\n"
        "dataset = RawDataset.load('my-dataset-name')\n"
        "pair = {'answer': 'rope lamp done', 'other_answer': 'rope done', 'better': True}\n"
        "assert dataset[0] == {'input': 'pack rope lamp', **pair}\n"
        "assert len(dataset) == 10\n"
    )
    # In a process of its own: a registered name stays for the life of one.
    environment = {**runs.environment(), "PYTHONPATH": str(runs.ROOT)}
    subprocess.run([sys.executable, "-c", check], cwd=tmp_path, env=environment, check=True, timeout=60)


def test_the_reward_example_drives_ppo(tmp_path, ppo_arguments):
    (tmp_path / "my_reward.py").write_text(_example("reward", "python"))
    arguments = {key: v for key, v in ppo_arguments.items() if key != "reward_model_name_or_path"}
    arguments |= {
        "reward_function": "my_reward.py:short_and_polite",
        "reward_critic_model_name_or_path": ppo_arguments["actor_model_name_or_path"],
        "max_steps": 2,
        "output_dir": tmp_path / "out",
    }
    runs.run_ok("ppo", arguments, tmp_path)
    assert runs.metrics(tmp_path / "out")[0]["train/reward"] <= 0


def test_generated_parts_are_up_to_date():
    spec = importlib.util.spec_from_file_location("docs_tool", runs.ROOT / "tools" / "docs.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for page, text in tool.render().items():
        assert page.read_text(encoding="utf-8") == text, "run: python tools/docs.py"


def test_the_readme_is_what_a_newcomer_reads():
    assert len(README.splitlines()) <= 200
    named = set(re.findall(r"`(docs/[\w/.-]+|benchmarks/|config/[\w/]+|CONTRIBUTING.md)`", README))
    assert named and not [path for path in named if not (runs.ROOT / path).exists()]
