"""LongRoPE's search: which factor suits every rotated pair, by the loss on long texts."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.core.geometry import RotaryBase
from lengthwise.extend.method import Scaling, at_least
from lengthwise.extend.scaling import NTK, PI, LongRoPE, YaRN
from lengthwise.extend.scaling.frequencies import unscaled
from lengthwise.extend.search.evolution import CHANGES, Evolution, Genome
from lengthwise.extend.search.losses import Windows
from lengthwise.hf.families import read_geometry, refuse_unsupported

# Tokens at the start that may keep their angles: the paper's space.
START_TOKENS = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)
ROOM = 1.25  # a factor may be so much larger than the stretch: the paper's space


class LongRoPESearch(Evolution):
    """The factors with which a model loses least on texts of the length that is wanted.

    Seeds are PI, NTK and YaRN, each without start tokens. `further` searches again from an
    extended model, `readjust` for short texts on it.

    Source: Ding et al. 2024, arXiv:2402.13753, section 3.2, algorithm 1 and table of the space.
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
        base, window = _base_of(model)
        _check_length(windows, factor * window, factor)
        self._choices, self._seeds = tuple(start_tokens), usual_factors(base, window, factor)
        pairs = base.dim // 2
        ones = (1.0,) * pairs
        self._template = LongRoPE(ones, factor, attention_factor=attention_factor)
        self._finish: Callable[[LongRoPE], LongRoPE] = lambda scaling: scaling
        self._set_up(model, windows, ones, (max(ROOM * factor, factor),) * pairs, sizes)

    @classmethod
    def further(
        cls,
        model: PreTrainedModel,
        texts: Windows | Tensor,
        extended: LongRoPE,
        stretch: float,
        *,
        start_tokens: Sequence[int] = START_TOKENS,
        **sizes: Any,
    ) -> "LongRoPESearch":
        """The second stage: from a model that was tuned with `extended` to `stretch` times more.

        Factors are those of the first stage times what the second finds, counted from unscaled
        frequencies as always.

        Args:
            model: The tuned model: unscaled, or a checkpoint that carries `extended`.
            texts: Of `extended.factor * stretch` windows.
        """
        self = cls.__new__(cls)
        windows = Windows.of(texts)
        base, window = _base_of(model)
        factor = extended.factor * stretch
        at_least(cls.__name__, "stretch", stretch, 1)
        _check_length(windows, factor * window, factor)
        low = extended.factors
        self._choices = tuple(start_tokens)
        more = usual_factors(base, round(window * extended.factor), stretch)
        self._seeds = [_times(low, row) for row in more]
        self._template = replace(extended, factor=factor)
        self._finish = lambda scaling: scaling
        self._set_up(model, windows, low, tuple(ROOM * stretch * v for v in low), sizes)
        return self

    @classmethod
    def readjust(
        cls,
        model: PreTrainedModel,
        texts: Windows | Tensor,
        extended: LongRoPE,
        **sizes: Any,
    ) -> "LongRoPESearch":
        """Factors for short texts on an extended model: its result switches by length.

        Args:
            texts: Of at most the trained window.
        """
        self = cls.__new__(cls)
        windows = Windows.of(texts)
        _, window = _base_of(model)
        if windows.length > window:
            raise ValueError(
                f"LongRoPESearch.readjust: texts must have at most {window:,} tokens, the "
                f"trained window, got {windows.length:,}"
            )
        high = tuple(max(1.0, value) for value in extended.factors)
        ones = (1.0,) * len(high)
        self._choices = (0,)
        self._seeds = [tuple(v**power for v in high) for power in (0.0, 0.5, 1.0)]
        self._template = replace(
            extended,
            short_factors=(),
            start_tokens=0,
            attention_factor=extended.temperature(window),
        )
        self._finish = lambda short: replace(
            extended,
            short_factors=short.factors,
            start_tokens=0,
            attention_factor=short.attention_factor,
        )
        self._set_up(model, windows, ones, high, sizes)
        return self

    def _set_up(
        self,
        model: PreTrainedModel,
        windows: Windows,
        low: tuple[float, ...],
        high: tuple[float, ...],
        sizes: dict[str, Any],
    ) -> None:
        about = {
            "texts": windows.fingerprint,
            "method": repr(self._template),
            "start_tokens": list(self._choices),
        }
        super().__init__(
            lambda scaling: windows.loss(model, scaling), low, high, about=about, **sizes
        )

    def seeds(self) -> list[Genome]:
        """What is usual, without start tokens unless there is no such choice."""
        return [Genome(row, self._choices[0]) for row in self._seeds]

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
        return self._finish(self.scaling(genome))


def longrope_search(
    model: PreTrainedModel,
    texts: Windows | Tensor,
    factor: float,
    *,
    evaluations: int | None = None,
    generations: int | None = None,
    seconds: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    on_step: Callable[[Evolution], None] = lambda search: None,
    **settings: Any,
) -> LongRoPE:
    """Search, within a limit, for the LongRoPE that reads texts of `factor` windows best.

    A search that was stopped goes on from its checkpoint; the same seed finds the same. The
    arguments are those of `LongRoPESearch` and of its `run`.
    """
    search = LongRoPESearch(model, texts, factor, **settings)
    found = search.run(
        evaluations=evaluations,
        generations=generations,
        seconds=seconds,
        checkpoint=checkpoint,
        on_step=on_step,
    )
    assert isinstance(found, LongRoPE)
    return found


def usual_factors(base: RotaryBase, window: int, factor: float) -> list[tuple[float, ...]]:
    """What PI, NTK and YaRN divide every frequency by."""
    unread = torch.ones(1)
    rows = []
    for method in (YaRN(factor), NTK(factor), PI(factor)):
        divided = unscaled(base) / method.rotary(base, window, unread).inv_freq
        rising = divided.clamp(1.0, factor).cummax(0).values  # float32 may miss a bound by a hair
        rows.append(tuple(rising.tolist()))
    return rows


def _times(first: tuple[float, ...], second: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(a * b for a, b in zip(first, second, strict=True))


def _base_of(model: PreTrainedModel) -> tuple[RotaryBase, int]:
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


def _check_length(windows: Windows, wanted: float, factor: float) -> None:
    at_least("LongRoPESearch", "factor", factor, 1)
    if factor == 1:
        raise ValueError("LongRoPESearch: factor must be above 1: at 1 nothing is to be found")
    if windows.length < wanted - 1:
        raise ValueError(
            f"the texts have {windows.length:,} tokens, and a search at factor {factor:g} needs "
            f"{wanted:,.0f}; give longer texts or a smaller factor"
        )
