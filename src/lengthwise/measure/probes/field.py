"""Receptive fields: which tokens the last position can depend on, and which it does depend on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.core.regions import Region
from lengthwise.extend.adapt import adapted, binding_of, is_adapted
from lengthwise.hf.other import HookBinding, kind_of
from lengthwise.measure.engines.reading import CHUNK, read_to_end

_QUERIES = 256  # of which the keys are looked up at once


@contextmanager
def _regions(model: PreTrainedModel) -> Iterator[tuple[Sequence[Sequence[Region]], int]]:
    """The regions of every layer, and the number of heads."""
    kind = kind_of(model)
    if kind is not None and kind != "alibi":
        raise ValueError(
            f"{model.config.model_type} reads in both directions; a receptive field of the last "
            "token is for causal language models"
        )
    with nullcontext() if is_adapted(model) else adapted(model):
        binding = binding_of(model)
        geometry = binding.engine.geometry
        if isinstance(binding, HookBinding):  # their own causal attention, unchanged
            yield [[Region()] for _ in geometry.layers], geometry.heads
        else:
            yield binding.engine.regions, geometry.heads


@torch.no_grad()
def theoretical_field(model: PreTrainedModel, length: int) -> Tensor:
    """Which positions the output at the last one can depend on, `[layers + 1, length]`.

    Row l is true for the positions whose state before layer l can reach the output; row 0 is the
    text itself and the last row only the last position. From the regions of the model as it is
    adapted, layer by layer: what a query sees, and what those saw. Pages that a selector may
    choose count as seen.

    Args:
        model: A causal language model that `adapt` supports, adapted or not.
        length: Tokens of the text, at least 1.

    Raises:
        ValueError: A length below 1 or a model that is not supported.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1 token, got {length}")
    with _regions(model) as (layers, heads):
        rows = [torch.zeros(length, dtype=torch.bool)]
        rows[0][-1] = True
        for regions in reversed(layers):
            seen = rows[0].clone()  # the residual stream carries a token to itself
            for queries in rows[0].nonzero()[:, 0].split(_QUERIES):
                for region in regions:
                    seen |= _visible(region, queries, length, heads)
            rows.insert(0, seen)
    return torch.stack(rows)


def _visible(region: Region, queries: Tensor, length: int, heads: int) -> Tensor:
    """Whether any of the queries sees a key, `[length]`."""
    zero = torch.zeros((), dtype=torch.long)
    head = torch.arange(heads)[:, None, None] if region.also is not None else zero
    keys = torch.arange(length)
    return region.visible(zero, head, queries[:, None], keys).reshape(-1, length).any(0)


def gradient_field(model: PreTrainedModel, ids: Tensor, target: int | None = None) -> Tensor:
    """How much the prediction after a text changes with every token's embedding, `[t]`.

    The norm of the gradient of the target's log-probability. Memory is that of a whole backward
    pass; `perturbation_field` needs no more than reading.

    Args:
        ids: The text `[t]`.
        target: The token whose probability counts; None is the likeliest.

    Raises:
        ValueError: An empty text, or a model in training mode.
    """
    if ids.ndim != 1 or not len(ids):
        raise ValueError(f"the text must be [t] with a token at least, got {list(ids.shape)}")
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() before measuring")
    with torch.enable_grad():
        embedded = model.get_input_embeddings()(ids.to(model.device)[None]).detach()
        embedded.requires_grad_()
        logits = model(inputs_embeds=embedded, use_cache=False, logits_to_keep=1).logits[0, -1]
        chosen = int(logits.argmax()) if target is None else target
        (gradient,) = torch.autograd.grad(logits.float().log_softmax(-1)[chosen], embedded)
    return gradient[0].float().norm(dim=-1).cpu()


@torch.no_grad()
def perturbation_field(
    model: PreTrainedModel,
    ids: Tensor,
    generator: torch.Generator,
    *,
    block: int = 16,
    draws: int = 1,
    chunk: int = CHUNK,
) -> Tensor:
    """How much the prediction after a text changes when a block is other tokens, `[blocks]`.

    The Kullback-Leibler divergence of the changed prediction from the true one, in nats, with the
    block's tokens drawn from the rest of the text; the mean over draws. Block i holds the tokens
    from `i * block` on. One reading of the text for each block and draw.

    Args:
        ids: The text `[t]`.
        generator: Draws the other tokens.
        block: Tokens that are changed together, at least 1.
        draws: Changes of each block, at least 1.

    Raises:
        ValueError: An argument out of range.
    """
    if ids.ndim != 1 or not len(ids) or block < 1 or draws < 1:
        raise ValueError(
            "the text must be [t] with a token at least, block and draws at least 1, got "
            f"{list(ids.shape)}, {block} and {draws}"
        )

    def prediction(text: Tensor) -> Tensor:
        return read_to_end(model, text[None], chunk)[0][0, -1].float().log_softmax(-1)

    own = prediction(ids)
    effects = []
    for start in range(0, len(ids), block):
        total = 0.0
        for _ in range(draws):
            changed = ids.clone()
            size = len(changed[start : start + block])
            changed[start : start + block] = ids[
                torch.randint(len(ids), (size,), generator=generator)
            ]
            total += float((own.exp() * (own - prediction(changed))).sum())
        effects.append(total / draws)
    return torch.tensor(effects)


def extent(field: Tensor, share: float = 0.95) -> int:
    """Positions from the end, the fewest that hold the share of a field's whole mass.

    Args:
        field: Of `gradient_field` or `perturbation_field`, `[n]`, not negative.
        share: Above 0 to 1.

    Raises:
        ValueError: A field without mass or a share out of range.
    """
    if not 0 < share <= 1 or not bool(field.sum() > 0):
        raise ValueError(
            f"extent needs a field with mass and a share above 0 to 1, got {share} of "
            f"{float(field.sum())}"
        )
    held = field.double().flip(0).cumsum(0)
    # Rounding must not ask for more than there is.
    return int((held < share * held[-1] * (1 - 1e-12)).sum()) + 1
