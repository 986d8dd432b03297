"""Context-length probing: which tokens of the context a prediction rests on."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.measure.engines.reading import CHUNK, read
from lengthwise.measure.tasks.loss import losses_by_position


@dataclass(frozen=True)
class ContextLengthProbing:
    """The loss of every token under every context length, from one pass of sliding windows.

    A window that begins at token s gives token s + c the context of the c tokens before it; so the
    windows that begin at every token give all pairs. `importance` turns either table into scores:
    what the token c places back adds to what the tokens after it tell already.

    Source: Cífka and Liutkus 2023 (arXiv:2212.14815), section 3 and equations 1 to 3.
    Differs from the source: the token that the tokenizer puts first can stand before every
    context; then a context of 0 tokens has a loss too.

    Args:
        window: Tokens that are read at once, at least 2: the longest context, with the head.
        batch: Windows in one forward pass, at least 1.
        head: The token that the tokenizer puts before every text, or None.
        chunk: Tokens of every window in one forward pass; bounds the memory for logits.

    Raises:
        ValueError: An argument out of range.
    """

    window: int
    batch: int = 16
    head: int | None = None
    chunk: int = CHUNK

    def __post_init__(self) -> None:
        if self.window < 2 or self.batch < 1:
            raise ValueError(
                "ContextLengthProbing: window must be at least 2 and batch at least 1, got "
                f"{self.window} and {self.batch}"
            )

    @property
    def longest(self) -> int:
        """Tokens of the longest context, without the head."""
        return self.window - (self.head is not None)

    @property
    def _shortest(self) -> int:
        return 1 if self.head is None else 0

    def _windows(self, ids: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The first start of every batch, and its windows with one target more each."""
        if ids.ndim != 1 or len(ids) < 2:
            raise ValueError(f"the text must be [t] with 2 tokens at least, got {list(ids.shape)}")
        # What stands behind the last token is read and not looked at: a causal model allows it.
        padded = torch.cat([ids, ids[-1:].expand(self.longest)])
        count = len(ids) - self._shortest
        for first in range(0, count, self.batch):
            starts = range(first, min(first + self.batch, count))
            rows = torch.stack([padded[s : s + self.longest + 1] for s in starts])
            if self.head is not None:
                rows = torch.cat([rows.new_full((len(rows), 1), self.head), rows], dim=1)
            yield first, rows

    def _place(self, table: Tensor, start: int, values: Tensor) -> None:
        """Put the values of one window `[contexts]` into `[t, longest + 1]`."""
        contexts = torch.arange(self._shortest, self.longest + 1)
        inside = start + contexts < len(table)
        table[start + contexts[inside], contexts[inside]] = values[inside].to(table)

    def losses(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        """Nats of every token given the c tokens before it, `[t, longest + 1]` on the CPU.

        NaN where there are fewer than c tokens, and for c = 0 without a head.

        Raises:
            ValueError: A text of fewer than two tokens.
        """
        table = torch.full((len(ids), self.longest + 1), torch.nan)
        for first, rows in self._windows(ids):
            for i, row in enumerate(losses_by_position(model, rows, self.chunk)):
                self._place(table, first + i, row)
        return table

    @torch.no_grad()
    def divergences(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        """Nats by which the prediction of every token differs from that with the longest context.

        The Kullback-Leibler divergence of the prediction with c tokens from the one with as many
        as there are, up to the window, `[t, longest + 1]` on the CPU. Needs no text to be right:
        it says what a context changes. Memory is that of `batch` windows of log-probabilities.

        Raises:
            ValueError: A text of fewer than two tokens.
        """
        table = torch.full((len(ids), self.longest + 1), torch.nan)
        full: Tensor | None = None
        for first, rows in self._windows(ids):
            pieces = [logits for logits, _ in read(model, rows[:, :-1], self.chunk, True)]
            predicted = torch.cat(pieces, dim=1).float().log_softmax(-1)
            for i, one in enumerate(predicted):
                # The window's last target has its longest context here; the others had it before.
                full = one if full is None else torch.cat([full[1:], one[-1:]])
                divergence = (full.exp() * (full - one)).sum(-1)
                self._place(table, first + i, divergence.cpu())
        return table


def importance(table: Tensor) -> Tensor:
    """Differential importance `[t, longest]`: in column c - 1 that of the token c places back.

    The loss (or divergence) without it minus that with it, both with all tokens behind it.

    Args:
        table: Of `ContextLengthProbing`, `[t, longest + 1]`.
    """
    return table[:, :-1] - table[:, 1:]
