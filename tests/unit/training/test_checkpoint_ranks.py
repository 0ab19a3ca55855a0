"""Several processes save one checkpoint: it is whole or absent, whoever fails or is killed, and at whatever moment."""

from __future__ import annotations

import errno
import os
import random
import signal
import sys

import numpy as np
import pytest

from alignment.architecture.parts import Part, even_cut
from alignment.errors import CheckpointError
from alignment.models.folders.hub import load_causal_lm
from alignment.models.folders.saving import WeightSource, save_model
from alignment.training.checkpoint import Checkpoint, CheckpointStore
from tests.forked_ranks import run_forked
from tests.tiny_models import tiny_causal

KILLS = int(os.environ.get("ALIGNMENT_TEST_KILLS", "6"))


@pytest.fixture(scope="module")
def model():
    return tiny_causal(vocab_size=21)


def parts_of(model, rank):
    """Two stages, each cut in two along the last axis."""
    parts = {}
    for name, parameter in model.named_parameters():
        stage = int("layers.1" in name or "norm" in name.split(".")[1] or "lm_head" in name)
        if stage == rank // 2:
            axis = len(parameter.shape) - 1
            whole = Part.whole(name, parameter.shape)
            parts[name] = whole.along(axis, *even_cut(parameter.shape[axis], 2, rank % 2))
    return parts


def state_at(step, parts):
    return {f"{name}/moment1_0": np.full(part.extent, step, np.float32) for name, part in parts.items()}


def save(topology, model, folder, step):
    parts = parts_of(model, topology.rank)
    whole = dict(model.named_parameters())
    local = {name: whole[name][part.slices].clone() for name, part in parts.items()}
    source = WeightSource(tensors=local, parts=parts, topology=topology)
    return CheckpointStore(folder, limit=2, topology=topology).save(
        step,
        models={"policy": lambda target: save_model(target, model, None, weights=source)},
        tensors={"policy_optimizer": state_at(step, parts)},
        state={"seed": topology.rank},
        parts={"policy_optimizer": parts},
    )


def check(model, folder, step):
    """The checkpoint of ``step`` is complete, and one process reads from it what four wrote."""
    found = Checkpoint(folder)
    assert found.state == {"step": step, "seed": 0}
    again = dict(load_causal_lm(found.model_folder("policy")).named_parameters())
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(again[name].numpy(), parameter.numpy(), err_msg=name)
        moments = found.tensors("policy_optimizer")[f"{name}/moment1_0"]
        np.testing.assert_array_equal(moments, np.full(parameter.shape, step, np.float32))


def test_four_processes_write_what_one_reads(tmp_path, model):
    for step in (1, 2, 3):
        assert run_forked(save, 4, model, tmp_path, step) == [tmp_path / f"checkpoint-{step}"] * 4
    check(model, tmp_path / "checkpoint-3", 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-3"], "limit=2, nothing aside"
    shards = sorted((tmp_path / "checkpoint-3" / "policy").glob("model-*.safetensors"))
    assert [path.name for path in shards] == [f"model-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)]
    sizes = [path.stat().st_size for path in shards]
    assert max(sizes) < 2 * min(sizes), "everyone writes about as much"


def fail(topology, model, folder, step, victim, place):
    """Save with a full disk on ``victim``, in what writes the files of a model or of an optimizer."""

    def refuse(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if topology.rank == victim:
        module = sys.modules[place.rpartition(".")[0]]
        setattr(module, place.rpartition(".")[2], refuse)
    return save(topology, model, folder, step)


@pytest.mark.parametrize(
    "place",
    [
        "alignment.models.folders.saving.write_files",
        "alignment.training.parts_io._write_tensors",
        "alignment.training.durable.sync_tree",
    ],
)
@pytest.mark.parametrize("victim", [0, 3])
def test_a_full_disk_on_any_rank_is_one_message_on_all(tmp_path, model, victim, place):
    run_forked(save, 4, model, tmp_path, 1)
    found = run_forked(fail, 4, model, tmp_path, 2, victim, place)
    assert all(isinstance(error, CheckpointError) for error in found), found
    assert len({str(error) for error in found}) == 1
    assert "checkpoint-2: No space left on device" in str(found[0])
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    check(model, tmp_path / "checkpoint-1", 1)


def save_and_die(topology, model, folder, victim, moment):
    """Save; the process ``victim`` kills itself at its ``moment``-th step that touches files or other processes."""
    steps = 0

    def count(event, arguments=()):
        nonlocal steps
        if event == "message" or (event in ("open", "os.mkdir", "os.rename") and str(folder) in str(arguments[0])):
            steps += 1
            if topology.rank == victim and steps == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    give = topology.world._give
    topology.world._give = lambda *arguments: (count("message"), give(*arguments))
    sys.addaudithook(count)
    save(topology, model, folder, 2)
    return steps


@pytest.mark.parametrize("is_there_before", [False, True])
def test_a_kill_at_any_moment_leaves_a_readable_checkpoint(tmp_path, model, is_there_before):
    generator = random.Random(int(is_there_before))
    steps = run_forked(save_and_die, 4, model, tmp_path / "unbroken", -1, -1)
    assert min(steps) > 5
    outcomes = set()
    for kill in range(KILLS):
        folder = tmp_path / str(kill)
        for step in (1, 2) if is_there_before else (1,):
            run_forked(save, 4, model, folder, step)
        victim = generator.randrange(4)
        found = run_forked(save_and_die, 4, model, folder, victim, generator.randint(1, steps[victim]))
        assert found[victim] is None, "it was killed"
        assert not any(isinstance(value, TimeoutError) for value in found), "the others end too"
        store = CheckpointStore(folder)
        store.clean()
        newest = store.newest()
        step = int(newest.name.rpartition("-")[2])
        assert step == 2 or not is_there_before
        outcomes.add(step)
        check(model, newest, step)
        if not is_there_before or step == 2:
            check(model, folder / "checkpoint-1", 1)
        assert not list(folder.glob(".*"))
    assert 1 in outcomes or is_there_before, "some kills came before the new one was whole"


def restore(topology, folder, model):
    store = CheckpointStore(folder, topology=topology)
    parts = parts_of(model, topology.rank)
    found = Checkpoint(store.newest()).tensors("policy_optimizer", parts=parts, known=dict(model.named_parameters()))
    return all(np.array_equal(found[key], value) for key, value in state_at(7, parts).items()) and len(found)


def test_four_processes_read_what_one_wrote(tmp_path, model):
    whole = {name: Part.whole(name, p.shape) for name, p in model.named_parameters()}
    CheckpointStore(tmp_path).save(7, models={}, tensors={"policy_optimizer": state_at(7, whole)}, state={})
    assert run_forked(restore, 4, tmp_path, model) == [len(parts_of(model, rank)) for rank in range(4)]
