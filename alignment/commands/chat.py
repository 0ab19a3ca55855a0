"""Chat with a policy: ``alignment chat FOLDER``, one prompt with ``--prompt`` or line by line until end of input.

Answers go to stdout, everything else to stderr. ``/reset`` starts a new conversation, ``/quit`` exits.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alignment.arguments.command_line import ToolParser, number
from alignment.errors import UserError
from alignment.records import Completion, Rollout
from alignment.runs.stages.policy import TEMPLATES, Voice, open_engine

if TYPE_CHECKING:
    from alignment.models.folders.attribute_heads import StoredHead


class Reply(NamedTuple):
    """An answer of the policy."""

    text: str
    score: float | None
    """Score of the reward model; None without one."""


class ChatScorer:
    """A reward model that reads conversations in its own tokens."""

    def __init__(
        self,
        folder: Path,
        policy: Voice,
        *,
        template: str | None = None,
        head: StoredHead | None = None,
        before_padding: bool = False,
        device: str = "cpu",
    ) -> None:
        """``template`` None: the one it was trained with; the other options are keys of PPO."""
        from alignment.models.folders.attribute_heads import PLAIN_HEAD
        from alignment.models.folders.hub import load_score_model, working_dtype
        from alignment.models.folders.sequence_ends import padding_warning
        from alignment.rollout.rewards.retokenize import BeforePadding, Retokenized, SameTokens

        own = Voice(folder, template)
        same = own.tokenizer.fingerprint() == policy.tokenizer.fingerprint() and own.template == policy.template
        self._sequences: Any = (
            SameTokens(policy.ends, own.encoder.end_id) if same else Retokenized(policy.tokenizer, own.encoder)
        )
        line = padding_warning(str(folder), own.config, own.tokenizer)
        if line is not None and not before_padding:
            print(f"warning: {line}", file=sys.stderr)
        if before_padding and own.config.pad_token_id is None:
            raise UserError(f"--score_before_padding: config.json in {folder} names no pad_token_id")
        if before_padding:
            self._sequences = BeforePadding(self._sequences, own.config.pad_token_id)
        self._model = load_score_model(folder, dtype=working_dtype(folder, device), stored_head=head or PLAIN_HEAD)
        self._model.eval()

    def score(self, turns: Sequence[str], prompt_ids: Sequence[int], completion: Completion) -> float:
        """Return the score of ``completion`` after ``turns``, normalised if the model's configuration says so."""
        import paddle

        from alignment.rollout.forward import score_batch

        rollout = Rollout(
            prompts=(np.asarray(prompt_ids, np.int64),),
            responses=(completion.token_ids,),
            finish_reasons=(completion.finish_reason,),
            group_ids=np.zeros(1, np.int64),
            inputs=(list(turns),),
        )
        batch = score_batch(self._sequences(rollout), self._sequences.starts(rollout))
        with paddle.no_grad():
            return float(self._model.apply_normalization(self._model.read_end_scores(batch))[0])


class Chat:
    """A policy, its sampling options, and the reward model that scores it, if any."""

    def __init__(self, arguments: argparse.Namespace, device: str) -> None:
        """``device``: ``cpu`` or ``gpu``."""
        from alignment.generation.engine import GenerationOptions
        from alignment.models.folders.attribute_heads import StoredHead
        from alignment.models.folders.hub import load_causal_lm, resolve_model_folder, working_dtype

        folder = resolve_model_folder(arguments.folder, parts=("policy",))
        wanted = arguments.input_template or arguments.chat_template
        voice = Voice(folder, wanted)
        self._tokenizer, self._encoder, self._config = voice.tokenizer, voice.encoder, voice.config
        dtype = working_dtype(folder, device)
        model = load_causal_lm(folder, dtype=dtype, tokenizer=self._tokenizer)
        self._options = GenerationOptions(
            max_new_tokens=arguments.max_new_tokens,
            do_sample=not arguments.greedy,
            temperature=arguments.temperature,
            top_p=arguments.top_p,
            top_k=arguments.top_k,
            stop_token_ids=voice.ends,
        )
        self._seed = arguments.seed
        self._engine = open_engine(model, len(self._tokenizer), kv_memory=arguments.kv_memory, dtype=dtype)
        self._judge = None
        if arguments.reward_model:
            self._judge = ChatScorer(
                resolve_model_folder(arguments.reward_model, parts=("reward",)),
                voice,
                template=wanted,
                head=StoredHead(arguments.value_head_prefix, arguments.reward_attribute_weights),
                before_padding=arguments.score_before_padding,
                device=device,
            )

    def reply(self, turns: Sequence[str]) -> Reply:
        """Answer ``turns``, which end with the user's; the same turns and seed give the same answer."""
        refuse_broken_text(turns[-1])
        ids = self._encoder.encode_prompt(turns).ids
        unknown = ids.count(self._encoder.unknown_id)
        if unknown:
            said = f"{unknown} of the prompt's {len(ids)} tokens stand for text that the tokenizer does not know"
            print(f"warning: {said}", file=sys.stderr)
        options = replace(self._options, max_total_tokens=self._config.longest_answered(len(ids)))
        [completion] = self._engine.generate([ids], options, seed=self._seed, sequence_ids=[len(turns) // 2])
        text = self._tokenizer.decode(completion.token_ids.tolist(), skip_special_tokens=True)
        return Reply(text, self._judge and self._judge.score(turns, ids, completion))


def refuse_broken_text(text: str) -> None:
    """Refuse text with invalid UTF-8, which Python keeps as lone surrogates and no tokenizer accepts."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the text is not UTF-8: character {error.start} of {ascii(text):.60}") from None


def input_template(text: str) -> str:
    """Return a custom template; it must contain {} once, in place of the user's text."""
    if text.count("{}") != 1:
        raise argparse.ArgumentTypeError(f"{text!r} must contain {{}} once, where your text goes")
    try:
        refuse_broken_text(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text.replace("\\n", "\n")


def read_lines() -> Iterator[str]:
    """Yield what the user types until end of input; a prompt on stderr shows when it is the user's turn."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        try:
            yield input().strip()
        except EOFError:
            return


def converse(chat: Chat) -> None:
    """Answer line by line; a line that cannot be answered is reported and dropped, and the conversation continues."""
    turns: list[str] = []
    for line in read_lines():
        if line == "/quit":
            return
        if line == "/reset":
            turns = []
        elif line:
            turns = answer_turn(chat, [*turns, line]) or turns


def answer_turn(chat: Chat, turns: list[str]) -> list[str] | None:
    """Print the answer and return the turns with it; on an error print that and return None."""
    try:
        reply = chat.reply(turns)
    except UserError as error:
        print(f"error: {error}\n/reset starts a new conversation", file=sys.stderr)
        return None
    show(reply)
    return [*turns, reply.text]


def show(reply: Reply) -> None:
    """Print an answer and its score, if any."""
    print(reply.text, flush=True)
    if reply.score is not None:
        print(f"score: {reply.score:.4f}", file=sys.stderr, flush=True)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(prog="alignment chat", description=__doc__)
    add: Any = parser.add_argument
    add("folder", help="model folder, a run's output_dir, or a hub name")
    add("--prompt", help="answer this and exit; without it lines are read from stdin")
    add("--reward_model", help="folder of a reward model (or a run's output_dir) that scores each answer")
    tokens = number(int, minimum=1, maximum=1_000_000)
    add("--max_new_tokens", type=tokens, default=256, help="maximum length of an answer")
    add("--temperature", type=number(float, above=0), default=1.0, help="divides the logits; lower is less random")
    add(
        "--top_p",
        type=number(float, above=0, maximum=1),
        default=1.0,
        help="sample from the likeliest tokens up to this sum",
    )
    add("--top_k", type=number(int, minimum=0), default=0, help="sample from this many most likely tokens; 0: all")
    add("--greedy", action="store_true", help="always take the most likely token")
    add("--seed", type=number(int, minimum=0, below=2**63), default=0, help="seed of the random numbers")
    add("--chat_template", choices=TEMPLATES, help="default: the one used in training, else the tokenizer's")
    add("--input_template", type=input_template, help='text around yours, such as "User: {}\\nAssistant: "')
    add("--kv_memory", default="1GiB", help="memory for keys and values of the fused engine")
    add("--value_head_prefix", help="name of the reward model's score head, if it is not a usual one")
    add(
        "--reward_attribute_weights",
        type=number(float),
        nargs="+",
        help="weight of each score of a reward model with several (attributes)",
    )
    add("--score_before_padding", action="store_true", help="read scores where transformers does if pad = eos")
    add("--device", choices=("cpu", "gpu"), help="where to compute (default: gpu if Paddle finds one)")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Answer one prompt or hold a conversation."""
    from alignment.parallel.initialise import select_device
    from alignment.telemetry import log

    arguments = parse(argv)
    if arguments.prompt is not None and not arguments.prompt.strip():
        raise UserError("--prompt is empty; it must hold the user's text")
    log.configure(output_dir=None, is_main=True)
    chat = Chat(arguments, select_device(arguments.device))
    if arguments.prompt is not None:
        show(chat.reply([arguments.prompt]))
        return
    try:
        converse(chat)
    except KeyboardInterrupt:
        print(file=sys.stderr)
