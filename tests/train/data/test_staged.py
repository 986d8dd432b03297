"""GrowLength's and XGen's stages: lengths, shares, constant tokens a step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.train.data.staged import GrowLength, Stage, XGen


def test_growlength_doubles_from_128_to_4096() -> None:
    stages = GrowLength().schedule(steps=600, tokens=8192)
    assert [stage.length for stage in stages] == [128, 256, 512, 1024, 2048, 4096]
    assert [stage.steps for stage in stages] == [100] * 6
    assert all(stage.length * stage.rows == 8192 for stage in stages)


def test_growlength_with_one_length_is_training_at_that_length() -> None:
    assert GrowLength(512, 512).schedule(7, 1024) == [Stage(512, 2, 7)]


def test_xgen_has_the_tokens_of_the_report() -> None:
    stages = XGen().schedule(steps=1500, tokens=8192 * 4)
    assert stages == [Stage(2048, 16, 800), Stage(4096, 8, 400), Stage(8192, 4, 300)]


@given(steps=st.integers(1, 500), staged=st.sampled_from([GrowLength(32, 256), XGen(256)]))
def test_no_step_is_lost_and_lengths_grow(steps, staged) -> None:
    stages = staged.schedule(steps, 512)
    assert sum(stage.steps for stage in stages) == steps
    lengths = [stage.length for stage in stages]
    assert lengths == sorted(set(lengths))
    for stage in stages:
        assert stage.length * stage.rows == 512
        assert abs(stage.steps - staged.shares()[stage.length] * steps) <= 1


def test_bad_input_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"end must be start \(128\) times a power of two, got 384"
    ):
        GrowLength(128, 384)
    with pytest.raises(ValueError, match=r"times a power of two, got 64"):
        GrowLength(128, 64)
    with pytest.raises(ValueError, match="start must be at least 2"):
        GrowLength(1, 64)
    with pytest.raises(ValueError, match="end must be a multiple of 4"):
        XGen(2050)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        XGen().schedule(0, 8192)
    with pytest.raises(ValueError, match="got 1000 for length 128: take a multiple of 4096"):
        GrowLength().schedule(10, 1000)
