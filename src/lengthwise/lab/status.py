"""One row a claim: what `lengthwise lab status` prints and docs/evidence.md holds."""

from dataclasses import dataclass
from pathlib import Path

from lengthwise.lab.claims import Claim, claims
from lengthwise.lab.evidence import Evidence, load_all

NONE = "no evidence yet"


@dataclass(frozen=True)
class Row:
    """A claim and its evidence, None where there is none yet."""

    claim: Claim
    evidence: Evidence | None

    @property
    def verdict(self) -> str:
        return NONE if self.evidence is None else self.evidence.verdict

    @property
    def state(self) -> str:
        """`shown`, or how many things are missing for that."""
        if self.evidence is None or self.evidence.shown:
            return "shown" if self.evidence else ""
        return f"lacks {len(self.evidence.lacking)}"

    @property
    def command(self) -> str:
        return self.claim.command if self.evidence is None else self.evidence.command

    @property
    def file(self) -> str:
        """Under the directory of evidence; empty where there is none."""
        return "" if self.evidence is None else f"{self.claim.name}.json"


def rows(root: Path) -> list[Row]:
    """All claims in the order of their table.

    Raises:
        ValueError: A file is refused, or holds the evidence of a claim that is not in the table.
    """
    found = {one.name: one for one in load_all(root)}
    if unknown := sorted(found.keys() - claims().keys()):
        raise ValueError(
            f"{root / unknown[0]}.json is of no claim that `lengthwise lab list` names"
        )
    return [Row(claim, found.get(name)) for name, claim in claims().items()]
