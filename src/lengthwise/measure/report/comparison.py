"""Several results side by side: losses, scores, effective lengths, and paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from lengthwise.measure.report.readings import LossCell, loss_table
from lengthwise.measure.report.terminal import STYLES, grid, print_groups
from lengthwise.measure.report.words import signed
from lengthwise.measure.run.results import Results
from lengthwise.measure.statistics.effective import paired
from lengthwise.names import RESULTS


@dataclass(frozen=True)
class Entry:
    """One method of one file."""

    label: str
    method: str
    results: Results


def entries(files: Sequence[tuple[Path, Results]]) -> list[Entry]:
    """Every method of every file, named so that none looks like another.

    Raises:
        ValueError: A file in which nothing is finished.
    """
    places = [path.resolve() for path, _ in files]
    named = [place.parent if place.name == RESULTS else place for place in places]
    names = [place.name.removesuffix(".jsonl") for place in named]
    found = []
    for number, (path, results) in enumerate(files):
        if not results.methods:
            raise ValueError(f"{path} has nothing that is finished yet; measure first")
        name = names[number]
        if names.count(name) > 1:
            name = f"{name} ({number + 1})"
        for method in results.methods:
            label = method if len(files) == 1 else f"{name}: {method}"
            found.append(Entry(label, method, results))
    return found


def not_the_same(first: Entry, second: Entry, task: str) -> str:
    """Why the items of a task are not the same in both, or the empty string."""
    ours, theirs = first.results.plan, second.results.plan
    if ours["seed"] != theirs["seed"]:
        return f"the seeds differ ({ours['seed']} and {theirs['seed']})"
    settings = [entry.results.settings.get(task) for entry in (first, second)]
    if settings[0] != settings[1]:
        return f"the task is set differently ({settings[0]} and {settings[1]})"
    if ours["text"] != theirs["text"]:
        return "the texts differ in which things are hidden"
    return ""


def pairs(
    first: Entry, second: Entry, task: str, length: int
) -> dict[int, tuple[float, float]] | None:
    """The scores of the items that both answered; None if an item of a number is another one."""
    ours = {row.index: row for row in first.results.cell(first.method, task, length)}
    theirs = {row.index: row for row in second.results.cell(second.method, task, length)}
    found = {}
    for index in sorted(ours.keys() & theirs.keys()):
        a, b = ours[index], theirs[index]
        if a.score is None or b.score is None:
            continue
        if (a.prompt, a.answer) != (b.prompt, b.answer):
            return None
        found[index] = (a.score, b.score)
    return found


def over_lengths(each: Sequence[dict[int, tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean over all lengths of every item that was answered at all of them.

    An item is drawn once for all lengths, so its scores at two lengths are not independent: it
    counts as one.
    """
    shared = set.intersection(*(set(found) for found in each))
    return [
        (
            sum(found[index][0] for found in each) / len(each),
            sum(found[index][1] for found in each) / len(each),
        )
        for index in sorted(shared)
    ]


def print_comparison(
    files: Sequence[tuple[Path, Results]], console: Console, threshold: float | None = None
) -> None:
    """Print a table of losses for each length and of scores for each task, then effective lengths,
    then differences.

    Raises:
        ValueError: A file in which nothing is finished.
    """
    every = entries(files)
    for length in sorted({n for _, results in files for n in results.read_lengths("loss")}):
        console.print(_losses(every, length))
    tasks = list(dict.fromkeys(task for _, results in files for task in results.tasks))
    lengths = sorted({length for _, results in files for length in results.lengths})
    for task in tasks:
        console.print(_scores(every, task, lengths))
    print_groups([(entry.label, entry.method, entry.results) for entry in every], console)
    if not tasks:
        return
    console.print(_effective(every, tasks, threshold))
    for other in every[1:]:
        if (differences := _differences(every[0], other, tasks, lengths)).row_count:
            console.print(differences)
        for task in tasks:
            if reason := _unpaired(every[0], other, task, lengths):
                words = f"{task} is not paired: {reason}; scores above are still comparable"
                console.print(Text(words, style="yellow"))


def _losses(every: Sequence[Entry], length: int) -> Grid:
    found = {entry.label: loss_table(entry.results, length).get(entry.method) for entry in every}
    ends = sorted({cell.loss.end for cells in found.values() for cell in cells or ()})
    caption = "nats per token, and how much that is above the same tokens inside the window"
    table = grid(
        f"Loss by position, {length:,} tokens", caption, "method", *(f"to {end:,}" for end in ends)
    )
    for label, cells in found.items():
        by_end = {cell.loss.end: cell for cell in cells or ()}
        table.add_row(Text(label), *(_loss(by_end.get(end)) for end in ends))
    return table


def _loss(cell: LossCell | None) -> Text:
    if cell is None:
        return Text("–", style="dim")
    words = Text(f"{cell.loss.value:.2f}", style=STYLES[cell.grade])
    if cell.excess is not None:
        words.append(f" {signed(cell.excess.value)}", style="dim")
    return words


def _scores(every: Sequence[Entry], task: str, lengths: Sequence[int]) -> Grid:
    caption = "mean score with its 95% interval, and the number of items; refused ones left out"
    table = grid(task, caption, "method", *(f"{length:,}" for length in lengths))
    for entry in every:
        cells = []
        for length in lengths:
            interval = entry.results.interval(entry.method, task, length)
            if interval is None:
                read = bool(entry.results.cell(entry.method, task, length))
                cells.append(Text("refused" if read else "–", style="dim"))
                continue
            count = len(entry.results.scores(entry.method, task, length))
            bounds = f" {interval.low:.2f}–{interval.high:.2f} ({count})"
            cells.append(Text.assemble(f"{interval.value:.2f}", (bounds, "dim")))
        table.add_row(Text(entry.label), *cells)
    return table


def _effective(every: Sequence[Entry], tasks: Sequence[str], threshold: float | None) -> Grid:
    bars = sorted({threshold or entry.results.plan["threshold"] for entry in every})
    shown = " or ".join(f"{bar:.2f}" for bar in bars)
    caption = (
        f"longest length whose score is above {shown} with 95% confidence, as all shorter ones are;"
        " open: too few items to tell"
    )
    table = grid("Effective length, tokens", caption, "method", *tasks)
    for entry in every:
        found = [str(entry.results.effective(entry.method, task, threshold)) for task in tasks]
        table.add_row(Text(entry.label), *found)
    return table


def _unpaired(first: Entry, second: Entry, task: str, lengths: Sequence[int]) -> str:
    """Why a task that both have cannot be paired; empty where it can, or one lacks it."""
    if any(task not in entry.results.tasks for entry in (first, second)):
        return ""
    if reason := not_the_same(first, second, task):
        return reason
    if any(pairs(first, second, task, length) is None for length in lengths):
        return "the items differ, as they do for other tokenizers"
    return ""


def _differences(first: Entry, second: Entry, tasks: Sequence[str], lengths: Sequence[int]) -> Grid:
    caption = (
        "mean difference on the same items, 95% interval; p: McNemar's exact test, where scores "
        "are 0 or 1; each by itself, none corrected for their number"
    )
    heads = ["length", "items", "difference", "interval", "better", "worse", "p"]
    table = grid(f"{second.label} against {first.label}", caption, "task", *heads)
    for task in tasks:
        if not_the_same(first, second, task):
            continue
        found = {length: pairs(first, second, task, length) for length in lengths}
        known = {length: some for length, some in found.items() if some}
        if None in found.values() or not known:
            continue
        for length, some in known.items():
            table.add_row(Text(task), f"{length:,}", *_difference(list(some.values())))
        both = over_lengths(list(known.values()))
        if len(known) > 1 and both:
            table.add_row(Text(task), "all", *_difference(both))
    return table


def _difference(pairs: Sequence[tuple[float, float]]) -> list[Text | str]:
    found = paired([a for a, _ in pairs], [b for _, b in pairs])
    low, high = found.difference.low, found.difference.high
    style = "green" if low > 0 else "red" if high < 0 else ""
    return [
        str(found.items),
        Text(f"{found.difference.value:+.2f}", style=style),
        f"{low:+.2f} … {high:+.2f}",
        str(found.better),
        str(found.worse),
        "–" if found.p is None else f"{found.p:.3f}",
    ]
