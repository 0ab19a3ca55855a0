"""A page in headless Chromium, driven over pipes with the DevTools protocol: no package and no port is needed.

::

    with open_page(url, width=900, height=700) as page:
        page.wait_for("document.querySelector('#answer').textContent.length > 0")
        page.screenshot(tmp_path / "page.png")
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: chromium)")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--remote-debugging-pipe",
)
_ON_FDS_3_AND_4 = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
"""Where Chromium reads commands and writes answers."""


class Page:
    """A page; every call waits at most ``timeout`` seconds."""

    def __init__(self, commands: int, answers: int, timeout: float) -> None:
        """``commands`` and ``answers`` are the ends of the browser's pipes."""
        self._commands, self._answers, self._timeout = commands, answers, timeout
        self._rest, self._number, self._session = b"", 0, None
        self.errors: list[str] = []
        """Exceptions of scripts and errors on the console (blocked by the content security policy, for example)."""

    def open(self, url: str, *, width: int, height: int) -> None:
        """Open a tab of this size at ``url`` and wait until it is loaded."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        failure = self._call("Page.navigate", url=url).get("errorText")
        assert not failure, f"{url}: {failure}"
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression; a promise is awaited."""
        found = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, f"{script}: {_describe(found['exceptionDetails'])}"
        return found["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Evaluate an expression until it is true, and return its value."""
        end = time.monotonic() + self._timeout
        while (value := self.evaluate(script)) in (None, False, ""):  # an element is {} here, and true
            assert time.monotonic() < end, f"not true in {self._timeout} s: {script} (errors: {self.errors})"
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """Click with the mouse in the middle of the first element that fits, after scrolling to it."""
        found = f"document.querySelector({json.dumps(selector)})"
        x, y = self.wait_for(
            f"{found} && (() => {{ const e = {found}; e.scrollIntoView({{block: 'center'}}); "
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Type into the element that has the focus."""
        self._call("Input.insertText", text=text)

    def press_enter(self) -> None:
        """Press the Enter key."""
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        self._call("Input.dispatchKeyEvent", type="keyDown", text="\r", **key)
        self._call("Input.dispatchKeyEvent", type="keyUp", **key)

    def screenshot(self, path: Path) -> Path:
        """Write what is visible as a PNG file."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))
        return path

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        session = {} if self._session is None else {"sessionId": self._session}
        command = json.dumps({"id": self._number, "method": method, "params": params, **session})
        os.write(self._commands, command.encode() + b"\0")
        end = time.monotonic() + self._timeout
        while True:
            message = self._read(end, method)
            self._note_error(message)
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def _read(self, end: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"Chromium did not answer {what} in {self._timeout} s"
            part = os.read(self._answers, 1 << 20)
            assert part, f"Chromium ended before it answered {what}"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note_error(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(_describe(params["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])


@contextmanager
def open_page(url: str, *, width: int = 1000, height: int = 800, timeout: float = 60) -> Iterator[Page]:
    """Yield ``url`` in a new browser without a profile, which ends with the block."""
    assert CHROMIUM is not None, "mark the test with needs_chromium"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        pipes = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for pair in (os.pipe(), os.pipe()) for end in _moved(pair)]
        its_commands, commands, answers, its_answers = pipes
        words = ("bash", "-c", _ON_FDS_3_AND_4, "bash", str(its_commands), str(its_answers), CHROMIUM)
        browser = subprocess.Popen(
            [*words, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(its_commands, its_answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (its_commands, its_answers):
            os.close(end)
        page = Page(commands, answers, timeout)
        try:
            page.open(url, width=width, height=height)
            yield page
        finally:
            os.close(commands)  # it ends when nobody can command it any more
            os.close(answers)
            try:
                browser.wait(10)
            except subprocess.TimeoutExpired:
                browser.kill()
                browser.wait()


def _moved(pair: tuple[int, int]) -> Iterator[int]:
    """Yield the ends of a pipe, and close them after they were copied to higher numbers."""
    for end in pair:
        yield end
        os.close(end)


def _describe(details: dict[str, Any]) -> str:
    return details.get("exception", {}).get("description") or details.get("text", "")
