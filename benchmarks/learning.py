"""Measure how fast a true score is learned, against TRL: by CPU seconds and by generated tokens, as curves.

    python benchmarks/learning.py --peer PEER/bin/python --ppo_peer FOLDER [--seeds 1 2 3] [--write]

Three generated tasks (``learning_tasks.py``). For each task one reward model is trained, and for each seed one
supervised policy, from which every run of both sides starts. PEER is an environment with trl 1.16; FOLDER holds trl
1.12 (``pip install --no-deps --target FOLDER trl==1.12.0``), the last release with PPO. Every policy is judged by the
same engine on held-out prompts. Finished runs in ``--work`` are kept, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(1, str(ROOT))

from learning_arms import OURS, PEER, settings_of  # noqa: E402
from learning_prepare import REWARD_SEED, prepare  # noqa: E402
from learning_report import write_results  # noqa: E402
from learning_runs import START, read_runs  # noqa: E402
from learning_tasks import TASKS  # noqa: E402
from learning_work import POINTS, SETTINGS, read_points, write_points  # noqa: E402

HERE = Path(__file__).resolve().parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> None:
    """Run what the command line asks for."""
    options = parse_options()
    cases = [(task, seed) for seed in options.seeds for task in options.tasks]
    for task, seed in [*((task, REWARD_SEED) for task in options.tasks), *cases]:
        prepare(task, seed, options.work / f"{task}-{seed}")
    runs = {arm: [make_run(arm, *case, options.work) for case in cases] for arm in options.arms}
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda arm: run(arm, runs[arm], options), runs))
    judge([*(make_start(*case, options.work) for case in cases), *chain(*runs.values())])
    print(write_results(read_runs(options.work), options.results if options.write else options.work))


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="Python interpreter of an environment with trl 1.16")
    parser.add_argument("--ppo_peer", type=Path, required=True, help="folder with trl 1.12")
    parser.add_argument("--peer_path", type=Path, help="folder with packages that the peers import first")
    parser.add_argument("--work", type=Path, required=True, help="folder for all runs")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--arms", nargs="+", choices=[*OURS, *PEER], default=[*PEER, *OURS])
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--write", action="store_true", help="write dated files")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for --write")
    return parser.parse_args()


def make_run(arm: str, task: str, seed: int, work: Path) -> Path:
    """Return the folder of a run, with its settings."""
    data = work / f"{task}-{seed}"
    folder = data / "runs" / arm.replace(",", "").replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"arm": arm, **settings_of(arm, task=task, seed=seed, data=data, run=folder)}
    (folder / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    return folder


def make_start(task: str, seed: int, work: Path) -> Path:
    """Return the folder of the run whose only point is the supervised policy."""
    data = work / f"{task}-{seed}"
    folder = data / "runs" / START
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"arm": START, "task": task, "seed": seed, "data": str(data)}
    (folder / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    if not (folder / POINTS).is_file():
        write_points(folder, [{"update": 0, "cpu": 0.0, "tokens": 0, "policy": str(data / "start" / "policy")}])
    return folder


def run(arm: str, folders: list[Path], options: argparse.Namespace) -> None:
    """Run what is not finished of an arm in one process of its side."""
    waiting = [str(folder) for folder in folders if not (folder / POINTS).is_file()]
    if not waiting:
        return
    command, settings = [sys.executable, str(HERE / "learning_ours.py")], {"PYTHONPATH": str(ROOT)}
    if arm in PEER:
        paths = [options.peer_path, options.ppo_peer if arm == "trl ppo" else None]
        settings = {"PYTHONPATH": ":".join(str(path) for path in paths if path), "TRL_EXPERIMENTAL_SILENCE": "1"}
        command = [options.peer, str(HERE / "learning_trl.py")]
    with (folders[0] / "log").open("w", encoding="utf-8") as log:
        environment = {**os.environ, **ONE_THREAD, **settings}
        subprocess.run([*command, *waiting], check=True, env=environment, stdout=log, stderr=log)


def judge(folders: list[Path]) -> None:
    """Add true scores to the points that have none."""
    waiting = [str(folder) for folder in folders if not all("greedy_reward" in point for point in read_points(folder))]
    if waiting:
        command = [sys.executable, str(HERE / "learning_ours.py"), "judge", *waiting]
        subprocess.run(command, check=True, env={**os.environ, **ONE_THREAD}, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
