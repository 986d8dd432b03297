"""Names of methods, suites and files, told apart without torch, whose import takes seconds.

Importing a method imports torch; what is exported stands in the rooms' own `__init__.py`.
"""

import ast
import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path

ROOMS = ("scaling", "layouts", "selectors", "stores")
PLAIN = "plain"
TASKS = ("loss", "passkey", "speed")  # of a measurement
SUITES = ("quick", "ruler", "effective", "full")
SUITE_FILE, LOCK = "suite.jsonl", ".lock"  # in the folder of a suite


@cache
def exported() -> dict[str, str]:
    """Every method, axis by axis: its name in plain letters, and as it is exported."""
    names: list[str] = []
    for room in ROOMS:
        file = Path(__file__).parent / "extend" / room / "__init__.py"
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names += ast.literal_eval(node.value)
    return {plain_letters(name): name for name in names}


def plain_letters(name: str) -> str:
    """SelfExtend, self-extend and self_extend are one."""
    return re.sub(r"[\W_]", "", name).lower()


def known(name: str) -> str:
    """The method of that name, as it is exported.

    Raises:
        ValueError: If there is none; the message names the nearest.
    """
    names = exported()
    wanted = plain_letters(name)
    if wanted in names:
        return names[wanted]
    near = get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = f"did you mean {names[near[0]]}? " if near else ""
    raise ValueError(f"unknown method {name!r}; {hint}Methods: {', '.join(names.values())}")


def pieces(words: str) -> list[str]:
    """The methods that a specification joins by `+`, each as `name:option=value`.

    Raises:
        ValueError: For an empty or unknown name, and for `plain` beside others.
    """
    if plain_letters(words) == PLAIN:
        return []
    # A plus sign inside a number (1e+3) is followed by a digit.
    found = [piece.strip() for piece in re.split(r"\+(?!\d)", words)]
    if not all(found):
        raise ValueError(
            f"{words!r} names no method; write one as yarn:factor=8, several as "
            f"yarn:factor=8+streamingllm, none as {PLAIN}"
        )
    if any(plain_letters(piece) == PLAIN for piece in found):
        raise ValueError(f"{words!r}: {PLAIN} means no method, so it stands alone")
    for piece in found:
        known(piece.partition(":")[0].strip())
    return found
