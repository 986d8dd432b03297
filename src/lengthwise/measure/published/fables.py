"""FABLES: claims about books with labels of people, from a person's own copy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengthwise.measure.published.base import Published, Row
from lengthwise.measure.run.json_lines import parse, text, texts
from lengthwise.measure.tasks.base import Item

LABELS = ("Yes", "No", "PartialSupport", "Inapplicable")


@dataclass(frozen=True)
class Claim:
    """A claim of a summary: its book, who wrote the summary, the label and quoted evidence."""

    book: str
    model: str
    claim: str
    label: str
    evidence: tuple[str, ...]


def read_claims(file: Path) -> list[Claim]:
    """Reads `{"FABLES": {book: {model: {"claims": {number: {claim, label, evidence}}}}}}`.

    Raises:
        ValueError: A file in another format, or an unknown label.
    """
    try:
        data = parse(file.read_text(encoding="utf-8"))
        books = data.get("FABLES", data)
        claims = [
            Claim(book, model, text(row, "claim"), text(row, "label"), _evidence(row))
            for book, models in books.items()
            for model, summary in models.items()
            for row in summary["claims"].values()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is no file of FABLES: {error!r}") from None
    unknown = sorted({claim.label for claim in claims} - {*LABELS})
    if unknown or not claims:
        raise ValueError(f"{file}: labels must be {', '.join(LABELS)}, got {unknown or 'no claim'}")
    return claims


def _evidence(row: Mapping[str, Any]) -> tuple[str, ...]:
    quoted = row.get("evidence", [])
    found = [quoted] if isinstance(quoted, str) else quoted
    return () if found == [] else texts({"evidence": found}, "evidence")


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
        places = [plain.find(" ".join(quote.split())) for quote in claim.evidence if quote.strip()]
        places = [place for place in places if place >= 0]
        if places:
            part = min(places) * parts // max(len(plain), 1)
            found[part].append(claim.label == "No")
    return [(len(part), sum(part) / len(part) if part else None) for part in found]


@dataclass(frozen=True)
class FABLES(Published):
    """Is a claim about a book faithful to it? The model rates, people's labels are the truth.

    Source: Kim et al., FABLES (arXiv:2404.01261), section 4: raters that read the whole book; only
    claims labelled yes or no count.
    Differs from the source: the prompt is worded by us; a book that is too long loses its middle.

    Args:
        file: The annotations.
        books: Folder with a text file for each book, named as the book with `.txt`.

    Raises:
        ValueError: A file in another format, or a book that is not there.
    """

    file: Path
    books: Path

    def __post_init__(self) -> None:
        self.rows()

    def rows(self) -> list[Row]:
        """All claims labelled yes or no, in the order of the file."""
        texts: dict[str, str] = {}
        found = []
        for claim in read_claims(self.file):
            if claim.label not in ("Yes", "No"):
                continue
            if claim.book not in texts:
                path = self.books / f"{claim.book}.txt"
                if not path.is_file():
                    raise ValueError(f"the text of {claim.book!r} is missing; expected {path}")
                try:
                    texts[claim.book] = path.read_text(encoding="utf-8")
                except (OSError, UnicodeDecodeError) as error:
                    raise ValueError(f"{path} cannot be read: {error}") from None
            prompt = (
                f"This is a book.\n\n{texts[claim.book]}\n\nClaim: {claim.claim}\nIs the claim "
                "true of the book? Reply Yes or No.\nAnswer:"
            )
            record = {"book": claim.book, "model": claim.model}
            found.append(Row(prompt, (claim.label,), 8, record, ("Yes", "No")))
        if not found:
            raise ValueError(f"{self.file} holds no claim labelled Yes or No")
        return found

    def score(self, text: str, item: Item) -> float:
        """1 if the first word of the reply is the label, else 0."""
        words = text.split()
        return float(bool(words) and words[0].strip(".,:;!\"'").lower() == item.answer.lower())
