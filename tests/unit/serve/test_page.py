"""The chat page in a real browser: two policies side by side, with scores."""

from __future__ import annotations

import pytest

from alignment.serve.counters import ServerCounters
from alignment.serve.guard import Access
from alignment.serve.page.routes import page_routes
from alignment.serve.policy.routes import PolicyRoutes
from alignment.serve.policy.service import PolicyService, PolicySettings
from alignment.serve.reward.routes import RewardRoutes
from alignment.serve.reward.service import RewardService, RewardSettings
from alignment.serve.shell import build_app
from tests.browser import needs_chromium, open_page
from tests.unit.serve.served import TOKEN, running

DONE = "document.querySelectorAll('.marks').length === {} && document.querySelector('#stop').hidden"


@pytest.fixture
def address(folders):
    """A server of two policies and a reward model that needs a token."""
    counters, access = ServerCounters(), Access(token=TOKEN, only_local_names=False)
    settings = PolicySettings(num_slots=2, device="cpu")
    services = {name: PolicyService(str(folders / name), settings) for name in ("one", "two")}
    reward = RewardService(str(folders / "reward"), RewardSettings(device="cpu"), counters)
    routes = [
        *page_routes({name: one.longest for name, one in services.items()}, "judge"),
        *PolicyRoutes(services, access, counters).routes(),
        *RewardRoutes(reward, access).routes(),
    ]
    with running(build_app(routes, access, counters)) as (found, _, _):
        yield found
    for service in (*services.values(), reward):
        service.close()


def texts(page, selector):
    return page.evaluate(f"[...document.querySelectorAll('{selector}')].map((one) => one.textContent)")


@needs_chromium
def test_a_conversation_with_two_policies(address, tmp_path):
    with open_page(address, width=1000, height=720) as page:
        page.wait_for("!document.querySelector('#access').hidden")
        for token in ("a-wrong-token", TOKEN):
            page.evaluate("document.querySelector('#token').value = ''")
            page.click("#token")
            page.type(token)
            page.press_enter()
            page.wait_for(f"'{token}' === sessionStorage.getItem('token')")
        page.wait_for("!document.querySelector('#ask').hidden")
        assert texts(page, ".column h2") == ["one", "two"]
        page.errors.clear()  # the two refusals
        page.evaluate("document.querySelector('#seed').value = '3'")
        for turn in (1, 2):
            page.click("#text")
            page.type(f"pack rope lamp {turn}<b>")
            page.press_enter()
            page.wait_for(DONE.format(2 * turn))
        asked = texts(page, ".turn.user")
        assert [text.startswith(f"pack rope lamp {n}<b>") for text, n in zip(asked, (1, 2, 1, 2), strict=True)] == [
            True
        ] * 4
        answers = texts(page, ".turn.assistant")
        assert len(answers) == 4 and answers[:2] != answers[2:]
        scores = texts(page, ".marks .score")
        assert len(scores) == 4 and all(text.startswith("score ") for text in scores)
        assert sum("(higher)" in text for text in scores) == 2
        page.screenshot(tmp_path / "page.png")
        page.click("#anew")
        page.wait_for("document.querySelectorAll('.turn').length === 0")
        page.evaluate("document.querySelector('#tokens').value = '500'")
        page.click("#text")
        page.type("pack")
        page.click("#send")
        page.wait_for("document.querySelectorAll('.trouble').length === 2")
        assert "together at most 64" in texts(page, ".trouble")[0]
        assert all("400" in error for error in page.errors), page.errors
    assert (tmp_path / "page.png").stat().st_size > 10_000
