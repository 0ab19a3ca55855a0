"""Talk to a policy: ``python -m alignment.chat FOLDER``, once with ``--prompt`` or line by line until end of input.

Answers go to stdout, everything else to stderr. ``/reset`` forgets the conversation, ``/quit`` ends it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alignment.arguments.command_line import ToolParser, number
from alignment.errors import UserError
from alignment.parallel.host import prepare_host
from alignment.records import Completion, Rollout

if TYPE_CHECKING:
    from alignment.data.encode import Encoder
    from alignment.models.tokenizer import Tokenizer

TEMPLATES = {"none": "pku", "tokenizer": "tokenizer"}
"""Values of ``--chat_template`` to names of ``alignment.data.templates``."""


class Reply(NamedTuple):
    """What the policy answered."""

    text: str
    score: float | None
    """Score of the reward model, None without one."""


class Judge:
    """A reward model that reads conversations in its own tokens."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, template: str | None) -> None:
        """``tokenizer`` is the policy's."""
        from alignment.models.hub import load_score_model
        from alignment.models.tokenizer import load_tokenizer
        from alignment.rollout.retokenize import Retokenized, SameTokens

        own = load_tokenizer(folder)
        same = own.fingerprint() == tokenizer.fingerprint() and own.chat_template == tokenizer.chat_template
        self._sequences = SameTokens() if same else Retokenized(tokenizer, open_encoder(own, template))
        self._model = load_score_model(folder, dtype="float32")
        self._model.eval()

    def score(self, turns: Sequence[str], prompt_ids: Sequence[int], completion: Completion) -> float:
        """Return the score of ``completion`` after ``turns``, normalised where the model is configured to."""
        import paddle

        from alignment.records import TokenBatch

        rollout = Rollout(
            prompts=(np.asarray(prompt_ids, np.int64),),
            responses=(completion.token_ids,),
            finish_reasons=(completion.finish_reason,),
            group_ids=np.zeros(1, np.int64),
            inputs=(list(turns),),
        )
        batch = TokenBatch.build(self._sequences(rollout), [np.empty(0, np.int64)])
        with paddle.no_grad():
            return float(self._model.apply_normalization(self._model.read_end_scores(batch))[0])


class Chat:
    """A policy, how it samples, and the reward model that scores it, if any."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from alignment.generation.eager_engine import EagerEngine
        from alignment.generation.engine import GenerationOptions
        from alignment.models.hub import load_causal_lm
        from alignment.models.tokenizer import load_tokenizer

        folder = find_folder(arguments.folder, "policy")
        self._tokenizer = load_tokenizer(folder)
        self._encoder = open_encoder(self._tokenizer, arguments.chat_template)
        model = load_causal_lm(folder, dtype="float32", tokenizer=self._tokenizer)
        stops = {self._tokenizer.eos_token_id, *model.config.eos_token_ids}
        self._options = GenerationOptions(
            max_new_tokens=arguments.max_new_tokens,
            max_total_tokens=model.config.longest_sequence,
            do_sample=not arguments.greedy,
            temperature=arguments.temperature,
            top_p=arguments.top_p,
            top_k=arguments.top_k,
            stop_token_ids=tuple(sorted(stops)),
        )
        self._seed = arguments.seed
        self._engine = EagerEngine(model, usable_vocab_size=len(self._tokenizer))
        self._engine.load_weights(None, version=0)
        self._judge = None
        if arguments.reward_model:
            self._judge = Judge(find_folder(arguments.reward_model, "reward"), self._tokenizer, arguments.chat_template)

    def reply(self, turns: Sequence[str]) -> Reply:
        """Continue ``turns``, which end with the user's; the same turns and seed give the same answer."""
        ids = self._encoder.encode_prompt(turns).ids
        [completion] = self._engine.generate([ids], self._options, seed=self._seed, sequence_ids=[len(turns) // 2])
        text = self._tokenizer.decode(completion.token_ids.tolist(), skip_special_tokens=True)
        return Reply(text, self._judge and self._judge.score(turns, ids, completion))


def find_folder(name: str, part: str) -> Path:
    """Return the model folder ``name``, the ``part`` of the run's output folder ``name``, or a hub model's download."""
    from alignment.models.hub import resolve_model_folder

    inside = Path(name).expanduser() / part
    if (inside / "config.json").is_file() and not (inside.parent / "config.json").is_file():
        return inside
    return Path(resolve_model_folder(name))


def open_encoder(tokenizer: Tokenizer, template: str | None) -> Encoder:
    """Return the encoder of prompts; without ``template`` the tokenizer's own chat template where it has one."""
    from alignment.data.encode import Encoder

    chosen = template or ("tokenizer" if tokenizer.chat_template else "none")
    return Encoder(tokenizer, TEMPLATES[chosen])


def read_lines() -> Iterator[str]:
    """Yield what the user types until end of input; a mark on stderr shows when it is the user's turn."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        try:
            yield input().strip()
        except EOFError:
            return


def converse(chat: Chat) -> None:
    """Answer line by line; what cannot be answered is said and forgotten, and the conversation goes on."""
    turns: list[str] = []
    for line in read_lines():
        if line == "/quit":
            return
        if line == "/reset":
            turns = []
        elif line:
            turns = answer_turn(chat, [*turns, line]) or turns


def answer_turn(chat: Chat, turns: list[str]) -> list[str] | None:
    """Print the answer and return the turns with it; None where there was an error, which is printed."""
    try:
        reply = chat.reply(turns)
    except UserError as error:
        print(f"error: {error}\n/reset starts a new conversation", file=sys.stderr)
        return None
    show(reply)
    return [*turns, reply.text]


def show(reply: Reply) -> None:
    """Print an answer, and its score where there is one."""
    print(reply.text, flush=True)
    if reply.score is not None:
        print(f"score: {reply.score:.4f}", file=sys.stderr, flush=True)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line (None: that of the process)."""
    parser = ToolParser(prog="alignment.chat", description=__doc__)
    add: Any = parser.add_argument
    add("folder", help="model folder, a run's output_dir, or a hub name")
    add("--prompt", help="answer this and end; without it lines are read from stdin")
    add("--reward_model", help="folder of a reward model (or a run's output_dir) that scores each answer")
    add("--max_new_tokens", type=number(int, minimum=1, maximum=1_000_000), default=256)
    add("--temperature", type=number(float, above=0), default=1.0)
    add("--top_p", type=number(float, above=0, maximum=1), default=1.0)
    add("--top_k", type=number(int, minimum=0), default=0, help="0: all tokens")
    add("--greedy", action="store_true", help="the likeliest token each time")
    add("--seed", type=number(int, minimum=0, below=2**63), default=0)
    add("--chat_template", choices=tuple(TEMPLATES), help="default: the tokenizer's, where it has one")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Answer one prompt or hold a conversation."""
    arguments = parse(argv)
    if arguments.prompt is not None and not arguments.prompt.strip():
        raise UserError("--prompt is empty; it must hold the user's text")
    chat = Chat(arguments)
    if arguments.prompt is not None:
        show(chat.reply([arguments.prompt]))
        return
    try:
        converse(chat)
    except KeyboardInterrupt:
        print(file=sys.stderr)


if __name__ == "__main__":
    prepare_host()
    from alignment.loops.entry import run_entry

    run_entry(main)
