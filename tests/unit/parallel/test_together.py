"""What fails in one process fails in all, and nobody waits for a process that failed."""

import pytest

from alignment.errors import CheckpointError
from alignment.parallel.comms.group import ALONE
from alignment.parallel.comms.together import Attempt, RankFault, everywhere, on_main
from tests.forked_ranks import run_forked


def fail_on(topology, victims):
    if topology.rank in victims:
        raise CheckpointError(f"rank {topology.rank} cannot")
    return topology.rank


@pytest.mark.parametrize("victims", [[1], [2], [2, 1]])
def test_the_first_failure_is_raised_everywhere(victims):
    found = run_forked(lambda topology: everywhere(topology.world, fail_on, topology, victims), 3)
    assert [str(error) for error in found] == [f"rank {min(victims)} cannot"] * 3
    assert all(isinstance(error, CheckpointError) for error in found)


def test_without_a_failure_everyone_has_its_own_result_or_that_of_the_first():
    assert run_forked(lambda topology: everywhere(topology.world, fail_on, topology, []), 3) == [0, 1, 2]
    assert run_forked(lambda topology: on_main(topology.world, fail_on, topology, [1, 2]), 3) == [0, 0, 0]


def attempt_in_steps(topology):
    attempt = Attempt(topology.world)
    done = [attempt.run(fail_on, topology, [1])]
    everyone = topology.world.gather_objects("still talking")
    done.append(attempt.run(fail_on, topology, []))
    try:
        attempt.settle()
    except CheckpointError as error:
        return done, everyone, str(error)


def test_after_a_failure_messages_go_on_and_the_rest_of_the_work_is_skipped():
    found = run_forked(attempt_in_steps, 2)
    assert [done for done, _, _ in found] == [[0, 0], [None, None]]
    assert all(everyone == ["still talking"] * 2 and error == "rank 1 cannot" for _, everyone, error in found)


def test_a_fault_of_the_program_passes_through():
    with pytest.raises(ZeroDivisionError):
        everywhere(ALONE, lambda: 1 // 0)


def divide_on(topology, victim):
    return 1 // (topology.rank != victim)


def test_a_fault_of_the_program_shows_its_cause_in_every_process():
    found = run_forked(lambda topology: everywhere(topology.world, divide_on, topology, 1), 3)
    assert [type(error) for error in found] == [RankFault, ZeroDivisionError, RankFault]
    for error in (found[0], found[2]):
        assert str(error).startswith("a fault in rank 1:\nTraceback")
        assert "in divide_on" in str(error)
        assert str(error).endswith("ZeroDivisionError: integer division or modulo by zero\n")


def test_one_process_raises_its_own_error():
    error = OSError("full")
    with pytest.raises(OSError, match="full") as caught:
        on_main(ALONE, (_ for _ in ()).throw, error)
    assert caught.value is error
