"""The table of known layouts. A row is recognised by its columns; ``recognise`` says what happens when two rows fit.

``system`` (or ``system_prompt``) and ``tools`` (or ``functions``) are read beside every layout.
"""

from __future__ import annotations

from itertools import product

from alignment.data.raw.layouts import conversions as c
from alignment.data.raw.layouts.layout import Layout
from alignment.data.raw.layouts.mapping import ANSWERS
from alignment.data.raw.layouts.trees import gather_trees, tree_samples

PROMPTS = ("prompt", "question", "query", "problem", "input")
_ALPACA = ("input", "context", "history", "text")
_LABELS = ("label", "kto_tag")
_CONVERSATIONS = ("messages", "conversations", "conversation", "dialog")
_BEST_WORST = "one pair a row, the best answer against the worst"
_HELPSTEER = ("correctness", "coherence", "complexity", "verbosity")
_TREE = ("deleted", "rank", "lang", "message_tree_id", "tree_state", "review_result")


def _prompts_and_answers() -> list[Layout]:
    """Every usual name of a prompt with every usual name of an answer, or alone, or with two answers."""
    pairs = [
        Layout(f"{p} and {a}", (p, a), c.answer_in(p, a))
        for p, a in product(PROMPTS, ANSWERS)
        if (p, a) != ("input", "answer")
    ]
    alone = [Layout(p, (p,), c.prompt_in(p)) for p in PROMPTS if p != "input"]
    chosen = [Layout(f"{p}, chosen and rejected", (p, "chosen", "rejected"), c.pair_in(p)) for p in PROMPTS]
    return [*pairs, *alone, *chosen]


def _alpaca() -> list[Layout]:
    answers = [a for a in ANSWERS if a != "label"]
    return [
        *(
            Layout("alpaca" if a == "output" else f"alpaca with {a}", ("instruction", a), c.alpaca(a), _ALPACA)
            for a in answers
        ),
        *(
            Layout(
                f"alpaca with {label}",
                ("instruction", "output", label),
                c.desirable(c.alpaca("output"), label),
                _ALPACA,
            )
            for label in _LABELS
        ),
        Layout("alpaca prompts", ("instruction",), c.alpaca(None), _ALPACA),
        Layout("alpaca pairs", ("instruction", "chosen", "rejected"), c.alpaca_pair, (*_ALPACA, "output")),
    ]


def _conversations() -> list[Layout]:
    return [
        *(Layout(f"conversations in {n}", (n,), c.conversation_in(n), ("prompt",)) for n in _CONVERSATIONS),
        *(
            Layout(f"{n} with {label}", (n, label), c.labelled_conversation(n, label))
            for n, label in product(_CONVERSATIONS, _LABELS)
        ),
        *(
            Layout(f"{n}, chosen and rejected", (n, "chosen", "rejected"), c.conversation_pair(n))
            for n in ("messages", "conversations", "trajectory")
        ),
        *(
            Layout(f"messages and {n}", ("messages", n), c.rejected_in(n))
            for n in ("rejected_response", "rejected_messages")
        ),
        Layout("RLHFlow prompts", ("context_messages",), c.prompt_in("context_messages"), ("context",)),
    ]


LAYOUTS: tuple[Layout, ...] = (
    Layout("the suite's own fields", ("input",), c.own, c.OWN_FIELDS),
    *(Layout(f"the suite's own fields with {p}", (p, "other_answer"), c.own_with(p), c.OWN_FIELDS)
      for p in ("prompt", "src", "question")),
    Layout("the suite's dialogue", ("dialogue",), c.dialogue),
    *_alpaca(),
    *_prompts_and_answers(),
    *_conversations(),
    Layout("chosen and rejected", ("chosen", "rejected"), c.pair_in(None)),
    Layout("UltraFeedback binarized", ("prompt", "chosen", "rejected", "messages"), c.ultrafeedback),
    Layout("prompt, response, chosen and rejected", ("prompt", "response", "chosen", "rejected"), c.pair_in("prompt")),
    Layout("KTO", ("prompt", "completion", "label"), c.desirable(c.answer_in("prompt", "completion"), "label")),
    Layout("safe-rlhf", c.SAFE_RLHF, c.safe_rlhf),
    Layout("Nectar", ("prompt", "answers"), c.ranked_objects("answers", "answer", "rank", prompt="prompt", sign=-1),
           says=_BEST_WORST),
    Layout("UltraFeedback", ("instruction", "completions"),
           c.ranked_objects("completions", "response", "overall_score", prompt="instruction"), says=_BEST_WORST),
    Layout("responses and rewards", ("prompt", "responses", "rewards"), c.ranked_in("responses", "rewards"),
           says=_BEST_WORST),
    Layout("responses and scores", ("prompt", "responses", "scores"), c.ranked_in("responses", "scores"),
           says=_BEST_WORST),
    Layout("HelpSteer", ("prompt", "response", "helpfulness"),
           c.ranked_objects("answers", "response", "helpfulness", prompt="prompt"), _HELPSTEER, gather=c.gather_answers,
           says="one pair a prompt, the most helpful answer against the least helpful"),
    Layout("HelpSteer2 preferences", ("prompt", "response_1", "response_2", "preference_strength"),
           c.strength_pair("prompt", ("response_1", "response_2"), "preference_strength")),
    Layout("HelpSteer3 preferences", ("context", "response1", "response2", "overall_preference"),
           c.strength_pair("context", ("response1", "response2"), "overall_preference")),
    Layout("WebGPT comparisons", ("question", "answer_0", "answer_1", "score_0", "score_1"),
           c.scored_pair("question", ("answer_0", "answer_1"), ("score_0", "score_1"))),
    Layout("SHP", ("history", "human_ref_A", "human_ref_B", "labels"), c.shp, ("score_A", "score_B")),
    Layout("Stack Exchange pairs", ("question", "response_j", "response_k"),
           c.pair_in("question", "response_j", "response_k")),
    Layout("summarize from feedback", ("info", "summaries", "choice"), c.summaries),
    Layout("Chatbot Arena", ("conversation_a", "conversation_b", "winner"), c.arena),
    Layout("OpenAssistant trees", ("prompt", "message_tree_id"), c.prompt_in("prompt"), _TREE, samples=tree_samples,
           says="a sample for every question, its best ranked answer against the worst"),
    Layout("OpenAssistant messages", ("message_id", "text", "role"), c.prompt_in("prompt"), ("parent_id", *_TREE),
           samples=tree_samples, gather=gather_trees,
           says="a sample for every question, its best ranked answer against the worst"),
    Layout("PaddleNLP prompts", ("src",), c.prompt_in("src")),
    Layout("PaddleNLP", ("src", "tgt"), c.paddle),
    Layout("PaddleNLP preferences", ("src", "tgt", "response", "sort"), c.paddle_ranked, says=_BEST_WORST),
    Layout("verl", ("prompt", "reward_model"), c.verl, ("data_source", "ability")),
    Layout("transcripts in text", ("text",), c.transcript_text),
)  # fmt: skip
"""In no order of preference: where two fit, the one that reads more of the row's columns is taken."""
