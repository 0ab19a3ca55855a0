"""Nothing in the repository knows the machine it was written on."""

from __future__ import annotations

import re

# Split so that this file does not find itself.
FOLDERS = ("wo" + "rk", "ro" + "ot", "ho" + "me", "op" + "t")
PATTERNS = (
    re.compile(rf"(?<![\w.}}\])~])/(?:{'|'.join(FOLDERS)})/[\w.]"),
    re.compile("/t" + r"mp/w\b"),
    re.compile(r"--(?:extra-)?index-" + r"url\s*[= ]\s*\S+|--find-" + r"links\b|PIP_(?:EXTRA_)?INDEX_" + "URL"),
    re.compile(r"(?:pypi|mirrors?)\.(?!org\b)[a-z]+\.[a-z]+"),
)


def test_no_machine_paths(repo_root, repo_files):
    found = []
    for path in repo_files:
        try:
            text = (repo_root / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            found += [f"{path}:{number}: {match.group()}" for p in PATTERNS if (match := p.search(line))]
    assert found == []


def test_the_patterns_find_what_they_should():
    for line in ("open('/" + "work/main')", "/t" + "mp/w/dev/bin/python", "/" + "root/.cache", "pypi." + "tuna.edu"):
        assert any(pattern.search(line) for pattern in PATTERNS), line
    for line in ("repo_root/config", "https://pypi.org/simple", "a /rootless/ path", "output_dir/opt/x"):
        assert not any(pattern.search(line) for pattern in PATTERNS), line
