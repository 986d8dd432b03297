"""Greedy answers of a model in this process, and what the right ones cost it."""

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lengthwise.extend.whole import steady
from lengthwise.hf.prompts import encode_prompts
from lengthwise.hf.release import CACHE, cache_of
from lengthwise.measure.engines.reading import CHUNK, likeliest, read_to_end
from lengthwise.measure.tasks.base import Item

TOGETHER = 4096  # tokens of prompts that are read as one batch


@torch.no_grad()
def likeliest_tokens(
    model: PreTrainedModel, logits: Tensor, cache: Any, length: int
) -> Iterator[tuple[Int[Tensor, " b"], Any]]:
    """The likeliest token of each row after what was read, then the one after that, without end.

    With each comes the cache, which holds all that stands before it. The model decodes a step when
    a token more is asked for.

    Args:
        logits, cache: What `read_to_end` gave.
        length: Tokens that were read.

    Raises:
        ValueError: Once the logits are NaN.
    """
    while True:
        tokens = likeliest(logits, length)
        yield tokens, cache
        out = model(input_ids=tokens[:, None], use_cache=True, **{CACHE: cache})
        logits, cache, length = out.logits, cache_of(out), length + 1


def answering(
    model: PreTrainedModel, logits: Tensor, cache: Any, length: int, new: int
) -> Iterator[tuple[dict[int, int], Any]]:
    """The same as tokens by row, up to `new`; a row that has come to its end is left out then."""
    ends, rows = end_tokens(model), set(range(len(logits)))
    for tokens, held in islice(likeliest_tokens(model, logits, cache, length), new):
        written = {row: token for row, token in enumerate(tokens.tolist()) if row in rows}
        yield written, held
        rows -= {row for row, token in written.items() if token in ends}
        if not rows:
            return


@torch.no_grad()
def greedy(
    model: PreTrainedModel, ids: Int[Tensor, "b t"], new: int, chunk: int = CHUNK
) -> list[list[int]]:
    """The likeliest tokens after each row of `ids`, up to `new` or the model's own end of a text.

    Rows have one length: no padding. The token that ends a text is left out.
    """
    answers: list[list[int]] = [[] for _ in ids]
    with steady(model):
        logits, cache = read_to_end(model, ids, chunk)
        for written, _ in answering(model, logits, cache, ids.shape[1], new):
            for row, token in written.items():
                answers[row].append(token)
    return [without_end(model, answer) for answer in answers]


def end_tokens(model: PreTrainedModel) -> set[int | None]:
    """The tokens that end a text of this model."""
    config = model.generation_config
    ends = config.eos_token_id if config is not None else None
    return set(ends if isinstance(ends, list) else [ends])


def without_end(model: PreTrainedModel, answer: list[int]) -> list[int]:
    """An answer without the token that ended it."""
    return answer[:-1] if answer and answer[-1] in end_tokens(model) else answer


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    chunk: int = CHUNK,
) -> list[str]:
    """What the model, as it is adapted now, answers to items: `LocalReader` without its clock."""
    texts: list[str] = []
    for ids, new in batches(tokenizer, items):
        texts += tokenizer.batch_decode(greedy(model, ids, new, chunk), skip_special_tokens=True)
    return texts


def batches(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> Iterator[tuple[Int[Tensor, "b t"], int]]:
    """Prompts of items, in their order, and the tokens allowed for each answer.

    Neighbours of one length are a batch, if they are short.
    """
    prompts = encode_prompts(tokenizer, [item.prompt for item in items])
    pairs = zip(prompts, items, strict=True)
    for (length, new), same in groupby(pairs, lambda pair: (len(pair[0]), pair[1].allowance)):
        rows = torch.tensor([ids for ids, _ in same])
        for batch in rows.split(max(1, TOGETHER // length)):
            yield batch, new


def with_answers(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> list[tuple[Int[Tensor, " t"], int]]:
    """Each prompt gone on with by the right answer, and how many tokens that is."""
    rows = []
    prompts = encode_prompts(tokenizer, [item.prompt for item in items])
    for prompt, item in zip(prompts, items, strict=True):
        answer: Any = tokenizer(" " + item.answer, add_special_tokens=False, verbose=False)
        rows.append((torch.tensor([*prompt, *answer["input_ids"]]), len(answer["input_ids"])))
    return rows
