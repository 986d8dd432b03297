"""A model in this process answers as plain greedy decoding does, batch or not."""

import pytest
import torch

import lengthwise as lw
from lengthwise.extend.adapt import adapted
from lengthwise.measure.engines.greedy import greedy
from lengthwise.measure.engines.local import LocalReader, out_of_memory
from lengthwise.measure.tasks.base import Item, token_count
from lengthwise.testing.models import KINDS, TEXT, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CHUNK = 16  # Phi-3 reads with other frequencies when a chunk ends behind its short window


def item(start: int, tokens: int, allowance: int = 5) -> Item:
    """A prompt of an exact number of tokens, from some place of the text on."""
    prompt = (TEXT * 9)[start:]
    places = TOKENIZER(prompt, return_offsets_mapping=True)["offset_mapping"]
    cut = places[tokens + 2][1]  # a cut inside a word may make a token more of it
    while token_count(TOKENIZER, prompt[:cut]) > tokens:
        cut -= 1
    prompt = prompt[:cut]
    assert token_count(TOKENIZER, prompt) == tokens
    return Item(prompt, "", tokens + allowance, (), allowance=allowance)


def expected(model, one: Item) -> str:
    ids = torch.tensor([TOKENIZER(one.prompt)["input_ids"]])
    return TOKENIZER.decode(greedy(model, ids, one.allowance, CHUNK)[0], skip_special_tokens=True)


@pytest.mark.parametrize("family", KINDS)
def test_every_family_answers_as_greedy_decoding_does(family: str) -> None:
    model = tiny_model(family)
    if family != "gpt_oss":  # torch groups the products of its experts in float32 at most
        model = model.double()
    reader = LocalReader(model, TOKENIZER, CHUNK)
    items = [item(start, 40) for start in (0, 30, 60)]
    replies = list(reader.answer(items))
    assert [reply.text for reply in replies] == [expected(model, one) for one in items]
    for reply in replies:
        assert not reply.refused and 1 <= reply.tokens <= 5
        assert reply.held > 0 and 0 < reply.first_token <= reply.seconds


def test_methods_change_what_is_answered_and_held() -> None:
    model = tiny_model("llama").double()
    reader = LocalReader(model, TOKENIZER, CHUNK)
    items = [item(start, 200, allowance=8) for start in (0, 40)]
    plain = list(reader.answer(items))
    with adapted(model, lw.StreamingLLM(sinks=2, window=24)):
        short = list(reader.answer(items))
        assert [reply.text for reply in short] == [expected(model, one) for one in items]
    assert short[0].held < plain[0].held / 2
    assert short[0].peak is not None  # counted again: another method is another shape
    assert [reply.text for reply in short] != [reply.text for reply in plain]


def test_items_of_many_lengths_come_back_in_their_order() -> None:
    model = tiny_model("llama").double()
    reader = LocalReader(model, TOKENIZER, CHUNK)
    items = [item(0, 40), item(9, 40), item(5, 70), item(20, 40, allowance=2)]
    replies = list(reader.answer(items))
    assert [reply.text for reply in replies] == [expected(model, one) for one in items]
    assert replies[3].tokens == 2


def test_an_end_token_ends_a_row_and_not_the_others() -> None:
    model = tiny_model("llama").double()
    items = [item(start, 40, allowance=6) for start in (0, 30)]
    ids = torch.tensor([TOKENIZER(one.prompt)["input_ids"] for one in items])
    new = greedy(model, ids, 6)
    end = next(token for token in new[0][1:] if token not in new[1])
    model.generation_config.eos_token_id = end
    first, second = LocalReader(model, TOKENIZER, CHUNK).answer(items)
    assert first.tokens == new[0].index(end) + 1 < 6 == second.tokens
    assert first.text == TOKENIZER.decode(new[0][: new[0].index(end)])
    assert first.seconds < second.seconds and first.first_token == second.first_token


def test_bytes_are_shares_and_counted_once_a_shape() -> None:
    model = tiny_model("llama").double()
    reader = LocalReader(model, TOKENIZER, CHUNK)
    (alone,) = reader.answer([item(0, 64)])
    assert alone.peak > alone.held > 0
    pair = list(reader.answer([item(0, 64), item(9, 64)]))
    assert pair[0].held == pair[1].held == pytest.approx(alone.held, rel=0.01)
    assert [reply.peak for reply in pair] == [None, None]  # counted above
    first, second = LocalReader(model, TOKENIZER, CHUNK).answer([item(0, 64), item(9, 64)])
    assert first.peak == pytest.approx(alone.peak, rel=0.05) and second.peak is None
    longer = next(iter(reader.answer([item(0, 200)])))
    assert longer.peak > 2 * alone.peak


def test_short_items_are_read_together_and_long_ones_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("llama").double()
    sizes = []
    decode = LocalReader._decode

    def noted(self: LocalReader, ids: torch.Tensor, new: int):
        sizes.append(len(ids))
        return decode(self, ids, new)

    monkeypatch.setattr(LocalReader, "_decode", noted)
    monkeypatch.setattr("lengthwise.measure.engines.greedy.TOGETHER", 100)
    list(LocalReader(model, TOKENIZER, CHUNK).answer([item(start, 40) for start in (0, 20, 40)]))
    assert sizes == [2, 1]


def test_what_cannot_be_answered_is_refused_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("llama").double()
    decode = LocalReader._decode

    def small(self: LocalReader, ids: torch.Tensor, new: int):
        if len(ids) * ids.shape[1] > 50:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(self, ids, new)

    monkeypatch.setattr(LocalReader, "_decode", small)
    items = [item(0, 40), item(9, 40), item(0, 60)]
    replies = list(LocalReader(model, TOKENIZER, CHUNK).answer(items))
    # A batch that does not fit is read one by one.
    assert [reply.refused for reply in replies] == ["", "", "out of memory on cpu"]
    assert replies[0].text == expected(model, items[0])

    def short(self: LocalReader, ids: torch.Tensor, new: int):
        raise ValueError("this method ends at 16 tokens")

    monkeypatch.setattr(LocalReader, "_decode", short)
    (reply,) = LocalReader(model, TOKENIZER, CHUNK).answer(items[:1])
    assert reply.refused == "this method ends at 16 tokens"


def test_memory_of_a_cpu_that_is_short_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as other:
        torch.ones(2) @ torch.ones(3)
    assert not out_of_memory(other.value)


def test_what_it_says_of_itself() -> None:
    reader = LocalReader(tiny_model("llama"), TOKENIZER, chunk=32, name="mine")
    about = reader.describe()
    assert (about["name"], about["window"], about["dtype"]) == ("mine", 64, "float32")
    assert (
        about["fingerprint"]
        != LocalReader(tiny_model("llama", seed=1), TOKENIZER).describe()["fingerprint"]
    )
    with pytest.raises(ValueError, match="chunk must be at least 1 token, got 0"):
        LocalReader(reader.model, TOKENIZER, chunk=0)
