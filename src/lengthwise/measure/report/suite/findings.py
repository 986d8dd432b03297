"""What a suite has shown, in plain words."""

from lengthwise.measure.report.numbers import size
from lengthwise.measure.report.suite.charts import seconds
from lengthwise.measure.report.suite.numbers import Table, share


def reader_name(table: Table) -> str:
    """What answered."""
    return str(table.results.plan["reader"].get("name", "the model"))


def headline(table: Table) -> str:
    """Scores at the longest length that was read; of an adaptive suite, effective lengths."""
    scored = [n for n in table.lengths if any(table.overall(m, n) for m in table.methods)]
    if table.adaptive and table.tasks:
        parts = [f"{method} {_everywhere(table, method)}" for method in table.methods]
        tasks = table.tasks[0] if len(table.tasks) == 1 else f"all {len(table.tasks)} tasks"
        return f"Above {table.threshold:.0%} on {tasks}: {_join(parts)}."
    if not scored:
        return f"{reader_name(table)}: no task was answered by every method."
    length = scored[-1]
    scores = {m: s for m in table.methods if (s := table.overall(m, length)) is not None}
    order = sorted(scores, key=lambda method: -scores[method].value)
    common = table.common_tasks(length)
    over = common[0] if len(common) == 1 else f"{len(common)} tasks"
    parts = [f"{method} {scores[method].value:.0%}" for method in order]
    return f"At {length:,} tokens, scores on {over}: {_join(parts)}."


def _everywhere(table: Table, method: str) -> str:
    """Up to where every task was shown to be read."""
    lows = [table.reach(method, task).low for task in table.tasks]
    known = [low for low in lows if low is not None]
    return f"up to {min(known):,} tokens" if len(known) == len(lows) else "at no length"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def findings(table: Table) -> list[str]:
    """A sentence for everything that was measured."""
    sentences = [_reach(table, method) for method in table.methods]
    sentences += _cost(table)
    refused = sum(table.refusals().values())
    if refused:
        sentences.append(f"Refused: {refused:,} of {len(table.results.rows):,} items, see below.")
    return sentences


def _reach(table: Table, method: str) -> str:
    reaches = [table.reach(method, task) for task in table.tasks]
    measured = [reach for reach in reaches if reach.found.verdicts]
    none = sum(reach.low is None for reach in measured)
    above = f"above {table.threshold:.0%} with 95% confidence"
    if none == len(measured):
        return f"{method} was not shown to be {above} at any length on any task."
    longest = table.lengths[-1]
    whole = sum(reach.low == longest for reach in measured)
    rest = f"; on {none} not even at the shortest" if none else ""
    return (
        f"{method} is {above} up to {longest:,} tokens on {whole} of {len(measured)} tasks{rest}."
    )


def _cost(table: Table) -> list[str]:
    lengths = [n for n in table.lengths if all(table.cost(m, n) for m in table.methods)]
    if not lengths or len(table.methods) < 2:
        return []
    parts = []
    for method in table.methods:
        cost, score = table.cost(method, lengths[-1]), table.overall(method, lengths[-1])
        assert cost is not None and score is not None
        held = f", {size(cost.held)} held" if cost.held is not None else ""
        parts.append(f"{method} {seconds(cost.seconds)}{held}, score {share(score)}")
    return [f"An answer at {lengths[-1]:,} tokens costs: {'; '.join(parts)}."]
