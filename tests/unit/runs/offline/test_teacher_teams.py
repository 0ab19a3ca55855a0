"""Which team runs a micro-batch of a teacher in a layout of its own, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from alignment.architecture.layout import Layout
from alignment.errors import ArgumentError
from alignment.parallel.comms.group import Group
from alignment.parallel.initialise import _joined
from alignment.parallel.roles import RoleRanks
from alignment.parallel.topology import Topology, batch_index
from alignment.records import TokenBatch
from alignment.runs.offline import teacher, teacher_teams
from alignment.runs.offline.teacher_teams import TeacherTeams
from tests.tiny_models import tiny_causal

BATCHES = [TokenBatch.build([np.arange(3, 6 + size)], [np.arange(1, 3 + size)]) for size in (3, 1, 2)]


def teams_of(monkeypatch, layout, degree, rank):
    """The teams as ``rank`` sees them, with groups that send nothing."""
    size = layout.world_size
    first = _joined(size, lambda r: r // degree, lambda r: batch_index(r, layout))
    peers = [r for r in range(size) if first[r] == first[rank]]
    team = [r for r in range(size) if r // degree == rank // degree]
    groups = [Group("team", team, rank=rank), Group("peers", peers, rank=rank)]
    monkeypatch.setattr(teacher_teams, "teacher_groups", lambda topology, degree: groups)
    return TeacherTeams(Topology(device="cpu", layout=layout), degree), peers


@pytest.mark.parametrize(
    ("layout", "degree", "rank", "peers", "shares"),
    [
        # Two teams of one have the same rows; they divide the three micro-batches.
        (Layout(tensor=2), 1, 0, [0, 1], [[0, 1], [2]]),
        # One team for both: 0 and 1 of the first process, 2 and the shortest again of the second.
        (Layout(data=2), 2, 1, [0, 1], [[0, 1, 2]]),
        # Ranks 0 and 2 are the stages of one pipeline, 1 and 3 of the other: all are peers.
        (Layout(pipeline=2, sharding=2), 2, 3, [0, 1, 2, 3], [[0, 1], [2]]),
        # Data parallelism is outermost: the second pipeline has nothing to do with the first.
        (Layout(pipeline=2, data=2), 2, 3, [2, 3], [[2, 1]]),
    ],
)
def test_teams_that_need_the_same_rows_divide_them(monkeypatch, layout, degree, rank, peers, shares):
    teams, found = teams_of(monkeypatch, layout, degree, rank)
    assert (found, teams.shares(BATCHES)) == (peers, shares)


@pytest.mark.parametrize(("taught", "index", "columns"), [(12, 0, (0, 5)), (12, 1, (5, 12)), (8, 1, (5, 8))])
def test_the_head_is_cut_where_the_students_is_and_the_rest_is_the_last_ones(monkeypatch, taught, index, columns):
    """A student of 10 ids in two processes, each beside a whole teacher."""
    shared = Group("tensor", [0, 1], rank=index)
    teams, _ = teams_of(monkeypatch, Layout(tensor=2), 1, index)
    teams._topology = Topology(device="cpu", layout=Layout(tensor=2), tensor=shared)
    model = tiny_causal(seed=1, vocab_size=taught)
    head = teams.head_of(model, SimpleNamespace(config=SimpleNamespace(vocab_size=10)))
    weight, transposed = model.head()
    cut, whole = (part.numpy().T if transposed else part.numpy() for part in (head.weight, weight))
    np.testing.assert_array_equal(cut, whole[:, slice(*columns)])


def launch_with(degree, *, tensor, taught):
    asked = SimpleNamespace(teacher_model_name_or_path=taught, own_degree=lambda size: degree)
    topology = SimpleNamespace(layout=Layout(tensor=tensor), world_size=tensor, world=SimpleNamespace(size=tensor))
    parsed = SimpleNamespace(teacher=asked, data=SimpleNamespace(max_length=8), offline=None)
    ranks = RoleRanks(layout=topology.layout)
    return SimpleNamespace(parsed=parsed, topology=topology, hashed={}, ranks_of=lambda role: ranks)


@pytest.mark.parametrize(
    ("degree", "taught", "says"),
    [
        (None, 72, "padded to 72 ids, the student to 64: .* Give teacher_tensor_parallel_degree, so that"),
        (1, 72, None),
        (1, 40, None),
        (1, 32, "padded to 32 ids, the student to 64: .*padding alone; or use a degree of 1"),
        (3, 64, "teacher_tensor_parallel_degree=3 does not divide the 2 processes and the .*; allowed: 1, 2$"),
    ],
)
def test_what_cannot_be_cut_alike_is_refused_with_what_works(monkeypatch, degree, taught, says):
    config = tiny_causal(seed=1).config
    sizes = {"teacher": taught, "student": 64}
    monkeypatch.setattr(teacher, "resolve_model_folder", lambda named, parts: named)
    monkeypatch.setattr(teacher, "check_same_tokens", lambda *_, **__: None)
    monkeypatch.setattr(
        teacher,
        "check_fit",
        lambda folder, *_, **__: SimpleNamespace(
            experts=None,
            **{**{key: getattr(config, key) for key in ("num_attention_heads", "num_key_value_heads")},
               "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": sizes[folder]}
        ),
    )  # fmt: skip
    launch = launch_with(degree, tensor=2, taught="teacher")
    if says is None:
        assert teacher.find_teacher(launch, "student", None).num_ids == taught
    else:
        with pytest.raises(ArgumentError, match=says):
            teacher.find_teacher(launch, "student", None)
