"""Checksums do not depend on who computes them."""

import pytest

from alignment.training import checksums
from alignment.training.checksums import hash_file, hash_files, share_files
from tests.forked_ranks import run_forked

EMPTY, ABC = "99aa06d3014798d86001c324468d497f", "06b05ab6733a618578af5f94892f3950"
"""XXH3 of 128 bits, seed 0, as the reference implementation's program prints it."""


def test_known_checksums(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "abc").write_bytes(b"abc")
    assert hash_file(tmp_path / "empty") == EMPTY
    assert hash_file(tmp_path / "abc") == ABC


def test_a_file_of_several_blocks(tmp_path, monkeypatch):
    (tmp_path / "abc").write_bytes(b"abc")
    monkeypatch.setattr(checksums, "_BLOCK_BYTES", 2)
    assert hash_file(tmp_path / "abc") == ABC


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shares_are_even_and_hold_everything_once(count):
    sizes = {"a": 10, "b": 7, "c": 7, "d": 4, "e": 0}
    shares = share_files(sizes, count)
    assert sorted(sum(shares, [])) == sorted(sizes)
    loads = [sum(sizes[name] for name in share) for share in shares]
    assert max(loads) - min(loads) <= 10


def test_processes_share_the_work_and_know_everything(tmp_path):
    for index in range(5):
        (tmp_path / f"file-{index}").write_bytes(bytes([index]) * 1000)
    sizes = {path.name: 1000 for path in sorted(tmp_path.iterdir())}
    expected = {name: hash_file(tmp_path / name) for name in sizes}
    found = run_forked(lambda topology: hash_files(tmp_path, sizes, topology.world), 2)
    assert found == [expected, expected]


def test_a_file_that_cannot_be_read_fails_everywhere(tmp_path):
    (tmp_path / "there").write_bytes(b"1")
    found = run_forked(lambda topology: hash_files(tmp_path, {"there": 1, "gone": 1}, topology.world), 2)
    assert [type(error) for error in found] == [FileNotFoundError, FileNotFoundError]


def test_the_largest_files_are_dealt_first_and_equal_ones_by_name():
    assert share_files({"a": 3, "b": 3, "c": 5}, 2) == [["c"], ["a", "b"]]
    assert share_files({"y": 1, "x": 1}, 2) == [["x"], ["y"]]
