"""What a person sees while a measurement is carried out."""

from collections.abc import Iterable, Mapping
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lengthwise.measure.run.rows import Cell


class Shown:
    """A bar over cells, and a line for what was refused; without a terminal one for every cell.

    Args:
        effort: About how many tokens are left to read for each cell; the time left is judged by it.
    """

    def __init__(self, console: Console, effort: Mapping[Cell, int]) -> None:
        self.console, self._left = console, dict(effort)
        columns = (
            TextColumn("{task.description:<44}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console)
        self._bar = self._progress.add_task("", total=sum(self._left.values()))

    def __enter__(self) -> "Shown":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, cell: Cell) -> None:
        """A cell comes next."""
        self._progress.update(self._bar, description=_label(cell))

    def advance(self, cell: Cell, effort: int) -> None:
        """So much of it is done."""
        effort = min(effort, self._left[cell])
        self._left[cell] -= effort
        self._progress.advance(self._bar, effort)

    def end(self, cell: Cell) -> None:
        """What is left of a cell has become needless, which is no work left."""
        total = self._progress.tasks[self._bar].total or 0
        self._progress.update(self._bar, total=max(total - self._left.pop(cell), 1))

    def tell(self, cell: Cell, refused: Iterable[str], found: str) -> None:
        """What came of a cell: every reason for a refusal once, and what was found, if anything."""
        label = escape(_label(cell))
        for reason in dict.fromkeys(reason for reason in refused if reason):
            words = f"[yellow]refused[/] {label}: {escape(reason)}"
            self._progress.console.print(words, soft_wrap=True)
        if found and not self.console.is_terminal:
            self._progress.console.print(f"{label}: {found}")


def _label(cell: Cell) -> str:
    return f"{cell.task} {cell.length:,} · {cell.method}"
