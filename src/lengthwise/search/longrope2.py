"""LongRoPE2's search: from which pair on training was too short, by the loss on needles."""

from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.extend.extrapolation import critical_dimension
from lengthwise.extend.scaling import LongRoPE, LongRoPE2
from lengthwise.hf.weights import fingerprint
from lengthwise.search.evolution import CHANGES, Evolution, Genome, searched
from lengthwise.search.longrope import ROOM, base_of, check_length
from lengthwise.search.windows import Windows


class LongRoPE2Search(Evolution):
    """The pair from which on frequencies must shrink by the whole stretch, and all factors.

    A pair below the critical one saw enough turns in training and is divided by less than
    `factor`; from the critical pair on all are divided by at least `factor`. Theory puts the
    critical pair where one turn takes the window; the search may put it lower, where training
    was still too thin.

    Source: Shang et al. 2025, arXiv:2502.20082, section 3.
    Differs from the source: the paper's code is not public. Seeds have factors that rise as
        NTK's to `factor` at the critical pair, for critical pairs from half of theory's up to
        it; mutation moves the critical pair by one; sizes are LongRoPE's.

    Args:
        model: Not adapted, in evaluation mode.
        texts: Of `factor` windows; `needle_windows` makes them with needles, and only the
            answers count.
        factor: Target length divided by the trained window, above 1.
        attention_factor: As in LongRoPE2.
        sizes: `population`, `parents`, `mutations`, `crossovers` and `seed` of `Evolution`.

    Raises:
        ValueError: As for LongRoPESearch.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        texts: Windows | Tensor,
        factor: float,
        *,
        attention_factor: float = 0.0,
        **sizes: Any,
    ) -> None:
        windows = Windows.of(texts)
        base, window = base_of(model)
        check_length(windows, window, factor)
        pairs = base.dim // 2
        self._factor = factor
        self._theory = critical_dimension(base.dim, window, base.theta) // 2
        self._least = max(1, self._theory // 2)
        ones = (1.0,) * pairs
        # While it is searched, texts are long: a static scaling reads them alike and faster.
        self._template = LongRoPE(ones, factor, attention_factor=attention_factor)
        about = {"texts": windows.fingerprint, "method": repr(self._template)}
        about["model"] = fingerprint(model)
        super().__init__(
            lambda scaling: windows.loss(model, scaling),
            ones,
            (ROOM * factor,) * pairs,
            about=about,
            **sizes,
        )

    @property
    def critical_pair(self) -> int:
        """The critical pair of the best so far; its dimension is twice that."""
        return self.best_trial.genome.extra

    @property
    def theoretical_pair(self) -> int:
        """The critical pair by theory."""
        return self._theory

    def allowed(self, genome: Genome) -> bool:
        """Also: below the critical pair no more than `factor`, from there on no less."""
        below, above = genome.factors[: genome.extra], genome.factors[genome.extra :]
        return (
            super().allowed(genome)
            and all(value <= self._factor for value in below)
            and all(value >= self._factor for value in above)
        )

    def seeds(self) -> list[Genome]:
        """NTK's rise to the full factor, for every critical pair up to theory's."""
        pairs = range(len(self.low))
        return [
            Genome(tuple(self._factor ** min(1.0, pair / critical) for pair in pairs), critical)
            for critical in range(self._theory, self._least - 1, -1)
        ]

    def change_extra(self, genome: Genome) -> Genome:
        """The critical pair one up or down, sometimes; factors keep to their side of it."""
        critical = genome.extra
        if self._rng.random() < CHANGES:
            moved = critical + self._rng.choice((-1, 1))
            critical = min(max(moved, self._least), self._theory)
        factors = tuple(
            min(value, self._factor) if pair < critical else max(value, self._factor)
            for pair, value in enumerate(genome.factors)
        )
        return Genome(factors, critical)

    def scaling(self, genome: Genome) -> LongRoPE:
        """The method as it is evaluated."""
        return replace(self._template, factors=genome.factors)

    def result(self, genome: Genome) -> LongRoPE2:
        """The method as it is used: short texts keep the model's own frequencies."""
        return LongRoPE2(genome.factors, self._factor, self._template.attention_factor)


def longrope2_search(
    model: PreTrainedModel, texts: Windows | Tensor, factor: float, **arguments: Any
) -> LongRoPE2:
    """Search, within a limit, for the LongRoPE2 that finds needles in texts of `factor` windows.

    Args:
        arguments: Those of `LongRoPE2Search` and of its `run`, which say when it ends.
    """
    found = searched(LongRoPE2Search, model, texts, factor, **arguments)
    assert isinstance(found, LongRoPE2)
    return found
