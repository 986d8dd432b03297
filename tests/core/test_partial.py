"""The merge of parts is attention over their union."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from lengthwise.core.partial import Partial, merge, with_sink


def draw(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def part(scores, values):
    """Plain softmax of scores `[b, h, q, k]` over values `[b, h, k, d]`."""
    return Partial(torch.softmax(scores, -1) @ values, torch.logsumexp(scores, -1))


@given(
    cuts=st.lists(st.integers(1, 10), max_size=4, unique=True),
    seed=st.integers(0, 99),
    spread=st.sampled_from([1.0, 30.0]),
)
def test_parts_of_any_split_merge_to_the_whole(cuts, seed, spread):
    scores, values = spread * draw(seed, 2, 3, 4, 11), draw(seed + 1, 2, 3, 11, 5)
    keys = torch.randperm(11, generator=torch.Generator().manual_seed(seed))
    edges = [0, *sorted(cuts), 11]
    pieces = [keys[a:b] for a, b in pairwise(edges)]
    got = merge([part(scores[..., p], values[:, :, p]) for p in pieces])
    want = part(scores, values)
    assert_close(got.out, want.out, rtol=0, atol=1e-12)
    assert_close(got.lse, want.lse, rtol=0, atol=1e-12)


def test_merging_merged_parts_changes_nothing():
    a, b, c = (part(draw(i, 1, 2, 3, 4), draw(i + 9, 1, 2, 4, 5)) for i in range(3))
    got, want = merge([merge([a, b]), c]), merge([c, a, b])
    assert_close(got.out, want.out, rtol=0, atol=1e-12)
    assert_close(got.lse, want.lse, rtol=0, atol=1e-12)


def test_a_key_in_two_parts_counts_twice():
    one = part(draw(0, 1, 1, 2, 3), draw(1, 1, 1, 3, 4))
    twice = merge([one, one])
    assert_close(twice.out, one.out)
    assert_close(twice.lse, one.lse + math.log(2))


def nothing(like):
    return Partial(torch.zeros_like(like.out), torch.full_like(like.lse, float("-inf")))


def test_a_part_without_keys_changes_nothing():
    some = part(draw(0, 1, 2, 3, 4), draw(1, 1, 2, 4, 5))
    got = merge([nothing(some), some, nothing(some)])
    assert torch.equal(got.out, some.out) and torch.equal(got.lse, some.lse)


def test_no_keys_anywhere_is_zero_and_minus_infinity():
    got = merge([nothing(part(draw(0, 1, 2, 3, 4), draw(1, 1, 2, 4, 5)))] * 3)
    assert torch.equal(got.out, torch.zeros_like(got.out))
    assert bool(got.lse.isneginf().all())


@pytest.mark.parametrize("size", [1e4, -1e4, 3e38])
def test_large_scores_do_not_overflow(size):
    out = torch.ones(1, 1, 1, 2)
    lse = torch.full((1, 1, 1), size)
    got = merge([Partial(out, lse), Partial(3 * out, lse), Partial(9 * out, lse - abs(size))])
    assert_close(got.out, 2 * out)
    assert_close(got.lse, lse + math.log(2))


def test_no_parts_are_refused():
    with pytest.raises(ValueError, match="at least one part"):
        merge([])


def test_low_precision_values_keep_precise_weights():
    halves = [Partial(draw(i, 1, 1, 2, 3).bfloat16(), draw(i, 1, 1, 2).float()) for i in range(2)]
    got = merge(halves)
    assert got.out.dtype == torch.bfloat16 and got.lse.dtype == torch.float32


def test_gradients_of_the_merge():
    outs = draw(0, 3, 1, 2, 2, 3).requires_grad_()
    lses = draw(1, 3, 1, 2, 2).requires_grad_()

    def f(outs, lses):
        return merge([Partial(o, e) for o, e in zip(outs, lses, strict=True)])

    assert torch.autograd.gradcheck(f, (outs, lses))


def test_gradients_where_parts_see_nothing():
    one = part(draw(0, 1, 1, 3, 4), draw(1, 1, 1, 4, 2))
    lses = [one.lse.clone(), one.lse.clone() + 1]
    lses[0][..., :2] = float("-inf")  # query 0 sees neither part, query 1 only the second
    lses[1][..., :1] = float("-inf")
    leaves = [x.requires_grad_() for x in (one.out.clone(), *lses)]
    got = merge([Partial(leaves[0], leaves[1]), Partial(2 * leaves[0], leaves[2])])
    seen = ~got.lse.isneginf()
    grads = torch.autograd.grad((100 * got.out).sum() + got.lse[seen].sum(), leaves)
    assert all(bool(g.isfinite().all()) for g in grads)
    assert_close(grads[0][0, 0, 1], torch.full((2,), 200.0, dtype=torch.float64))
    assert float(grads[1][0, 0, 1]) == 0.0 and float(grads[2][0, 0, 1]) == 1.0


def test_a_learned_sink_is_a_key_with_value_zero():
    scores, values, logit = draw(0, 2, 3, 4, 5), draw(1, 2, 3, 5, 6), draw(2, 3)
    one = part(scores, values)
    got = with_sink(one, logit)
    column = logit[None, :, None, None].expand(2, 3, 4, 1)
    row = torch.zeros(2, 3, 1, 6, dtype=torch.float64)
    want = part(torch.cat([scores, column], -1), torch.cat([values, row], 2))
    assert_close(got.out, want.out, rtol=0, atol=1e-12)
    assert_close(got.lse, want.lse, rtol=0, atol=1e-12)
