"""The commands for DPO of OpenRLHF's, RLHFlow's and TRL's pages: what each of their keys becomes, or is answered."""

from __future__ import annotations

import pytest

from alignment.arguments.effects import report_effects
from alignment.errors import ArgumentError
from alignment.trainers.registered import TRAINERS


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """Return a function that parses a command line, in a folder with a model and rows."""
    monkeypatch.chdir(tmp_path)
    for name in ("sft", "start"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text("{}")
    return lambda words: TRAINERS["dpo"].parse(words.split())


OPENRLHF = """--save_path ./checkpoint/llama3-8b-dpo --save_steps -1 --logging_steps 1 --eval_steps -1
 --micro_train_batch_size 1 --pretrain ./sft --bf16 --max_len 8192 --zero_stage 3 --learning_rate 5e-7 --beta 0.1
 --dataset ./rows.jsonl --apply_chat_template --chosen_key chosen --rejected_key rejected --flash_attn
 --gradient_checkpointing"""
"""The page's command but for --train_batch_size 256, --max_epochs 1 and --use_wandb, which are answered."""
RLHFLOW = """--run_name rlhflow_iter1 --output_dir ./models/rlhflow_iter1 --model_name_or_path ./sft --ref_model ./start
 --learning_rate 2e-7 --max_steps 1200 --choose_type max_min --train_dir ./rows.jsonl --eval_dir ./rows.jsonl
 --loss_type sigmoid --lr_scheduler_type cosine"""
TRL = """--model_name_or_path ./sft --dataset_name ./rows.jsonl --output_dir out --gradient_accumulation_steps 8
 --eval_strategy no --precompute_ref_log_probs --disable_dropout --max_prompt_length 512 --rpo_alpha 0.5"""


def test_openrlhf(parse, tmp_path):
    parsed = parse(OPENRLHF)
    training = parsed.training
    assert (training.output_dir, training.save_strategy, training.evaluation_strategy, training.logging_steps) == (
        f"{tmp_path}/checkpoint/llama3-8b-dpo", "no", "no", 1,
    )  # fmt: skip
    assert (training.per_device_train_batch_size, training.bf16, training.recompute) == (1, True, True)
    assert (parsed.data.max_length, parsed.data.chat_template, parsed.parallel.sharding) == (
        8192, "tokenizer", ("stage3",),
    )  # fmt: skip
    assert parsed.offline.model_name_or_path == f"{tmp_path}/sft"
    with pytest.raises(ArgumentError, match="evaluation_strategy"):
        parse(f"{OPENRLHF} --evaluation_strategy steps")
    assert parsed.offline.train_datasets == f"jsonl:1.0:{tmp_path}/rows.jsonl"


def test_options_of_openrlhf(parse, tmp_path):
    parsed = parse(
        f"{OPENRLHF} --ref_pretrain ./start --ref_offload --ipo --label_smoothing 0.1 --packing_samples "
        "--nll_loss_coef 0.2 --prompt_key question --l2 0.1 --max_norm 0.5"
    )
    loss, reference = parsed.loss, parsed.reference
    assert (loss.loss_type, loss.average_logps, loss.label_smoothing, loss.nll_loss_coef) == (("ipo",), False, 0.1, 0.2)
    assert (reference.ref_model_name_or_path, reference.ref_offload) == (f"{tmp_path}/start", True)
    assert parsed.training.packing_samples and parsed.columns.input_key == "question"
    assert (parsed.training.weight_decay, parsed.training.max_grad_norm) == (0.1, 0.5)


def test_a_reference_within_the_policy_is_not_offloaded(parse):
    """With an adapter it is the policy's base; a reference that is named is another model."""
    told = [
        {effect.key for effect in report_effects(parse(f"{OPENRLHF} --ref_offload {more}"), device="gpu", world_size=8)}
        for more in ("", "--lora", "--lora --ref_pretrain ./start")
    ]
    assert ["ref_offload" in keys for keys in told] == [False, True, False]


def test_rlhflow(parse, tmp_path):
    parsed = parse(RLHFLOW)
    assert parsed.reference.ref_model_name_or_path == f"{tmp_path}/start"
    assert parsed.offline.train_datasets == parsed.offline.eval_datasets == f"jsonl:1.0:{tmp_path}/rows.jsonl"
    assert parse(f"{RLHFLOW} --rpo_alpha 0.1 --margin_scale 2").loss.sft_loss_ratio == 0.1


def test_trl(parse):
    parsed = parse(TRL)
    assert parsed.reference.precompute_ref_logprobs and parsed.loss.sft_loss_ratio == 0.5
    assert parsed.data.max_prompt_len == 512 and parsed.training.evaluation_strategy == "no"


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("--train_batch_size 256", "per_device_train_batch_size . gradient_accumulation_steps . processes"),
        ("--max_epochs 1", "give num_train_epochs"),
        ("--use_wandb token", "give report_to=wandb, and run `wandb login`"),
        ("--max_samples 100", "give name:proportion:path in train_datasets"),
        ("--adam_offload", "give offload_level=optimizer"),
        ("--choose_type random", "choose_type.*of a row with several scored answers the best and the worst"),
        ("--zero_stage 4", "zero_stage"),
        ("--ipo --loss_type sigmoid", "ipo|loss_type"),
    ],
)
def test_what_has_another_name_or_form_is_answered(parse, words, answer):
    with pytest.raises(ArgumentError, match=f"^1 invalid.*\n.*{answer}"):
        parse(f"{RLHFLOW.replace('--choose_type max_min', '').replace('--loss_type sigmoid', '')} {words}")
