"""Loss by position: what every further token of context is worth, or costs.

All losses are in nats per token. `loss[p]` is the loss of the token at position p given
everything before it, so position 0 has none.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.extend.whole import steady
from lengthwise.measure.engines.reading import CHUNK, read


class NoNumber(ValueError):
    """A loss that is not a finite number."""


@torch.no_grad()
def losses_by_position(model: PreTrainedModel, ids: Tensor, chunk: int = CHUNK) -> Tensor:
    """The loss of every token of `ids` `[b, t]` after the first, `[b, t - 1]` on the CPU.

    Read in chunks with a cache: memory for logits grows with the chunk and not with the text.

    Raises:
        ValueError: Fewer than two tokens.
        NoNumber: A loss that is not a finite number.
    """
    return torch.cat([*loss_pieces(model, ids, chunk)], dim=1)


@torch.no_grad()
def loss_pieces(
    model: PreTrainedModel, ids: Tensor, chunk: int = CHUNK, skip: int = 0
) -> Iterator[Tensor]:
    """The same losses chunk by chunk, `[b, n]` each, without the first `skip` of them.

    What stands before them is read all the same, for the cache.

    Raises:
        ValueError: Fewer than two tokens.
        NoNumber: A loss that is not a finite number.
    """
    if ids.shape[1] < 2:
        raise ValueError(f"a loss needs at least 2 tokens, got {ids.shape[1]}")
    done = 0  # losses that are known
    with steady(model):
        for logits, _ in read(model, ids[:, :-1], chunk, every_logit=True, skip=skip):
            start, done = done, min(done + chunk, ids.shape[1] - 1)
            if done <= skip:
                continue
            targets = ids[:, start + 1 : done + 1].to(logits.device)
            loss = torch.nn.functional.cross_entropy(
                logits.float().transpose(1, 2), targets, reduction="none"
            )
            if not loss.isfinite().all():
                position = start + 1 + int((~loss.isfinite()).any(dim=0).nonzero()[0])
                raise NoNumber(f"the model's loss at position {position} is not a finite number")
            yield loss[:, max(skip - start, 0) :].cpu()


def in_window_losses(
    model: PreTrainedModel, ids: Tensor, window: int, head: int | None, chunk: int = CHUNK
) -> Tensor:
    """The same losses with a context that always fits in the trained window, `[b, t - 1]`.

    This is the reference that extension is judged against: what the untouched model can do with
    the same tokens. The text is read in windows that overlap by half, each headed by `head`; a
    token counts in the first window whose second half holds it, so its context is between
    `window // 2` and `window` tokens (shorter only where the text itself begins).

    Args:
        ids: `[b, t]`; begins with `head` if that is not None.
        window: Tokens per window, `head` included, at least 4.
        head: The token that the tokenizer puts before every text, or None.

    Raises:
        ValueError: A window below 4.
    """
    rows = [[*in_window_pieces(model, row, window, head, chunk)] for row in ids.split(1)]
    return torch.cat([torch.cat(pieces, dim=1) for pieces in rows])


def in_window_pieces(
    model: PreTrainedModel,
    ids: Tensor,
    window: int,
    head: int | None,
    chunk: int = CHUNK,
    skip: int = 0,
) -> Iterator[Tensor]:
    """The same losses of one text `[1, t]`, piece by piece, without the first `skip` of them.

    Windows that hold nothing else are not read.
    """
    if window < 4:
        raise ValueError(f"window must be at least 4 tokens, got {window!r}")
    length = ids.shape[1]
    if length <= window:
        yield from loss_pieces(model, ids, chunk, skip)
        return
    lead = 0 if head is None else 1
    size = window - lead  # tokens of the text in one window
    starts = [*range(lead, length - size, window // 2), length - size]
    rows_at_once = max(1, 8 * chunk // window)
    done = 0  # losses that are known
    for first in range(0, len(starts), rows_at_once):
        batch = starts[first : first + rows_at_once]
        if batch[-1] + size - 1 <= skip:
            done = batch[-1] + size - 1
            continue
        parts = torch.stack([ids[0, s : s + size] for s in batch])
        if head is not None:
            parts = torch.cat([torch.full((len(batch), 1), head), parts.cpu()], dim=1)
        for s, losses in zip(batch, losses_by_position(model, parts, chunk), strict=True):
            # losses[j] belongs to the text's token s - lead + 1 + j.
            fresh = losses[None, max(done, skip) - (s - lead) :]
            done = s - lead + len(losses)
            yield fresh


def blocks(pieces: Iterable[Tensor], block: int, known: int = 0) -> Iterator[list[float]]:
    """Mean loss of every `block` positions, as soon as pieces `[1, n]` of a text's losses fill it.

    Block i holds positions `i * block` to `(i + 1) * block - 1`; position 0 has no loss.

    Args:
        known: Blocks whose losses are left out of the pieces.
    """
    open_ = torch.full((1, 0 if known else 1), torch.nan, dtype=torch.float64)
    for piece in pieces:
        open_ = torch.cat([open_, piece.double()], dim=1)
        whole = open_.shape[1] // block * block
        if whole:
            yield [float(part.nanmean(dim=1)) for part in open_[:, :whole].split(block, dim=1)]
            open_ = open_[:, whole:]
    if open_.shape[1]:
        yield [float(open_.nanmean(dim=1))]


def block_size(length: int, window: int) -> int:
    """Positions per block: an eighth of the window, or of the text where that is shorter."""
    return max(2, min(length, window) // 8)
