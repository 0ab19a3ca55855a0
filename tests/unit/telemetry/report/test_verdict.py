"""The first card does not call a success what the second judge or the alarm contradicts."""

from alignment.telemetry.report.page import write_report
from alignment.telemetry.report.verdict import verdict_cards

REWARD = {"eval/reward": [(0, 1.89), (100, 2.18)], "eval/reward_std": [(0, 1.0), (100, 1.0)]}
FINDING = {"step": 60, "kind": "repetition", "text": "it <repeats>", "action": "", "samples": [{"prompt": "a<b"}]}


def _judge(first, last):
    return {"eval/truth": [(0, first), (100, last)], "eval/truth_std": [(0, 0.3), (100, 0.3)]}


def test_a_judge_that_fell_while_the_reward_rose_makes_the_verdict_no():
    (card,) = verdict_cards(REWARD | _judge(0.632, 0.601), None)
    assert card.value == "No: truth did not rise (0.632 to 0.601) while the reward rose (1.89 to 2.18)"


def test_a_judge_that_rose_too_makes_it_yes_unless_the_alarm_has_told_something():
    series = REWARD | _judge(0.57, 0.82)
    assert [card.value for card in verdict_cards(series, None)] == ["Yes: truth rose (0.57 to 0.82) with the reward"]
    assert verdict_cards(series, [FINDING])[0].value == "No: repetition since update 60"


def test_greedy_answers_are_judged_by_their_own_reward():
    """Theirs rose by less than that of the sampled ones, which the judge confirms, and the judge fell."""
    greedy = {"reward": [(0, 2.0), (100, 2.1)], "truth": [(0, 0.9), (100, 0.7)]}
    series = {f"eval/greedy_{name}{end}": points for name, points in greedy.items() for end in ("", "_std")}
    (card,) = verdict_cards(REWARD | _judge(0.57, 0.82) | series, None)
    assert card.value == "No: greedy_truth did not rise (0.9 to 0.7) while the reward rose (2 to 2.1)"
    assert card.change == "truth rose (0.57 to 0.82) with the reward"


def test_without_judge_and_finding_nothing_is_claimed():
    assert verdict_cards(REWARD, None) == verdict_cards({}, "?") == verdict_cards(REWARD, [{"step": "x"}]) == []
    fell = {**REWARD, "eval/reward": [(0, 2.0), (100, 1.0)]} | _judge(0.6, 0.5)
    assert verdict_cards(fell, None) == []


def test_the_verdict_is_the_first_card_and_the_findings_have_their_answers(tmp_path):
    import json

    (tmp_path / "hacking.json").write_text(json.dumps([FINDING]))
    page = write_report(tmp_path, title="run", summary={"updates": 3}).read_text()
    cards = page[page.index('<div class="card">') :]
    assert cards.index("No: repetition since update 60") < cards.index("updates")
    assert "It &lt;repeats&gt;." in page and "a&lt;b" in page
