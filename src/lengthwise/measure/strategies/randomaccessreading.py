from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lengthwise.extend.whole import steady
from lengthwise.hf.prompts import around
from lengthwise.hf.release import CACHE, cache_of
from lengthwise.measure.engines.greedy import answering, without_end
from lengthwise.measure.strategies.base import Asking, Strategy, room_for


@dataclass(frozen=True)
class RandomAccessReading(Strategy):
    """Read a stretch, skip the more the surer the model was of it, and go on from there.

    What was read stands in the context as if nothing were missing, until the window is full.

    Source: Yang et al. 2024, Random-Access Reading (arXiv:2405.13216), section 3: after a stretch
    with mean loss c it skips `step min(⌊left / step⌋, ⌊patience / c⌋)` tokens.
    Differs from the source: the model was not trained to read with gaps.
    Reduces to: reading in order, with `patience=0`.

    Args:
        window: Tokens of a prompt and its answer, at least 16; 0 is the model's own.
        stretch: Tokens that are read at a time, at least 2.
        step: Skips are multiples of so many tokens, at least 1.
        patience: In nats; at a mean loss of as much a step is skipped. At least 0.
    """

    stretch: int = 64
    step: int = 32
    patience: float = 0.5

    inside: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.within("stretch", self.stretch, 2)
        self.within("step", self.step, 1)
        self.within("patience", self.patience, 0)

    @torch.no_grad()
    def answer(self, asking: Asking, document: str, question: str, new: int) -> str:
        """One pass over what is read; its cache answers."""
        model, tokenizer = asking.model, asking.tokenizer
        before, behind = around(tokenizer, "", "\n" + question)
        ids = tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        room = room_for("the text", asking.window, len(before) + len(behind) + new)
        cache: Any = None
        last: Tensor | None = None
        at = used = 0
        with steady(model):
            if before:
                last, cache = _forward(model, before, cache)
            while at < len(ids) and used + min(self.stretch, len(ids) - at) <= room:
                part = ids[at : at + self.stretch]
                logits, cache = _forward(model, part, cache)
                seen = logits if last is None else torch.cat([last[-1:], logits])
                targets = torch.tensor(part if last is not None else part[1:], device=seen.device)
                loss = float(cross_entropy(seen[:-1].float(), targets)) if len(targets) else 0.0
                last, used = logits, used + len(part)
                at += len(part) + self.skip(loss, len(ids) - at - len(part))
            last, cache = _forward(model, behind, cache)
            length = len(before) + used + len(behind)
            written: list[int] = []
            for row, _ in answering(model, last[None], cache, length, new):
                written.append(row[0])
        written = without_end(model, written)
        asking.read, asking.written = asking.read + length, asking.written + len(written)
        return str(tokenizer.decode(written, skip_special_tokens=True))

    def skip(self, loss: float, left: int) -> int:
        """Tokens to skip after a stretch with that mean loss, where so many are left."""
        steps = left // self.step
        return self.step * (steps if loss <= 0 else min(steps, int(self.patience / loss)))


def _forward(model: Any, ids: Sequence[int], cache: Any) -> tuple[Tensor, Any]:
    row = torch.tensor([list(ids)], device=model.device)
    out = model(input_ids=row, use_cache=True, **{CACHE: cache})
    return out.logits[0], cache_of(out)
