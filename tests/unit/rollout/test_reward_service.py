"""A reward service is believed only when it answers whole, in time and in the right form; otherwise it is quoted."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from alignment.errors import PassingRewardError, RewardError
from alignment.rollout.rewards.reward_service import MAX_ANSWER_BYTES, HttpReward
from alignment.rollout.rewards.text_batch import TextBatch

BATCH = TextBatch(["question"] * 2, ["one", "two"], ["label", None])


@pytest.fixture
def service():
    """A local HTTP service; yields (address, settings): status, headers, body, seconds between two bytes."""
    settings = {"status": 200, "headers": {}, "body": b'{"score": [1.0, 2.0]}', "pause": 0.0, "requests": []}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            settings["requests"].append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(settings["status"])
            for name, value in settings["headers"].items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self._send_body()

        def _send_body(self):
            if not settings["pause"]:
                self.wfile.write(settings["body"])
                return
            for byte in settings["body"]:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(settings["pause"])

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/score", settings
    server.shutdown()
    server.server_close()


def _ask(address, **options):
    return HttpReward(address, **{"timeout_seconds": 5, **options})(BATCH)


def test_the_service_speaks_the_reference_protocol(service):
    address, settings = service
    assert _ask(address) == [1.0, 2.0]
    sent = {"src": ["question", "question"], "tgt": ["label", None], "response": ["one", "two"]}
    assert settings["requests"] == [("/score", sent)]


def test_the_time_limit_is_for_the_whole_answer(service):
    """One byte every 50 ms, then every 0.3 s: no single wait is long, and all 21 of them take six seconds."""
    address, settings = service
    settings["pause"] = 0.05
    assert _ask(address) == [1.0, 2.0]
    settings["pause"] = 0.3
    start = time.monotonic()
    with pytest.raises(PassingRewardError, match=r"no complete answer within 0\.4 s \(reward_timeout"):
        _ask(address, timeout_seconds=0.4)
    assert 0.4 <= time.monotonic() - start < 5


def test_the_time_limit_is_for_the_headers_too():
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_trickle_headers, args=(server,), daemon=True).start()
        start = time.monotonic()
        with pytest.raises(PassingRewardError, match="no complete answer within 0.4 s"):
            _ask(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout_seconds=0.4)
        assert time.monotonic() - start < 3


def test_the_time_limit_is_for_the_name_server_too(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **named: time.sleep(4) or [])
    start = time.monotonic()
    with pytest.raises(PassingRewardError, match="no complete answer within 0.3 s"):
        _ask("http://rewards.example/", timeout_seconds=0.3)
    assert time.monotonic() - start < 3


def _trickle_headers(server):
    connection, _ = server.accept()
    with connection, contextlib.suppress(OSError):
        for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Slow: 1\r\n" * 100:
            connection.send(bytes([byte]))
            time.sleep(0.05)


def test_an_answer_may_not_be_endless(service):
    address, settings = service
    settings["body"] = b"[" + b"0.1, " * 1000
    with pytest.raises(RewardError, match=r"more than 2000 bytes and begins with '\[0.1, 0.1"):
        _ask(address, max_bytes=2000)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(service, status):
    address, settings = service
    settings |= {"status": status, "headers": {"Location": address.replace("/score", "/elsewhere")}}
    with pytest.raises(RewardError, match=f"status {status}, a redirect to '.*/elsewhere'") as caught:
        _ask(address)
    assert not isinstance(caught.value, PassingRewardError)
    assert [path for path, _ in settings["requests"]] == ["/score"]


@pytest.mark.parametrize(
    ("status", "passes"),
    [(500, True), (503, True), (408, True), (425, True), (429, True), (400, False), (404, False), (426, False)],
)
def test_a_status_is_told_with_the_beginning_of_its_body(service, status, passes):
    address, settings = service
    settings |= {"status": status, "body": b"the model is not loaded " + b"x" * 5000}
    with pytest.raises(RewardError, match=f"status {status}: 'the model is not loaded x+' ...$") as caught:
        _ask(address)
    assert isinstance(caught.value, PassingRewardError) is passes
    assert len(str(caught.value)) < 500


def test_what_is_not_json_is_quoted(service):
    address, settings = service
    settings["body"] = b"<html>maintenance \xff</html>"
    with pytest.raises(PassingRewardError, match="did not answer with JSON: '<html>maintenance \ufffd</html>'"):
        _ask(address)


@pytest.mark.parametrize("body", [b"{}", b"[1.0, 2.0]", b'{"rewards": [1.0, 2.0]}', b"null"])
def test_an_answer_without_scores_is_quoted(service, body):
    address, settings = service
    settings["body"] = body
    with pytest.raises(RewardError) as caught:
        _ask(address)
    assert f"answered without 'score': {body.decode()!r}" in str(caught.value)


def test_json_that_is_nested_without_end_is_a_failure_like_any_other(service):
    address, settings = service
    settings["body"] = b"[" * 100_000
    with pytest.raises(PassingRewardError, match="did not answer with JSON"):
        _ask(address)


def test_an_answer_that_breaks_off_is_a_failure(service):
    address, settings = service
    settings["headers"] = {"Content-Length": "1000"}
    with pytest.raises(PassingRewardError, match="RemoteProtocolError"):
        _ask(address)


def test_a_service_that_is_down_is_told_in_the_systems_words():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(PassingRewardError, match="Connection refused"):
        _ask(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("address", ["http://[::1/score", "http://127.0.0.1:x/", "ftp://127.0.0.1/", "http://"])
def test_an_address_that_is_none(address):
    with pytest.raises(RewardError):
        _ask(address)


def test_an_answer_may_be_as_long_as_scores_are(service):
    """The limit is 16 MiB; 100,000 scores take half a megabyte."""
    address, settings = service
    settings["body"] = json.dumps({"score": [0.25] * 100_000}).encode()
    assert len(_ask(address)) == 100_000 and len(settings["body"]) > 500_000
    assert MAX_ANSWER_BYTES == 16_777_216


@pytest.mark.parametrize("status", [200, 500])
def test_nothing_stays_open_after_a_call(service, status, monkeypatch):
    address, settings = service
    settings["status"] = status
    loops, make = [], asyncio.new_event_loop
    monkeypatch.setattr(asyncio, "new_event_loop", lambda: loops.append(make()) or loops[-1])
    with contextlib.suppress(PassingRewardError):
        _ask(address)
    assert [loop.is_closed() for loop in loops] == [True]


def test_a_failure_is_quoted_to_300_characters_however_slowly_it_comes(service):
    """Of four bytes each: the client reads 1200 bytes before it stops."""
    address, settings = service
    settings |= {"status": 500, "body": "\U0001f600".encode() * 330, "pause": 1e-5}
    with pytest.raises(PassingRewardError) as caught:
        _ask(address)
    assert str(caught.value).endswith(f"status 500: {chr(0x1F600) * 300!r} ...")
