"""A model with a chat template is asked in it, and the template counts towards the length."""

import copy
import pickle

import pytest

from lengthwise.hf.prompts import Chat, encode_prompt, encode_prompts
from lengthwise.measure import LocalReader
from lengthwise.measure.tasks import NIAH, Lines

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>\n{{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)


@pytest.fixture
def talking(tokenizer):
    found = copy.deepcopy(tokenizer)
    found.chat_template = TEMPLATE
    return found


def test_prompts_are_what_a_person_says(talking):
    ids = encode_prompt(Chat(talking), " where is it? ")
    assert talking.decode(ids) == "<user>\nwhere is it?\n<assistant>\n"
    assert encode_prompts(Chat(talking), ["a", "b c"])[1] == encode_prompt(Chat(talking), "b c")
    # What is no prompt is tokenised as ever.
    plain = talking("a b", add_special_tokens=False)["input_ids"]
    assert Chat(talking)("a b", add_special_tokens=False)["input_ids"] == plain
    assert pickle.loads(pickle.dumps(Chat(talking))).decode(ids) == talking.decode(ids)


def test_lengths_are_those_that_are_sent(model, talking):
    reader = LocalReader(model, talking)
    for task in (NIAH(budget=16), Lines()):
        for item in task.build(reader.tokenizer, 400, 3, 0):
            sent = talking.apply_chat_template(
                [{"role": "user", "content": item.prompt}], add_generation_prompt=True,
                return_dict=True,
            )["input_ids"]  # fmt: skip
            assert len(sent) + item.allowance == item.length == 400
    read = []
    original = reader._decode
    reader._decode = lambda ids, new: (read.append(ids), original(ids, new))[1]
    item = NIAH(budget=4).build(reader.tokenizer, 300, 1, 0)[0]
    assert not next(reader.answer([item])).refused
    assert talking.decode(read[0][0]).startswith("<user>\n")
    assert read[0].shape[1] == item.length - item.allowance


def test_what_the_results_say(model, talking, tokenizer):
    assert (
        "chat" not in LocalReader(model, tokenizer).describe()
    )  # as results of base models had it
    assert "chat" not in LocalReader(model, talking, chat=False).describe()
    said = LocalReader(model, talking).describe()["chat"]
    talking.chat_template = TEMPLATE + " "
    assert said != LocalReader(model, talking).describe()["chat"] and len(said) == 12
    with pytest.raises(ValueError, match="has no chat template"):
        LocalReader(model, tokenizer, chat=True)


def test_a_template_that_cannot_be_used_is_refused_at_once(model, talking):
    talking.chat_template = "{{ 1 / 0 }}"
    with pytest.raises(ValueError, match=r"cannot be used.*pass --no-chat"):
        LocalReader(model, talking)
    assert LocalReader(model, talking, chat=False).tokenizer is talking
