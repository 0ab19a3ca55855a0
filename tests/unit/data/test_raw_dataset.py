"""Registration by NAME and what the base class provides."""

from __future__ import annotations

import pytest

from alignment.data import RawDataset, RawSample
from alignment.data.raw.raw_dataset import canonical_name, is_registered
from alignment.errors import DataError


def make(name: str, *, qualname: str, aliases=(), rows: int = 3) -> type[RawDataset]:
    body = {
        "NAME": name,
        "ALIASES": aliases,
        "__qualname__": qualname,
        "__module__": "somewhere",
        "__getitem__": lambda self, index: RawSample(input=str(range(rows)[index])),
        "__len__": lambda self: rows,
    }
    return type("Rows", (RawDataset,), body)


def test_load_by_name_alias_and_make():
    cls = make("raw-a", qualname="A", aliases=("raw-a-alias",))
    assert isinstance(RawDataset.load("raw-a"), cls)
    assert isinstance(RawDataset.make("raw-a-alias"), cls)
    assert canonical_name("raw-a-alias") == "raw-a"


def test_duplicate_name_is_refused_with_both_classes():
    make("raw-b", qualname="First", aliases=("raw-b-alias",))
    for taken in ("raw-b", "raw-b-alias"):
        with pytest.raises(DataError, match="somewhere.Second.*somewhere.First"):
            make(taken, qualname="Second")
    with pytest.raises(DataError, match="'raw-b'"):
        make("raw-b-other", qualname="Third", aliases=("raw-b",))
    assert not is_registered("raw-b-other")


def test_a_reloaded_class_replaces_its_former_self():
    make("raw-c", qualname="C", rows=1)
    make("raw-c", qualname="C", rows=5)
    assert len(RawDataset.load("raw-c")) == 5


def test_registry_is_strong():
    make("raw-d", qualname="D")
    import gc

    gc.collect()
    assert len(RawDataset.load("raw-d")) == 3


def test_aliases_and_name_are_not_inherited():
    parent = make("raw-e", qualname="E", aliases=("raw-e-alias",))
    type("Unnamed", (parent,), {"__module__": "somewhere"})
    child = type("Child", (parent,), {"NAME": "raw-e-child", "__module__": "somewhere"})
    assert type(RawDataset.load("raw-e-alias")) is parent
    assert type(RawDataset.load("raw-e-child")) is child


@pytest.mark.parametrize("name", ["", None, 3])
def test_name_must_be_a_non_empty_string(name):
    with pytest.raises(DataError, match="non-empty string"):
        make(name, qualname="F")


def test_aliases_as_a_string_or_without_a_name_are_refused():
    with pytest.raises(DataError, match="ALIASES must be a tuple"):
        make("raw-g", qualname="G", aliases="abc")
    with pytest.raises(DataError, match="ALIASES but no NAME"):
        type("Nameless", (RawDataset,), {"ALIASES": ("x",), "__module__": "somewhere"})


def test_argument_the_constructor_does_not_take_is_refused():
    make("raw-h", qualname="H")
    with pytest.raises(DataError, match="raw-h.*unexpected keyword argument 'path'.*constructor takes"):
        RawDataset.load("raw-h", path="x")


def test_iteration_and_split():
    dataset = RawDataset.load(make("raw-i", qualname="I", rows=10).NAME)
    assert [row["input"] for row in dataset] == [str(i) for i in range(10)]
    train, test = dataset.split_train_test()
    assert [row["input"] for row in train] == list("56073249")
    assert [row["input"] for row in test] == list("18")
    assert test.describe_row(1) == "dataset 'raw-i', row 8"
    train, test = dataset.split_train_test(0.01)
    assert (len(train), len(test)) == (10, 0)


def test_a_split_is_a_fifth_shuffled_with_seed_42_unless_said_otherwise():
    make("raw-split", qualname="Split", rows=50)
    rows = RawDataset.load("raw-split")

    def numbers(*arguments, **named):
        return [[int(row["input"]) for row in part] for part in rows.split_train_test(*arguments, **named)]

    train, test = numbers()
    assert (train, test) == tuple(numbers(0.2, True, 42))
    assert len(test) == 10 and sorted(train + test) == list(range(50)) and test != sorted(test)
    assert numbers(seed=43)[1] != test
    assert numbers(shuffle=False) == [list(range(40)), list(range(40, 50))]
