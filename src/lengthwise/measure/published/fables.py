"""FABLES: claims about books with labels of people, from a person's own copy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengthwise.measure.published.base import Published, Row
from lengthwise.measure.run.json_lines import parse, text, texts
from lengthwise.measure.tasks.base import Item

LABELS = ("Yes", "No", "PartialSupport", "Inapplicable")
_PARTS = 5  # of a book, by which a report tells claims apart


@dataclass(frozen=True)
class Claim:
    """A claim of a summary.

    Attributes:
        book, model: What it is about, and who wrote the summary.
        label: Of people: one of `LABELS`.
        evidence: Passages of the book that they quoted.
        kind: What kind of claim it is, where a person's copy says it under `type`: the published
            file does not.
    """

    book: str
    model: str
    claim: str
    label: str
    evidence: tuple[str, ...]
    kind: str = ""

    @property
    def support(self) -> str:
        """How many passages people needed to judge it."""
        count = len(self.evidence)
        return "several passages" if count > 1 else "one passage" if count else "nothing quoted"


def read_claims(file: Path) -> list[Claim]:
    """Reads `{"FABLES": {book: {model: {"claims": {number: {claim, label, evidence}}}}}}`.

    Raises:
        ValueError: A file in another format, or an unknown label.
    """
    try:
        data = parse(file.read_text(encoding="utf-8"))
        books = data.get("FABLES", data)
        claims = [
            Claim(
                book, model, text(row, "claim"), text(row, "label"), _evidence(row),
                text(row, "type") if "type" in row else "",
            )
            for book, models in books.items()
            for model, summary in models.items()
            for row in summary["claims"].values()
        ]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is no file of FABLES: {error!r}") from None
    unknown = sorted({claim.label for claim in claims} - {*LABELS})
    if unknown or not claims:
        raise ValueError(f"{file}: labels must be {', '.join(LABELS)}, got {unknown or 'no claim'}")
    return claims


def _evidence(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The passages that are quoted; "n/a" and nothing stand for none."""
    quoted = row.get("evidence", [])
    found = [quoted] if isinstance(quoted, str) else quoted
    every = () if found == [] else texts({"evidence": found}, "evidence")
    return tuple(one for one in every if one.strip().lower() not in ("", "n/a"))


def errors_by(
    claims: Sequence[Claim], what: Callable[[Claim], str]
) -> dict[str, tuple[int, float]]:
    """Claims and the share of unfaithful ones ("No"), by a property such as their kind.

    Source: Kim et al., FABLES (arXiv:2404.01261), table 4. Claims for which it is empty are left
    out.
    """
    labels: dict[str, list[str]] = {}
    for claim in claims:
        if name := what(claim):
            labels.setdefault(name, []).append(claim.label)
    return {name: (len(of), of.count("No") / len(of)) for name, of in sorted(labels.items())}


def faithfulness(claims: Sequence[Claim]) -> dict[str, dict[str, float]]:
    """For each model that wrote summaries, the share of its claims with each label.

    Source: Kim et al., FABLES (arXiv:2404.01261), table 3.
    """
    shares = {}
    for model in sorted({claim.model for claim in claims}):
        own = [claim.label for claim in claims if claim.model == model]
        shares[model] = {label: own.count(label) / len(own) for label in LABELS}
    return shares


def errors_by_position(
    claims: Sequence[Claim], text: str, parts: int = 10
) -> list[tuple[int, float | None]]:
    """Claims and the share of unfaithful ones ("No"), by where in the book their evidence stands.

    Args:
        text: The book; claims whose evidence is not quoted word by word are left out.
        parts: Equal parts of the book, at least 1.

    Returns:
        For each part the number of claims found there and their error rate, None without claims.

    Raises:
        ValueError: Less than one part.
    """
    if parts < 1:
        raise ValueError(f"parts must be at least 1, got {parts!r}")
    plain = " ".join(text.split())
    found: list[list[bool]] = [[] for _ in range(parts)]
    for claim in claims:
        places = depths(claim, plain)
        if places:
            found[int(min(places) * parts)].append(claim.label == "No")
    return [(len(part), sum(part) / len(part) if part else None) for part in found]


def depths(claim: Claim, plain: str) -> tuple[float, ...]:
    """Where in a book with single blanks the quoted passages begin, from 0 to below 1."""
    places = [plain.find(" ".join(quote.split())) for quote in claim.evidence]
    return tuple(place / len(plain) for place in places if place >= 0)


@dataclass(frozen=True)
class FABLES(Published):
    """Is a claim about a book faithful to it? The model rates, people's labels are the truth.

    Source: Kim et al., FABLES (arXiv:2404.01261), section 4: raters that read the whole book; only
    claims labelled yes or no count.
    Differs from the source: the prompt is worded by us; a book that is too long loses its middle;
    the published file has no kinds of claims, so they are told apart where a person's copy adds
    `type` to them, and otherwise by how many passages people quoted.

    Command: lengthwise measure MODEL --suite fables --data DIR

    Args:
        file: The annotations.
        books: Folder with a text file for each book, named as the book with `.txt`; the books are
            not published, and claims on those that are not there are left out.

    Raises:
        ValueError: A file in another format, or no book that it is about.
    """

    file: Path
    books: Path

    def __post_init__(self) -> None:
        self.rows()

    def rows(self) -> list[Row]:
        """All claims labelled yes or no on the books that are there, in the order of the file."""
        claims = [claim for claim in read_claims(self.file) if claim.label in ("Yes", "No")]
        if not claims:
            raise ValueError(f"{self.file} holds no claim labelled Yes or No")
        there = self._texts(claims)
        found = []
        for claim in claims:
            if claim.book not in there:
                continue
            book, plain = there[claim.book]
            places = depths(claim, plain)
            groups = {
                "people said": claim.label,
                "kind of claim": claim.kind,
                "evidence": claim.support,
                "part of the book": _part(places),
            }
            parts = (
                "This is a book.\n\n",
                book,
                f"\n\nClaim: {claim.claim}\nIs the claim true of the book? Reply Yes or No."
                "\nAnswer:",
            )
            record = {"book": claim.book, "model": claim.model}
            known = {name: group for name, group in groups.items() if group}
            one = Row(parts, (claim.label,), 8, record, ("Yes", "No"), known, places)
            found.append(one)
        return found

    def _texts(self, claims: Sequence[Claim]) -> dict[str, tuple[str, str]]:
        """The books that are there, as they are and with single blanks."""
        found = {}
        paths = {claim.book: self.books / f"{claim.book}.txt" for claim in claims}
        for book, path in paths.items():
            if not path.is_file():
                continue
            try:
                words = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"{path} cannot be read: {error}") from None
            found[book] = words, " ".join(words.split())
        if not found:
            book, path = next(iter(paths.items()))
            raise ValueError(f"the text of {book!r} is missing; expected {path}")
        return found

    def facts(self) -> list[str]:
        """What people found: shares of unfaithful claims by writer, kind, evidence and place."""
        claims = read_claims(self.file)
        books = self._texts(claims)
        every = len({claim.book for claim in claims})
        said = [
            f"FABLES: {len(books)} of {every} books are there; of claims people found unfaithful"
        ]
        for title, what in (
            ("by who wrote the summary", lambda claim: claim.model),
            ("by kind of claim", lambda claim: claim.kind),
            ("by evidence", lambda claim: claim.support),
            ("by part of the book", self._places(books)),
        ):
            shares = errors_by(claims, what)
            words = [f"{name} {share:.0%} of {count:,}" for name, (count, share) in shares.items()]
            said += [f"  {title}: {', '.join(words)}"] if words else []
        return said

    @staticmethod
    def _places(books: Mapping[str, tuple[str, str]]) -> Callable[[Claim], str]:
        def place(claim: Claim) -> str:
            return _part(depths(claim, books[claim.book][1])) if claim.book in books else ""

        return place

    def score(self, text: str, item: Item) -> float:
        """1 if the first word of the reply is the label, else 0."""
        words = text.split()
        return float(bool(words) and words[0].strip(".,:;!\"'").lower() == item.answer.lower())


def _part(places: Sequence[float]) -> str:
    """The part of the book in which the first quoted passage stands; empty where none is found."""
    if not places:
        return ""
    number = int(min(places) * _PARTS)
    return f"{100 * number // _PARTS}-{100 * (number + 1) // _PARTS}%"
