"""LongRoPE's search: which factor suits every rotated pair, by the loss on long texts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.core.geometry import RotaryBase
from lengthwise.extend.method import Scaling, at_least
from lengthwise.extend.scaling import NTK, PI, LongRoPE, YaRN
from lengthwise.extend.scaling.frequencies import unscaled
from lengthwise.hf.families import read_geometry, refuse_unsupported
from lengthwise.hf.weights import fingerprint
from lengthwise.search.evolution import CHANGES, Evolution, Genome, searched
from lengthwise.search.windows import Windows

# Tokens at the start that may keep their angles: the paper's space.
START_TOKENS = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)
Factors = tuple[float, ...]
ROOM = 1.25  # a factor may be so much larger than the stretch: the paper's space


class FactorSearch(Evolution):
    """Factors of a LongRoPE by their loss on texts: what the three searches below share.

    Args:
        model: Not adapted, in evaluation mode.
        windows: Texts whose loss decides.
        template: The method, but for its factors and start tokens.
        usual: Factors to begin with.
        start_tokens: Choices; the first goes with `usual`.
        low, high: Bounds of every factor.
        sizes: `population`, `parents`, `mutations`, `crossovers` and `seed` of `Evolution`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        windows: Windows,
        template: LongRoPE,
        usual: Sequence[Factors],
        start_tokens: Sequence[int],
        low: Factors,
        high: Factors,
        sizes: dict[str, Any],
    ) -> None:
        if not start_tokens:
            raise ValueError(f"{type(self).__name__}: start_tokens needs a choice, such as (0,)")
        self._template, self._usual, self._choices = template, usual, tuple(start_tokens)
        about = {
            "model": fingerprint(model),
            "texts": windows.fingerprint,
            "method": repr(template),
            "start_tokens": list(start_tokens),
        }
        super().__init__(
            lambda scaling: windows.loss(model, scaling), low, high, about=about, **sizes
        )

    def seeds(self) -> list[Genome]:
        """What is usual."""
        return [Genome(row, self._choices[0]) for row in self._usual]

    def change_extra(self, genome: Genome) -> Genome:
        """Another number of start tokens, sometimes."""
        if len(self._choices) > 1 and self._rng.random() < CHANGES:
            return replace(genome, extra=self._rng.choice(self._choices))
        return genome

    def scaling(self, genome: Genome) -> LongRoPE:
        """The method as it is evaluated."""
        return replace(self._template, factors=genome.factors, start_tokens=genome.extra)

    def result(self, genome: Genome) -> Scaling:
        """The method as it is used."""
        return self.scaling(genome)


class LongRoPESearch(FactorSearch):
    """The factors with which a model loses least on texts of the length that is wanted.

    Seeds are YaRN, NTK and PI, without start tokens.

    Source: Ding et al. 2024, arXiv:2402.13753, section 3.2 and algorithm 1.
    Differs from the source: NTK and PI are seeds beside YaRN, as in the paper and not in its code.

    Args:
        model: Not adapted, in evaluation mode.
        texts: Token ids `[n, t]` of the length that is wanted, `factor` windows; or Windows.
        factor: Target length divided by the trained window, above 1.
        start_tokens: Choices; `(0,)` keeps the result a plain checkpoint.
        attention_factor: As in LongRoPE.
        sizes: `population`, `parents`, `mutations`, `crossovers` and `seed` of `Evolution`.

    Raises:
        ValueError: If the model cannot be scaled, the texts are shorter than asked, or a number
            is out of range.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        texts: Windows | Tensor,
        factor: float,
        *,
        start_tokens: Sequence[int] = START_TOKENS,
        attention_factor: float = 0.0,
        **sizes: Any,
    ) -> None:
        windows = Windows.of(texts)
        base, window = base_of(model)
        check_length(windows, window, factor)
        ones = (1.0,) * (base.dim // 2)
        template = LongRoPE(ones, factor, attention_factor=attention_factor)
        usual = usual_factors(base, window, factor)
        high = (ROOM * factor,) * len(ones)
        super().__init__(model, windows, template, usual, start_tokens, ones, high, sizes)


class SecondStageSearch(FactorSearch):
    """Search again, from a model that was tuned with the factors of a first search.

    Factors are those of the first stage times what the second finds, counted from unscaled
    frequencies as always.

    Source: Ding et al. 2024, arXiv:2402.13753, section 3.3.

    Args:
        model: The tuned model: unscaled, or a checkpoint that carries `extended`.
        texts: Of `extended.factor * stretch` windows.
        extended: What the first stage found.
        stretch: Target length divided by the extended window, above 1.
        start_tokens, sizes: As for LongRoPESearch.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        texts: Windows | Tensor,
        extended: LongRoPE,
        stretch: float,
        *,
        start_tokens: Sequence[int] = START_TOKENS,
        **sizes: Any,
    ) -> None:
        windows = Windows.of(texts)
        base, window = base_of(model)
        at_least(type(self).__name__, "stretch", stretch, 1)
        check_length(windows, window, extended.factor * stretch)
        low = extended.factors
        rows = usual_factors(base, round(window * extended.factor), stretch)
        usual = [tuple(a * b for a, b in zip(low, row, strict=True)) for row in rows]
        template = replace(extended, factor=extended.factor * stretch)
        high = tuple(ROOM * stretch * value for value in low)
        super().__init__(model, windows, template, usual, start_tokens, low, high, sizes)


class ShortSearch(FactorSearch):
    """Factors for short texts on an extended model; the result switches by length.

    Source: Ding et al. 2024, arXiv:2402.13753, section 3.3 (recovery of short windows).
    Differs from the source: no start tokens, which a switch by length cannot have; the
        temperature is that of the extended model.

    Args:
        model: As for SecondStageSearch.
        texts: Of at most the trained window.
        extended: What the search for long texts found; no short factor is above its own.
        sizes: As for LongRoPESearch.
    """

    def __init__(
        self, model: PreTrainedModel, texts: Windows | Tensor, extended: LongRoPE, **sizes: Any
    ) -> None:
        windows = Windows.of(texts)
        _, window = base_of(model)
        if windows.length > window:
            raise ValueError(
                f"ShortSearch: texts must have at most {window:,} tokens, the trained window, "
                f"got {windows.length:,}"
            )
        temperature = extended.temperature(window)
        self._extended = replace(extended, start_tokens=0, attention_factor=temperature)
        high = tuple(max(1.0, value) for value in extended.factors)
        usual = [tuple(value**power for value in high) for power in (0.0, 0.5, 1.0)]
        template = replace(self._extended, short_factors=())
        super().__init__(model, windows, template, usual, (0,), (1.0,) * len(high), high, sizes)

    def result(self, genome: Genome) -> LongRoPE:
        """The extended method with these factors for short texts."""
        return replace(self._extended, short_factors=genome.factors)


def longrope_search(
    model: PreTrainedModel, texts: Windows | Tensor, factor: float, **arguments: Any
) -> LongRoPE:
    """Search, within a limit, for the LongRoPE that reads texts of `factor` windows best.

    A search that was stopped goes on from its checkpoint; the same seed finds the same.

    Args:
        arguments: Those of `LongRoPESearch` and of its `run`, which say when it ends.
    """
    found = searched(LongRoPESearch, model, texts, factor, **arguments)
    assert isinstance(found, LongRoPE)
    return found


def usual_factors(base: RotaryBase, window: int, factor: float) -> list[Factors]:
    """What PI, NTK and YaRN divide every frequency by."""
    unread = torch.ones(1)
    rows = []
    for method in (YaRN(factor), NTK(factor), PI(factor)):
        divided = unscaled(base) / method.rotary(base, window, unread).inv_freq
        rising = divided.clamp(1.0, factor).cummax(0).values  # float32 may miss a bound by a hair
        rows.append(tuple(rising.tolist()))
    return rows


def base_of(model: PreTrainedModel) -> tuple[RotaryBase, int]:
    """The rotary embedding of layers that see everything, and the window before any scaling."""
    refuse_unsupported(model)
    geometry = read_geometry(model)
    for index, layer in enumerate(geometry.layers):
        if layer.rotary is not None and not geometry.local(index):
            base = layer.rotary
            identity = LongRoPE((1.0,) * (base.dim // 2), 1.0)
            identity.check_base(base)
            return base, identity.counts_from(base, geometry.window)
    raise ValueError(f"{geometry.family}: no layer has rotary positions, so none can be scaled")


def check_length(windows: Windows, window: int, factor: float) -> None:
    """Refuse texts that are shorter than `factor` windows, and a factor of 1 or less."""
    at_least("a search", "factor", factor, 1)
    if factor == 1:
        raise ValueError("a search: factor must be above 1: at 1 nothing is to be found")
    if windows.length < factor * window - 1:
        raise ValueError(
            f"the texts have {windows.length:,} tokens, and a search at factor {factor:g} needs "
            f"{factor * window:,.0f}; give longer texts or a smaller factor"
        )
