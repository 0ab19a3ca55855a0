"""Which operators a run trains on: compiled ones when they are wanted and every process has them, said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from alignment.errors import ArgumentError
from alignment.models.decoder.forest import share_tokens, sharing_tokens
from alignment.ops.native import selection
from alignment.ops.native.library import Search
from alignment.ops.native.selection import native_ops_enabled
from alignment.parallel.comms.group import ALONE
from alignment.runs import launch
from alignment.runs.changed_arguments import ARGUMENTS, arguments_part, describe_changes, read_arguments
from alignment.runs.launch import (
    Launch,
    choose_operators,
    choose_sharing,
    describe_offload,
    open_output,
)


@pytest.fixture
def find(monkeypatch):
    """Return a function that sets what the search for kernels finds and gives the lines that are logged.

    The switch is left as it was.
    """
    monkeypatch.setattr(selection, "_wanted", False)

    def find(core, reason):
        lines = []
        monkeypatch.setattr(launch, "find_core", lambda: Search(core, reason))
        monkeypatch.setattr(selection, "load_core", lambda: core)
        monkeypatch.setattr(launch.log, "info", lines.append)
        return lines

    return find


class Two:
    """A group in which another process has said ``other``."""

    def __init__(self, other):
        self._other = other

    def gather_objects(self, value, what=""):
        return [value, self._other]


@pytest.mark.parametrize("world", [ALONE, Two(None)])
def test_compiled_operators_run_where_they_are_wanted_and_there(find, world):
    lines = find(object(), "cached build x.so")
    choose_operators(world, wanted=True)
    assert native_ops_enabled()
    assert lines == ["training and scoring: compiled operators (cached build x.so)"]


def test_without_a_library_paddles_run_and_the_reason_is_said_once(find):
    lines = find(None, "no C++ compiler")
    choose_operators(ALONE, wanted=True)
    assert not native_ops_enabled()
    assert lines == ["training and scoring: Paddle's operators (no C++ compiler)"]


def test_one_process_without_a_library_is_enough_for_all_to_use_paddles(find):
    lines = find(object(), "cached build x.so")
    choose_operators(Two("no C++ compiler on node 1"), wanted=True)
    assert not native_ops_enabled()
    assert lines == ["training and scoring: Paddle's operators (no C++ compiler on node 1)"]


@pytest.mark.parametrize(
    ("parts", "device", "said"),
    [
        ((), "cpu", None),
        (("optimizer",), "gpu", None),
        (("optimizer",), "cpu", "optimizer is"),
        (("train_model", "optimizer"), "cpu", "optimizer, train_model are"),
    ],
)
def test_offloading_on_a_cpu_says_what_it_does_there(parts, device, said):
    line = describe_offload(parts, device)
    assert line is None if said is None else line.startswith(f"offload_level: {said} copied to host arrays")
    assert said is None or "on a CPU that is the same memory" in line and "saves nothing" in line


def test_nothing_is_said_where_they_are_not_wanted(find):
    lines = find(object(), "cached build x.so")
    choose_operators(ALONE, wanted=True)
    lines.clear()
    choose_operators(ALONE, wanted=False)
    assert not native_ops_enabled() and lines == []


@pytest.mark.parametrize(("wanted", "shares"), [(None, True), (True, True), (False, False)])
def test_tokens_are_shared_unless_not_wanted(find, wanted, shares):
    find(object(), "cached build x.so")
    choose_operators(ALONE, wanted=True)
    choose_sharing(wanted)
    assert sharing_tokens() == shares
    share_tokens(False)


def test_tokens_are_not_shared_without_compiled_operators(find):
    find(None, "no C++ compiler")
    choose_operators(ALONE, wanted=True)
    choose_sharing(None)
    assert not sharing_tokens()
    with pytest.raises(ArgumentError, match=r"share_prefixes=true needs the compiled operators.*no C\+\+ compiler"):
        choose_sharing(True)


def _changes(now, before, *, trained="float32", state=None):
    checkpoint = SimpleNamespace(state=state or {}, folder=before.parent / "checkpoint-4")
    return describe_changes(SimpleNamespace(as_dict=lambda: now), read_arguments(checkpoint), trained=trained)


def test_what_counts_are_the_values_that_the_checkpoint_was_written_with(tmp_path):
    """Not those of a later start in its folder, which went on from it with others."""
    before = tmp_path / "arguments.json"
    before.write_text(json.dumps({"beta": {"value": 0.3}}))
    state = json.loads(json.dumps({ARGUMENTS: arguments_part(SimpleNamespace(as_dict=lambda: {"beta": 0.1})).read()}))
    assert _changes({"beta": 0.3}, before, state=state) == "beta was 0.1 and is 0.3"
    assert _changes({"beta": 0.1}, before, state=state) is None
    assert _changes({"beta": 0.1}, before) == "beta was 0.3 and is 0.1"


def test_what_a_resumed_run_changes_is_named(tmp_path):
    before = tmp_path / "arguments.json"
    rows = {"loss_type": "sigmoid", "betas": [1, 2], "output_dir": "a", "gone": 1}
    before.write_text(json.dumps({key: {"value": value, "origin": "default"} for key, value in rows.items()}))
    now = {"loss_type": "ipo", "betas": (1, 2), "output_dir": "b", "new": 2}
    assert _changes(now, before) == "loss_type was sigmoid and is ipo"
    assert _changes(now | {"loss_type": "sigmoid"}, before) is None


@pytest.mark.parametrize(
    ("trained", "said"), [("float32", None), ("bfloat16", "rollout_weight_type was float32 and is null")]
)
def test_a_null_type_of_the_engine_is_the_one_of_the_trained_weights(trained, said, tmp_path):
    before = tmp_path / "arguments.json"
    before.write_text(json.dumps({"rollout_weight_type": {"value": "float32"}, "flag": {"value": False}}))
    assert _changes({"rollout_weight_type": None, "flag": False}, before, trained=trained) == said
    told = "flag was false and is true"
    assert _changes({"rollout_weight_type": "float32", "flag": True}, before, trained=trained) == told


@pytest.mark.parametrize("text", [None, "{", "[]", '{"loss_type": 1}'])
def test_arguments_that_cannot_be_read_are_not_compared(tmp_path, text):
    before = tmp_path / "arguments.json"
    if text is not None:
        before.write_text(text)
    assert _changes({"loss_type": "ipo"}, before) is None


def test_an_output_folder_with_too_long_a_name_is_one_message(tmp_path):
    with pytest.raises(ArgumentError, match="output_dir=.*aaa cannot be used: File name too long"):
        open_output(tmp_path / ("a" * 300))
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_below_a_file_is_one_message(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ArgumentError, match="cannot be used: "):
            open_output(folder)


@pytest.mark.parametrize(("step", "expected"), [(None, 0), (7, 7)])
def test_a_run_goes_on_at_the_step_of_its_checkpoint_and_a_fresh_one_at_zero(step, expected):
    checkpoint = None if step is None else SimpleNamespace(state={"step": step})
    training = SimpleNamespace(run_name=None, weight_dtype=lambda device: f"dtype on {device}")
    launched = Launch(
        parsed=SimpleNamespace(training=training), topology=SimpleNamespace(device="cpu"), store=None,
        output_dir=Path("runs/first"), checkpoint=checkpoint,
    )  # fmt: skip
    assert launched.resume_step == expected
    assert (launched.run_name, launched.dtype) == ("first", "dtype on cpu")
    training.run_name = "named"
    assert launched.run_name == "named"
