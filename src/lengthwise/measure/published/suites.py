"""Published sets as suites: from the files of a person's own copy to tasks."""

from collections.abc import Callable, Mapping
from pathlib import Path

from lengthwise.measure.published.base import Published
from lengthwise.measure.published.cnnsum import CNNSum
from lengthwise.measure.published.fables import FABLES
from lengthwise.measure.published.leval import LEval
from lengthwise.measure.published.longbench import LongBench
from lengthwise.measure.published.longbench_write import LongBenchWrite
from lengthwise.measure.published.lveval import PublishedLVEval
from lengthwise.measure.run.own_copy import find
from lengthwise.measure.run.suites import Suite
from lengthwise.measure.statistics.effective import THRESHOLD
from lengthwise.names import home_of

# From a file and the folder that the person named to a task.
_MADE: Mapping[str, Callable[[Path, Path], Published]] = {
    "longbench": lambda file, data: LongBench(file, find(data, "dataset2prompt.json")),
    "longbench_e": lambda file, data: LongBench(file, find(data, "dataset2prompt.json")),
    "leval": lambda file, data: LEval(file),
    "published_lveval": lambda file, data: PublishedLVEval(
        file, find(data, "config.py"), find(data, "metrics.py")
    ),
    "cnnsum": lambda file, data: CNNSum(file, prompts=find(data, "prompts.json")),
    "fables": lambda file, data: FABLES(file, _books(file)),
    "longbench_write": lambda file, data: LongBenchWrite(file),
    "longbench_write_en": lambda file, data: LongBenchWrite(file),
    "longwrite_ruler": lambda file, data: LongBenchWrite(file),
}


def _books(file: Path) -> Path:
    """A folder `books` beside the annotations, or theirs."""
    beside = file.parent / "books"
    return beside if beside.is_dir() else file.parent


def suite_of(
    name: str,
    files: Mapping[str, Path],
    data: Path,
    *,
    items: int | None = None,
    threshold: float = THRESHOLD,
) -> Suite:
    """The suite of published sets.

    Args:
        name: As it was asked for.
        files: From the names of tasks to their files, as `find_sets` gives them.
        data: The folder in which published prompts are looked for; where there are none, ours are
            taken.
        items: Of each set at most; None is all that it has.

    Raises:
        ValueError: A file in another format, with its name and the line.
    """
    tasks = {}
    for task, file in files.items():
        home = home_of(task)
        assert home is not None
        tasks[task] = _MADE[home](file, data)
    return Suite(name=name, tasks=tasks, items=items or 0, threshold=threshold)
