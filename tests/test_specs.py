"""What is written by name and option: outlines agree with the classes that they stand for."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

from lengthwise import catalogue
from lengthwise.outline import outline
from lengthwise.train import named

VALUES: dict[str, tuple[Any, ...]] = {
    "int": (-1, 0, 1, 2, 3, 4, 7, 8, 64, 100_000, True),
    "float": (-1.0, 0.0, 0.5, 1.0, 2.0, 64.0, math.inf, math.nan, "2"),
    "tuple[int, ...]": ((), (-1,), (0,), (1,), (5, 5), (7, 9)),
    "tuple[float, ...]": ((), (0.0,), (1.0, 1.0), (2.0, 4.0), (math.nan,)),
    "tuple[tuple[float, ...], ...]": ((), ((),), ((0.0,),), ((1.0,), (1.0, 2.0)), ((2.0, 3.0),)),
    "str": ("all", "head", "nowhere"),
}
ROOMS = [catalogue.room(), *map(named.room, ("transform", "layout", "objective", "memory"))]


def outcome(make: Callable[..., object], given: dict[str, Any]) -> str:
    """What is built, or why it is not."""
    try:
        return repr(make(**given))
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def test_outlines_refuse_what_the_classes_refuse_in_the_same_words() -> None:
    tried = refused = 0
    for room in ROOMS:
        assert len(room.homes) >= 4, room
        for name, home in room.homes.items():
            alone, cls = outline(home, name), room.find(name)
            assert alone is not cls and alone.__doc__ == cls.__doc__
            fields = {field.name: field for field in dataclasses.fields(alone)}
            assert list(fields) == [field.name for field in dataclasses.fields(cls)]
            start = {}
            for one, field in fields.items():
                if field.default is dataclasses.MISSING:
                    start[one] = VALUES.get(str(field.type), (None,))[-1]
                else:
                    assert repr(field.default) == repr(getattr(cls, one))
            known = {one: VALUES[str(f.type)] for one, f in fields.items() if f.type in VALUES}
            for first, second in itertools.combinations_with_replacement(known, 2):
                for a, b in itertools.product(known[first], known[second]):
                    given = {**start, first: a, second: b}
                    found = outcome(cls, given)
                    assert outcome(alone, given) == found, (name, given)
                    tried, refused = tried + 1, refused + ("Error: " in found)
    assert tried > 5000 and refused > 1000


def test_checks_and_classes_take_the_same_words() -> None:
    for words in ("logtemperature:over=yarn:factor=8", "streamingllm:budget=64", "yarn:factor=2"):
        assert repr(catalogue.room().check(words)) == repr(catalogue.room().parse(words))
    layout = named.room("layout")
    assert repr(layout.check("bigbird")) == repr(layout.parse("bigbird"))
    assert layout.check("shiftedsparse:group={group}") is None
