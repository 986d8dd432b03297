"""LongProc's extraction: the rows of a web page that meet a condition, as a table."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import Endless, invented, new_from, sentence
from lengthwise.measure.tasks.exact import Page, Pages, Tokens
from lengthwise.measure.tasks.longproc.procedure import Procedure
from lengthwise.measure.tasks.metrics import f1, normalized
from lengthwise.measure.tasks.words import ADJECTIVES, NOUNS

_HEADER = ("name", "kind", "maker", "price", "stars")
_STARS = 5
_FROM = 3  # stars that a row needs

Row = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class HtmlToTable(Procedure):
    """Copy the entries of a web page that meet a condition into a table with tabs.

    Source: Ye et al., LongProc (arXiv:2501.05414), section 2, HTML to TSV: rows of a page that a
    condition keeps; F1 of the rows, each right if all its cells are after normalising.
    Differs from the source: the page is generated; as many rows meet the condition as the budget
    allows in the model's own tokens, and more length means more entries that do not.

    Args:
        budget: Tokens of output: 512, 2048 and 8192 are the source's levels.

    Raises:
        ValueError: A budget out of range.
    """

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """The rows of the answer; the haystack grows by entries with too few stars."""
        taken: set[str] = set()
        own = new_from(rng)
        kept = Endless(lambda: _row(own, taken, range(_FROM, _STARS + 1)))

        def answer(count: int) -> str:
            return _table(kept.first(count))

        rows = kept.first(self.longest(answer, tokens))
        others, order = new_from(rng), new_from(rng)
        places = [order.random() for _ in rows]
        left_out = Endless(lambda: (order.random(), _row(others, taken, range(1, _FROM))))
        shapes = {row: _entry(row, own) for row in rows}
        head = f"<html><body>\n<div class='top'><p>{escape(sentence(rng))}</p></div>\n"
        tail = (
            "\n</body></html>\nThe page above lists things. Copy all of them that have at least "
            f"{_FROM} stars, in the order of the page, into a table: a line for each thing, cells "
            f"separated by tabs, first the header line {', '.join(_HEADER)} with tabs too, stars "
            "as a digit. Nothing but the table.\n"
        )

        def page(count: int) -> Page:
            entries = sorted([*zip(places, rows, strict=True), *left_out.first(count)])
            context = "\n".join(shapes.get(row) or _entry(row, None) for _, row in entries)
            inside = [list(row) for _, row in entries]
            text = _table([row for _, row in entries if int(row[4]) >= _FROM])
            marks = tuple(f"<h3>{row[0]}</h3>" for row in rows)
            return Page(head, context, tail, text, {"entries": inside}, marks, "<br> ")

        return page

    def score(self, text: str, item: Item) -> float:
        """F1 of the rows below the header."""
        return f1(_rows(text), _rows(item.answer))

    def oracle(self, record: Mapping[str, Any]) -> str:
        """Goes through the entries."""
        return _table([row for row in record["entries"] if int(row[4]) >= _FROM])

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """Every entry, however many stars it has."""
        return {"every entry": _table(item.record["entries"])}

    def guess(self, item: Item, rng: random.Random) -> str:
        """Rows of things whose names have two syllables more than any that can be given."""
        return _table([_row(rng, set(), range(_FROM, _STARS + 1), syllables=5) for _ in range(9)])


def _row(rng: random.Random, taken: set[str], stars: range, syllables: int = 3) -> Row:
    while (name := invented(rng, syllables).capitalize()) in taken:
        pass
    taken.add(name)
    kind = f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    price = f"{rng.randint(1, 999)}.{rng.randint(0, 99):02}"
    return name, kind, invented(rng, 2).capitalize(), price, str(rng.choice(stars))


def _entry(row: Row, rng: random.Random | None) -> str:
    """The entry as HTML; some stand in a frame of their own, as on a page that grew."""
    name, kind, maker, price, stars = row
    inner = (
        f"<h3>{name}</h3><p>{kind} by <b>{maker}</b></p>"
        f"<span class='stars'>{'★' * int(stars)}</span><span class='price'>{price}</span>"
    )
    framed = rng is not None and rng.random() < 0.3
    return f"<section><div>{inner}</div></section>" if framed else f"<div>{inner}</div>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("\t".join(cells) for cells in [_HEADER, *rows])


def _rows(text: str) -> list[str]:
    """The normalised rows of a table, with all its cells; without a fence, header and remarks."""
    rows = []
    for line in text.strip().split("\n"):
        cells = [normalized(cell).replace(" ", "") for cell in line.split("\t")]
        if len(cells) == len(_HEADER) and cells != list(_HEADER):
            rows.append("\t".join(cells))
    return rows
