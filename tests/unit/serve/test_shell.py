"""Who may ask, where a server listens, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import httpx
import pytest

from alignment.commands import serve
from alignment.errors import ArgumentError, UserError
from alignment.serve.shell import Address, bind, listen, read_access, start_listening


def test_others_than_this_machine_need_a_token(tmp_path):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    for host in ("127.0.0.1", "localhost", "::1", "127.8.0.1"):
        assert read_access(host, None, 10).only_local_names
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(ArgumentError, match="a token is needed"):
            read_access(host, None, 10)
        access = read_access(host, str(token), 10)
        assert access.token == "0123456789abcdef" and not access.only_local_names


@pytest.mark.parametrize(
    ("content", "said"), [("short", "one word of 8"), ("two words here", "one word"), (None, "no such")]
)
def test_a_token_file_that_is_none(tmp_path, content, said):
    if content is not None:
        (tmp_path / "token").write_text(content)
    with pytest.raises(ArgumentError, match=said):
        read_access("127.0.0.1", str(tmp_path / "token"), 10)


def test_a_port_that_is_taken():
    with listen(Address("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="address already in use"):
        listen(Address("127.0.0.1", taken.getsockname()[1]))


def test_a_taken_port_is_told_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr(serve, "_policy_routes", lambda *_: pytest.fail("loaded"))
    with listen(Address("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="address already in use"):
        serve.main(["--policy", "any", "--port", str(taken.getsockname()[1])])


def test_two_that_load_at_once_do_not_share_a_port():
    with bind(Address("127.0.0.1", 0)) as first, bind(Address("127.0.0.1", first.getsockname()[1])) as second:
        start_listening(first)
        with pytest.raises(UserError, match="address already in use"):
            start_listening(second)


def test_a_server_needs_something_to_serve():
    with pytest.raises(ArgumentError, match="--policy"):
        serve.main([])


def test_the_command_serves_until_sigterm(folders, repo_root):
    """Status 0, and nothing on stderr but what it announces."""
    command = [sys.executable, "-m", "alignment", "serve", "--policy", str(folders / "one"), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(repo_root)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            address = next(found[1] for line in process.stderr if (found := re.search(r"listening on (\S+)", line)))
            answer = httpx.post(f"{address}/v1/completions", json={"prompt": "pack rope", "max_tokens": 4}, timeout=30)
            assert answer.status_code == 200 and answer.json()["model"] == str(folders / "one")
            process.send_signal(signal.SIGTERM)
            assert process.stderr.read() == "" and process.wait(timeout=20) == 0
        finally:
            process.kill()
