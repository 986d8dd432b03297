"""How a model does at several lengths: the loss of the same tokens with more and more before them.

Every text of an evaluation ends at the same tokens whatever its length, and only the last half a
window of them counts. So losses of different lengths differ by the context alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lengthwise.measure.engines.greedy import answers
from lengthwise.measure.engines.reading import first_token
from lengthwise.measure.tasks.loss import losses_by_position
from lengthwise.measure.tasks.passkey import Passkey
from lengthwise.measure.tasks.text import held_out_text
from lengthwise.train.loop.facts import Facts
from lengthwise.train.recipe import Recipe


@dataclass(frozen=True)
class Evaluation:
    """Texts and passkeys, the same at every call.

    Args:
        ids: Tokens of a text that is not trained on.
        head: The token that stands before every text, or None.
        lengths: Tokens of the evaluations, in order.
        counted: Tokens at the end of each text whose loss is taken.
        texts, passkeys: How many at each length.
    """

    tokenizer: PreTrainedTokenizerBase
    text: str = field(repr=False)
    ids: Tensor = field(repr=False)
    head: int | None
    lengths: tuple[int, ...]
    counted: int
    texts: int
    passkeys: int

    def __call__(self, model: PreTrainedModel) -> dict[str, Any]:
        """Loss in nats a token and share of passkeys found, by length."""
        was = model.training
        model.eval()
        try:
            loss = {str(length): self.loss(model, length) for length in self.lengths}
            found = {str(n): self.found(model, n) for n in self.lengths if self.passkeys}
        finally:
            model.train(was)
        return {"loss": loss, "passkey": found}

    def loss(self, model: PreTrainedModel, length: int) -> float:
        """The mean loss of the last tokens of texts of `length` tokens."""
        return round(sum(self.losses(model, length)) / self.texts, 4)

    def losses(self, model: PreTrainedModel, length: int) -> list[float]:
        """The same, text by text."""
        lead = [] if self.head is None else [self.head]
        longest = max(self.lengths)
        room = len(self.ids) - longest
        found = []
        for number in range(self.texts):
            stop = longest + room * number // max(1, self.texts - 1)
            piece = self.ids[stop - (length - len(lead)) : stop]
            row = torch.cat([torch.tensor(lead, dtype=torch.long), piece])[None]
            losses = losses_by_position(model, row)
            found.append(float(losses[0, -self.counted :].double().mean()))
        return found

    def found(self, model: PreTrainedModel, length: int) -> float:
        """The share of passkeys that are found in texts of `length` tokens."""
        return round(sum(self.scores(model, length)) / self.passkeys, 4)

    def scores(self, model: PreTrainedModel, length: int) -> list[float]:
        """1 for every passkey that is found, else 0."""
        task = Passkey(self.text)
        items = task.build(self.tokenizer, length, self.passkeys, seed=0)
        replies = answers(model, self.tokenizer, items)
        return [task.score(*pair) for pair in zip(replies, items, strict=True)]


def make_evaluation(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, facts: Facts) -> Evaluation:
    """The evaluation that a recipe asks for.

    Raises:
        ValueError: If the text is too short for its lengths.
    """
    name = recipe.evaluate_text
    if name and not Path(name).is_file():
        raise ValueError(f"there is no file {name} to evaluate on")
    text = Path(name).read_text(encoding="utf-8") if name else held_out_text()
    ids: Any = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    lengths = recipe.evaluate_lengths or doubling(facts.window, facts.target)
    if max(lengths) > len(ids):
        raise ValueError(
            f"the text to evaluate on has {len(ids):,} tokens and evaluate_lengths go up to "
            f"{max(lengths):,}; give a longer evaluate_text or shorter lengths"
        )
    return Evaluation(
        tokenizer, text, torch.tensor(ids), first_token(tokenizer), tuple(sorted(lengths)),
        max(1, min(min(lengths) - 1, facts.window // 2)), recipe.texts, recipe.passkeys,
    )  # fmt: skip


def doubling(window: int, target: int) -> tuple[int, ...]:
    """The window, twice the window and so on, up to the target, which is the last."""
    lengths: Sequence[int] = [window << k for k in range(64) if window << k < target]
    return (*lengths, target)
