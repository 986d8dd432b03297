"""What packing did to a corpus, in numbers, as text and as a page."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lengthwise.html import page
from lengthwise.train.data.rows import Packed, Packing
from lengthwise.train.data.tally import OCTAVES, Tally, add
from lengthwise.train.data.tokens import NAMED, Shard

BAR = 24  # characters of the longest bar


@dataclass
class Report:
    """The account of a packing.

    Attributes:
        source: Its name.
        capacity, overflow, packer: As asked for.
        tally: What was counted.
        bad: Lines, rows and files that could not be read and were left out.
        named: The first of those.
        resumed: Whether an interrupted run was continued.
        seconds: Of this run.
    """

    source: str
    capacity: int
    overflow: str
    packer: str
    tally: Tally
    bad: int
    named: list[str] = field(default_factory=list)
    resumed: bool = False
    seconds: float = 0.0

    @classmethod
    def of(
        cls, source: str, packing: Packing, shards: Sequence[Shard], done: Sequence[Packed],
        resumed: bool,
    ) -> "Report":  # fmt: skip
        """Add up the finished pieces of both passes."""
        both: list[Shard | Packed] = [*shards, *done]
        named = [words for piece in both for words in piece.named][:NAMED]
        return cls(
            source, packing.capacity, packing.overflow, packing.packer,
            add(block.tally for block in done), sum(piece.bad for piece in both), named, resumed,
        )  # fmt: skip

    def check(self) -> None:
        """Every token is in a row or was dropped by the policy.

        Raises:
            ValueError: If nothing is left to train on.
        """
        t = self.tally
        assert t.tokens == t.packed + t.dropped_tokens, (t.tokens, t.packed, t.dropped_tokens)
        if not t.rows:
            why = "empty" if t.empty == t.documents else f"empty or longer than {self.capacity:,}"
            raise ValueError(f"all {t.documents:,} documents of {self.source} are {why}")

    @property
    def utilisation(self) -> float:
        """Tokens over the places that all rows have."""
        return self.tally.packed / (self.tally.rows * self.capacity)

    @property
    def saved(self) -> float:
        """The share of attention that is not spent because documents do not see each other."""
        return 1 - self.tally.pairs / self.tally.row_pairs

    def facts(self) -> list[tuple[str, str, str]]:
        """Name, number and explanation of everything that is reported."""
        t = self.tally
        padded = self.tally.pieces * self.capacity
        facts = [
            ("documents", f"{t.documents:,}", f"{t.tokens:,} tokens, the longest {t.longest:,}"),
            ("rows", f"{t.rows:,}", f"of at most {self.capacity:,} tokens, by {self.packer}"),
            ("utilisation", f"{self.utilisation:.2%}",
             f"padding every document to a row: {t.packed / padded:.2%}"),
            ("cut", f"{t.cut:,}",
             f"documents longer than a row ({self.overflow}); cutting the concatenated corpus "
             f"would also cut {t.would_cut:,} that fit"),
            ("dropped", f"{t.dropped:,}", f"documents; tokens dropped: {t.dropped_tokens:,}"),
            ("attention saved", f"{self.saved:.1%}",
             "of the pairs of tokens, against rows whose documents see each other"),
            ("empty", f"{t.empty:,}", "documents without a token, left out"),
            ("not readable", f"{self.bad:,}", "lines, rows or files, left out"),
        ]  # fmt: skip
        return facts

    def histogram(self) -> list[tuple[str, int, int, int, int]]:
        """By octave of length: its name, documents and tokens before, pieces and tokens after."""
        (documents, tokens), (pieces, packed) = self.tally.before, self.tally.after
        used = [i for i in range(len(documents)) if documents[i] or pieces[i]]
        names = ["1", "2", *(f"{(1 << i) // 2 + 1:,} to {1 << i:,}" for i in range(2, OCTAVES))]
        every = range(used[0], used[-1] + 1)
        return [(names[i], documents[i], tokens[i], pieces[i], packed[i]) for i in every]

    def text(self) -> str:
        """The report for a terminal."""
        lines = [f"{self.source}, packed into rows of {self.capacity:,} tokens", ""]
        lines += [f"  {name:<16}{number:>13}  {words}" for name, number, words in self.facts()]
        lines += [f"    {words}" for words in self.named]
        lines += ["", f"  {'tokens':>22}  {'documents before':<40}pieces after"]
        rows = self.histogram()
        most, most_after = max(row[1] for row in rows), max(row[3] for row in rows)
        for name, before, _, after, _ in rows:
            line = f"  {name:>22}  {_bar(before, most):<40}{_bar(after, most_after)}"
            lines.append(line.rstrip())
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """The report as a page that needs nothing else."""
        title = f"{self.source}, packed into rows of {self.capacity:,} tokens"
        return page(
            "train/data/packing.html",
            title=title,
            facts=self.facts(),
            notes=self.named,
            octaves=self.histogram(),
        )


def _bar(number: int, most: int) -> str:
    eighths = round(8 * BAR * number / most)
    whole = "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]
    if number and not whole:
        whole = "▏"
    return f"{whole} {number:,}" if number else ""
