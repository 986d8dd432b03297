"""Numbers in braces, and parts by name."""

import pytest

from lengthwise.testing.models import tiny_tokenizer
from lengthwise.train.loop.facts import Facts, sentence_ends
from lengthwise.train.loop.parts import build_parts, row_lengths
from lengthwise.train.named import room
from lengthwise.train.patterns import AnchorAttention, ShiftedSparse
from lengthwise.train.recipe import Recipe
from lengthwise.train.recipes import RECIPES
from lengthwise.train.tuning import LongRecipe, PoSE

FACTS = Facts(window=512, target=2048, theta=10_000.0, dim=32, first=1, ends=(7, 9))


def test_braces_are_filled() -> None:
    assert FACTS.fill("yarn:factor={factor}") == "yarn:factor=4.0"
    assert FACTS.fill("{window} {target} {group} {scales} {bos}") == "512 2048 512 4 1"
    assert 10_000 < FACTS.numbers["rope_base"] < 1e7
    with pytest.raises(ValueError, match=r"there are \{window\}.*, got \{windw\}"):
        FACTS.fill("{windw}")


def test_no_longer_target_needs_no_larger_base() -> None:
    same = Facts(512, 512, 10_000.0, 32, None)
    assert same.numbers["rope_base"] == 10_000
    with pytest.raises(ValueError, match=r"got \{bos\}"):
        same.fill("anchor={bos}")


def test_parts_by_name() -> None:
    assert room("transform").parse("PoSE:window=4,target=8") == PoSE(4, 8)
    assert room("layout").parse("shifted-sparse:group=8") == ShiftedSparse(8)
    built = room("transform").parse(FACTS.fill("longrecipe:window=4,target=8,ends={ends}"))
    assert built == LongRecipe(4, 8, (7, 9))
    assert room("transform").parse("anchor_attention:anchor=1") == AnchorAttention(1)


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("transform", "pos:window=4", "did you mean PoSE"),
        ("layout", "pose:window=4", "unknown layout 'pose'"),
        ("transform", "pose:windo=4", "PoSE has no option 'windo'; did you mean window"),
        ("transform", "pose:window=4", "PoSE needs target"),
        ("transform", "pose:window", "write options as option=value"),
        ("transform", "pose:window=4,target=2", "target must be a whole number of at least 4"),
    ],
)
def test_bad_parts(kind: str, words: str, message: str) -> None:
    with pytest.raises(ValueError) as found:
        room(kind).parse(words)
    assert message in str(found.value)


def test_every_kind_has_its_parts() -> None:
    assert {"PoSE", "CREAM", "E2LLM", "AnchorAttention"} <= set(room("transform").homes)
    assert {"ShiftedSparse", "BigBird"} <= set(room("layout").homes)
    assert {"HLP", "LongPO", "TemporalRescaling"} <= set(room("objective").homes)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_parts_that_exist(name: str) -> None:
    built = build_parts(RECIPES[name], FACTS)
    assert 0 < built.trained <= built.source * (2 if built.pairs else 1)
    assert built.source <= FACTS.target


def test_lengths_of_rows() -> None:
    plain = Recipe(target=2048)
    assert row_lengths(plain, None, FACTS) == (2048, 2048)
    assert row_lengths(Recipe(target=2048, length=64), None, FACTS) == (64, 64)
    assert row_lengths(plain, PoSE(512, 2048), FACTS) == (2048, 512)
    assert row_lengths(plain, room("transform").parse("e2llm:window=512,max_scale=4"), FACTS) == (
        512, 512,
    )  # fmt: skip
    assert row_lengths(plain, room("transform").parse("skipalign:target=2048"), FACTS) == (512, 512)
    assert row_lengths(plain, AnchorAttention(1), FACTS) == (2048, 2048)


def test_ends_of_sentences() -> None:
    tokenizer = tiny_tokenizer()
    found = {tokenizer.decode([token]) for token in sentence_ends(tokenizer)}
    assert {".", "\n", "?", "!"} <= found
    assert not {"a", " ", ",", "<s>"} & found


def test_parts_that_do_not_go_together() -> None:
    pose = "pose:window={window},target={target}"
    apart = Recipe(target=2048, transform=pose, documents="apart")
    with pytest.raises(ValueError, match='PoSE makes one text of a row, and documents = "apart"'):
        build_parts(apart, FACTS)
    for name, value in {
        "transform": pose, "documents": "apart", "short_share": 0.5, "mixed_window": True,
    }.items():  # fmt: skip
        changes = {"objective": "longpo", "methods": "pi:factor={factor}", name: value}
        with pytest.raises(ValueError, match=f"{name}=.* would not be read: LongPO"):
            build_parts(Recipe(target=2048, **changes), FACTS)
