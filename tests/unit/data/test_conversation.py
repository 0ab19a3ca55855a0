"""Messages: what is accepted, what is a target, and what each dataset kind makes of them."""

from __future__ import annotations

import pytest

from alignment.data import PreferenceDataset, PromptOnlyDataset, SupervisedDataset
from alignment.data.encode import EncodeOptions, Encoder
from alignment.data.raw.conversation import conversation, shown_text
from alignment.data.raw.raw_sample import check_sample
from alignment.errors import DataError
from tests.unit.data.conftest import WordTokenizer

SYSTEM = {"role": "system", "content": "q"}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}
TOOL = {"role": "tool", "content": "x y"}
OWN = EncodeOptions(template="tokenizer")


def user(text):
    return {"role": "user", "content": text}


def says(text, **more):
    return {"role": "assistant", "content": text, **more}


class RoleTokenizer(WordTokenizer):
    """Writes every role and every tool; drops what an earlier answer says before ``x`` (as reasoning models do)."""

    def apply_chat_template(self, messages, *, tokenize=False, add_generation_prompt=True, tools=None):
        assert all("train" not in message for message in messages)
        text = "".join(f"{tool['name']} " for tool in tools or ())
        for number, message in enumerate(messages):
            mark = {"user": "[u]", "assistant": "[a]"}.get(message["role"], message["role"])
            calls = "".join(f" f {call['function']['name']}" for call in message.get("tool_calls", ()))
            content = message["content"]
            if message["role"] == "assistant" and number < len(messages) - 1:
                content = content.rpartition("x")[2].strip()
            text += f"{mark} {content}{calls} </s> : "
        return text + "[a] " if add_generation_prompt else text


@pytest.fixture
def roles():
    return RoleTokenizer()


def targets(dataset, tokenizer):
    [sample] = dataset
    return tokenizer.decode(sample["input_ids"][sample["labels"] >= 0], skip_special_tokens=False)


def whole(sample, tokenizer, key="input_ids"):
    return tokenizer.decode(sample[key], skip_special_tokens=False)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "'messages' must be a list of messages, got \\[\\]"),
        ("hi", "'messages' must be a list of messages, got 'hi'"),
        (["hi"], "message 0 must be an object with role and content, got 'hi'"),
        ([{"role": "bot", "content": "a"}], "message 0: role 'bot' .allowed: system, user, assistant, tool"),
        ([user(3)], "message 0: content must be text, got 3"),
        ([says(None)], "message 0: content must be text, got None"),
        ([user([{"type": "image", "url": "u"}])], "message 0: only parts of type 'text'.*image"),
        ([user("a"), says("b", train=0)], "message 1: train is 0 .*true or false"),
        ([{**user("a"), "train": False}], "message 0: train is False in a turn of the user"),
    ],
)
def test_wrong_messages_are_refused_by_number(messages, message):
    with pytest.raises(DataError, match=f"row 7.*{message}"):
        check_sample({"messages": messages}, "row 7")


def test_an_input_of_messages_ends_with_a_question():
    assert check_sample({"input": [SYSTEM, user("a")]}, "p") == {"input": [SYSTEM, user("a")]}
    with pytest.raises(DataError, match="p: field 'input' must end with a turn of the user or of a tool, got 'assist"):
        check_sample({"input": [user("a"), says("b")]}, "p")
    with pytest.raises(DataError, match="'tools' must be a list of objects"):
        check_sample({"tools": ["f"]}, "p")


def test_text_parts_are_joined_and_empty_columns_do_not_count():
    row = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": " b"}], "name": None}
    call = {**CALL, "content": None, "train": None}
    checked = check_sample({"messages": [row, call]}, "p")
    assert checked["messages"] == [user("a b"), {**CALL, "content": ""}]


def test_every_turn_of_the_assistant_is_a_target_unless_it_says_otherwise(make_dataset, roles):
    turns = [SYSTEM, user("a"), says("b", train=False), user("c"), says("d"), user("e"), says("f")]
    dataset = SupervisedDataset(make_dataset([{"messages": turns}]), roles, options=OWN)
    assert targets(dataset, roles) == "d </s> f </s>"
    assert whole(dataset[0], roles) == (
        "<unk> q </s> : [u] a </s> : [a] b </s> : [u] c </s> : [a] d </s> : [u] e </s> : [a] f </s> :"
    )


def test_a_call_of_a_tool_is_learned_and_its_result_is_not(make_dataset, roles):
    turns = [user("a"), CALL, TOOL, says("b")]
    row = {"messages": turns, "tools": [{"name": "g"}]}
    dataset = SupervisedDataset(make_dataset([row]), roles, options=OWN)
    assert whole(dataset[0], roles).startswith("g [u] a </s> : [a] f f </s> : <unk> x y </s>")
    assert targets(dataset, roles) == "f f </s> b </s>"


def test_an_earlier_turn_that_the_template_shortens_is_trained_as_it_is_written(make_dataset, roles):
    dataset = SupervisedDataset(
        make_dataset([{"messages": [user("a"), says("q x b"), user("c"), says("y x d")]}]), roles, options=OWN
    )
    assert targets(dataset, roles) == "b </s> y x d </s>"
    assert whole(dataset[0], roles) == "[u] a </s> : [a] b </s> : [u] c </s> : [a] y x d </s> :"


def test_rows_without_a_turn_to_train_on_are_counted(make_dataset, roles):
    rows = [
        {"messages": [user("a"), says("b")]},
        {"messages": [user("a"), says("b", train=False)]},
        {"messages": [user("a")]},
        {"messages": [user("a"), says(" ")]},
        {"messages": [user(""), says("b")]},
        {"messages": [says("b")]},
    ]
    ledger = SupervisedDataset(make_dataset(rows), roles, options=OWN).ledger
    reasons = {row.reason: (row.count, row.examples) for row in ledger.rows()}
    assert reasons == {"no_turn_to_train_on": (2, (1, 2)), "empty_answer": (1, (3,)), "empty_prompt": (2, (4, 5))}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [SYSTEM, user("a"), says("b")]}, "message 0 has role 'system' where.*expects 'user'"),
        ({"messages": [user("a"), user("b"), says("c")]}, "message 1 has role 'user' where.*expects 'assistant'"),
        ({"messages": [user("a"), says("b")], "tools": [{"name": "f"}]}, "does not support tools"),
        ({"messages": [user("a"), CALL, TOOL, says("b")]}, "does not support tools"),
    ],
)
def test_the_classic_template_refuses_what_it_cannot_write(make_dataset, tokenizer, row, message):
    with pytest.raises(DataError, match=f"'test-rows', row 0: .*{message}.*use chat_template=tokenizer"):
        SupervisedDataset(make_dataset([row]), tokenizer)


def test_the_classic_template_writes_plain_messages_as_it_writes_turns(make_dataset, tokenizer):
    rows = [{"messages": [user("a"), says("b", train=False), user("c"), says("d")]}, {"dialogue": ["a", "b", "c", "d"]}]
    first, second = SupervisedDataset(make_dataset(rows), tokenizer)
    assert first["input_ids"].tolist() == second["input_ids"].tolist()
    assert whole({"labels": first["labels"][first["labels"] >= 0]}, tokenizer, "labels") == "d </s>"


def test_pairs_and_prompts_take_messages_and_tools(make_dataset, roles):
    row = {"input": [SYSTEM, user("a")], "answer": "b", "other_answer": "c", "better": False, "tools": [{"name": "g"}]}
    [pair] = PreferenceDataset(make_dataset([row]), roles, options=OWN)
    assert whole(pair, roles, "better_input_ids") == "g <unk> q </s> : [u] a </s> : [a] c </s>"
    assert pair["prompt_length"] == 10
    [prompt] = PromptOnlyDataset(make_dataset([row], "prompt"), roles, options=OWN)
    assert whole(prompt, roles) == "g <unk> q </s> : [u] a </s> : [a]"
    assert prompt["raw_input"] == {"messages": [SYSTEM, user("a")], "tools": [{"name": "g"}]}
    assert Encoder(roles, "tokenizer").encode_prompt(prompt["raw_input"]).ids == prompt["input_ids"].tolist()


def test_a_prompt_of_messages_never_holds_the_answer(make_dataset, roles):
    rows = [{"messages": [user("a"), says("b")]}, {"messages": [user("a"), says("b"), user("c")]}]
    first, second = PromptOnlyDataset(make_dataset(rows), roles, options=OWN)
    assert (whole(first, roles), first["label"], first["raw_input"]) == ("[u] a </s> : [a]", "b", [user("a")])
    assert whole(second, roles) == "[u] a </s> : [a] b </s> : [u] c </s> : [a]" and second["label"] is None


def test_prompts_differ_by_role_and_by_tools(make_dataset, roles):
    rows = [{"input": "a"}, {"input": [user("a")]}, {"input": [SYSTEM, user("a")]}, {"input": "a", "tools": [TOOL]}]
    rows = [{**row, "tools": [{"name": "g"}]} if "tools" in row else row for row in rows]
    dataset = PromptOnlyDataset(make_dataset(rows), roles, options=OWN)
    assert len(dataset) == 3 and dataset.ledger.total("duplicate_prompt") == 1


def test_inputs_are_shown_as_lines():
    assert shown_text("a") == "a" and shown_text(["a", "b", "c"]) == "a\nb\nc"
    assert shown_text({"messages": [SYSTEM, user("a")], "tools": []}) == "system: q\nuser: a"


def test_answering_leaves_one_target():
    asked = conversation(["a", "b", "c"])
    assert asked.targets == [1] and asked.answered("d").targets == [3] and asked.targets == [1]


@pytest.mark.parametrize("tools", [[{"name": "f"}, 3], [3], "f", {"name": "f"}])
def test_every_tool_of_a_row_is_an_object(tools):
    with pytest.raises(DataError, match="p: field 'tools' must be a list of objects"):
        check_sample({"input": "a", "tools": tools}, "p")


def test_conversations_are_equal_by_what_they_say_and_not_by_the_order_of_keys():
    first = conversation([{"role": "user", "content": "a"}, says("b", made=object)])
    second = conversation([{"content": "a", "role": "user"}, {"made": object, **says("b")}])
    assert first.key() == second.key()
    others = [conversation(["a", "c"]), conversation(["a", "b"], [{"name": "f"}]), conversation("a")]
    assert len({first.key(), *(other.key() for other in others)}) == 4
