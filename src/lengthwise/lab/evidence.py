"""A claim of a paper, what was measured here, and the verdict: one kind of file for all of them.

A file holds what was found; the verdict and its reason follow from that by one rule, and a file
that says something else, or lacks something, is refused by name.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from lengthwise.files import write_text
from lengthwise.lab.claims import Claim

if TYPE_CHECKING:
    from lengthwise.measure.statistics.intervals import Interval

SCHEMA = 1
SHOWN, PARTLY, NOT_REPRODUCED = "shown", "partly", "not reproduced"
NOT_TESTED = "not tested"
VERDICTS = (SHOWN, PARTLY, NOT_REPRODUCED, NOT_TESTED)  # the best first
REAL = ("smollm2", "gemma3", "minilm")  # models that others made, as experiments/real_models.py
NO_MODEL = {"name": "none", "fingerprint": "none", "window": 0}  # of what is counted without one
AT_MOST, AT_LEAST = "at most", "at least"
FEWEST_ITEMS, FEWEST_SEEDS, FEWEST_TEXTS = 20, 3, 2  # of what is called shown


@dataclass(frozen=True)
class Finding:
    """One thing that a claim says, in numbers.

    Attributes:
        says: What would have to be true.
        value: What was measured; None where nothing could be measured.
        wanted: `at most` or `at least` the bound.
        bound: What the value is held against.
        low, high: The 95% interval of what was measured; None where it is not known. Of an exact
            count both are the value.
        of: How many items were found or failed behind a share; None of anything else.
        against: The control, where the value is the difference from it; otherwise empty.
    """

    says: str
    value: float | None
    wanted: str
    bound: float
    low: float | None = None
    high: float | None = None
    of: int | None = None
    against: str = ""

    @property
    def holds(self) -> bool:
        """Whether what was measured is on the right side of the bound."""
        return self._inside(self.value)

    @property
    def clear(self) -> bool:
        """Whether the whole interval is, so that chance is excluded."""
        return self.holds and self._inside(self.high if self.wanted == AT_MOST else self.low)

    def _inside(self, number: float | None) -> bool:
        if number is None:
            return False
        return number <= self.bound if self.wanted == AT_MOST else number >= self.bound

    def __str__(self) -> str:
        value = "not measured" if self.value is None else f"{self.value:.4g}"
        if self.low is not None and self.high is not None and self.low < self.high:
            value += f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.says}: {value}, wanted {self.wanted} {self.bound:.4g}"


def at_most(says: str, value: Any, bound: float, against: str = "", of: Any = None) -> Finding:
    """A finding that holds if the value, a number, an `Interval` or a `share`, is at most that."""
    return _finding(says, value, AT_MOST, bound, against, of)


def at_least(says: str, value: Any, bound: float, against: str = "", of: Any = None) -> Finding:
    """A finding that holds if the value, a number, an `Interval` or a `share`, is at least that."""
    return _finding(says, value, AT_LEAST, bound, against, of)


def surely_at_least(says: str, gap: "Interval", bound: float) -> Finding:
    """A finding that holds if the low end of the interval is at least the bound."""
    return Finding(says, gap.low, AT_LEAST, bound, gap.low, gap.high)


def _finding(
    says: str, value: Any, wanted: str, bound: float, against: str, of: int | None
) -> Finding:
    if value is None or isinstance(value, int | float):
        return Finding(says, value, wanted, bound, None, None, of, against)
    found = value if isinstance(value, Mapping) else vars(value)
    middle, of = found.get("share", found.get("value")), found.get("of", of)
    return Finding(says, middle, wanted, bound, found["low"], found["high"], of, against)


def share(found: float, of: int) -> dict[str, float]:
    """How many of the items were found, with the 95% interval of that share (Wilson's).

    Raises:
        ValueError: More were found than there are.
    """
    from lengthwise.measure.statistics.intervals import wilson

    interval = wilson(found, of)
    low, high = round(interval.low, 4), round(interval.high, 4)
    whole = int(found) if found == int(found) else found
    return {"found": whole, "of": of, "share": round(interval.value, 4), "low": low, "high": high}


def exact(finding: Finding) -> Finding:
    """The finding of a count that no sample stands behind: its interval is the value."""
    return Finding(**{**asdict(finding), "low": finding.value, "high": finding.value})


@dataclass(frozen=True)
class Evidence:
    """What was measured of one claim.

    Attributes:
        name: The file under the directory of evidence, as `extend/pi`.
        system, source, claim: Whose claim it is, and what it says in our words.
        command: What makes this file again.
        model: `name`, `fingerprint`, `window`, and whatever else it was made of.
        seeds: Of everything that was drawn.
        trained: Whether weights were trained or tuned for it.
        items: How many texts, passkeys and so on.
        numbers: All that was measured; shares of items as `share` writes them.
        findings: The claim in numbers.
        control: What was run beside it and must fail or do worse, in words.
        premise: What has to be so for the run to tell anything: that the control fails.
        untested: Why what was run is not what the paper claims; empty where it is.
        differences: What else the paper did that we did not.
        details: Settings, seconds, hardware, versions, date: what judges nothing.
    """

    name: str
    system: str
    source: str
    claim: str
    command: str
    model: Mapping[str, Any]
    seeds: Sequence[int]
    trained: bool
    items: Mapping[str, int]
    numbers: Mapping[str, Any]
    findings: Sequence[Finding]
    control: str = ""
    premise: Finding | None = None
    untested: str = ""
    differences: Sequence[str] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """`shown` if all findings hold and nothing is lacking, `partly` if at least half hold.

        `not tested` where what was run is not what the paper claims or the control did not fail,
        and otherwise `not reproduced`.
        """
        if self.untested or (self.premise is not None and not self.premise.holds):
            return NOT_TESTED
        held = sum(finding.holds for finding in self.findings)
        if held == len(self.findings) and not self.lacking:
            return SHOWN
        return PARTLY if 2 * held >= len(self.findings) else NOT_REPRODUCED

    @property
    def reason(self) -> str:
        """Why the verdict is not `shown`; empty where it is."""
        if self.shown:
            return ""
        parts = [self.untested]
        if self.premise is not None and not self.premise.holds:
            parts.append(f"the control did not fail: {self.premise}")
        parts += [f"not: {finding}" for finding in self.findings if not finding.holds]
        parts += [f"lacks {words}" for words in self.lacking]
        parts += [f"differs: {words}" for words in self.differences]
        return "; ".join(filter(None, parts))

    @property
    def lacking(self) -> list[str]:
        """What the file would have to hold besides before anybody had to believe it."""
        found = [finding for finding in (self.premise, *self.findings) if finding is not None]
        texts = self.items.get("texts", FEWEST_TEXTS)
        few = any(one.of is not None and one.of < FEWEST_ITEMS for one in found)
        beside = self.premise is not None or any(one.against for one in self.findings)
        wrong = {
            "a claim": not self.claim,
            "a command": not self.command,
            "the model's fingerprint": not self.model.get("fingerprint"),
            "numbers": not self.numbers,
            "a control that does worse": not (self.control and beside),
            "an interval that excludes chance": not all(finding.clear for finding in found),
            f"at least {FEWEST_ITEMS} items": few,
            f"at least {FEWEST_TEXTS} texts": texts < FEWEST_TEXTS,
            f"at least {FEWEST_SEEDS} seeds": self.trained and len(set(self.seeds)) < FEWEST_SEEDS,
        }
        return [words for words, missing in wrong.items() if missing]

    @property
    def shown(self) -> bool:
        """Whether one command makes the claim come out, beside a control, with chance excluded."""
        return self.verdict == SHOWN

    @property
    def real(self) -> bool:
        """Whether the model is one that others made for use."""
        return str(self.model["name"]).split()[0] in REAL

    def record(self) -> dict[str, Any]:
        """As the file holds it."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        details = values.pop("details")
        values["premise"] = None if self.premise is None else _written(self.premise)
        values["findings"] = [_written(finding) for finding in self.findings]
        judged = {"verdict": self.verdict, "reason": self.reason}
        return {"lengthwise_evidence": SCHEMA, **values, **judged, "details": details}


def _written(finding: Finding) -> dict[str, Any]:
    return {**asdict(finding), "holds": finding.holds}


def of(
    claim: Claim,
    *,
    model: Mapping[str, Any],
    numbers: Mapping[str, Any],
    findings: Sequence[Finding],
    items: Mapping[str, int],
    seeds: Sequence[int] = (0,),
    trained: bool = False,
    control: str = "",
    premise: Finding | None = None,
    command: str = "",
    **details: Any,
) -> Evidence:
    """The evidence of a claim; where, with what and when it was made goes into the details."""
    from datetime import date

    import torch

    from lengthwise.measure.run.environment import hardware, versions

    made = {"hardware": hardware(torch.device("cpu")), "versions": versions()}
    return Evidence(
        claim.name, claim.system, claim.source, claim.claim, command or claim.command, model,
        tuple(seeds), trained, items, numbers, tuple(findings), control, premise, claim.untested,
        claim.differences, {**details, **made, "date": date.today().isoformat()},
    )  # fmt: skip


def place(root: Path, name: str) -> Path:
    """The file of a claim under the directory of all evidence."""
    return root / f"{name}.json"


def write(root: Path, evidence: Evidence) -> Path:
    """Write the file of a claim, whole or not at all; one that could not be read is not written.

    Raises:
        ValueError: What `load` would refuse.
    """
    path = place(root, evidence.name)
    text = _lines(evidence.record()) + "\n"
    _read(json.loads(text), path)
    write_text(path, text)
    return path


def _lines(value: Any, depth: int = 0) -> str:
    """JSON in which whatever fits on a line stands on one."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list | tuple) or len(flat) + depth < 90:
        return flat
    gap, end = "\n" + " " * (depth + 1), "\n" + " " * depth
    if isinstance(value, dict):  # keys may be numbers, which JSON writes as words
        pairs = (f"{json.dumps({k: 0})[1:-4]}: {_lines(v, depth + 1)}" for k, v in value.items())
        return "{" + gap + f",{gap}".join(pairs) + end + "}"
    if all(isinstance(one, int | float) for one in value):
        return "[" + gap + gap.join(wrap(flat[1:-1], 88)) + end + "]"
    return "[" + gap + f",{gap}".join(_lines(one, depth + 1) for one in value) + end + "]"


def load(path: Path) -> Evidence:
    """Read a file of evidence.

    Raises:
        ValueError: With the file's name: it is not there, damaged, of another schema, lacks
            something, or its verdict is not what its findings say.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as evidence: {error}") from None
    return _read(record, path)


def load_all(root: Path) -> list[Evidence]:
    """All evidence under a directory, sorted by name.

    Raises:
        ValueError: There is none, or a file is refused.
    """
    files = sorted(root.glob("*/*.json"))
    if not files:
        raise ValueError(f"there is no evidence in {root}; it lies beside the sources, and "
                         "`lengthwise lab reproduce` makes it")  # fmt: skip
    found = [load(path) for path in files]
    for path, one in zip(files, found, strict=True):
        if place(root, one.name) != path:
            raise ValueError(f"{path} holds the evidence of {one.name!r}; that is another file")
    return found


def _read(record: Any, path: Path) -> Evidence:
    version = record.get("lengthwise_evidence") if isinstance(record, dict) else None
    if version != SCHEMA:
        raise ValueError(f"{path} is no evidence that this release reads: lengthwise_evidence "
                         f"must be {SCHEMA}, got {version!r}")  # fmt: skip
    kinds: dict[str, type | tuple[type, ...]] = {
        "name": str, "system": str, "source": str, "claim": str, "command": str, "model": dict,
        "seeds": list, "trained": bool, "items": dict, "numbers": dict, "findings": list,
        "control": str, "premise": (dict, type(None)), "untested": str, "differences": list,
        "details": dict,
    }  # fmt: skip
    for name, kind in kinds.items():
        if name not in record or not isinstance(record[name], kind):
            raise ValueError(f"{path}: {name} is missing or of another kind than it must be")
    values = {name: record[name] for name in kinds}
    for name in ("name", "system", "source", "claim", "command", "numbers", "findings"):
        if not values[name]:
            raise ValueError(f"{path}: {name} is empty")
    if lacking := {"name", "fingerprint", "window"} - set(values["model"]):
        raise ValueError(f"{path}: model lacks {', '.join(sorted(lacking))}")
    values["findings"] = tuple(_found(one, path) for one in values["findings"])
    if values["premise"] is not None:
        values["premise"] = _found(values["premise"], path)
    evidence = Evidence(**values)
    for name in ("verdict", "reason"):
        said, follows = record.get(name), getattr(evidence, name)
        if said != follows:
            raise ValueError(f"{path}: its {name} is {said!r}, but {follows!r} follows from it")
    return evidence


def _found(record: Any, path: Path) -> Finding:
    names = {one.name for one in fields(Finding)} | {"holds"}
    if isinstance(record, dict):
        record = {"against": "", **record}  # which older files lack
    if not isinstance(record, dict) or set(record) != names:
        raise ValueError(f"{path}: a finding has {', '.join(sorted(names))}, got {record!r}")
    for name in ("value", "bound", "low", "high"):
        number, may_lack = record[name], name != "bound"
        if number is None and may_lack:
            continue
        if type(number) not in (int, float) or not math.isfinite(number):
            raise ValueError(f"{path}: {record['says']!r}: {name} must be a finite number")
    if record["of"] is not None and (type(record["of"]) is not int or record["of"] < 1):
        raise ValueError(f"{path}: {record['says']!r}: of must be a number of items or null")
    if record["wanted"] not in (AT_MOST, AT_LEAST):
        raise ValueError(f"{path}: {record['says']!r}: wanted must be {AT_MOST!r} or {AT_LEAST!r}")
    finding = Finding(**{name: value for name, value in record.items() if name != "holds"})
    ends = [x for x in (finding.low, finding.value, finding.high) if x is not None]
    if ends != sorted(ends):
        raise ValueError(f"{path}: {finding.says!r}: {finding.value} is outside its interval")
    if finding.holds != record["holds"]:
        raise ValueError(f"{path}: {finding.says!r} holds: {record['holds']!r} is not what follows")
    return finding
