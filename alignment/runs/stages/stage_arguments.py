"""Arguments that the stages share: what is written, and by how many processes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from alignment.fields import argument


@dataclass(frozen=True, kw_only=True)
class WorkArguments:
    """How a stage works."""

    TARGET: ClassVar[str] = "output_file"
    """The key that says where its rows go."""

    overwrite: bool = False
    """Whether existing output, or a part of it made with other arguments, is replaced."""
    num_workers: int = argument(1, minimum=1, aliases=("my_world_size",))
    """Processes, each with a copy of the model and a share of the rows; what is written does not depend on it."""
    device: Literal["cpu", "gpu"] | None = None
    """cpu or gpu; null: gpu if Paddle finds one."""
    disable_tqdm: bool = False
    """Show no progress bar."""


@dataclass(frozen=True, kw_only=True)
class StageArguments(WorkArguments):
    """What a stage writes, and how."""

    output_file: str = argument(aliases=("output_path",))
    """The JSON lines to write."""


_VIEWS = {"output_dir", "confidence", "num_samples", "record_file"}
"""Keys of what is made from the rows when all are there."""
_SERVERS = {"servers", "server_token_file", "server_timeout", "server_retries"}
FREE = frozenset(item.name for item in fields(StageArguments)) - {"device"} | {"rollout_kv_memory", *_SERVERS, *_VIEWS}
"""Keys on which what is written does not depend, so that a continued run may change them."""
