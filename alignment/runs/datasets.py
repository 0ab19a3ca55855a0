"""Open the datasets named by the arguments, and report the account of their rows."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from alignment.architecture.decoder_config import DecoderConfig
from alignment.arguments.keys.pairwise import PairwiseArguments
from alignment.arguments.parsed import Parsed
from alignment.data.comparison import PairQuestion
from alignment.data.encode import EncodeOptions
from alignment.data.encoded.build import Encoding
from alignment.data.encoded.overlap import describe_overlap
from alignment.data.encoded.tokenized import TokenizedDataset
from alignment.data.ledger import Ledger
from alignment.data.raw.dataset_spec import Datasets, parse_datasets
from alignment.data.raw.modules import load_dataset_modules
from alignment.data.templates import template_name
from alignment.data.tokenizer import TokenizerLike
from alignment.errors import ArgumentError
from alignment.parallel.comms.together import Attempt, everywhere
from alignment.runs.launch import Launch
from alignment.telemetry import log
from alignment.telemetry.files import replace_file
from alignment.telemetry.tables import print_table
from alignment.telemetry.wording import counted

LEDGER_FILE = "ledger.json"
ENCODED_FOLDER = "encoded_rows"
"""Default cache of encoded rows under ``output_dir``."""

Dataset = TypeVar("Dataset", bound=TokenizedDataset)


def encode_options(
    launch: Launch,
    *,
    max_prompt_length: int | None = None,
    unanswerable: range = range(0),
    targets: str = "assistant",
    keeps_duplicates: bool = False,
) -> EncodeOptions:
    """Return length limits, templates, what to do with rows that do not fit, and what is trained on."""
    data, source = launch.parsed.data, getattr(launch.parsed, "offline", None)
    steps = {}
    if getattr(source, "objective", "") == "process":
        steps = {"step_token": source.placeholder_token, "reward_tokens": source.reward_tokens}
    return EncodeOptions(
        **steps,
        max_length=data.max_length,
        max_prompt_length=max_prompt_length,
        unanswerable=unanswerable,
        on_overlong=data.on_overlong,
        on_bad_row=data.on_bad_row,
        template=template_name(data.template),
        targets=targets,
        keeps_duplicates=keeps_duplicates,
        comparison=trained_comparison(launch.parsed),
    )


def crossing_prompts(config: DecoderConfig, answer: int, longest: int) -> range:
    """Return the lengths of prompts that no engine answers (``DecoderConfig.unanswerable``), and log them."""
    found = config.unanswerable(answer, longest)
    if found:
        log.info(
            f"longrope: prompts of {found.start} to {found.stop - 1} tokens count as too long (on_overlong), as an "
            f"answer of {answer} would cross original_max_position_embeddings={config.angle_limit}; longer ones do not"
        )
    return found


def trained_comparison(parsed: Parsed) -> PairQuestion | None:
    """Return how pairs are put to the model that the run trains; None unless that is a pairwise one."""
    source = parsed.groups.get("offline")
    return PairQuestion.of(source) if isinstance(source, PairwiseArguments) else None


def open_dataset(
    launch: Launch,
    kind: type[Dataset],
    datasets: Datasets,
    tokenizer: TokenizerLike,
    options: EncodeOptions,
    *,
    role: str = "train",
) -> Dataset:
    """Return the encoded rows of ``datasets``; one process per host encodes many rows, the others read its cache.

    ``role`` is ``train`` or ``eval`` and decides which split is read if there are several. An error in one process is
    raised in all; they wait for each other for up to ``distributed_timeout``.
    """
    data, training, world = launch.parsed.data, launch.parsed.training, launch.topology.world
    hosts = world.gather_objects(socket.gethostname(), "names of the hosts")
    is_first = hosts.index(hosts[world.index]) == world.index
    encoding = Encoding(
        num_workers=data.dataloader_num_workers if is_first else 0,
        cache_dir=Path(data.encoded_cache_dir) if data.encoded_cache_dir else launch.output_dir / ENCODED_FOLDER,
        show_progress=launch.topology.is_main and not training.disable_tqdm,
    )

    def build() -> Dataset:
        specs = parse_datasets(datasets, base_dir=launch.parsed.base_dir, defaults=column_defaults(launch, role))
        return kind(specs, tokenizer, options=options, encoding=encoding, seed=training.seed)

    first = Attempt(world)
    dataset = first.run(build) if is_first else None
    first.settle()
    return everywhere(world, build) if dataset is None else everywhere(world, lambda: dataset)


def column_defaults(launch: Launch, role: str) -> dict[str, Any]:
    """Return the columns and the split given by the run's keys; ``role`` is ``train`` or ``eval``."""
    columns = launch.parsed.columns
    split = {"train": columns.train_split or "train", "eval": columns.eval_split or ("validation", "test")}
    given = {name: value for name, value in _column_keys(launch).items() if value}
    if getattr(getattr(launch.parsed, "loss", None), "uses_margin", False):
        if "chosen_score_key" not in given:
            given.setdefault("margin_key", "margin")
    elif not isinstance(launch.parsed.groups.get("offline"), PairwiseArguments):
        given.pop("margin_key", None)
    attributes = getattr(getattr(launch.parsed, "offline", None), "attributes", ())
    if not attributes:
        given.pop("attributes_key", None)
    return {**given, "split": split[role], **({"attributes": attributes} if attributes else {})}


def register_user_datasets(launch: Launch) -> None:
    """Import the modules that register the user's own datasets."""
    load_dataset_modules(launch.parsed.data.dataset_modules, launch.parsed.base_dir)


def _column_keys(launch: Launch) -> dict[str, Any]:
    """Return the keys that say how rows are read, without those for splits."""
    return {
        item.name: getattr(launch.parsed.columns, item.name)
        for item in dataclasses.fields(launch.parsed.columns)
        if not item.name.endswith("_split")
    }


def dataset_labels(rows: Sequence[Any]) -> list[str]:
    """Return the dataset of each encoded row; empty if the rows were split or reordered after encoding."""
    sizes = rows.ledger.sizes() if isinstance(rows, TokenizedDataset) else ()
    labels = [name for name, counts in sizes for _ in range(counts["used"])]
    return labels if len(labels) == len(rows) else []


def split_for_evaluation(
    launch: Launch, train: TokenizedDataset, evaluation: TokenizedDataset | None
) -> tuple[TokenizedDataset, TokenizedDataset | None]:
    """Return (train, evaluation); without evaluation data, hold out ``eval_split_ratio`` of the training rows."""
    ratio = launch.parsed.data.eval_split_ratio
    if evaluation is None and ratio and launch.parsed.training.evaluates:
        parts = train.split_train_test(ratio, seed=launch.parsed.training.seed)
        if not all(map(len, parts)):
            kept, held_out = map(len, parts)
            raise ArgumentError(
                f"eval_split_ratio={ratio:g} of {len(train)} rows leaves {kept} to train and {held_out} to evaluate; "
                "both need at least 1" + "; rows with the same prompt stay together" * train.COMPARES_ANSWERS
            )
        return parts
    return train, evaluation


def report_ledgers(launch: Launch, datasets: Mapping[str, TokenizedDataset | None]) -> None:
    """Log the account of every row and write it to ``output_dir/ledger.json``; ``datasets`` is keyed by role.

    Training rows and rows held out from them share one account.
    """
    present = {role: dataset for role, dataset in datasets.items() if dataset is not None}
    ledgers: dict[str, Ledger] = {}
    for dataset in present.values():
        roles = [role for role, other in present.items() if other.ledger is dataset.ledger]
        used = ", ".join(f"{role}: {counted(len(present[role]), 'row')} used" for role in roles)
        if (name := " and ".join(roles)) not in ledgers:
            ledgers[name] = dataset.ledger
            log.info(f"{used}; left out or changed: {dataset.ledger.summary()}")
            for source, note in dataset.ledger.notes():
                log.info(f"{name}, {source}: {note}")
    _warn_unused_keys(launch, list(present.values()))
    rows = [
        (role, row.dataset, row.reason, row.effect, row.count, ", ".join(map(str, row.examples)))
        for role, ledger in ledgers.items()
        for row in ledger.rows()
    ]
    if rows:
        print_table("rows left out or changed", ["role", "dataset", "reason", "effect", "rows", "for example"], rows)
    accounts: dict[str, Any] = {role: ledger.as_dict() for role, ledger in ledgers.items()}
    if launch.topology.is_main:
        for role, warning in _warnings(present, trains=launch.parsed.training.do_train):
            log.warn(f"{role}: {warning}")
            name = next(name for name in accounts if role in name.split(" and "))
            accounts[name].setdefault("warnings", []).append(warning)
        replace_file(launch.output_dir / LEDGER_FILE, json.dumps(accounts, indent=1))


def _warnings(datasets: Mapping[str, TokenizedDataset], *, trains: bool) -> Iterator[tuple[str, str]]:
    """Yield (role, warning) for text that the tokenizer does not know, and for evaluation on what is trained on."""
    for role, dataset in datasets.items():
        unknown = dataset.describe_unknown()
        if unknown is not None:
            yield role, unknown
    overlap = describe_overlap(datasets["train"], datasets["eval"]) if trains and "eval" in datasets else None
    if overlap is not None:
        yield "eval", overlap


def _warn_unused_keys(launch: Launch, datasets: Sequence[TokenizedDataset]) -> None:
    """Warn of keys about columns that no dataset of the run accepts."""
    taken = frozenset().union(*(dataset.options_taken for dataset in datasets))
    unused = [name for name, value in _column_keys(launch).items() if value and name not in taken]
    if unused:
        log.warn(f"{', '.join(unused)} has no effect: no dataset of this run reads named columns (jsonl does)")
