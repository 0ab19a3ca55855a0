"""Checks of argument combinations for all trainers; each yields one message per problem, with values that work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alignment.arguments.parser import Check, Values


def check_lengths(v: Values) -> Iterator[str]:
    """Check that a prompt leaves room for a response."""
    if v.max_prompt_len is not None and v.max_prompt_len >= v.max_length:
        prompt, limit = v.max_prompt_len, v.max_length
        yield f"max_prompt_len={prompt} must be below max_length={limit}, which counts the response too"


def check_templates(v: Values) -> Iterator[str]:
    """Check that there is one template, with one place for the text."""
    if v.input_template is None:
        return
    if v.input_template.count("{}") != 1:
        yield f"input_template={v.input_template!r} must contain {{}} once, where the user's text goes"
    if v.chat_template == "tokenizer" or v.tokenizer_chat_template is not None:
        yield "input_template replaces the chat template: leave out chat_template and tokenizer_chat_template"


def check_evaluation(v: Values) -> Iterator[str]:
    """Check that there is evaluation data if there is an evaluation."""
    if (v.evaluation_strategy != "no" or v.do_eval or not v.do_train) and not (v.eval_datasets or v.eval_split_ratio):
        cause = f"evaluation_strategy={v.evaluation_strategy}, do_eval={v.do_eval}, do_train={v.do_train}"
        yield f"{cause} needs eval_datasets or eval_split_ratio; evaluation_strategy=no and do_eval=false train without"


def check_best_model(v: Values) -> Iterator[str]:
    """Check that evaluations and checkpoints coincide if the best weights are to be kept."""
    if not v.load_best_model_at_end or v.evaluation_strategy == v.save_strategy == "no":
        return  # with neither an evaluation nor a checkpoint there is no choice: reported as a key without effect
    if v.evaluation_strategy == "no" or v.evaluation_strategy != v.save_strategy:
        yield (
            "load_best_model_at_end needs evaluation_strategy and save_strategy to be equal and not 'no', "
            f"got {v.evaluation_strategy!r} and {v.save_strategy!r}"
        )
    elif v.save_strategy == "steps" and v.save_steps % (v.eval_steps or v.logging_steps):
        interval = v.eval_steps or v.logging_steps
        yield f"load_best_model_at_end needs save_steps to be a multiple of {interval} (eval_steps), got {v.save_steps}"


def check_schedule(v: Values) -> Iterator[str]:
    """Check that the warm-up ends before the decay and the run do."""
    if 0 < v.max_steps <= v.warmup_steps:
        yield f"warmup_steps={v.warmup_steps} must be below max_steps={v.max_steps}"
    if v.decay_steps is not None and v.decay_steps <= v.warmup_steps:
        yield f"decay_steps={v.decay_steps} must be above warmup_steps={v.warmup_steps}"


def check_learning_rates(v: Values) -> Iterator[str]:
    """Check that the minimum learning rate does not exceed the peak."""
    if v.min_learning_rate is not None and v.min_learning_rate > v.learning_rate:
        yield f"min_learning_rate={v.min_learning_rate:g} must not exceed learning_rate={v.learning_rate:g}"


def check_writers(v: Values) -> Iterator[str]:
    """Check that ``all`` and ``none`` are not combined with other names."""
    if len(v.report_to) > 1 and {"all", "none"} & set(v.report_to):
        yield f"report_to={','.join(v.report_to)}: 'all' and 'none' cannot be combined with other names"


def check_output(v: Values) -> Iterator[str]:
    """Check that a folder is either continued or replaced."""
    if v.overwrite_output_dir and v.resume_from_checkpoint is True:
        yield "overwrite_output_dir=true would delete what resume_from_checkpoint=true continues; give one of them"


def find_replaced(v: Values, *keys: str) -> Iterator[str]:
    """Check that a run does not delete the models named by ``keys``."""
    if not v.overwrite_output_dir:
        return
    for key in keys:
        model = getattr(v, key)
        if model and Path(model).is_relative_to(v.output_dir):
            yield f"overwrite_output_dir=true would delete {key}={model}, which lies in output_dir; name another folder"


def check_model_source(v: Values) -> Iterator[str]:
    """Check that weights come from either a model or a configuration, and that the latter has a tokenizer."""
    sources = ("model_name_or_path", "model_config_name_or_path")
    named = [key for key in sources if getattr(v, key)]
    if len(named) != 1:
        yield f"give exactly one of {' and '.join(sources)}, got {' and '.join(named) or 'none'}"
    yield from find_replaced(v, *sources)
    if v.model_config_name_or_path and not v.tokenizer_name_or_path:
        yield "model_config_name_or_path needs tokenizer_name_or_path: random weights come without a tokenizer"
    if v.model_config_name_or_path and v.lora:
        yield "lora=true needs model_name_or_path: an adapter of random weights is worth nothing without them"


def check_four_bits(v: Values) -> Iterator[str]:
    """Check that a base in 4 bits is not to be sharded."""
    if v.lora and v.load_in_4bit and "stage3" in v.sharding:
        yield "load_in_4bit=true with sharding=stage3: a base in 4 bits is not sharded; give stage1 or stage2"


CHECKS: tuple[Check, ...] = (
    check_four_bits,
    check_lengths,
    check_templates,
    check_evaluation,
    check_best_model,
    check_schedule,
    check_learning_rates,
    check_writers,
    check_output,
)
