"""Loss by position: what every further token of context is worth, or costs.

All losses are in nats per token. `loss[p]` is the loss of the token at position p given
everything before it, so position 0 has none.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.extend.whole import steady
from lengthwise.measure.reading import CHUNK, read


@torch.no_grad()
def losses_by_position(model: PreTrainedModel, ids: Tensor, chunk: int = CHUNK) -> Tensor:
    """The loss of every token of `ids` `[b, t]` after the first, `[b, t - 1]` on the CPU.

    Read in chunks with a cache: memory for logits grows with the chunk and not with the text.

    Raises:
        ValueError: Fewer than two tokens, or a loss that is not a number.
    """
    if ids.shape[1] < 2:
        raise ValueError(f"a loss needs at least 2 tokens, got {ids.shape[1]}")
    pieces: list[Tensor] = []
    start = 1
    with steady(model):
        for logits, _ in read(model, ids[:, :-1], chunk, every_logit=True):
            targets = ids[:, start : start + logits.shape[1]].to(logits.device)
            loss = torch.nn.functional.cross_entropy(
                logits.float().transpose(1, 2), targets, reduction="none"
            )
            if not loss.isfinite().all():
                position = start + int((~loss.isfinite()).any(dim=0).nonzero()[0])
                raise ValueError(f"the model's loss at position {position} is not a finite number")
            pieces.append(loss.cpu())
            start += logits.shape[1]
    return torch.cat(pieces, dim=1)


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
    if window < 4:
        raise ValueError(f"window must be at least 4 tokens, got {window!r}")
    length = ids.shape[1]
    if length <= window:
        return losses_by_position(model, ids, chunk)
    lead = 0 if head is None else 1
    size = window - lead  # tokens of the text in one window
    starts = [*range(lead, length - size, window // 2), length - size]
    out = torch.empty(ids.shape[0], length - 1)
    rows_at_once = max(1, 8 * chunk // window)
    for row in range(ids.shape[0]):
        done = 0  # losses of this row that are known
        for first in range(0, len(starts), rows_at_once):
            batch = starts[first : first + rows_at_once]
            parts = torch.stack([ids[row, s : s + size] for s in batch])
            if head is not None:
                parts = torch.cat([torch.full((len(batch), 1), head), parts.cpu()], dim=1)
            for s, losses in zip(batch, losses_by_position(model, parts, chunk), strict=True):
                # losses[j] belongs to the text's token s - lead + 1 + j.
                known = done - (s - lead)
                out[row, done : s - lead + len(losses)] = losses[known:]
                done = s - lead + len(losses)
    return out


def block_means(losses: Tensor, block: int) -> Tensor:
    """Mean loss of every `block` positions, `[b, ceil(t / block)]`, from losses `[b, t - 1]`.

    Block i holds positions `i * block` to `(i + 1) * block - 1`; position 0 has no loss.
    """
    padded = torch.cat([torch.full((losses.shape[0], 1), torch.nan), losses.double()], dim=1)
    return torch.stack([part.nanmean(dim=1) for part in padded.split(block, dim=1)], dim=1)


def block_size(length: int, window: int) -> int:
    """Positions per block: an eighth of the window, or of the text where that is shorter."""
    return max(2, min(length, window) // 8)
