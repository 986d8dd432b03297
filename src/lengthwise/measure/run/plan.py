"""The first line of a file of results, what all rows have in common; read without torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lengthwise.measure.run.appending import is_a, parsed

FORMAT = 2
# What a plan must hold for a report to be made of it.
PLAN: Mapping[str, Any] = {
    "reader": Mapping[str, Any], "seed": int, "text": str, "adaptive": bool, "batch": int,
    "threshold": float,
}  # fmt: skip
_AGAIN = "measure again, into another directory or with --force"


def read_plan(path: Path, instead: str = "name another file") -> dict[str, Any]:
    """The plan of a file of results.

    Args:
        instead: What somebody is told to do whose file is none.

    Raises:
        ValueError: Not such a file, one of another version, or a plan that is damaged.
    """
    with open(path, "rb") as file:
        first = file.readline()
    plan = parsed(first) if first.endswith(b"\n") else None
    version = None
    for key in ("lengthwise_results", "lengthwise_suite"):  # the latter before format 2
        version = (plan or {}).get(key, version)
    if plan is None or version is None:
        raise ValueError(f"{path} is no file of results; {instead}")
    if version != FORMAT:
        raise ValueError(
            f"{path} was written by another version of lengthwise (format {version!r:.60}, this "
            f"one reads {FORMAT}); {_AGAIN}"
        )
    for key, hint in PLAN.items():
        if not is_a(plan.get(key), hint):
            raise ValueError(
                f"{path}: line 1 is damaged, its {key} is {plan.get(key)!r:.60}; {_AGAIN}"
            )
    return plan
