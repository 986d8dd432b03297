"""A claim of a paper, what was measured here, and the verdict: one JSON file a method."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengthwise.files import write_text

VERDICTS = ("reproduced", "partly", "not reproduced")


@dataclass(frozen=True)
class Finding:
    """One thing that a claim says, in numbers.

    Attributes:
        says: What would have to be true.
        value, bound: What was measured, and the bound that it is held against; None where nothing
            could be measured.
        holds: Whether it is.
    """

    says: str
    value: float | None
    bound: float
    holds: bool


def at_most(says: str, value: float | None, bound: float) -> Finding:
    """A finding that holds if the value is at most the bound."""
    return Finding(says, value, bound, value is not None and value <= bound)


def at_least(says: str, value: float | None, bound: float) -> Finding:
    """A finding that holds if the value is at least the bound."""
    return Finding(says, value, bound, value is not None and value >= bound)


def verdict(findings: Sequence[Finding]) -> str:
    """`reproduced` if all of them hold, `partly` if at least half do, otherwise `not reproduced`.

    Raises:
        ValueError: Without findings.
    """
    if not findings:
        raise ValueError("a verdict needs at least one finding")
    held = sum(finding.holds for finding in findings)
    if held == len(findings):
        return VERDICTS[0]
    return VERDICTS[1] if 2 * held >= len(findings) else VERDICTS[2]


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Write a file of evidence, whole or not at all."""
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
