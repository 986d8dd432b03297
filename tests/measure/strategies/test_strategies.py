"""Strategies: what they reduce to, what they leave out, what they cost, and what they refuse."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch

import lengthwise as lw
from lengthwise.extend.adapt import adapted
from lengthwise.hf.prompts import around, encode_prompt
from lengthwise.measure.engines.base import Reply
from lengthwise.measure.engines.greedy import greedy
from lengthwise.measure.engines.local import LocalReader
from lengthwise.measure.strategies import (
    JRT,
    XL3M,
    ChainOfAgents,
    RandomAccessReading,
    StrategyReader,
    SuperpositionPrompting,
    Truncation,
)
from lengthwise.measure.strategies.base import parted, pieces
from lengthwise.measure.strategies.superpositionprompting import _forward, joined
from lengthwise.measure.strategies.xl3m import chosen
from lengthwise.measure.tasks.base import Item
from lengthwise.testing.models import TEXT, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
DOCUMENT = TEXT * 3
QUESTION = "What was seen there?"


class Told:
    """Somebody who can only be asked, and repeats the last number that it read."""

    tokenizer = TOKENIZER
    parallel = 4

    def __init__(self, window: int | None = 120) -> None:
        self.window, self.prompts = window, list[str]()

    def describe(self) -> Mapping[str, Any]:
        return {"window": self.window}

    def answer(self, items: Sequence[Item]) -> Iterator[Reply]:
        for item in items:
            self.prompts.append(item.prompt)
            numbers = [word for word in item.prompt.split() if word.strip(".").isdigit()]
            yield Reply(numbers[-1] if numbers else "", 2, None, 0.0)


def local(window: int = 4000) -> LocalReader:
    return LocalReader(tiny_model("llama").double(), TOKENIZER, 64, window=window)


def plain(reader: LocalReader, new: int) -> str:
    ids = encode_prompt(TOKENIZER, "") + around(TOKENIZER, "", DOCUMENT)[1]
    ids += around(TOKENIZER, "", "\n" + QUESTION)[1]
    written = greedy(reader.model, torch.tensor([ids]), new, 64)[0]
    return str(TOKENIZER.decode(written, skip_special_tokens=True))


def test_each_reduces_to_the_plain_prompt() -> None:
    reader = local()
    wanted = plain(reader, 8)
    for strategy in (
        XL3M(),
        RandomAccessReading(patience=0),
        SuperpositionPrompting(part=3000, keep=1),
    ):
        reply = StrategyReader(reader, strategy).ask(DOCUMENT, QUESTION, 8)
        assert (reply.text, reply.refused) == (wanted, ""), strategy
        assert reply.read is not None and reply.read > 300 and reply.seconds > 0
    whole = encode_prompt(TOKENIZER, f"{DOCUMENT}\n{QUESTION}")
    written = greedy(reader.model, torch.tensor([whole]), 8, 64)[0]
    for same in (JRT(times=1), Truncation()):
        reply = StrategyReader(reader, same).ask(DOCUMENT, QUESTION, 8)
        assert reply.text == TOKENIZER.decode(written, skip_special_tokens=True)
        assert (reply.read, reply.tokens) == (len(whole), len(written))


@torch.no_grad()
def test_paths_see_nothing_of_each_other_and_stand_at_one_place() -> None:
    model = tiny_model("llama").double()
    start = model(input_ids=torch.tensor([[1, 5, 6]]), use_cache=True).past_key_values
    held = []
    for ids in ([7, 8, 9, 10], [11, 12]):
        places = torch.arange(len(ids)) * (3 / len(ids)) + 3
        _, cache = _forward(model, ids, places, copy.deepcopy(start))
        held.append([(x.keys[:, :, 3:], x.values[:, :, 3:]) for x in cache.layers])
    found, _ = _forward(model, [13], torch.tensor([6.0]), joined(start, held))
    # The same by one forward with a mask and fractional positions.
    at = [0, 1, 2, 3, 3.75, 4.5, 5.25, 3, 4.5, 6]
    row = torch.tensor([[1, 5, 6, 7, 8, 9, 10, 11, 12, 13]])
    seen = torch.ones(10, 10, dtype=torch.bool).tril()
    seen[7:9, 3:7] = False
    wanted = model(
        input_ids=row,
        position_ids=torch.tensor([at], dtype=torch.float32),
        attention_mask=seen[None, None],
        use_cache=False,
    ).logits[0, -1]
    assert torch.allclose(found[-1], wanted, atol=1e-9)


def test_a_chain_hands_its_notes_on_and_an_empty_note_changes_nothing() -> None:
    reader = Told(window=400)
    text = "The number is 314. " + "Nothing else is said here at all. " * 60
    reply = StrategyReader(reader, ChainOfAgents(notes=8)).ask(text, "Which number?", 4)
    assert not reply.refused
    assert reply.text.strip(".") == "314" and len(reader.prompts) > 3
    assert "none yet" in reader.prompts[0] and "314" in reader.prompts[-1]
    assert "314" not in reader.prompts[-2].partition("Notes on")[0]  # the last part
    counted = sum(len(encode_prompt(TOKENIZER, prompt)) for prompt in reader.prompts)
    assert (reply.read, reply.tokens) == (counted, 2 * len(reader.prompts))
    assert all(len(encode_prompt(TOKENIZER, prompt)) <= 396 for prompt in reader.prompts)


def test_xl3m_keeps_the_surest_segments_in_their_order() -> None:
    assert chosen([9.0, 3.0, 1.0, 2.0], [4, 4, 4, 4], 12) == [0, 2, 3]
    assert chosen([9.0, 1.0, 2.0], [50, 4, 4], 8) == [1, 2]  # a first one that is too long
    reader = local()
    asked = []

    class Seen(XL3M):
        def score(self, asking: Any, ids: list[int], behind: list[int]) -> float:
            asked.append(len(ids))
            return super().score(asking, ids, behind)

    reply = StrategyReader(reader, Seen(window=120, segment=24)).ask(DOCUMENT, QUESTION, 8)
    assert not reply.refused and len(asked) > 10 and max(asked) <= 24 + 1
    by = {XL3M(window=120, segment=24, by=one).by: one for one in ("entropy", "loss", "answer")}
    assert len(by) == 3


def test_the_surer_the_longer_the_skip() -> None:
    reading = RandomAccessReading(step=32, patience=0.5)
    assert [reading.skip(loss, 1000) for loss in (1.0, 0.5, 0.1, 0.0)] == [0, 32, 160, 992]
    assert reading.skip(0.1, 70) == 64
    reader = local()
    whole = StrategyReader(reader, RandomAccessReading(patience=0)).ask(DOCUMENT, QUESTION, 4)
    part = StrategyReader(reader, RandomAccessReading(patience=20)).ask(DOCUMENT, QUESTION, 4)
    assert part.read is not None and whole.read is not None and part.read < 0.7 * whole.read


def test_pieces_are_the_text_in_parts_that_fit() -> None:
    text = DOCUMENT + "a" * 400 + " end."
    for most in (8, 30, 100):
        found = pieces(TOKENIZER, text, most)
        assert "".join(found) == text
        assert max(len(around(TOKENIZER, "", one)[1]) for one in found) <= most
    assert parted("a text\nand more\nthe question\n") == ("a text\nand more", "the question")


def test_what_cannot_be_done_is_refused_in_a_line() -> None:
    inside = [
        lambda: XL3M(window=4),
        lambda: XL3M(by="luck"),  # type: ignore[arg-type]
        lambda: ChainOfAgents(notes=1),
        lambda: JRT(times=0),
        lambda: SuperpositionPrompting(keep=0),
        lambda: RandomAccessReading(patience=-1),
        lambda: StrategyReader(Told(), XL3M()),
        lambda: StrategyReader(Told(window=None), JRT()),
        lambda: StrategyReader(Told()).ask("a", "b", 4),
        lambda: StrategyReader(Told()).adapt(JRT(), Truncation()),
        lambda: StrategyReader(Told()).adapt(lw.StreamingLLM(window=8)),
        lambda: parted("one line"),
    ]
    for wrong in inside:
        with pytest.raises(ValueError) as error:
            wrong()
        assert "\n" not in str(error.value)
    reader = StrategyReader(Told(window=64))
    for strategy in (JRT(), ChainOfAgents(notes=32)):
        reader.adapt(strategy)
        reply = reader.ask(DOCUMENT, QUESTION, 8)
        assert "window" in reply.refused and not reply.text
    item = Item("one line", "", 10, (), allowance=2)
    assert "line of its own" in next(iter(reader.answer([item]))).refused
    gemma = LocalReader(tiny_model("gemma3_text"), TOKENIZER, window=400)
    side = StrategyReader(gemma, SuperpositionPrompting(part=32))
    assert "layers with a window" in side.ask(DOCUMENT, QUESTION, 4).refused
    plainly = local()
    with adapted(plainly.model, lw.StreamingLLM(window=64)):
        reply = StrategyReader(plainly, SuperpositionPrompting(part=32)).ask(DOCUMENT, "Who?", 4)
        assert "untouched" in reply.refused


def test_many_items_go_to_a_server_at_once_and_come_back_in_order() -> None:
    items = [
        Item(f"The number is {n}.\nWhich number?", str(n), 40, (), allowance=4) for n in range(9)
    ]
    replies = list(StrategyReader(Told(), JRT()).answer(items))
    assert [reply.text.strip(".") for reply in replies] == [str(n) for n in range(9)]
