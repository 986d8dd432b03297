"""E2-LLM's scaling: the contract suite, and rows under a scale of their own."""

import math

import pytest
import torch

import lengthwise as lw
from lengthwise.testing import Angles, Case, parametrize
from lengthwise.testing.models import tiny_model
from lengthwise.train.tuning import E2LLMScaling

GROWING = "the scale follows the length of the text, as with dynamic NTK"


def angles(scaling, dim, theta, window, length):
    """arXiv:2401.06951, section 3: positions divided by the smallest whole scale that fits."""
    scale = max(1, math.ceil(length / window))
    return Angles([theta ** (-2 * n / dim) / scale for n in range(dim // 2)])


CASE = Case(
    (E2LLMScaling(),),
    24,
    (E2LLMScaling(),),
    except_for={
        "check_decode_is_prefill": GROWING,
        "check_chunked_prefill": GROWING,
        "check_rows_follow": GROWING,
        "check_geometries_in_parts": GROWING,
    },
    formula=angles,
)


@pytest.mark.parametrize(*parametrize([CASE]), ids=lambda x: getattr(x, "__name__", "E2LLMScaling"))
def test_contract(case, check):
    check(case)


def test_a_text_of_three_windows_is_read_as_under_pi():
    model, ids = tiny_model("llama").double(), torch.arange(3, 3 + 150)[None]  # 64 is the window
    with lw.adapted(model, E2LLMScaling()):
        got = model(ids).logits
    with lw.adapted(model, lw.PI(factor=3)):
        assert (model(ids).logits - got).abs().max() < 1e-10


def test_a_tuned_rows_scale_is_a_fraction_of_its_positions():
    # Under PI of factor 4 a row of scale 3 is read at positions * 4 / 3.
    from lengthwise.core.rotary import Rotary

    x = torch.randn(1, 2, 10, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    own = 100.0 ** -(torch.arange(8).double() / 8)
    places = torch.arange(10)[None, None].double()
    assert torch.allclose(
        Rotary(own / 4).rotate(x, places * 4 / 3), Rotary(own / 3).rotate(x, places), atol=1e-12
    )
    with pytest.raises(ValueError, match="max_scale must be a whole number"):
        E2LLMScaling(max_scale=0)
