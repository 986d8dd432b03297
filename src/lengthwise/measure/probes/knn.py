"""kNN-LM against its own model: whose tokens it helps, and what happens as it writes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.extend.whole import cache_for, steady
from lengthwise.hf.release import CACHE, cache_of
from lengthwise.measure.engines.reading import CHUNK
from lengthwise.measure.statistics.intervals import Interval, bootstrap_mean, wilson

_ROWS = 64  # queries that are compared with the whole store at once


@dataclass(frozen=True)
class NeighbourStore:
    """States of a text and the token that came after each; exact nearest neighbours.

    Source: Khandelwal et al. 2020 (arXiv:1911.00172), section 2: a distribution over the values of
    the nearest keys, by the softmax of the negative squared distance.
    Differs from the source: keys are the states before the head, not inside the last layer.

    Args:
        keys: `[n, d]`, float32.
        values: `[n]`.
        neighbours: That are asked, at least 1.
        temperature: Of the softmax, above 0.

    Raises:
        ValueError: An argument out of range.
    """

    keys: Tensor
    values: Tensor
    neighbours: int = 64
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if len(self.keys) != len(self.values) or not len(self.keys):
            raise ValueError(
                f"keys and values must be as many, and not none: {len(self.keys)} and "
                f"{len(self.values)}"
            )
        if self.neighbours < 1 or self.temperature <= 0:
            raise ValueError(
                "neighbours must be at least 1 and temperature above 0, got "
                f"{self.neighbours} and {self.temperature}"
            )

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        ids: Tensor,
        *,
        window: int,
        neighbours: int = 64,
        temperature: float = 1.0,
    ) -> "NeighbourStore":
        """The store of a text `[t]`, read in windows that do not overlap."""
        keys, values = [], []
        for part in ids.split(window):
            if len(part) < 2:
                continue
            keys.append(states(model, part[None, :-1])[0][0])
            values.append(part[1:])
        return cls(torch.cat(keys), torch.cat(values).cpu(), neighbours, temperature)

    def predict(self, queries: Tensor, vocabulary: int) -> Tensor:
        """Probabilities of the next token, `[m, vocabulary]`, from states `[m, d]`."""
        count = min(self.neighbours, len(self.keys))
        rows = []
        for part in queries.float().cpu().split(_ROWS):
            squared = torch.cdist(part, self.keys).square()
            near, index = squared.topk(count, largest=False)
            weights = (-near / self.temperature).softmax(-1)
            row = torch.zeros(len(part), vocabulary)
            rows.append(row.scatter_add_(1, self.values[index], weights))
        return torch.cat(rows)


@torch.no_grad()
def states(
    model: PreTrainedModel, ids: Tensor, cache: object = None, chunk: int = CHUNK
) -> tuple[Tensor, Tensor, object]:
    """States before the head `[b, t, d]`, log-probabilities `[b, t, v]`, on the CPU; the cache.

    To go on from the cache, read within `lengthwise.extend.whole.steady`.
    """
    hidden, predicted = [], []
    with steady(model):
        cache = cache_for(model, ids.shape[1]) if cache is None else cache
        for part in ids.to(model.device).split(chunk, dim=1):
            out = model(input_ids=part, use_cache=True, output_hidden_states=True, **{CACHE: cache})
            cache = cache_of(out)
            hidden.append(out.hidden_states[-1].float().cpu())
            predicted.append(out.logits.float().log_softmax(-1).cpu())
    return torch.cat(hidden, 1), torch.cat(predicted, 1), cache


@dataclass(frozen=True)
class TokenStudy:
    """What interpolation does to the tokens of a text.

    Attributes:
        plain, mixed: Perplexity of the model, and of its mixture with the neighbours.
        hurt: Share of tokens whose loss the mixture raises.
        saved: Nats per token saved on those that it helps, over all tokens.
        lost: Nats per token lost on the others, over all tokens.
    """

    plain: float
    mixed: float
    hurt: Interval
    saved: float
    lost: float


def token_study(plain: Tensor, mixed: Tensor) -> TokenStudy:
    """Compare the losses of the same tokens, `[n]` each, in nats.

    Source: Wang et al. 2023 (arXiv:2305.14625), section 5: perplexity falls by a few tokens while
    most get a lower probability.

    Raises:
        ValueError: No tokens, or not the same ones.
    """
    if plain.shape != mixed.shape or plain.ndim != 1 or not len(plain):
        raise ValueError(
            f"the losses must be of the same tokens [n], got {list(plain.shape)} and "
            f"{list(mixed.shape)}"
        )
    worse = (mixed - plain).double()
    return TokenStudy(
        plain=float(plain.double().mean().exp()),
        mixed=float(mixed.double().mean().exp()),
        hurt=wilson(int((worse > 0).sum()), len(worse)),
        saved=float(-worse.clamp(max=0).mean()),
        lost=float(worse.clamp(min=0).mean()),
    )


def mixture(plain: Tensor, retrieved: Tensor, share: float) -> Tensor:
    """Log-probabilities of the mixture: `share` of the neighbours' probabilities, the rest plain.

    Args:
        plain: Log-probabilities of the model `[..., v]`.
        retrieved: Probabilities of `NeighbourStore.predict`, of the same shape.
        share: From 0 to below 1.

    Raises:
        ValueError: A share out of range.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must be from 0 to below 1, got {share}")
    return ((1 - share) * plain.exp() + share * retrieved).log()


@dataclass(frozen=True)
class EntropyGrowth:
    """How the entropies of two predictions change while text is written, in nats per 100 tokens.

    Attributes:
        plain, retrieved: Slopes.
        faster: By how much the neighbours' entropy grows faster; above 0 if the interval is.
    """

    plain: Interval
    retrieved: Interval
    faster: Interval


def entropy_growth(plain: Tensor, retrieved: Tensor, generator: torch.Generator) -> EntropyGrowth:
    """Slopes of entropies by position, each sample's by least squares, resampled by sample.

    Source: Wang et al. 2023 (arXiv:2305.14625), section 6: the entropy of the retrieval
    distribution rises faster than the model's own with the length of what it has written.

    Args:
        plain, retrieved: Entropies in nats, `[samples, t]`, of the same samples; t at least 2.
        generator: Draws the resamples.

    Raises:
        ValueError: Shapes that differ or are too small.
    """
    if plain.shape != retrieved.shape or plain.ndim != 2 or plain.shape[1] < 2 or not len(plain):
        raise ValueError(
            "entropies must be [samples, t] of the same samples, t at least 2, got "
            f"{list(plain.shape)} and {list(retrieved.shape)}"
        )
    place = torch.arange(plain.shape[1], dtype=torch.float64)
    place = place - place.mean()

    def slopes(entropies: Tensor) -> Tensor:
        return 100 * (entropies.double() * place).sum(1) / (place * place).sum()

    a, b = slopes(plain), slopes(retrieved)
    return EntropyGrowth(*(bootstrap_mean(x, generator) for x in (a, b, b - a)))


@torch.no_grad()
def generation_study(
    model: PreTrainedModel,
    store: NeighbourStore,
    prompts: Sequence[Tensor],
    new: int,
    share: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Write from the mixture, and keep the entropies of both predictions on the way.

    Args:
        prompts: Tokens `[t]` of each.
        new: Tokens that are written, at least 1.
        share: Of the neighbours, from 0 to below 1.
        generator: Draws the tokens.

    Returns:
        Entropies of the model and of the neighbours, `[prompts, new]`, and what was written.

    Raises:
        ValueError: Nothing to write, or a share out of range.
    """
    if new < 1 or not prompts:
        raise ValueError(f"there must be prompts and tokens to write, got {len(prompts)} and {new}")
    entropies = torch.empty(2, len(prompts), new)
    written = []
    with steady(model):
        for row, prompt in enumerate(prompts):
            fresh, cache, tokens = prompt[None], None, list[int]()
            for step in range(new):
                hidden, predicted, cache = states(model, fresh, cache)
                own = predicted[0, -1]
                found = store.predict(hidden[0, -1:], len(own))[0]
                entropies[0, row, step] = -(own.exp() * own).sum()
                entropies[1, row, step] = torch.special.entr(found).sum()
                token = int(mixture(own, found, share).exp().multinomial(1, generator=generator))
                tokens.append(token)
                fresh = torch.tensor([[token]])
            written.append(torch.tensor(tokens))
    return entropies[0], entropies[1], written
