"""The table of known layouts; ``recognise`` picks one by the columns of a row.

``system`` (or ``system_prompt``) and ``tools`` (or ``functions``) are read with every layout.
"""

from __future__ import annotations

from itertools import product

from alignment.data.raw.layouts import conversions as c
from alignment.data.raw.layouts.layout import RowLayout
from alignment.data.raw.layouts.mapping import ANSWERS
from alignment.data.raw.layouts.trees import gather_trees, tree_samples

PROMPTS = ("prompt", "question", "query", "problem", "input")
_ALPACA = ("input", "context", "history", "text")
_LABELS = ("label", "kto_tag")
_CONVERSATIONS = ("messages", "conversations", "conversation", "dialog")
_BEST_WORST = "one pair a row, the best answer against the worst"
_TREE_PAIRS = "a sample for every question, its best ranked answer against the worst"
_HELPSTEER = ("correctness", "coherence", "complexity", "verbosity")
_TREE = ("deleted", "rank", "lang", "message_tree_id", "tree_state", "review_result")


def _prompts_and_answers() -> list[RowLayout]:
    """Every usual name of a prompt, with every usual name of an answer, alone, or with two answers."""
    pairs = [
        RowLayout(f"{p} and {a}", (p, a), c.answer_in(p, a))
        for p, a in product(PROMPTS, ANSWERS)
        if (p, a) != ("input", "answer")
    ]
    alone = [RowLayout(p, (p,), c.prompt_in(p)) for p in PROMPTS if p != "input"]
    chosen = [RowLayout(f"{p}, chosen and rejected", (p, "chosen", "rejected"), c.pair_in(p)) for p in PROMPTS]
    return [*pairs, *alone, *chosen]


def _alpaca() -> list[RowLayout]:
    answers = [a for a in ANSWERS if a != "label"]
    return [
        *(
            RowLayout("alpaca" if a == "output" else f"alpaca with {a}", ("instruction", a), c.alpaca(a), _ALPACA)
            for a in answers
        ),
        *(
            RowLayout(
                f"alpaca with {label}",
                ("instruction", "output", label),
                c.desirable(c.alpaca("output"), label),
                _ALPACA,
            )
            for label in _LABELS
        ),
        RowLayout("alpaca prompts", ("instruction",), c.alpaca(None), _ALPACA),
        RowLayout("alpaca pairs", ("instruction", "chosen", "rejected"), c.alpaca_pair, (*_ALPACA, "output")),
    ]


def _conversations() -> list[RowLayout]:
    return [
        *(RowLayout(f"conversations in {n}", (n,), c.conversation_in(n), ("prompt",)) for n in _CONVERSATIONS),
        *(
            RowLayout(f"{n} with {label}", (n, label), c.labelled_conversation(n, label))
            for n, label in product(_CONVERSATIONS, _LABELS)
        ),
        *(
            RowLayout(f"{n}, chosen and rejected", (n, "chosen", "rejected"), c.conversation_pair(n))
            for n in ("messages", "conversations", "trajectory")
        ),
        *(
            RowLayout(f"messages and {n}", ("messages", n), c.rejected_in(n))
            for n in ("rejected_response", "rejected_messages")
        ),
        RowLayout("RLHFlow prompts", ("context_messages",), c.prompt_in("context_messages"), ("context",)),
    ]


LAYOUTS: tuple[RowLayout, ...] = (
    RowLayout("the suite's own fields", ("input",), c.own, c.OWN_FIELDS),
    *(RowLayout(f"the suite's own fields with {p}", (p, "other_answer"), c.own_with(p), c.OWN_FIELDS)
      for p in ("prompt", "src", "question")),
    RowLayout("the suite's dialogue", ("dialogue",), c.dialogue),
    *_alpaca(),
    *_prompts_and_answers(),
    *_conversations(),
    RowLayout("chosen and rejected", ("chosen", "rejected"), c.pair_in(None)),
    RowLayout("UltraFeedback binarized", ("prompt", "chosen", "rejected", "messages"), c.ultrafeedback),
    RowLayout("prompt, response, chosen and rejected", ("prompt", "response", "chosen", "rejected"),
              c.pair_in("prompt")),
    RowLayout("KTO", ("prompt", "completion", "label"), c.desirable(c.answer_in("prompt", "completion"), "label")),
    RowLayout("steps and labels", ("prompt", "completions", "labels"), c.labelled_steps),
    RowLayout("safe-rlhf", c.SAFE_RLHF, c.safe_rlhf),
    RowLayout("Nectar", ("prompt", "answers"), c.ranked_objects("answers", "answer", "rank", prompt="prompt", sign=-1),
           says=_BEST_WORST),
    RowLayout("UltraFeedback", ("instruction", "completions"),
           c.ranked_objects("completions", "response", "overall_score", prompt="instruction"), says=_BEST_WORST),
    RowLayout("responses and rewards", ("prompt", "responses", "rewards"), c.ranked_in("responses", "rewards"),
           says=_BEST_WORST),
    RowLayout("responses and scores", ("prompt", "responses", "scores"), c.ranked_in("responses", "scores"),
           says=_BEST_WORST),
    RowLayout("HelpSteer", ("prompt", "response", "helpfulness"),
           c.ranked_objects("answers", "response", "helpfulness", prompt="prompt"), _HELPSTEER, gather=c.gather_answers,
           says="one pair a prompt, the most helpful answer against the least helpful"),
    RowLayout("HelpSteer2 preferences", ("prompt", "response_1", "response_2", "preference_strength"),
           c.strength_pair("prompt", ("response_1", "response_2"), "preference_strength")),
    RowLayout("HelpSteer3 preferences", ("context", "response1", "response2", "overall_preference"),
           c.strength_pair("context", ("response1", "response2"), "overall_preference")),
    RowLayout("WebGPT comparisons", ("question", "answer_0", "answer_1", "score_0", "score_1"),
           c.scored_pair("question", ("answer_0", "answer_1"), ("score_0", "score_1"))),
    RowLayout("SHP", ("history", "human_ref_A", "human_ref_B", "labels"), c.shp, ("score_A", "score_B")),
    RowLayout("Stack Exchange pairs", ("question", "response_j", "response_k"),
           c.pair_in("question", "response_j", "response_k")),
    RowLayout("summarize from feedback", ("info", "summaries", "choice"), c.summaries),
    RowLayout("Chatbot Arena", ("conversation_a", "conversation_b", "winner"), c.arena),
    RowLayout("OpenAssistant trees", ("prompt", "message_tree_id"), c.prompt_in("prompt"), _TREE, samples=tree_samples,
           says=_TREE_PAIRS),
    RowLayout("OpenAssistant messages", ("message_id", "text", "role"), c.prompt_in("prompt"), ("parent_id", *_TREE),
           samples=tree_samples, gather=gather_trees, says=_TREE_PAIRS),
    RowLayout("PaddleNLP prompts", ("src",), c.prompt_in("src")),
    RowLayout("PaddleNLP", ("src", "tgt"), c.paddle),
    RowLayout("PaddleNLP preferences", ("src", "tgt", "response", "sort"), c.paddle_ranked, says=_BEST_WORST),
    RowLayout("verl", ("prompt", "reward_model"), c.verl, ("data_source", "ability")),
    RowLayout("transcripts in text", ("text",), c.transcript_text),
)  # fmt: skip
"""The order does not matter: if several fit, the one that reads more of the row's columns is taken."""
