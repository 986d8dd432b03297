"""Batches for preferences from short to long: two answers, each after the long and the short text.

A row of the data has the lists of tokens `long` and `short` (the same instruction with the long
context and with the part of it that matters), `chosen` (the answer to the short one) and `rejected`
(the answer to the long one). `answer_pairs` makes such rows with the model that is to be tuned.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.measure.engines.greedy import greedy
from lengthwise.train.data.weights import IGNORED

COLUMNS = ("long", "short", "chosen", "rejected")
Batch = dict[str, dict[str, Tensor]]


def pair_batches(rows: Sequence[Mapping[str, Any]], count: int, pad: int) -> Iterator[Batch]:
    """Batches of `count` pairs; each of the four texts is padded on the right.

    Raises:
        ValueError: For rows without these columns, or with an empty answer.
    """
    for first in range(0, len(rows), count):
        some = rows[first : first + count]
        for row in some:
            missing = [name for name in COLUMNS if not row.get(name)]
            if missing:
                raise ValueError(
                    f"rows of preferences have {', '.join(COLUMNS)}, each with tokens; "
                    f"{', '.join(missing)} is missing or empty"
                )
        yield {
            f"{side}_{context}": _texts([(row[context], row[side]) for row in some], pad)
            for side in ("chosen", "rejected")
            for context in ("long", "short")
        }


def refuse_tokens(batches: Sequence[Batch], vocabulary: int, place: str) -> None:
    """Raise ValueError for tokens that the model does not have."""
    for batch in batches:
        for texts in batch.values():
            ids = texts["input_ids"]
            outside = ids[(ids < 0) | (ids >= vocabulary)]
            if len(outside):
                raise ValueError(
                    f"{place} holds the token {int(outside[0])} and the model has {vocabulary}: it "
                    "was made with another tokenizer; make the pairs with this model's"
                )


def _texts(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], pad: int) -> dict[str, Tensor]:
    width = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids, labels = [], []
    for prompt, answer in pairs:
        missing = width - len(prompt) - len(answer)
        ids.append([*prompt, *answer, *[pad] * missing])
        labels.append([*[IGNORED] * len(prompt), *answer, *[IGNORED] * missing])
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


def answer_pairs(
    model: PreTrainedModel,
    prompts: Sequence[tuple[Sequence[int], Sequence[int]]],
    new: int,
    end: Sequence[int] = (),
) -> list[dict[str, list[int]]]:
    """Rows of preferences: the model's own answers to the short and to the long prompts.

    Prompts whose two answers are the same teach nothing and are left out.

    Source: Chen et al. 2025, LongPO (arXiv:2502.13922), section 3.1.

    Args:
        prompts: Tokens of the long and of the short prompt of every instruction.
        new: Tokens of an answer, at most.
        end: Tokens that end an answer, appended to each.
    """
    rows = []
    for long, short in prompts:
        chosen, rejected = (
            [*greedy(model, torch.tensor([prompt]), new)[0], *end] for prompt in (short, long)
        )
        if chosen and rejected and chosen != rejected:
            rows.append(
                {"long": [*long], "short": [*short], "chosen": chosen, "rejected": rejected}
            )
    return rows
