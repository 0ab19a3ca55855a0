"""Runs started as users start them, with Paddle's launcher: one node, two nodes, and a rank that fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alignment.parallel.comms.group import ALONE
from alignment.parity.subjects import make_models, write_arguments
from alignment.telemetry.jsonl import read_json_lines
from alignment.training.checkpoint import find_damage

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "alignment" / "ppo" / "run_ppo.py"
SFT_SCRIPT = ROOT / "alignment" / "sft" / "run_sft.py"
SECONDS_TO_END = 60
"""After a rank failed; most of it is the start of Python."""


def _launch(arguments: Path, *options: str, cwd: Path, script: Path = SCRIPT) -> subprocess.Popen:
    command = [sys.executable, "-m", "paddle.distributed.launch", *options, str(script), str(arguments)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")}
    return subprocess.Popen(
        command,
        cwd=cwd,
        env={**kept, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("launch")
    make_models(place)
    return place


def _losses(output: Path) -> list[float]:
    return [record["critic/loss"] for record in read_json_lines(output / "metrics.jsonl")]


def test_one_node_and_two_nodes_make_the_same_run(folder):
    layout = {"tensor_parallel_degree": 2, "max_steps": 2}
    one = write_arguments(folder, "ppo", "one-node", layout)
    process = _launch(one, "--nproc_per_node", "2", "--log_dir", "log-one", cwd=folder)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed[-4000:]
    assert "TP2 on cpu" in printed
    two = write_arguments(folder, "ppo", "two-nodes", layout)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{probe.getsockname()[1]}"
    nodes = [
        _launch(
            two,
            *("--master", master, "--nnodes", "2", "--rank", str(rank)),
            *("--nproc_per_node", "1", "--log_dir", f"log-node-{rank}"),
            cwd=folder,
        )
        for rank in range(2)
    ]
    outputs = [node.communicate(timeout=240)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(output[-3000:] for output in outputs)
    assert _losses(folder / "two-nodes") == _losses(folder / "one-node")


def test_sigterm_reaches_all_ranks_and_they_save_together(folder):
    """The launcher sends it to one rank after the other, several times, and gives them 30 seconds."""
    layout = {"tensor_parallel_degree": 2, "max_steps": 10**6, "save_strategy": "no", "lr_scheduler_type": "constant"}
    path = write_arguments(folder, "sft", "stopped", layout)
    process = _launch(path, "--nproc_per_node", "2", "--log_dir", "log-stopped", cwd=folder, script=SFT_SCRIPT)
    metrics, end = folder / "stopped" / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None and len(list(read_json_lines(metrics))) < 3:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=SECONDS_TO_END)
    assert process.returncode == signal.SIGTERM, printed[-4000:]
    (checkpoint,) = (folder / "stopped").glob("checkpoint-*")
    assert find_damage(checkpoint, ALONE) is None
    assert not (folder / "stopped" / ".lock").exists()
    for log in sorted((folder / "log-stopped").glob("workerlog.*")):
        said = log.read_text(errors="replace").splitlines()[-1]
        step = checkpoint.name.rpartition("-")[2]
        assert said.startswith(f"SIGTERM: stopped after update {step} of 1000000; {checkpoint} is written.")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tensor_parallel_degree": 3}, "cannot be arranged as tensor_parallel_degree=3"),
        pytest.param(
            {"pipeline_parallel_degree": 2, "virtual_pp_degree": 3}, "virtual_pp_degree=3", marks=pytest.mark.rare
        ),
        ({"eval_mode": "tensor_parallel", "rollout_tensor_parallel_degree": 3}, "rollout_tensor_parallel_degree=3"),
    ],
)
def test_an_impossible_layout_is_one_message_before_anything_loads(changes, told, folder):
    path = write_arguments(folder, "ppo", "impossible", {**changes, "overwrite_output_dir": True})
    process = _launch(path, "--nproc_per_node", "2", "--log_dir", "log-impossible", cwd=folder)
    printed, _ = process.communicate(timeout=SECONDS_TO_END * 2)
    logs = "".join(path.read_text(errors="replace") for path in (folder / "log-impossible").glob("workerlog.*"))
    assert process.returncode != 0
    assert told in printed + logs
    assert "Traceback" not in logs
    assert not (folder / "impossible" / "policy").exists()
