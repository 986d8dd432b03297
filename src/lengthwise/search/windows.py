"""What a search asks of a candidate: the loss of a model, adapted by it, on long texts."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lengthwise.extend.method import Method, whole
from lengthwise.measure.engines.greedy import with_answers
from lengthwise.measure.engines.reading import with_methods
from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.loss import NoNumber, loss_pieces


@dataclass(frozen=True)
class Windows:
    """Texts of one length, and how many tokens at the end of each count.

    Attributes:
        texts: Token ids.
        counted: Tokens whose loss counts; the first of a text has none.
        length: Tokens of a text, with all that an answer is allowed.
    """

    texts: tuple[Int[Tensor, " t"], ...]
    counted: tuple[int, ...]
    length: int

    def __post_init__(self) -> None:
        pairs = list(zip(self.texts, self.counted, strict=True))
        if not pairs or not all(1 <= counted < len(text) for text, counted in pairs):
            raise ValueError(
                "a search needs texts of at least 2 tokens, of which some count and not the first, "
                f"got {[len(text) for text in self.texts]} tokens of which {[*self.counted]} count"
            )

    @classmethod
    def of(cls, texts: "Windows | Int[Tensor, 'n t']") -> "Windows":
        """Windows as they are; of plain token ids, every token counts."""
        if isinstance(texts, Windows):
            return texts
        return cls(tuple(texts), (texts.shape[1] - 1,) * len(texts), texts.shape[1])

    @property
    def fingerprint(self) -> str:
        """The same texts give the same letters: a search goes on with what it began with."""
        digest = hashlib.sha256(str((self.length, *self.counted)).encode())
        for text in self.texts:
            digest.update(text.cpu().to(torch.int64).numpy().tobytes())
        return digest.hexdigest()[:16]

    def losses(self, model: PreTrainedModel, *methods: Method) -> list[Float[Tensor, " n"]]:
        """Losses of the counted tokens of each text in nats, as `measure` reads them.

        The model must not be adapted; it is adapted by `methods` meanwhile.

        Raises:
            NoNumber: Where the model gives none.
        """
        rows = []
        with with_methods(model, methods):
            for text, counted in zip(self.texts, self.counted, strict=True):
                pieces = [*loss_pieces(model, text[None], skip=len(text) - 1 - counted)]
                rows.append(torch.cat(pieces, dim=1)[0])
        return rows

    def loss(self, model: PreTrainedModel, *methods: Method) -> float:
        """Their mean; infinite where the model gives no number."""
        try:
            return float(torch.cat(self.losses(model, *methods)).double().mean())
        except NoNumber:
            return math.inf


def text_windows(ids: Int[Tensor, " t"], length: int, count: int, head: int | None) -> Windows:
    """`count` texts of `length` tokens, evenly spread over one long text.

    Args:
        ids: The tokens of the text, without the token that begins a text.
        head: That token, put before every window, or None.

    Raises:
        ValueError: If the text is shorter than one window.
    """
    whole("text_windows", "length", length, 2)
    whole("text_windows", "count", count, 1)
    size = length - (head is not None)
    spare = len(ids) - size
    if spare < 0:
        raise ValueError(
            f"the text has {len(ids):,} tokens, and a search at {length:,} needs {size:,}; give a "
            "longer text or a smaller factor"
        )
    starts = [round(i * spare / max(1, count - 1)) for i in range(count)]
    rows = torch.stack([ids[start : start + size] for start in starts])
    if head is not None:
        rows = torch.cat([torch.full((count, 1), head, dtype=rows.dtype), rows], dim=1)
    return Windows.of(rows)


def needle_windows(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]) -> Windows:
    """Items of one length, each with its right answer, of which alone the tokens count.

    LongRoPE2's needle-driven loss, where the items are those of `Passkey` or `niah`.

    Source: Shang et al. 2025, arXiv:2502.20082, section 3 (needle-driven perplexity).
    """
    texts, counted = zip(*with_answers(tokenizer, items), strict=True)
    return Windows(texts, counted, max(item.length for item in items))
