"""What may follow a task's name: `lveval:confusing=0/4/8,replaced=false`; read without torch.

Values behind `/` are tasks of their own, each under the options that it was given, so that a curve
over an option is one name.
"""

import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from lengthwise.names import FAMILIES, GRIDS, READINGS
from lengthwise.outline import outline
from lengthwise.specs import READERS, hint, options, pairs, read

_ELSEWHERE = ("text", "filler")  # what --text gives
Values = dict[str, Any]


def class_of(name: str) -> str:
    """The class of a task's name."""
    return next(cls for prefix, cls in FAMILIES.items() if name.startswith(prefix))


def settings(spec: str) -> dict[str, Values]:
    """From the names of what a spec asks for to their options.

    Raises:
        ValueError: Options of what has none, an unknown option, a value that is none or out of
            range, or a file that is missing.
    """
    name, _, rest = spec.partition(":")
    grid: Mapping[str, tuple[str, ...]] = GRIDS.get(name, {})
    if not rest and not grid:
        return {name: _checked(name, {}) if name == "longsafety" else {}}
    if name in READINGS or (name not in GRIDS and not _is_task(name)):
        raise ValueError(f"--suite: {name} has no options; only single tasks have")
    known = {
        key: option
        for key, option in options(outline("lengthwise.measure.tasks", class_of(name))).items()
        if key not in _ELSEWHERE
    }
    given = pairs(f"--suite: {name}", rest.split(",") if rest else (), f"{name}:option=value")
    swept: dict[str, list[str]] = {key: list(values) for key, values in grid.items()}
    for key, words in given.items():
        if key not in known:
            listed = ", ".join(map(str, known.values()))
            said = hint(key, known, f"its options: {listed}")
            raise ValueError(f"--suite: {name} has no option {key!r}; {said}")
        alone = known[key].kind.startswith(("Path", "tuple"))
        swept[key] = [words] if alone else [one.strip() for one in words.split("/")]
    found = {}
    for combination in product(*swept.values()):
        written = dict(zip(swept, combination, strict=True))
        values = {key: _value(name, key, known[key].kind, one) for key, one in written.items()}
        called = f"{name}:" + ",".join(f"{key}={one}" for key, one in written.items())
        found[called] = _checked(name, values)
    return found


def _is_task(name: str) -> bool:
    return any(name.startswith(prefix) for prefix in FAMILIES)


def _value(name: str, key: str, kind: str, words: str) -> Any:
    """A value from its words, by the type of the option."""
    if kind.endswith(" | None"):
        if words.lower() == "none":
            return None
        kind = kind.removesuffix(" | None")
    if kind == "Path":
        return Path(words)
    if kind.startswith("Literal"):
        return words  # the class says which there are
    kind = re.sub(r"^tuple\[int, int\]$", "tuple[int, ...]", kind)
    assert kind in READERS, kind
    return read(f"--suite: {name}: {key}", kind, words)


def _checked(name: str, values: Values) -> Values:
    """The values, which the class takes."""
    cls = class_of(name)
    if name == "longsafety" and "file" not in values:
        raise ValueError(
            "--suite: longsafety has no instructions of its own; write longsafety:file=FILE, JSON "
            "lines of instruction and category"
        )
    known = outline("lengthwise.measure.tasks", cls)
    needed: Values = {"filler": "a"} if cls == "Passkey" else {}
    if "position" in values and "grouped" not in values and "grouped" in name:
        needed["grouped"] = True  # as the name says
    known(**needed, **values)
    return values
