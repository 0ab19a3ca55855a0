"""Arguments that the stages share: what is written, and by how many processes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from alignment.fields import argument


@dataclass(frozen=True, kw_only=True)
class StageArguments:
    """What a stage writes, and how."""

    output_file: str = argument(aliases=("output_path",))
    """The JSON lines to write."""
    overwrite: bool = False
    """Whether an existing output_file, or a part of one made with other arguments, is replaced."""
    num_workers: int = argument(1, minimum=1, aliases=("my_world_size",))
    """Processes, each with a copy of the model and a share of the rows; what is written does not depend on it."""
    device: Literal["cpu", "gpu"] | None = None
    """cpu or gpu; null: gpu if Paddle finds one."""
    disable_tqdm: bool = False
    """Show no progress bar."""


FREE = frozenset(item.name for item in fields(StageArguments)) - {"device"} | {
    "rollout_kv_memory",
    *("servers", "server_token_file", "server_timeout", "server_retries"),
}
"""Keys on which what is written does not depend, so that a continued run may change them."""
