"""``docs/gpu-lines.md`` names every line that only a GPU takes, and how it was executed; there may only be fewer."""

from __future__ import annotations

import re

from tests.sanity.gpu_lines import Lines, find_gpu_lines

MOST = 116
"""What ``find_gpu_lines`` counted when this was last written; write a smaller number when lines have gone."""
ROW = re.compile(r"^\| `([\w/.]+)` \| `([\w.]+)` \| (\d+) \| (.+) \|$", re.MULTILINE)


def listed(repo_root) -> dict[tuple[str, str], tuple[int, str]]:
    """Return (number of lines, how they were executed) by file and function."""
    text = (repo_root / "docs" / "gpu-lines.md").read_text(encoding="utf-8")
    return {(file, function): (int(count), how) for file, function, count, how in ROW.findall(text)}


def test_the_list_is_what_the_rule_finds(repo_root):
    found: Lines = find_gpu_lines(repo_root / "alignment")
    rows = {key: count for key, (count, _) in listed(repo_root).items()}
    wrong = [
        f"| `{file}` | `{function}` | {count} | HOW IT WAS EXECUTED |"
        for (file, function), count in found.items()
        if rows.get((file, function)) != count
    ]
    gone = [f"{file} {function}" for file, function in rows.keys() - found.keys()]
    assert not wrong, "docs/gpu-lines.md needs these rows; say for each how it was executed:\n" + "\n".join(wrong)
    assert not gone, f"docs/gpu-lines.md has rows of lines that are gone: {gone}"


def test_lines_that_nothing_has_executed_say_why(repo_root):
    hows = [how for _, how in listed(repo_root).values()]
    assert all(how.startswith(("fakes: ", "stand-in: ", "emulated: ", "CPU: ", "not: ")) for how in hows)


def test_every_test_that_is_named_exists(repo_root):
    named = {path for _, how in listed(repo_root).values() for path in re.findall(r"`(tests/[\w/.]+)`", how)}
    assert named and [path for path in named if not (repo_root / path).exists()] == []


def test_the_list_only_shrinks(repo_root):
    assert sum(find_gpu_lines(repo_root / "alignment").values()) <= MOST


def test_the_rule_finds_branches_of_every_form(tmp_path):
    (tmp_path / "one.py").write_text(
        '''def f(x, device):
    """Say nothing."""
    if x.place.is_gpu_place():
        a = 1
        b = 2
    if device == "cpu":
        return 0
    c = 3
    return x if device == "gpu" else None


class DeviceGauge:
    def read(self):
        """Say nothing."""
        return 1


def g(x):
    return 1 if x.link.is_gloo else x.task


def h(x):
    return x
'''
    )
    assert find_gpu_lines(tmp_path) == {("one.py", "f"): 4, ("one.py", "DeviceGauge.read"): 1, ("one.py", "g"): 1}
