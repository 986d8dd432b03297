"""Every layout of the patterns passes the contract suite of its axis."""

import pytest

from lengthwise.extend.method import Layout
from lengthwise.testing import Case, parametrize
from lengthwise.train import patterns
from lengthwise.train.patterns import (
    BigBird,
    BlockLocal,
    Dilated,
    Groups,
    SinkWindow,
    StridedBlocks,
)

TWICE = (
    "a key that a query meets at two rates counts twice, which the table of pairs cannot say: "
    "tests/train/patterns/test_dense.py"
)
COUNTED_TWICE = {
    "check_oracle": TWICE,
    "check_geometries": TWICE,
    "check_bfloat16": TWICE,
    "check_regions_are_disjoint": "its regions overlap on purpose, see check_oracle",
}
CASES = [
    Case((Groups(group=8),), 8, (Groups(group=64),)),
    Case((Groups(group=8, shift=5),), 8, (Groups(group=64, shift=41),)),
    Case((BlockLocal(block=6),), 6, (BlockLocal(block=20),)),
    Case((SinkWindow(sinks=3, window=8),), 8, (SinkWindow(sinks=3, window=40),)),
    Case(
        (StridedBlocks(block=3, stride=4, sinks=2, window=7),),
        7,
        (StridedBlocks(block=3, stride=1, sinks=2, window=7),),
    ),
    Case((BigBird(block=4, window=2, globals=1, random=2),), 8, (BigBird(block=8, window=5),)),
    Case((BigBird(block=3, window=1, globals=0, random=3, seed=5),), 9, (BigBird(block=40),)),
    Case(
        (Dilated(segments=(6, 12, 24), rates=(1, 2, 3), head=4),),
        6,
        (Dilated(segments=(64,), rates=(1,)),),
        except_for=COUNTED_TWICE,
    ),
]


def name(value):
    return value.name if isinstance(value, Case) else value.__name__.removeprefix("check_")


@pytest.mark.parametrize(*parametrize(CASES), ids=name)
def test_contract(case, check):
    check(case)


def test_every_exported_layout_has_a_case():
    exported = [getattr(patterns, n) for n in patterns.__all__]
    layouts = {one for one in exported if isinstance(one, type) and issubclass(one, Layout)}
    assert layouts == {type(case.methods[0]) for case in CASES}
