"""Serve models over HTTP: ``alignment serve --policy FOLDER``, ``--reward FOLDER``, ``--reference FOLDER``, or several.

A policy answers OpenAI's requests for completions and chat, and people on a chat page at the same address. A reward
model answers what ``reward_server`` sends here and in PaddleNLP, and OpenRLHF's requests; a reference what
``reference_server`` sends. SIGTERM and Ctrl-C end the server when running requests have ended.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alignment.arguments.command_line import ToolParser, number
from alignment.errors import ArgumentError

if TYPE_CHECKING:
    from alignment.serve.counters import ServerCounters
    from alignment.serve.guard import Access
    from alignment.serve.policy.routes import PolicyRoutes
    from alignment.serve.reference.routes import ReferenceRoutes
    from alignment.serve.reward.routes import RewardRoutes


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(prog="alignment serve", description=__doc__)
    add: Any = parser.add_argument
    count, seconds = number(int, minimum=1), number(float, above=0)
    add("--policy", metavar="FOLDER", help="policy to serve: model folder, a run's output_dir, or a hub name")
    add("--reward", metavar="FOLDER", help="reward model to serve: model folder, a run's output_dir, or a hub name")
    add("--reference", metavar="FOLDER", help="frozen reference to serve to reference_server of a run")
    add("--name", help="name of the policy in requests (default: as --policy is written)")
    add("--compare", metavar="FOLDER", help="a second policy, shown beside the first on the chat page")
    add("--host", default="127.0.0.1", help="address to listen on; others than this machine's own need a token")
    add("--port", type=number(int, minimum=0, maximum=65535), default=8000, help="port; 0: a free one is printed")
    add("--token_file", metavar="FILE", help="file with the token that clients must send (Authorization: Bearer TOKEN)")
    add("--num_slots", type=count, default=32, help="answers that are generated side by side")
    add("--kv_memory", help="memory for keys and values, such as 2GiB (default: all slots at full length)")
    add("--max_length", type=number(int, minimum=2), help="most tokens of prompt and answer (default: the model's)")
    add("--max_queue", type=number(int, minimum=0), default=256, help="answers that may wait for a slot")
    add("--max_body_bytes", type=count, default=2**20, help="size of a request")
    add("--request_timeout", type=seconds, default=600.0, help="seconds from a request to the end of its answer")
    add("--shutdown_timeout", type=seconds, default=60.0, help="seconds that running requests get at the end")
    add("--chat_template", choices=("none", "tokenizer"), help="default: as in training, else the tokenizer's")
    add("--input_template", help='text around a user\'s, such as "User: {}\\nAssistant: "')
    add("--rows_per_batch", type=count, default=16, help="answers of a pass of the reward model or the reference")
    add("--value_head_prefix", help="name of the reward model's score head, if it is not a usual one")
    weights = "weight of each score of a reward model with several (attributes)"
    add("--reward_attribute_weights", type=number(float), nargs="+", help=weights)
    add("--device", choices=("cpu", "gpu"), help="where to compute (default: gpu if Paddle finds one)")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Serve until a signal."""
    from alignment.runs.launch import prepare_device
    from alignment.serve.counters import ServerCounters
    from alignment.serve.page.routes import page_routes
    from alignment.serve.shell import Address, bind, build_app, read_access, serve
    from alignment.telemetry import log

    arguments = parse(argv)
    if arguments.policy is None and arguments.reward is None and arguments.reference is None:
        raise ArgumentError("give --policy FOLDER, --reward FOLDER or --reference FOLDER")
    if arguments.policy is None and arguments.compare is not None:
        raise ArgumentError("--compare needs --policy")
    access = read_access(arguments.host, arguments.token_file, arguments.max_body_bytes)
    bound = bind(Address(arguments.host, arguments.port))
    log.configure(output_dir=None, is_main=True)
    prepare_device(arguments.device)
    counters = ServerCounters()
    policies = _policy_routes(arguments, access, counters)
    rewards = _reward_routes(arguments, access, counters)
    references = _reference_routes(arguments, access, counters)
    served = policies.services if policies else {}
    closed = [*served.values(), *(one.service for one in (rewards, references) if one)]
    routes = [route for one in (policies, rewards, references) if one for route in one.routes()]
    page = page_routes({name: one.longest for name, one in served.items()}, arguments.reward) if served else []
    serve(
        build_app([*page, *routes], access, counters, lambda: any(one.is_loading for one in served.values())),
        bound,
        shutdown_timeout=arguments.shutdown_timeout,
        close=lambda: [service.close() for service in closed],
    )


def _policy_routes(arguments: argparse.Namespace, access: Access, counters: ServerCounters) -> PolicyRoutes | None:
    from alignment.serve.policy.routes import PolicyRoutes
    from alignment.serve.policy.service import PolicyService, PolicySettings

    if arguments.policy is None:
        return None
    settings = PolicySettings(
        template=_template(arguments),
        kv_memory=arguments.kv_memory,
        num_slots=arguments.num_slots,
        max_queue=arguments.max_queue,
        max_length=arguments.max_length,
        request_timeout=arguments.request_timeout,
        device=arguments.device,
    )
    folders = {arguments.name or arguments.policy: arguments.policy}
    if arguments.compare is not None:
        if arguments.compare in folders:
            raise ArgumentError(f"--compare {arguments.compare} is the first policy's name: give another --name")
        folders[arguments.compare] = arguments.compare
    return PolicyRoutes({name: PolicyService(one, settings) for name, one in folders.items()}, access, counters)


def _reward_routes(arguments: argparse.Namespace, access: Access, counters: ServerCounters) -> RewardRoutes | None:
    from alignment.models.folders.attribute_heads import StoredHead
    from alignment.serve.reward.routes import RewardRoutes
    from alignment.serve.reward.service import RewardService, RewardSettings

    if arguments.reward is None:
        return None
    settings = RewardSettings(
        template=_template(arguments),
        rows_per_batch=arguments.rows_per_batch,
        max_queue=arguments.max_queue,
        request_timeout=arguments.request_timeout,
        head=StoredHead(arguments.value_head_prefix, arguments.reward_attribute_weights),
        device=arguments.device,
    )
    return RewardRoutes(RewardService(arguments.reward, settings, counters), access)


def _reference_routes(
    arguments: argparse.Namespace, access: Access, counters: ServerCounters
) -> ReferenceRoutes | None:
    from alignment.serve.reference.routes import ReferenceRoutes
    from alignment.serve.reference.service import ReferenceService, ReferenceSettings

    if arguments.reference is None:
        return None
    settings = ReferenceSettings(
        rows_per_batch=arguments.rows_per_batch,
        max_queue=arguments.max_queue,
        request_timeout=arguments.request_timeout,
        device=arguments.device,
    )
    return ReferenceRoutes(ReferenceService(arguments.reference, settings, counters), access)


def _template(arguments: argparse.Namespace) -> str | None:
    wanted = arguments.input_template
    return arguments.chat_template if wanted is None else wanted.replace("\\n", "\n")
