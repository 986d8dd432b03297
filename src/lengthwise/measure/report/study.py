"""What a study of extension methods says: how perplexity, needles and tasks go together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lengthwise.measure.run.results import Results
from lengthwise.names import ANSWER, NEEDLE, PERPLEXITY


@dataclass(frozen=True)
class Correlation:
    """How two columns of the study go together.

    Attributes:
        cells: Entries and lengths at which both were measured.
        pearson, spearman: Over all of them; None where one column does not vary.
        at_length: Spearman's over the entries at each length, where both vary.
    """

    one: str
    other: str
    cells: int
    pearson: float | None
    spearman: float | None
    at_length: Mapping[int, float]


def columns(results: Results) -> dict[str, dict[tuple[str, int], float]]:
    """What is correlated, higher is better: minus the nats, the needle, the mean of the tasks."""
    tasks = [name for name in results.settings if ANSWER + name in results.settings]
    found: dict[str, dict[tuple[str, int], float]] = {}
    for method in results.methods:
        for length in sorted({row.length for row in results.readings}):
            key = method, length
            if nats := results.values(method, PERPLEXITY, length):
                found.setdefault("- loss", {})[key] = -sum(x["nats"] for x in nats) / len(nats)
            pairs = {name: score_and_nats(results, method, name, length) for name in tasks}
            groups = {NEEDLE: [NEEDLE], "tasks": [name for name in tasks if name != NEEDLE]}
            for column, names in groups.items():
                known = [pair for name in names if (pair := pairs.get(name)) is not None]
                if known and len(known) == len(names):  # a mean over fewer would be another one
                    means = [sum(values) / len(known) for values in zip(*known, strict=True)]
                    found.setdefault(column, {})[key] = means[0]
                    found.setdefault(f"{column}: - answer loss", {})[key] = -means[1]
    return found


def score_and_nats(
    results: Results, method: str, task: str, length: int
) -> tuple[float, float] | None:
    """The mean score of a task, and the nats of its right answers; None if some were refused."""
    rows = results.cell(method, task, length)
    scores = [row.score for row in rows if row.score is not None]
    nats = results.values(method, ANSWER + task, length)
    if not nats or not scores or len(scores) < len(rows):
        return None
    return sum(scores) / len(scores), float(nats[0]["nats"])


SAID = {
    NEEDLE: ("more needles are found", "fewer needles are found"),
    "tasks": ("more of the tasks is right", "less of the tasks is right"),
}


def sentences(results: Results) -> list[str]:
    """How the loss goes with needles and with tasks, in words; none without a study."""
    if PERPLEXITY not in results.settings:
        return []
    return [
        f"Where the loss is lower, {SAID[one.other][one.spearman < 0]} (Spearman "
        f"{one.spearman:+.2f} over {one.cells} methods and lengths)."
        for one in correlations(results)
        if one.one == "- loss" and one.other in SAID and one.spearman is not None
    ]


def correlations(results: Results) -> list[Correlation]:
    """Of every two columns of the study."""
    from scipy.stats import pearsonr, spearmanr

    def of(measure: Callable[..., Any], x: Sequence[float], y: Sequence[float]) -> float | None:
        if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
            return None
        return float(measure(x, y)[0])

    found, table = [], columns(results)
    names = list(table)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if one.split(":")[0] == other.split(":")[0]:
                continue
            keys = [key for key in table[one] if key in table[other]]
            x, y = ([table[name][key] for key in keys] for name in (one, other))
            by_length = {}
            for length in sorted({length for _, length in keys}):
                at = [k for k, key in enumerate(keys) if key[1] == length]
                value = of(spearmanr, [x[k] for k in at], [y[k] for k in at])
                if value is not None:
                    by_length[length] = value
            pair = of(pearsonr, x, y), of(spearmanr, x, y)
            found.append(Correlation(one, other, len(keys), *pair, by_length))
    return found
