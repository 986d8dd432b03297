"""One row a claim: what `lengthwise lab status` prints and docs/evidence.md holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengthwise.lab.claims import Claim, claims
from lengthwise.lab.evidence import NOT_TESTED, VERDICTS, Evidence, load_all

BUNDLED, REAL = "bundled", "real"


@dataclass(frozen=True)
class Row:
    """A claim and the evidence of all its experiments.

    Attributes:
        claim: The first entry of the claim in the table.
        evidence: From the name of an experiment to its evidence, the best verdict first; empty
            where there is none yet.
    """

    claim: Claim
    evidence: Mapping[str, Evidence]

    @property
    def best(self) -> Evidence | None:
        """The evidence that says most for the claim: a model that cannot show it says nothing."""
        return next(iter(self.evidence.values()), None)

    @property
    def state(self) -> str:
        """The verdict of the best evidence: one of `VERDICTS`."""
        return NOT_TESTED if self.best is None else self.best.verdict

    @property
    def reason(self) -> str:
        """Why the claim is not shown; empty where it is."""
        return "nothing is held against it yet" if self.best is None else self.best.reason

    @property
    def command(self) -> str:
        """What makes the best evidence, or would make the first; empty where nothing does."""
        return self.claim.command if self.best is None else self.best.command

    def on(self, kind: str) -> str:
        """The verdict on models that are `bundled` or trained for it, or `real`; else empty."""
        found = [one.verdict for one in self.evidence.values() if one.real == (kind == REAL)]
        return next(iter(found), "")

    def record(self) -> dict[str, Any]:
        """As `lengthwise lab status --json` prints it."""
        return {
            "name": self.claim.name, "system": self.claim.system, "claim": self.claim.claim,
            "source": self.claim.source, "state": self.state, BUNDLED: self.on(BUNDLED),
            REAL: self.on(REAL), "command": self.command, "reason": self.reason,
            "files": [f"{name}.json" for name in self.evidence],
        }  # fmt: skip


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
    made: dict[str, dict[str, Evidence]] = {
        claim.name: {} for claim in claims().values() if not claim.of
    }
    # Of files that say the same the first experiment's comes first.
    for name in sorted(found, key=lambda n: (VERDICTS.index(found[n].verdict), n not in made)):
        made[claims()[name].of or name][name] = found[name]
    return [Row(claims()[name], evidence) for name, evidence in made.items()]
