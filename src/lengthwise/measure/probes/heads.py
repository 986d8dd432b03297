"""Positional heads: those whose far scores come from the slow dimensions of their rotation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.core.rotary import Rotary
from lengthwise.extend.adapt import adapted, binding_of, is_adapted
from lengthwise.extend.engine import Engine
from lengthwise.hf.other import HookBinding
from lengthwise.hf.positions import Step

_PAIRS_AT_ONCE = 2048

Head = tuple[int, int]  # layer, query head
Attend = Callable[..., Tensor]


@contextmanager
def _engine(model: PreTrainedModel) -> Iterator[Engine]:
    """The engine of an adapted model; a plain one is adapted without methods meanwhile."""
    with nullcontext() if is_adapted(model) else adapted(model):
        binding = binding_of(model)
        if isinstance(binding, HookBinding):
            raise ValueError(
                f"{model.config.model_type} rotates nothing; positional heads are for models with "
                "rotary positions"
            )
        yield binding.engine


@contextmanager
def _instead(engine: Engine, make: Callable[[Attend], Attend]) -> Iterator[None]:
    """Every layer's attention replaced, for the length of the block, by what `make` makes of it."""
    engine.__dict__["attend"] = make(engine.attend)
    try:
        yield
    finally:
        del engine.__dict__["attend"]


@dataclass(frozen=True)
class PositionalHeads:
    """Scores every head by the correlation of its far scores with their slow part.

    A score of a query and a key is a sum over pairs of dimensions, each rotated at its own
    frequency. The slow ones, whose wave is longer than the trained window, tell far distances
    apart; dimensions that are not rotated count as slow. Over random far pairs of tokens a
    positional head's score goes with the sum of its slow dimensions.

    Source: Hong et al. 2024 (arXiv:2410.08703), section 3: contributions of dimensions to
    attention scores, over 100 random pairs for each position, and their correlation with long
    distance.
    Differs from the source: its exact correlation was not at hand; here it is Pearson's, over pairs
    at least `far` tokens apart, of the slow part with the whole score before the softmax.

    Args:
        far: Tokens between query and key at least, at least 1.
        pairs: Random pairs for each text, at least 3.
        sinks: First tokens that are left out, at least 0.

    Raises:
        ValueError: An argument out of range.
    """

    far: int
    pairs: int = 20_000
    sinks: int = 4

    def __post_init__(self) -> None:
        if self.far < 1 or self.pairs < 3 or self.sinks < 0:
            raise ValueError(
                "PositionalHeads: far must be at least 1, pairs at least 3 and sinks at least 0, "
                f"got {self.far}, {self.pairs} and {self.sinks}"
            )

    @torch.no_grad()
    def scores(self, model: PreTrainedModel, ids: Tensor, generator: torch.Generator) -> Tensor:
        """The correlation of every head, `[layers, heads]`, from -1 to 1.

        NaN for heads of layers that do not rotate, or whose window ends before `far`.

        Args:
            model: Of a supported family, adapted or not.
            ids: Texts `[b, t]` that are read at once, within the model's reach.
            generator: Draws the pairs.

        Raises:
            ValueError: Texts too short for a far pair, or a model without rotary positions.
        """
        length = ids.shape[1]
        first = self.sinks + self.far
        if length <= first:
            raise ValueError(
                f"texts of {length} tokens hold no pair {self.far} tokens apart behind "
                f"{self.sinks} sinks; give at least {first + 1}, or a smaller far"
            )
        queries = torch.randint(first, length, (self.pairs,), generator=generator)
        room = (queries - self.far - self.sinks + 1).double()
        share = torch.rand(self.pairs, generator=generator, dtype=torch.float64)
        keys = self.sinks + (share * room).long()
        with _engine(model) as engine:
            geometry = engine.geometry
            found = torch.full((len(geometry.layers), geometry.heads), torch.nan)

            def make(attend: Attend) -> Attend:
                def tap(layer: int, q: Tensor, k: Tensor, *args: Any, **kw: Any) -> Tensor:
                    found[layer] = _correlations(engine, layer, q, k, args[1], queries, keys)
                    return attend(layer, q, k, *args, **kw)

                return tap

            with _instead(engine, make):
                model(input_ids=ids.to(model.device), use_cache=False, logits_to_keep=1)
        return found


def _correlations(
    engine: Engine, layer: int, q: Tensor, k: Tensor, step: Step, queries: Tensor, keys: Tensor
) -> Tensor:
    """Pearson's correlation for every head of one layer, `[heads]`."""
    base, scaling = engine.geometry.layers[layer].rotary, engine.layers[layer].scaling
    if base is None:
        return torch.full((q.shape[1],), torch.nan)
    rotary = scaling.rotary(base, engine.geometry.window, step.lengths)
    slow = _slow(rotary, q.shape[-1], engine.geometry.window).to(q.device)
    sums = torch.zeros(6, q.shape[1], dtype=torch.float64)  # n, x, y, xx, yy, xy
    zero = torch.zeros((), dtype=torch.long)
    layout = engine.layers[layer].layout
    if layout.by_head:
        raise ValueError(
            f"heads of layer {layer} have layouts of their own ({layout}), and correlations are of "
            "the same pairs for all; look for positional heads in the model without the pattern"
        )
    for region in engine.regions[layer]:
        if region.blend:
            raise ValueError(
                f"{type(engine.axes.layout).__name__} mixes two scores for one pair; choose "
                "another layout to look for positional heads"
            )
        inside = region.visible(zero, zero, queries, keys)
        for part in inside.nonzero()[:, 0].split(_PAIRS_AT_ONCE):
            at, of = queries[part], keys[part]
            rotated_q = _turned(rotary, q, at, region.q_place(at))
            rotated_k = _turned(rotary, k, of, region.k_place(of))
            product = rotated_q * rotated_k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
            x = product[..., slow].sum(-1).transpose(0, 1).flatten(1).double().cpu()
            y = product.sum(-1).transpose(0, 1).flatten(1).double().cpu()
            sums += torch.stack(
                [torch.full((len(x),), float(x.shape[1])), x.sum(1), y.sum(1)]
                + [(x * x).sum(1), (y * y).sum(1), (x * y).sum(1)]
            )
    n, x, y, xx, yy, xy = sums
    spread = ((n * xx - x * x) * (n * yy - y * y)).sqrt()
    return torch.where((n > 2) & (spread > 0), (n * xy - x * y) / spread, torch.nan).float()


def _turned(rotary: Rotary, x: Tensor, index: Tensor, places: Tensor) -> Tensor:
    """The vectors at `index`, rotated to their places, in float32."""
    chosen = x[:, :, index.to(x.device)].float()
    return rotary.rotate(chosen, places.to(x.device).expand(len(x), 1, -1))


def _slow(rotary: Rotary, width: int, window: int) -> Tensor:
    """Which dimensions of a head turn less than once in the window, `[width]`."""
    frequencies = rotary.inv_freq.reshape(-1, rotary.inv_freq.shape[-1])[0]
    by_pair = 2 * torch.pi / frequencies > window
    if rotary.pairing == "half":
        rotated = torch.cat([by_pair, by_pair])
    else:
        rotated = by_pair.repeat_interleave(2)
    return torch.cat([rotated, rotated.new_ones(width - len(rotated))])


@contextmanager
def ablated(model: PreTrainedModel, heads: Iterable[Head]) -> Iterator[PreTrainedModel]:
    """The model with the output of some heads set to 0, for the length of a `with` block.

    Args:
        model: Of a supported family, adapted or not.
        heads: Layer and query head of each.

    Raises:
        ValueError: A head that the model does not have.
    """
    chosen = sorted(set(heads))
    with _engine(model) as engine:
        geometry = engine.geometry
        for layer, head in chosen:
            if not (0 <= layer < len(geometry.layers) and 0 <= head < geometry.heads):
                raise ValueError(
                    f"there is no head {head} in layer {layer}: the model has "
                    f"{len(geometry.layers)} layers of {geometry.heads} heads"
                )

        def make(attend: Attend) -> Attend:
            def tap(layer: int, *args: Any, **kw: Any) -> Tensor:
                out = attend(layer, *args, **kw)
                off = [head for at, head in chosen if at == layer]
                if not off:
                    return out
                keep = out.new_ones(geometry.heads)
                keep[off] = 0
                return out * keep[:, None, None]

            return tap

        with _instead(engine, make):
            yield model


def highest(scores: Tensor, share: float = 0.1) -> list[Head]:
    """The heads with the highest scores, that share of all heads that have one, at least one.

    Args:
        scores: `[layers, heads]`, NaN where there is none.
        share: Above 0 to 1.

    Raises:
        ValueError: A share out of range, or no score.
    """
    known = _known(scores)
    if not 0 < share <= 1 or not known:
        raise ValueError(
            f"highest needs a share above 0 to 1 and a head with a score, got {share} and "
            f"{len(known)} heads"
        )
    ranked = sorted(known, key=lambda head: -float(scores[head]))
    return ranked[: max(1, round(share * len(known)))]


def random_heads(
    scores: Tensor, count: int, generator: torch.Generator, without: Sequence[Head] = ()
) -> list[Head]:
    """Some of the heads that have a score and are not in `without`.

    Raises:
        ValueError: Fewer heads than wanted.
    """
    known = [head for head in _known(scores) if head not in set(without)]
    if not 1 <= count <= len(known):
        raise ValueError(f"there are {len(known)} heads to draw from, {count} are wanted")
    order = torch.randperm(len(known), generator=generator)[:count]
    return [known[int(i)] for i in order]


def _known(scores: Tensor) -> list[Head]:
    return [(int(layer), int(head)) for layer, head in (~scores.isnan()).nonzero()]
