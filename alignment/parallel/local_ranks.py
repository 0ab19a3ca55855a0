"""Run several ranks on this machine's CPU, for self-checks, plans and tests: Paddle is imported once, then forked.

GPUs are hidden: a process that has used one must not be forked. ``run_ranks`` starts this module as a program; real
runs are started with ``python -m paddle.distributed.launch``.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment.errors import ProcessError, UserError
from alignment.telemetry.exit_status import describe_exit

_FAILED, _REFUSED = 1, 2
"""Exit statuses of a rank."""
_HEAD_START_SECONDS = 0.3
"""The first rank serves the rendezvous store; a rank that is there before it waits three seconds."""


def run_ranks(
    target: str, *arguments: Any, world_size: int, timeout: float = 300.0, search_path: Sequence[Path] = ()
) -> list[Any]:
    """Call ``target`` ("module:function") in ``world_size`` processes and return their results by rank.

    Arguments and results are pickled. UserError with the end of the output if a rank raised one; ProcessError if a rank
    fails or dies, or after ``timeout`` seconds. No process outlives the call.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "call.pickle").write_bytes(pickle.dumps((target, arguments)))
        output = folder / "output.txt"
        path = os.pathsep.join([*map(str, search_path), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "alignment.parallel.local_ranks", str(folder), str(world_size)]
        with output.open("wb") as stream:
            process = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True, env=_environment(path)
            )
            try:
                status = process.wait(timeout)
                ended = describe_exit(status)
            except subprocess.TimeoutExpired:
                status, ended = None, f"did not end within {timeout:g} s"
            finally:
                _kill_group(process.pid)
        if status != 0:
            kind = UserError if status == _REFUSED else ProcessError
            raise kind(f"{target} in {world_size} processes {ended}:\n{_tail(output)}")
        return [pickle.loads((folder / f"result-{rank}.pickle").read_bytes()) for rank in range(world_size)]


def _environment(path: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")}
    return {**kept, "PYTHONPATH": path, "GLOG_minloglevel": "2", "CUDA_VISIBLE_DEVICES": ""}


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def _tail(output: Path) -> str:
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(line for line in lines if "FLAGS" not in line and "=====" not in line)[-6000:]


def main(folder: Path, world_size: int) -> int:
    """Fork the ranks; return 0 if all succeed, else the exit status of the first that failed."""
    from alignment.device.host import prepare_host
    from alignment.parallel.comms.leave import end_quietly

    prepare_host()
    # This imports Paddle before the fork, so that the ranks share it.
    end_quietly()
    target, arguments = pickle.loads((folder / "call.pickle").read_bytes())
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    environments = rank_environments(world_size)
    ranks = {_fork(function, arguments, environment, folder): rank for rank, environment in enumerate(environments)}
    while ranks:
        pid, status = os.wait()
        rank = ranks.pop(pid)
        if status:
            for child in ranks:
                os.kill(child, signal.SIGTERM)
            code = os.waitstatus_to_exitcode(status)
            if code < 0:
                print(f"[rank {rank}] {describe_exit(code)}", flush=True)
            return max(1, code)
    return 0


def rank_environments(world_size: int) -> list[dict[str, str]]:
    """Return the variables that ``paddle.distributed.launch`` would set for each of ``world_size`` local processes."""
    probes = [socket.socket() for _ in range(world_size + 1)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    master, *endpoints = (f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes)
    for probe in probes:
        probe.close()
    shared = {
        "PADDLE_MASTER": master,
        "PADDLE_TRAINERS_NUM": str(world_size),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_DISTRI_BACKEND": "gloo",
    }
    return [
        {
            **shared,
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_RANK_IN_NODE": str(rank),
            "PADDLE_CURRENT_ENDPOINT": endpoint,
        }
        for rank, endpoint in enumerate(endpoints)
    ]


def _fork(function: Any, arguments: Sequence[Any], environment: dict[str, str], folder: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    rank = environment["PADDLE_TRAINER_ID"]
    status = _FAILED
    try:
        if rank != "0":
            time.sleep(_HEAD_START_SECONDS)
        os.environ.update(environment)
        result = function(*arguments)
        (folder / f"result-{rank}.pickle").write_bytes(pickle.dumps(result))
        _meet()
        status = 0
    except UserError as error:
        print(f"[rank {rank}] error: {error}", flush=True)
        status = _REFUSED
    except BaseException:
        print(f"[rank {rank}] {traceback.format_exc()}", flush=True)
    finally:
        sys.stdout.flush()
        # Destructors of process groups can abort at exit; everything that matters is written.
        os._exit(status)


def _meet() -> None:
    """Wait for the other ranks, so that none closes connections that another still uses."""
    import paddle.distributed as dist

    if dist.is_initialized():
        dist.barrier()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
