"""The win rate that a judge would have given if both answers had been of the same length."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from lengthwise.measure.statistics.effective import score_interval
from lengthwise.measure.statistics.intervals import Interval

FOLDS = 5
GAMED_WEIGHT = 0.1  # the package's 0.2, halved because the baseline was gamed in two ways
PENALTIES = tuple(10 ** (-4 + 8 * i / 9) for i in range(10))  # scikit-learn's grid of C


@dataclass(frozen=True)
class Comparisons:
    """A model's answers judged against a baseline's, one pair an instruction.

    Attributes:
        preferences: How sure the judge prefers the model's answer, from 0 to 1; None where
            there is no verdict.
        model_lengths: Characters of the model's answers.
        baseline_lengths: Characters of the baseline's answers.
    """

    preferences: tuple[float | None, ...]
    model_lengths: tuple[int, ...]
    baseline_lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = {len(self.preferences), len(self.model_lengths), len(self.baseline_lengths)}
        if len(sizes) > 1:
            raise ValueError(
                f"{len(self.preferences)} preferences, {len(self.model_lengths)} lengths of the "
                f"model and {len(self.baseline_lengths)} of the baseline; there must be one each"
            )
        for i, value in enumerate(self.preferences):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"preference {i} is {value!r}; it must be from 0 to 1, or None")

    @classmethod
    def from_alpaca_eval(cls, rows: Sequence[Mapping[str, Any]]) -> "Comparisons":
        """The rows of AlpacaEval's `annotations.json`.

        `output_1` is the baseline's answer and `output_2` the model's; a `preference` from 1 to 2
        is the judge's, 0 is a draw and null no verdict.

        Raises:
            ValueError: A field is missing, or a preference is neither 0 nor from 1 to 2.
        """
        preferences: list[float | None] = []
        for i, row in enumerate(rows):
            if missing := [k for k in ("output_1", "output_2", "preference") if k not in row]:
                raise ValueError(f"annotation {i} has no {missing[0]!r}; it has {sorted(row)}")
            value = row["preference"]
            if value is None or math.isnan(value):
                preferences.append(None)
            elif value == 0 or 1 <= value <= 2:
                preferences.append(0.5 if value == 0 else value - 1)
            else:
                raise ValueError(
                    f"annotation {i} has the preference {value!r}; it must be from 1 to 2, or 0"
                )
        return cls(
            tuple(preferences),
            tuple(len(row["output_2"]) for row in rows),
            tuple(len(row["output_1"]) for row in rows),
        )


@dataclass(frozen=True)
class Gamed:
    """The baseline judged against a terse and a wordy version of itself, and how hard it was.

    They pull the effect of length towards what it is for the baseline, so that a model cannot
    gain from cutting its answers where they are bad.

    Attributes:
        preferences: From 0 to 1, for the gamed version.
        gaps: Length of the baseline's answer minus the gamed one's, in standard deviations.
        difficulty: Of the instruction, for each row.
        by_instruction: The difficulty of every instruction, in their order.
    """

    preferences: tuple[float, ...]
    gaps: tuple[float, ...]
    difficulty: tuple[float, ...]
    by_instruction: tuple[float, ...]

    @classmethod
    def load(cls, path: Path) -> "Gamed":
        """Read AlpacaEval's `df_gamed.csv`.

        Raises:
            ValueError: A column is missing.
        """
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        wanted = ("index", "preference", "std_delta_len", "instruction_difficulty")
        if missing := [name for name in wanted if not rows or name not in rows[0]]:
            raise ValueError(f"{path} has no column {missing[0]!r}; its columns must have {wanted}")
        first: dict[int, float] = {}
        for row in rows:
            first.setdefault(int(row["index"]), float(row["instruction_difficulty"]))
        if sorted(first) != list(range(len(first))):
            raise ValueError(f"{path}: instructions must be numbered 0 to {len(first) - 1}")
        return cls(
            tuple(float(row["preference"]) for row in rows),
            tuple(float(row["std_delta_len"]) for row in rows),
            tuple(float(row["instruction_difficulty"]) for row in rows),
            tuple(first[i] for i in range(len(first))),
        )


@dataclass(frozen=True)
class LengthControlled:
    """What came out.

    Attributes:
        win_rate: The share of wins at equal length, with its interval.
        raw: The share of wins as judged.
        weights: Of the gap in length, of the difficulty (if given) and of the model itself.
        penalty: The `C` that cross-validation chose: the larger, the freer the weights.
    """

    win_rate: Interval
    raw: Interval
    weights: tuple[float, ...]
    penalty: float

    @property
    def extreme(self) -> bool:
        """Whether length moved the rate so far that the regression itself is in doubt.

        By more than ten points and more than a quarter of the way to 0 or to 1.
        """
        raw, controlled = self.raw.value, self.win_rate.value
        room = raw if controlled < raw else 1 - raw
        return abs(controlled - raw) > max(0.1, room / 4)


def length_controlled_win_rate(
    comparisons: Comparisons,
    gamed: Gamed | None = None,
    penalties: Sequence[float] = PENALTIES,
    confidence: float = 0.95,
) -> LengthControlled:
    """Fit the judge's preferences on the gap in length, and predict them without a gap.

    A logistic regression without intercept, with an L1 penalty: the features are tanh of the gap
    over its standard deviation, the difficulty of the instruction, and 1 for the model. Gamed
    baselines, if given, add rows of little weight without the last feature.

    Source: Dubois, Galambosi, Liang and Hashimoto, Length-Controlled AlpacaEval (arXiv
    2404.04475), section 3; what the paper leaves open is as in the package alpaca_eval 0.6.6.

    Differs from the source: no file is fetched, so difficulty and gamed rows are given or left
    out; the optimum is exact, where the package's solver stops early, which moved its win rate by
    up to 0.02 points in 24 trials; folds do not depend on how a sort treats equal keys. The
    interval is ours, by the delta method on the log odds.

    Reduces to: the raw win rate, where preferences do not depend on length.

    Args:
        comparisons: One pair an instruction.
        gamed: Its `by_instruction` must have one entry a pair.
        penalties: Values of C, above 0; of several, five-fold cross-validation takes the best.
        confidence: Coverage, between 0 and 1.

    Raises:
        ValueError: Fewer than five verdicts, gaps that are all the same, an argument out of range.
    """
    _check(comparisons, gamed, penalties, confidence)
    gap = torch.tensor(comparisons.baseline_lengths, dtype=torch.float64)
    gap = gap - torch.tensor(comparisons.model_lengths, dtype=torch.float64)
    if (deviation := gap.std().item()) == 0:
        raise ValueError(
            f"all pairs differ by {gap[0]:.0f} characters, so the effect of length cannot be "
            "told; use the raw win rate"
        )
    one = torch.ones_like(gap)
    columns = [torch.tanh(gap / deviation), one]
    if gamed is not None:
        columns.insert(1, torch.tensor(gamed.by_instruction, dtype=torch.float64))
    features = torch.stack(columns, dim=1)
    judged = torch.tensor([value is not None for value in comparisons.preferences])
    wins = torch.tensor([v for v in comparisons.preferences if v is not None], dtype=torch.float64)

    rows, targets, weights = features[judged], wins, torch.ones_like(wins)
    if gamed is not None:
        more = torch.stack(
            [
                torch.tanh(torch.tensor(gamed.gaps, dtype=torch.float64)),
                torch.tensor(gamed.difficulty, dtype=torch.float64),
                torch.zeros(len(gamed.gaps), dtype=torch.float64),
            ],
            dim=1,
        )
        # In the package's order: the folds go by it.
        rows = torch.cat([more, rows])
        targets = torch.cat([torch.tensor(gamed.preferences, dtype=torch.float64), targets])
        weights = torch.cat([torch.full_like(more[:, 0], GAMED_WEIGHT), weights])

    penalty = penalties[0]
    if len(penalties) > 1:
        penalty = _best_penalty(rows, targets, weights, penalties)
    fitted = fit(rows, targets, weights, penalty)
    equal = features.clone()
    equal[:, 0] = 0
    return LengthControlled(
        _interval(fitted, equal, rows, targets, weights, confidence),
        score_interval(wins.tolist(), confidence),
        tuple(fitted.tolist()),
        penalty,
    )


def _check(
    comparisons: Comparisons, gamed: Gamed | None, penalties: Sequence[float], confidence: float
) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence!r}")
    if not penalties or min(penalties) <= 0:
        raise ValueError(f"penalties must be one or more numbers above 0, got {penalties!r}")
    verdicts = sum(value is not None for value in comparisons.preferences)
    if verdicts < FOLDS:
        raise ValueError(
            f"length control needs {FOLDS} judged pairs or more, got {verdicts}; hundreds are usual"
        )
    if gamed is not None and len(gamed.by_instruction) != len(comparisons.preferences):
        raise ValueError(
            f"{len(gamed.by_instruction)} difficulties for {len(comparisons.preferences)} pairs; "
            "give gamed rows of the same instructions, or none"
        )


def fit(rows: Tensor, targets: Tensor, weights: Tensor, penalty: float) -> Tensor:
    """The weights `[k]` that minimise |w|₁ + C Σ s (log(1 + exp z) - p z) with z = rows · w.

    Newton's method; each step solves its quadratic with the penalty by coordinate descent.

    Source: Yuan, Ho and Lin, An Improved GLMNET for L1-regularized Logistic Regression, JMLR 13
    (2012), the method that liblinear stops early.

    Args:
        rows: `[n, k]`, float64.
        targets: `[n]`, shares p from 0 to 1.
        weights: `[n]`, s, at least 0.
        penalty: C, above 0.
    """

    def loss(w: Tensor) -> float:
        z = rows @ w
        smooth = (weights * (torch.nn.functional.softplus(z) - targets * z)).sum()
        return (w.abs().sum() + penalty * smooth).item()

    w = torch.zeros(rows.shape[1], dtype=torch.float64)
    now = loss(w)
    for _ in range(100):
        share = torch.sigmoid(rows @ w)
        gradient = penalty * (rows.T @ (weights * (share - targets)))
        curvature = penalty * (rows.T @ (rows * (weights * share * (1 - share))[:, None]))
        step = _penalised_step(w.tolist(), gradient.tolist(), curvature.tolist())
        size = 1.0
        while (then := loss(w + size * step)) > now and size > 1e-10:
            size /= 2
        w, before, now = w + size * step, now, min(now, then)
        if step.abs().max() < 1e-9 or before == now:
            break
    return w


def _penalised_step(w: list[float], gradient: list[float], curvature: list[list[float]]) -> Tensor:
    """The d that minimises gradient·d + d·curvature·d / 2 + |w + d|₁."""
    step = [0.0] * len(w)
    for _ in range(1000):
        moved = 0.0
        for j in range(len(w)):
            bend = max(curvature[j][j], 1e-12)
            slope = gradient[j] + sum(c * d for c, d in zip(curvature[j], step, strict=True))
            there = w[j] + step[j] - slope / bend
            there = math.copysign(max(abs(there) - 1 / bend, 0.0), there)
            moved = max(moved, abs(there - w[j] - step[j]))
            step[j] = there - w[j]
        if moved < 1e-13:
            break
    return torch.tensor(step, dtype=torch.float64)


def _best_penalty(
    rows: Tensor, targets: Tensor, weights: Tensor, penalties: Sequence[float]
) -> float:
    """The first penalty of the least mean loss on rows left out."""
    fold = torch.arange(len(rows) - 1, -1, -1) % FOLDS

    def left_out(penalty: float) -> float:
        losses = []
        for i in range(FOLDS):
            test, train = fold == i, fold != i
            z = rows[test] @ fit(rows[train], targets[train], weights[train], penalty)
            each = torch.nn.functional.softplus(z) - targets[test] * z
            losses.append((weights[test] * each).mean().item())
        return sum(losses) / FOLDS

    return min(penalties, key=left_out)


def _interval(
    fitted: Tensor,
    equal: Tensor,
    rows: Tensor,
    targets: Tensor,
    weights: Tensor,
    confidence: float,
) -> Interval:
    """The mean prediction with an interval from the influence of every judged pair."""
    predicted = torch.sigmoid(equal @ fitted)
    rate = predicted.mean()
    share = torch.sigmoid(rows @ fitted)
    bend = rows.T @ (rows * (weights * share * (1 - share))[:, None])
    towards = (equal * (predicted * (1 - predicted))[:, None]).mean(dim=0)
    direction = torch.linalg.pinv(bend) @ towards
    influence = (rows @ direction) * weights * (targets - share)
    influence = influence[weights == 1]  # gamed rows are the same for every model: no chance in it
    variance = influence.square().sum() + (predicted - rate).square().mean() / len(equal)
    value = min(max(rate.item(), 1e-12), 1 - 1e-12)
    half = NormalDist().inv_cdf((1 + confidence) / 2) * variance.sqrt().item()
    odds, half = math.log(value / (1 - value)), half / (value * (1 - value))
    return Interval(rate.item(), _logistic(odds - half), _logistic(odds + half))


def _logistic(x: float) -> float:
    return math.exp(-max(-x, 0.0) - math.log1p(math.exp(-abs(x))))
