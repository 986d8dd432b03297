"""LongProc's translation: a program told line by line in words, written as code."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import haystack, new_from
from lengthwise.measure.tasks.exact import Pages, Tokens
from lengthwise.measure.tasks.longproc.procedure import Procedure, behind
from lengthwise.measure.tasks.longproc.program import ProgramError, outputs

_INPUTS = ("a", "b", "c")
_NAMES = (*_INPUTS, "d", "e", "f")
_TESTS = 6
_MODULUS = 997
_COMPARED = {"<": "less than", ">": "greater than", "==": "equal to"}
_FENCE = re.compile(r"<Code>\n?(.*?)(?:</Code>|\Z)|```(?:python)?\n(.*?)(?:```|\Z)", re.DOTALL)

Told = tuple[str, str]  # a line in words, and as code


@dataclass(frozen=True)
class PseudoToCode(Procedure):
    """Write a function in Python from a description of every line of it.

    Source: Ye et al., LongProc (arXiv:2501.05414), section 2, pseudocode to code: a program line by
    line; 1 if it gives the right output on all tests, else 0.
    Differs from the source: programs are generated, in a part of Python instead of C++, and carried
    out by our own interpreter, so that nothing a model writes is ever run; as long as the budget
    allows in the model's own tokens, and more length means more sentences before.

    Args:
        budget: Tokens of output: 512, 2048 and 8192 are the source's levels.

    Raises:
        ValueError: A budget out of range.
    """

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """A program; the haystack grows by sentences."""
        blocks, written = new_from(rng), [_block(new_from(rng))]

        def lines(count: int) -> list[Told]:
            while sum(map(len, written)) < count:
                written.append(_block(blocks))
            begun, whole = list[Told](), 0
            for block in written:  # no block is cut in two
                if whole and whole + len(block) > count:
                    break
                begun += block
                whole += len(block)
            return begun

        def code(count: int) -> str:
            body = [*_START, *lines(count), *_END]
            head = f"def program({', '.join(_INPUTS)}):"
            return "\n".join(["<Code>", head, *(line for _, line in body if line), "</Code>"])

        count = self.longest(code, tokens)
        answer = code(count)
        told = [words for words, _ in [*_START, *lines(count), *_END] if words]
        context = "\n".join(f"{i}. {line}" for i, line in enumerate(told, 1))
        units = haystack(None, rng)
        tests = [[rng.randint(1, 99) for _ in _INPUTS] for _ in range(_TESTS)]
        wanted = [outputs(_extracted(answer), test) for test in tests]
        record = {"told": told, "tests": tests, "wanted": wanted}
        tail = (
            "\nWrite this program in Python: a function `program` with the inputs "
            f"{', '.join(_INPUTS)}, line by line as above. Whole numbers only, no other functions "
            "but print and range. Put the code between <Code> and </Code>.\n"
        )
        return behind(units, "Notes, and a program in words.\n", [context], tail, answer, record)

    def score(self, text: str, item: Item) -> float:
        """1 if the program prints what it should for all tests, else 0."""
        tests, wanted = item.record["tests"], item.record["wanted"]
        try:
            found = [outputs(_extracted(text), test) for test in tests]
        except ProgramError:
            return 0.0
        return float(found == wanted)

    def oracle(self, record: Mapping[str, Any]) -> str:
        """Translates the words back, line by line."""
        body, depth = list[str](), 1
        for words in record["told"]:
            if words.startswith("End of"):
                depth -= 1
                continue
            outer = depth - (words == "Otherwise:")
            body.append("    " * outer + _translated(words))
            depth = outer + words.endswith(":")
        return "\n".join(["<Code>", f"def program({', '.join(_INPUTS)}):", *body, "</Code>"])

    def guess(self, item: Item, rng: random.Random) -> str:
        """A program that prints one number; every right one prints more."""
        return f"def program({', '.join(_INPUTS)}):\n    print({rng.choice(_INPUTS)} + 1)"


_START: list[Told] = [
    (f"Set {name} to {value}.", f"    {name} = {value}")
    for value, name in enumerate(_NAMES[len(_INPUTS) :], 1)
]
_END: list[Told] = [(f"Print {name}.", f"    print({name})") for name in _NAMES]


def _block(rng: random.Random) -> list[Told]:
    """A statement, or a condition or a loop with statements inside."""
    kind = rng.random()
    if kind < 0.55:
        return [_assignment(rng, 1)]
    if kind < 0.7:
        name = rng.choice(_NAMES)
        return [(f"Print {name}.", f"    print({name})")]
    if kind < 0.85:
        times = rng.randint(2, 5)
        inner = [_assignment(rng, 2) for _ in range(rng.randint(1, 3))]
        head = (f"Repeat {times} times:", f"    for _ in range({times}):")
        return [head, *inner, ("End of the loop.", "")]
    sign, other = rng.choice([*_COMPARED]), rng.choice([*_NAMES, str(rng.randint(1, 500))])
    name = rng.choice([name for name in _NAMES if name != other])
    head = (f"If {name} is {_COMPARED[sign]} {other}:", f"    if {name} {sign} {other}:")
    then = [_assignment(rng, 2) for _ in range(rng.randint(1, 2))]
    otherwise = [("Otherwise:", "    else:"), _assignment(rng, 2)] if rng.random() < 0.5 else []
    return [head, *then, *otherwise, ("End of the condition.", "")]


def _assignment(rng: random.Random, depth: int) -> Told:
    """A change that can be undone, so that what went before still shows at the end."""
    name = rng.choice(_NAMES)
    other = rng.choice([one for one in _NAMES if one != name])
    number, indent = rng.randint(2, 9), "    " * depth
    remainder = f"Set {name} to the remainder of {name}"
    words, code = rng.choice(
        [
            (f"Increase {name} by {number}.", f"{name} += {number}"),
            (f"Decrease {name} by {number}.", f"{name} -= {number}"),
            (
                f"{remainder} times {number}, divided by {_MODULUS}.",
                f"{name} = {name} * {number} % {_MODULUS}",
            ),
            (
                f"{remainder} plus {other}, divided by {_MODULUS}.",
                f"{name} = ({name} + {other}) % {_MODULUS}",
            ),
        ]
    )
    return words, indent + code


def _translated(words: str) -> str:
    """The code of a line in words, without its indentation."""
    compared = "|".join(_COMPARED.values())
    signs = {called: sign for sign, called in _COMPARED.items()}
    patterns: Sequence[tuple[str, str]] = [
        (r"Set (\w) to (\w+)\.", r"\1 = \2"),
        (
            r"Set (\w) to the remainder of (\w) plus (\w), divided by (\d+)\.",
            r"\1 = (\2 + \3) % \4",
        ),
        (
            r"Set (\w) to the remainder of (\w) times (\d+), divided by (\d+)\.",
            r"\1 = \2 * \3 % \4",
        ),
        (r"Increase (\w) by (\d+)\.", r"\1 += \2"),
        (r"Decrease (\w) by (\d+)\.", r"\1 -= \2"),
        (r"Print (\w)\.", r"print(\1)"),
        (r"Repeat (\d) times:", r"for _ in range(\1):"),
        (r"Otherwise:", "else:"),
    ]
    for pattern, code in patterns:
        if re.fullmatch(pattern, words):
            return re.sub(pattern, code, words)
    found = re.fullmatch(rf"If (\w) is ({compared}) (\w+):", words)
    assert found is not None, words
    return f"if {found[1]} {signs[found[2]]} {found[3]}:"


def _extracted(text: str) -> str:
    """The code in tags or a fence, or the whole text."""
    found = _FENCE.search(text)
    if found is None:
        return text.strip("\n")
    return next(part for part in found.groups() if part is not None)
