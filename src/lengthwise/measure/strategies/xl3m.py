from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lengthwise.hf.prompts import around
from lengthwise.measure.strategies.base import Asking, Strategy, pieces, room_for


@dataclass(frozen=True)
class XL3M(Strategy):
    """Read every segment alone with the question, and answer from those that made it certain.

    The segments with the lowest score, as many as fit into the window, are put together in their
    order. The first of them all stays, for it holds the instructions.

    Source: Wang et al. 2024, XL3M (arXiv:2405.17755), section 3.
    Differs from the source: segments end with sentences, and the segment before all others stays.
    Reduces to: the plain prompt, where it fits into the window.

    Args:
        window: Tokens of a prompt and its answer, at least 16; 0 is the model's own.
        segment: Tokens of a segment, at least 8.
        by: One of `entropy` (of the predictions over the question and of the first token of the
            answer), `loss` (of the question) and `answer` (the entropy of its first token alone).
    """

    segment: int = 128
    by: Literal["entropy", "loss", "answer"] = "entropy"

    inside: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.within("segment", self.segment, 8)
        if self.by not in ("entropy", "loss", "answer"):
            raise ValueError(f"XL3M: by must be entropy, loss or answer, got {self.by!r}")

    def answer(self, asking: Asking, document: str, question: str, new: int) -> str:
        """One short forward for each segment, and one prompt of those that were chosen."""
        before, behind = around(asking.tokenizer, "", "\n" + question)
        taken = len(before) + len(behind) + new
        room = room_for("segments", asking.window, taken, self.segment)
        rows = [
            asking.tokenizer(one, add_special_tokens=False, verbose=False)["input_ids"]
            for one in pieces(asking.tokenizer, document, self.segment)
        ]
        kept = range(len(rows))
        if sum(map(len, rows)) > room:
            scores = [self.score(asking, [*before, *row], behind) for row in rows]
            kept = chosen(scores, list(map(len, rows)), room)  # type: ignore[assignment]
        middle = [token for index in kept for token in rows[index]]
        return asking.answer_to([*before, *middle, *behind], new)

    def score(self, asking: Asking, ids: list[int], behind: list[int]) -> float:
        """How uncertain the model is of what stands `behind` these tokens, in nats."""
        logits = asking.last_logits([*ids, *behind], len(behind)).log_softmax(-1)
        if self.by == "loss":
            tokens = torch.tensor(behind[1:], device=logits.device)
            return -float(logits[:-1].gather(1, tokens[:, None]).mean())
        return float(_entropy(logits[-1:] if self.by == "answer" else logits).mean())


def chosen(scores: list[float], sizes: list[int], room: int) -> list[int]:
    """The first segment and those of the lowest scores that fit, in their order."""
    kept = [0] if sizes[0] <= room else []
    left = room - sum(sizes[index] for index in kept)
    for index in sorted(range(len(scores)), key=scores.__getitem__):
        if index not in kept and sizes[index] <= left:
            kept.append(index)
            left -= sizes[index]
    return sorted(kept)


def _entropy(logs: Tensor) -> Tensor:
    return -(logs.exp() * logs).sum(-1)
