"""A wrong prompt among right ones is named, with its row and what is allowed."""

from types import SimpleNamespace

import numpy as np
import pytest

from alignment.errors import UserError
from alignment.generation.engine import GenerationOptions
from alignment.generation.prompt_checks import check_prompts

MODEL = SimpleNamespace(vocab_size=10, longest_sequence=8, angle_limit=None)
RIGHT = np.array([1, 9, 0, 2])


def _check(*prompts, **options):
    check_prompts(prompts, GenerationOptions(**{"max_new_tokens": 4, **options}), MODEL)


def test_right_prompts_of_any_length_pass():
    _check()
    _check(RIGHT, RIGHT[:1])


@pytest.mark.parametrize(
    ("prompt", "options", "said"),
    [
        ([], {}, "prompt 1 is empty"),
        ([3, 10], {}, "prompt 1 holds token id 10; the model's vocabulary is 0 to 9"),
        ([3, -1], {}, "prompt 1 holds token id -1"),
        ([3] * 5, {}, "prompt 1 has 5 tokens and its answer may have 4; together at most 8"),
        ([3] * 5, {"max_total_tokens": 5}, "prompt 1 has 5 tokens, max_total_tokens=5"),
    ],
)
def test_a_wrong_prompt_is_named(prompt, options, said):
    with pytest.raises(UserError, match=said):
        _check(RIGHT, np.array(prompt, np.int64), RIGHT[:2], **options)


def test_an_answer_may_not_cross_the_context_of_the_short_angles():
    model = SimpleNamespace(vocab_size=10, longest_sequence=12, angle_limit=6)
    options = GenerationOptions(max_new_tokens=4)
    check_prompts([RIGHT[:2], np.array([3] * 8)], options, model)
    with pytest.raises(UserError, match="prompt 1 has 4 tokens and its answer may have 4; together at most 6"):
        check_prompts([RIGHT[:2], RIGHT], options, model)
    with pytest.raises(UserError, match="prompt 0 has 9 tokens and its answer may have 4; together at most 12"):
        check_prompts([np.array([3] * 9)], options, model)
