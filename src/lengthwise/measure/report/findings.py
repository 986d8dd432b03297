"""What was seen, in plain words."""

from statistics import fmean

from lengthwise.measure.report.readings import CLOSE, Span, excess_spans, plain_name, speeds, told
from lengthwise.measure.report.study import sentences as study_sentences
from lengthwise.measure.report.table import Table, refusals
from lengthwise.measure.report.words import (
    counted,
    joined,
    rate,
    seconds,
    share,
    signed,
    size,
    windows,
)
from lengthwise.measure.run.results import Results
from lengthwise.measure.run.rows import REFERENCE

MOST = 6  # methods that one sentence can name with all their numbers


def reader_name(results: Results) -> str:
    """What answered."""
    return str(results.plan["reader"].get("name", "the model"))


def headline(results: Results) -> str:
    """The most telling comparison in one sentence."""
    table = Table(results)
    told_of = _beyond(results) or _scores(table) or _whole(results) or _costs(results)
    return told_of or f"{reader_name(results)}, measured."


def findings(results: Results) -> list[str]:
    """A sentence for everything that was measured, the headline's matter first."""
    table = Table(results)
    sentences = _loss(results)
    if sentences and (scores := _scores(table)):  # else they are the headline
        sentences.append(scores)
    if not table.too_few:
        sentences += [_reach(table, method) for method in table.methods]
    sentences += [*study_sentences(results), *_answers(table), *_speed(results)]
    if refused := sum(refusals(results).values()):
        both = (("items", results.rows), ("readings", results.readings))
        kinds = " and ".join(name for name, rows in both if rows)
        total = len(results.rows) + len(results.readings)
        sentences.append(f"Refused: {refused:,} of {total:,} {kinds}, see below.")
    return sentences


def _far(results: Results) -> tuple[int, int, dict[str, Span]]:
    """Where the last doubling of the longest text that was read begins and ends, and the excess
    of every method there; none where it does not lie beyond the window.
    """
    window = told(results, "window")
    length = max(results.read_lengths("loss"), default=0)
    if not window or length <= window:
        return 0, 0, {}
    spans = {m: excess_spans(results, m, length, True) for m in results.read_methods("loss")}
    found = {method: those[-1] for method, those in spans.items() if those and method != REFERENCE}
    return max(window, length // 2), length, found


def _beyond(results: Results) -> str:
    """The best method and the plain model beyond the window."""
    begin, end, excess = _far(results)
    if not excess:
        return ""
    plain, window = plain_name(results), told(results, "window") or end
    where = f"Between {windows(begin, window).split()[0]} and {windows(end, window)} of text"
    lost = {method: span.value for method, span in excess.items()}
    best = min((method for method in lost if method != plain), key=lost.__getitem__, default=None)
    if plain not in lost or best is None:
        (name,) = [plain] if plain in lost else [best]
        return f"{where}, {name} {_kept(lost[str(name)])}."
    if lost[best] < lost[plain] - CLOSE:
        return (
            f"{where}, {best} {_kept(lost[best])}; the plain model loses {lost[plain]:.1f} nats "
            "per token."
        )
    return f"{where}, no method reads better than the plain model."


def _whole(results: Results) -> str:
    """The mean loss of every method over the longest text that was read."""
    length = max(results.read_lengths("loss"), default=0)
    read = {method: results.values(method, "loss", length) for method in results.methods}
    means = {m: fmean(x for one in v for x in one["losses"]) for m, v in read.items() if v}
    if not means:
        return ""
    parts = [f"{method} {means[method]:.2f}" for method in sorted(means, key=means.__getitem__)]
    return f"Over {length:,} tokens, nats per token: {joined(parts)}."


def _kept(lost: float) -> str:
    if lost <= CLOSE:
        return "reads as well as inside the window"
    return f"loses {lost:.1f} nats per token"


def _loss(results: Results) -> list[str]:
    begin, end, excess = _far(results)
    means = {method: span.value for method, span in excess.items()}
    order = sorted(means, key=means.__getitem__)
    close = [f"{m} ({signed(means[m])})" for m in order if means[m] <= CLOSE]
    far = [m for m in order if means[m] > CLOSE]
    where = f"From position {begin:,} to {end:,}"
    reference = "the untouched model reading the same tokens inside its window"
    sentences = []
    if close:
        verb = "stays" if len(close) == 1 else "stay"
        sentences.append(
            f"{where}, {joined(close)} {verb} within {CLOSE} nats per token of {reference}."
        )
    if far:
        first = f"{far[0]} loses {means[far[0]]:.2f} nats per token"
        rest = [f"{m} {means[m]:.2f}" for m in far[1:]]
        start = "There, " if close else f"{where}, against {reference}, "
        sentences.append(f"{start}{joined([first, *rest])}.")
    return sentences


def _scores(table: Table) -> str:
    """Scores at the longest length that was read; of an adaptive suite, effective lengths."""
    if not table.tasks:
        return ""
    if table.adaptive:
        parts = [f"{method} {_everywhere(table, method)}" for method in table.methods]
        tasks = table.tasks[0] if len(table.tasks) == 1 else f"all {len(table.tasks)} tasks"
        return f"Above {table.threshold:.0%} on {tasks}: {joined(parts)}."
    scored = [n for n in table.lengths if any(table.overall(m, n) for m in table.methods)]
    if not scored:
        return f"{reader_name(table.results)}: no task was answered by every method."
    length = scored[-1]
    scores = {m: s.value for m in table.methods if (s := table.overall(m, length)) is not None}
    common = table.common_tasks(length)
    items = table.results.counts.get(common[0], 0)
    over = f"{common[0]} ({counted(items, 'item')})" if len(common) == 1 else f"{len(common)} tasks"
    parts = [f"{m} {scores[m]:.0%}" for m in sorted(scores, key=lambda method: -scores[method])]
    window = told(table.results, "window")
    times = f" ({windows(length, window)})" if window else ""
    return f"At {length:,} tokens{times}, scores on {over}: {joined(parts)}."


def _everywhere(table: Table, method: str) -> str:
    """Up to where every task was shown to be read."""
    lows = [table.reach(method, task).low for task in table.tasks]
    known = [low for low in lows if low is not None]
    return f"up to {min(known):,} tokens" if len(known) == len(lows) else "at no length"


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


def _answers(table: Table) -> list[str]:
    lengths = [n for n in table.lengths if all(table.cost(m, n) for m in table.methods)]
    if not lengths or not 2 <= len(table.methods) <= MOST:
        return []
    parts = []
    for method in table.methods:
        cost, score = table.cost(method, lengths[-1]), table.overall(method, lengths[-1])
        assert cost is not None and score is not None
        held = f", {size(cost.held)} held" if cost.held is not None else ""
        parts.append(f"{method} {seconds(cost.seconds)}{held}, score {share(score)}")
    return [f"An answer at {lengths[-1]:,} tokens costs: {'; '.join(parts)}."]


def _costs(results: Results) -> str:
    """How fast the longest text is read and gone on with: by the one method, or by the extremes."""
    length = max(results.read_lengths("speed"), default=0)
    found = speeds(results, length)
    order = sorted(found, key=lambda method: -found[method]["tokens_per_second"])
    pace = [f"{rate(found[method]['tokens_per_second'])} tokens a second" for method in order]
    if not order:
        return ""
    if len(order) == 1:
        took = seconds(found[order[0]]["first_token_seconds"])
        return f"{order[0]} reads {length:,} tokens in {took} and then decodes {pace[0]}."
    return (
        f"After {length:,} tokens {order[0]} decodes fastest, {pace[0]}, and {order[-1]} slowest, "
        f"{pace[-1]}."
    )


def _speed(results: Results) -> list[str]:
    length = max(results.read_lengths("speed"), default=0)
    found = speeds(results, length)
    plain = plain_name(results)
    least = min(found, key=lambda method: found[method]["cache_bytes"], default=plain)
    if plain not in found or least is None or least == plain:
        return []
    ours, theirs = found[least], found[plain]
    return [
        f"After {length:,} tokens the cache of {least} holds {size(ours['cache_bytes'])} where the "
        f"plain model's holds {size(theirs['cache_bytes'])}, and it decodes "
        f"{rate(ours['tokens_per_second'])} tokens a second against "
        f"{rate(theirs['tokens_per_second'])}."
    ]
