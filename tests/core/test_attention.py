"""Every implementation of attention equals the dense truth, and the truth equals loops."""

import importlib
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention
from torch.testing import assert_close

from lengthwise.core.attention import (
    IMPLEMENTATIONS,
    Choice,
    attend,
    attend_blocks,
    choose,
    recording,
)
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.partial import Partial, with_sink
from lengthwise.core.regions import (
    OWN,
    Capped,
    ChunksBack,
    Fixed,
    Grouped,
    Region,
    same_segment,
    visible_pairs,
)
from lengthwise.core.rotary import Rotary

# The package exports functions under the names of these modules.
band_module = importlib.import_module("lengthwise.core.attention.band")
chunked_module = importlib.import_module("lengthwise.core.attention.chunked")
decode_module = importlib.import_module("lengthwise.core.attention.decode")
flex_module = importlib.import_module("lengthwise.core.attention.flex")
torch_flex = importlib.import_module("torch.nn.attention.flex_attention")

W = 4
LENGTHS = (1, 2, W - 1, W, W + 1, 4 * W + 3)
HEADS = ((4, 4), (4, 2), (6, 1), (3, 1), (5, 5), (9, 3))
DIM = 8
ROTARY = Rotary(100.0 ** -(torch.arange(3, dtype=torch.float64) / 3), 1.2, "half")
LAYOUTS = {
    "causal": [Region()],
    "window": [Region(far=W)],
    "self only": [Region(far=1)],
    "sinks": [Region(far=W), Region(near=W, last=2, q_place=Fixed(W), k_place=Fixed(0))],
    "groups": [Region(far=W), Region(near=W, q_place=Grouped(2, 2), k_place=Grouped(2))],
    "gaps": [Region(near=1, far=3), Region(near=5, first=2, last=7, q_place=Capped(9))],
}
CLOSE = {torch.float64: 1e-10, torch.float32: 1e-5}
FAST = ("chunked", "sdpa", "decode", "flex")
GENERAL = ("chunked", "decode", "flex")  # those that take more than plain bands


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles so small that every test crosses their borders; FlexAttention without a compiler."""
    shrink(monkeypatch)


def shrink(patch):
    patch.setattr(chunked_module, "Q_TILE", 3)
    patch.setattr(chunked_module, "K_TILE", 4)
    patch.setattr(band_module, "TILE", 3)
    patch.setattr(band_module, "SMALL", 2)
    patch.setattr(decode_module, "TILE", 4)
    patch.setattr(flex_module, "TILE", 4)
    patch.setattr(flex_module, "_compiled", lambda: flex_attention)
    # Without it even an eager call goes through torch.compile, a hundred times slower.
    patch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def draw(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def qkv(b=2, heads=4, kv=2, t=6, n=9, dtype=torch.float64, width=DIM):
    sizes = ((b, heads, t, DIM), (b, kv, n, DIM), (b, kv, n, width))
    return tuple(draw(i, *size, dtype=dtype) for i, size in enumerate(sizes))


def run(q, k, v, regions, impl, blocks=None, **kw):
    """`attend` through `attend_blocks`, which lets FlexAttention run on a CPU; kw as theirs."""
    b, n, t = len(q), k.shape[2], q.shape[2]
    k_positions, q_positions = kw.pop("k_positions", None), kw.pop("q_positions", None)
    k_start = q_start = None
    if k_positions is None:
        k_positions, k_start = torch.arange(n).expand(b, 1, n), 0
    if q_positions is None:
        q_positions, q_start = torch.arange(n - t, n).expand(b, t), n - t
    k_positions = k_positions if k_positions.ndim == 3 else k_positions[:, None]
    block = KeyBlock(k, v, k_positions, kw.pop("k_segments", None), k_start)
    queries = Queries(q, q_positions, kw.pop("q_segments", None), q_start)
    cuts = [0, *(blocks or []), n]
    held = [block.slots(low, high) for low, high in itertools.pairwise(cuts)]
    sink = kw.pop("learned_sink", None)
    need_lse = impl != "flex" or sink is not None
    kw = {"rotary": ROTARY, "stored": None, "need_lse": need_lse, **kw}
    return with_sink(attend_blocks(queries, held, regions, impl=impl, **kw), sink)


def agree(impl, q, k, v, regions, **kw):
    """An implementation equals `reference`; FlexAttention, one part at a time, in `out` alone."""
    for part in [[region] for region in regions] if impl == "flex" else [regions]:
        got = run(q, k, v, part, impl, **kw)
        want = run(q, k, v, part, "reference", **kw)
        close = CLOSE[q.dtype]
        assert got.out.dtype == q.dtype and got.out.shape == want.out.shape
        assert_close(got.out, want.out, rtol=0, atol=close)
        if impl != "flex":
            assert_close(got.lse, want.lse, rtol=0, atol=close)


# The truth itself.


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_reference_equals_loops(name, softcap):
    regions = LAYOUTS[name]
    q, k, v = qkv(b=1, heads=4, kv=2, t=7, n=9)
    got = run(q, k, v, regions, "reference", softcap=softcap, scale=0.6)
    pairs = 3

    def turned(x, place):
        z = torch.complex(x[:pairs], x[pairs : 2 * pairs])
        z = z * 1.2 * torch.exp(1j * place * ROTARY.inv_freq)
        return torch.cat([z.real, z.imag, x[2 * pairs :]])

    for h, i in itertools.product(range(4), range(7)):
        position, scores, values = i + 2, [], []
        for region, j in itertools.product(regions, range(9)):
            distance = position - j
            if distance < region.near or (region.far is not None and distance >= region.far):
                continue
            if j < region.first or (region.last is not None and j >= region.last):
                continue
            at_q = int(region.q_place(torch.tensor(position)))
            at_k = int(region.k_place(torch.tensor(j)))
            score = 0.6 * torch.dot(turned(q[0, h, i], at_q), turned(k[0, h // 2, j], at_k))
            scores.append(score if softcap is None else softcap * torch.tanh(score / softcap))
            values.append(v[0, h // 2, j])
        if not scores:
            assert float(got.lse[0, h, i]) == -math.inf and not got.out[0, h, i].any()
            continue
        column = torch.stack(scores)
        assert_close(got.out[0, h, i], torch.softmax(column, 0) @ torch.stack(values))
        assert_close(got.lse[0, h, i], torch.logsumexp(column, 0))


def test_default_scale_is_the_root_of_the_head():
    q, k, v = qkv()
    got = run(q, k, v, [Region()], "reference")
    assert_close(got, run(q, k, v, [Region()], "reference", scale=DIM**-0.5))


# The grid.


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("heads, kv", HEADS)
def test_equals_reference(impl, name, heads, kv):
    for n, dtype in itertools.product(LENGTHS, CLOSE):
        if impl == "flex" and dtype == torch.float32 and n < LENGTHS[-1]:
            continue  # uncompiled it is slow, and the same code in both types
        agree(impl, *qkv(heads=heads, kv=kv, t=n, n=n, dtype=dtype), LAYOUTS[name])


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("name", LAYOUTS)
def test_fewer_queries_than_keys(impl, name):
    for t in (1, 2, W + 1):
        agree(impl, *qkv(t=t, n=19), LAYOUTS[name])


@pytest.mark.parametrize("name", LAYOUTS)
def test_auto_equals_reference(name):
    for t, n in ((1, 19), (19, 19), (40, 40)):
        agree("auto", *qkv(t=t, n=n), LAYOUTS[name])
    positions = torch.arange(-3, 37).clamp(min=-1).expand(2, -1)
    agree("auto", *qkv(t=40, n=40), LAYOUTS[name], q_positions=positions, k_positions=positions)


maybe = st.one_of(st.none(), st.integers(0, 24))


@given(
    t=st.integers(1, 12),
    n=st.integers(1, 20),
    near=st.integers(0, 9),
    far=maybe,
    first=st.integers(0, 9),
    last=maybe,
    q_start=st.integers(-3, 26),
    k_start=st.integers(0, 9),
    cut=st.integers(0, 20),
    tile=st.integers(1, 7),
)
@settings(max_examples=200)
def test_bands_anywhere(t, n, near, far, first, last, q_start, k_start, cut, tile):
    q, k, v = qkv(b=1, heads=2, kv=1, t=t, n=n)
    region = Region(near=near, far=far, first=first, last=last)
    p = torch.arange(q_start, q_start + t)[None]
    held = torch.arange(k_start, k_start + n)[None, None]
    kw = {"rotary": None, "scale": 0.5}
    starts = Queries(q, p, None, q_start), KeyBlock(k, v, held, None, k_start)
    loose = Queries(q, p), KeyBlock(k, v, held)
    want = attend_blocks(loose[0], [loose[1]], [region], impl="reference", **kw)
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        patch.setattr(band_module, "TILE", tile)
        patch.setattr(band_module, "SMALL", 1 + near)
        got = [
            attend_blocks(queries, blocks, [region], impl=impl, **kw)
            for impl in ("sdpa", "chunked", "decode")
            for queries, block in (starts, loose)
            for blocks in ([block], [block.slots(0, min(cut, n)), block.slots(min(cut, n), n)])
            if impl != "sdpa" or queries.start is not None
        ]
        if not region.empty:  # without the cut to reachable slots before it
            got.append(band_module.band(*starts, region, scale=0.5))
    for one in got:
        assert_close(one.out, want.out, rtol=0, atol=1e-10)
        assert_close(one.lse, want.lse, rtol=0, atol=1e-10)


# One feature at a time.


@pytest.mark.parametrize("impl", GENERAL)
@pytest.mark.parametrize("side", ["left", "right", "middle", "none real"])
def test_padded_rows_equal_rows_without_padding(impl, side):
    real = {"left": [2, 3, 4, 5, 6, 7], "right": [0, 1, 2, 3, 4, 5], "middle": [0, 1, 2, 5, 6, 7]}
    keep = torch.tensor(real.get(side, []), dtype=torch.long)
    q, k, v = qkv(t=8, n=8)
    p = torch.arange(8).repeat(2, 1)
    p[1] = -1
    p[1, keep] = torch.arange(len(keep))
    for regions in LAYOUTS.values():
        agree(impl, q, k, v, regions, q_positions=p, k_positions=p)
        parts = [[region] for region in regions] if impl == "flex" else [regions]
        for part in parts:
            got = run(q, k, v, part, impl, q_positions=p, k_positions=p)
            if len(keep):
                alone = [x[1:, :, keep] for x in (q, k, v)]
                want = run(*alone, part, "reference")
                assert_close(got.out[1:, :, keep], want.out, rtol=0, atol=1e-10)
            blind = torch.ones(8, dtype=torch.bool)
            blind[keep] = False
            assert not got.out[1, :, blind].any()
            assert impl == "flex" or bool(got.lse[1, :, blind].isneginf().all())


@pytest.mark.parametrize("impl", GENERAL)
def test_what_padding_holds_does_not_matter(impl):
    q, k, v = qkv(t=8, n=8)
    p = torch.arange(8).repeat(2, 1)
    p[1] = torch.tensor([-1, -1, 0, 1, -1, 2, 3, 4])
    kw = {"q_positions": p, "k_positions": p}
    before = run(q, k, v, [Region()], impl, **kw).out
    k, v = k.clone(), v.clone()
    k[1, :, p[1] < 0], v[1, :, p[1] < 0] = 1e4, -1e4
    assert torch.equal(run(q, k, v, [Region()], impl, **kw).out, before)


@pytest.mark.parametrize("impl", GENERAL)
@pytest.mark.parametrize("name", LAYOUTS)
def test_positions_of_each_kv_head(impl, name):
    q, k, v = qkv(t=5, n=7)
    k_positions = torch.tensor(
        [[[0, 1, 2, 3, 4, 5, 6], [6, 1, -1, 4, 3, 0, -1]], [[-1] * 7, [9, 8, 7, 3, 2, 1, 0]]]
    )
    q_positions = torch.tensor([[3, 4, 5, 6, 7], [0, 2, 9, -1, 11]])
    agree(impl, q, k, v, LAYOUTS[name], q_positions=q_positions, k_positions=k_positions)


@pytest.mark.parametrize("impl", GENERAL)
@pytest.mark.parametrize("name", LAYOUTS)
def test_packed_documents_equal_separate_ones(impl, name):
    regions = [LAYOUTS[name][0]] if impl == "flex" else LAYOUTS[name]
    lengths = [7, 1, 5]
    q, k, v = qkv(t=13, n=13)
    p = torch.tensor([i for n in lengths for i in range(n)]).expand(2, -1)
    s = torch.tensor([d for d, n in enumerate(lengths) for _ in range(n)]).expand(2, -1)
    kw = {"q_positions": p, "k_positions": p, "q_segments": s, "k_segments": s}
    agree(impl, q, k, v, regions, **kw)
    packed = run(q, k, v, regions, impl, **kw).out
    pieces = zip(*(x.split(lengths, dim=2) for x in (q, k, v)), strict=True)
    alone = [run(*piece, regions, "reference").out for piece in pieces]
    assert_close(packed, torch.cat(alone, dim=2), rtol=0, atol=1e-10)


@pytest.mark.parametrize("impl", GENERAL)
def test_segments_count_at_consecutive_positions_too(impl):
    q, k, v = qkv(t=9, n=9)
    s = torch.tensor([[0] * 4 + [1] * 5, [0] * 9])
    agree(impl, q, k, v, [Region()], q_segments=s, k_segments=s)
    apart = run(q, k, v, [Region()], impl, q_segments=s, k_segments=s).out
    want = run(q[:1, :, 4:], k[:1, :, 4:], v[:1, :, 4:], [Region()], "reference").out
    assert_close(apart[:1, :, 4:], want, rtol=0, atol=1e-10)  # only distances matter


def slope(score, b, h, q, k):
    return score - 0.3 * (q - k) / (h + 1) + 0.1 * b


def thirds(b, h, q, k):
    return (q + 2 * k + h + b) % 3 != 0


@pytest.mark.parametrize("impl", GENERAL)
@pytest.mark.parametrize(
    "changed, kw",
    [
        ({}, {"softcap": 1.5}),
        ({"score": slope}, {}),
        ({"score": slope}, {"softcap": 1.5}),
        ({"also": thirds}, {}),
        ({"also": thirds, "score": slope, "near": 2, "far": 9}, {"softcap": 3.0}),
        ({}, {"scale": 2.0}),
    ],
    ids=["softcap", "score", "both", "also", "all", "scale"],
)
@pytest.mark.parametrize("heads, kv", [(4, 2), (3, 1)])
def test_changed_scores_and_predicates(impl, changed, kw, heads, kv):
    for t, dtype in itertools.product((1, 13), CLOSE):
        agree(impl, *qkv(heads=heads, kv=kv, t=t, n=13, dtype=dtype), [Region(**changed)], **kw)


@pytest.mark.parametrize("impl", ["chunked", "sdpa", "decode"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_learned_sinks(impl, name):
    logits = draw(7, 4)
    q, k, v = qkv(t=13, n=13)
    agree(impl, q, k, v, LAYOUTS[name], learned_sink=logits)
    zero = run(q, k, v, LAYOUTS[name], impl, learned_sink=torch.full((4,), -1e9))
    assert_close(zero.out, run(q, k, v, LAYOUTS[name], impl).out, rtol=0, atol=1e-10)


@pytest.mark.parametrize("impl", ["chunked", "decode"])
def test_values_of_another_width(impl):
    agree(impl, *qkv(t=7, n=9, width=5), LAYOUTS["sinks"])


@pytest.mark.parametrize("impl", FAST)
def test_memory_order_does_not_matter(impl):
    regions = LAYOUTS["groups"][:1]
    q, k, v = qkv(t=11, n=11)
    want = run(q, k, v, regions, "reference").out
    plain = run(q, k, v, regions, "reference", rotary=None).out
    swapped = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    turned = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in (q, k, v)]
    sparse = [torch.stack([x, torch.full_like(x, math.nan)], -1)[..., 0] for x in (q, k, v)]
    for views in (swapped, turned, sparse):
        assert not views[1].is_contiguous()
        assert_close(run(*views, regions, impl).out, want, rtol=0, atol=1e-10)
        as_stored = run(*views, regions, impl, rotary=None).out
        assert_close(as_stored, plain, rtol=0, atol=1e-10)
    one_row = [x[:1].expand(2, -1, -1, -1) for x in (q, k, v)]
    got = run(*one_row, regions, impl, rotary=None).out
    assert_close(got[1], plain[0])


@pytest.mark.parametrize("impl", [*FAST, "reference"])
@pytest.mark.parametrize("stored", [OWN, Fixed(0), Fixed(5), Grouped(2), Capped(6)])
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_keys_stored_at_another_place_equal_raw_keys(impl, stored, pairing):
    rotary = Rotary(ROTARY.inv_freq, 1.2, pairing)
    q, k, v = qkv(t=9, n=9)
    rotated = rotary.rotate(k, stored(torch.arange(9))[None, None])
    for regions in ([region] for layout in LAYOUTS.values() for region in layout):
        got = run(q, rotated, v, regions, impl, rotary=rotary, stored=stored)
        want = run(q, k, v, regions, "reference", rotary=rotary)
        assert_close(got.out, want.out, rtol=0, atol=1e-10)


@pytest.mark.parametrize("impl", ["chunked", "sdpa", "decode", "auto", "reference"])
@given(cuts=st.lists(st.integers(0, 13), max_size=4), name=st.sampled_from(sorted(LAYOUTS)))
@settings(max_examples=40)
def test_blocks_cut_anywhere_equal_one_block(impl, cuts, name):
    q, k, v = qkv(t=5, n=13)
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        got = run(q, k, v, LAYOUTS[name], impl, blocks=sorted(cuts))
        want = run(q, k, v, LAYOUTS[name], "reference")
    assert_close(got.out, want.out, rtol=0, atol=1e-10)
    assert_close(got.lse, want.lse, rtol=0, atol=1e-10)


def test_order_of_slots_does_not_matter():
    q, k, v = qkv(t=5, n=13)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    want = run(q, k, v, LAYOUTS["sinks"], "reference")
    for impl in ("chunked", "decode", "auto"):
        shuffled = k[:, :, order], v[:, :, order]
        got = run(q, *shuffled, LAYOUTS["sinks"], impl, k_positions=order.expand(2, -1),
                  q_positions=torch.arange(8, 13).expand(2, -1))  # fmt: skip
        assert_close(got.out, want.out, rtol=0, atol=1e-10)


@pytest.mark.parametrize("impl", [*FAST, "reference"])
def test_queries_that_see_nothing(impl):
    q, k, v = qkv(t=9, n=9)
    for region in (Region(near=20), Region(near=3), Region(first=4), Region(far=0), Region(last=0)):
        agree(impl, q, k, v, [region])
        got = run(q, k, v, [region], impl)
        assert not got.out.isnan().any()
    assert not got.out.any() and (impl == "flex" or bool(got.lse.isneginf().all()))
    more = run(*qkv(t=9, n=4), [Region()], impl)  # queries before the first key
    assert not more.out[:, :, :5].any() and bool(more.out[:, :, 5:].any(-1).all())


def test_the_future_changes_nothing():
    q, k, v = qkv(t=13, n=13)
    after = [x.clone() for x in (k, v)]
    for x in after:
        x[:, :, 8:] = draw(9, *x[:, :, 8:].shape)
    for impl in ("chunked", "sdpa", "decode"):
        for regions in LAYOUTS.values():
            a, b = run(q, k, v, regions, impl), run(q, *after, regions, impl)
            assert torch.equal(a.out[:, :, :8], b.out[:, :, :8])


@pytest.mark.parametrize("impl", ["chunked", "sdpa", "decode"])
@pytest.mark.parametrize("seed", range(4))
def test_low_precision_is_no_worse_than_dense_attention_in_it(impl, seed):
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, 2, n, 16, generator=g) * s for n, s in ((64, 3), (256, 3), (256, 1)))
    low = [x.bfloat16() for x in (q, k, v)]
    exact = [x.double() for x in low]
    regions = [Region(far=32), Region(near=32, far=90), Region(near=90)]
    cuts = [60, 61, 130, 200]
    truth = run(*exact, regions, "reference", rotary=None)
    dense = run(*low, regions, "reference", rotary=None)
    got = run(*low, regions, impl, rotary=None, blocks=cuts)
    assert got.lse.dtype == torch.float32  # parts are weighed by it
    error, plain = ((x.out.double() - truth.out).abs().max() for x in (got, dense))
    assert float(error) <= 2 * float(plain) + 1e-2
    error, plain = ((x.lse.double() - truth.lse).abs().max() for x in (got, dense))
    assert float(error) <= 2 * float(plain) + 1e-2


@pytest.mark.parametrize("dtype, close", [(torch.float16, 3e-3), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("padded", [False, True])
def test_scores_and_sums_that_a_half_type_cannot_hold(dtype, close, padded):
    """Products of 180,000 (biases as large as Qwen2's) and sums of values beyond 65,504."""
    q, k, v = qkv(t=6, n=9)
    low = [(150 + 0.2 * q).to(dtype), (150 + 0.2 * k).to(dtype), (2e4 + 2e3 * v).to(dtype)]
    exact = [x.double() for x in low]
    p = torch.arange(9).expand(2, -1).clone()
    p[0] = (p[0] - 2).clamp(min=-1)
    kw = {"q_positions": p[:, 3:], "k_positions": p} if padded else {}
    for impl in ["reference", "chunked", "decode", "auto"] + ["sdpa"] * (not padded):
        for regions in LAYOUTS.values():
            want = run(*exact, regions, "reference", rotary=None, **kw)
            got = run(*low, regions, impl, rotary=None, **kw)
            assert got.out.dtype == dtype
            assert_close(got.out.double(), want.out, rtol=close, atol=0)
            assert_close(got.lse.double(), want.lse, rtol=1e-6, atol=0)


def test_gradients_in_half_precision():
    """Against the truth, and no worse than autograd through torch's own attention."""
    for dtype in (torch.float16, torch.bfloat16):
        q, k, v = qkv(t=9, kv=4)
        low = [x.to(dtype) for x in (20 * q, 20 * k, 300 * v)]
        weights = (draw(3, 2, 4, 9, DIM) * 30).to(dtype)
        leaves = [x.clone().requires_grad_() for x in low]
        out = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True)
        torch_own = torch.autograd.grad((out * weights).sum(), leaves)
        exact = [x.double() for x in low]
        truth = gradients("reference", exact, [Region()], (weights, 0.0), rotary=None)
        got = gradients("chunked", low, [Region()], (weights, 0.0), rotary=None)
        for ours, theirs, exact in zip(got, torch_own, truth, strict=True):
            size = float(exact.abs().max())
            error, plain = (float((x.double() - exact).abs().max()) for x in (ours, theirs))
            assert error <= plain + 2 * torch.finfo(dtype).eps * size, (dtype, error, plain, size)


# Gradients.


def gradients(impl, leaves, regions, weights, sink=None, **kw):
    q, k, v = (x.clone().requires_grad_() for x in leaves)
    logits = None if sink is None else sink.clone().requires_grad_()
    got = run(q, k, v, regions, impl, learned_sink=logits, **kw)
    seen = torch.where(got.lse.isneginf(), 0.0, got.lse)
    loss = (got.out * weights[0]).sum() + (seen * weights[1]).sum()
    wanted = [x for x in (q, k, v, logits) if x is not None]
    return torch.autograd.grad(loss, wanted)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("heads, kv", HEADS)
@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_gradients_equal_those_of_reference(name, softcap, heads, kv, sink, padded):
    leaves = qkv(heads=heads, kv=kv, t=11, n=11)
    weights = draw(5, 2, heads, 11, DIM), draw(6, 2, heads, 11)
    kw = {"softcap": softcap, "sink": draw(4, heads) if sink else None}
    if padded:
        p = torch.arange(11).repeat(2, 1)
        p[1] = torch.tensor([-1, -1, -1, 0, 1, 2, -1, 3, 4, 5, 6])
        kw |= {"q_positions": p, "k_positions": p}
    got = gradients("chunked", leaves, LAYOUTS[name], weights, **kw)
    want = gradients("reference", leaves, LAYOUTS[name], weights, **kw)
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, rtol=0, atol=1e-9)


def test_gradients_with_documents_predicates_and_blocks():
    leaves = qkv(t=11, n=11, width=5)
    weights = draw(5, 2, 4, 11, 5), draw(6, 2, 4, 11)
    s = torch.tensor([0] * 4 + [1] * 7).expand(2, -1)
    kw = {"q_segments": s, "k_segments": s, "blocks": [3, 8]}
    regions = [Region(far=5, also=thirds), Region(near=5, q_place=Grouped(3, 2))]
    got = gradients("chunked", leaves, regions, weights, **kw)
    want = gradients("reference", leaves, regions, weights, **kw)
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, rtol=0, atol=1e-9)


def test_gradients_by_finite_differences():
    q, k, v = (x.requires_grad_() for x in qkv(b=1, heads=2, kv=1, t=4, n=5, width=3))
    logits = draw(8, 2).requires_grad_()
    regions = [Region(far=2), Region(near=3, q_place=Fixed(3), k_place=Fixed(0))]

    def f(q, k, v, logits):
        return run(q, k, v, regions, "chunked", softcap=2.0, learned_sink=logits)

    assert torch.autograd.gradcheck(f, (q, k, v, logits))


def test_auto_differentiates_what_it_is_asked_to():
    leaves = qkv(t=40, n=40)
    weights = draw(5, 2, 4, 40, DIM), draw(6, 2, 4, 40)
    for sink in (None, draw(4, 4)):
        got = gradients("auto", leaves, LAYOUTS["sinks"], weights, sink=sink)
        want = gradients("reference", leaves, LAYOUTS["sinks"], weights, sink=sink)
        for one, other in zip(got, want, strict=True):
            assert_close(one, other, rtol=0, atol=1e-9)


def test_bands_are_differentiated_together(monkeypatch):
    """Where nobody reads the log-sum-exp; queries that see nothing, rectangles and edges."""
    whole, called = importlib.import_module("lengthwise.core.attention"), []
    own = whole.bands
    monkeypatch.setattr(whole, "bands", lambda parts, **kw: called.append(1) or own(parts, **kw))
    for number, (name, (heads, kv)) in enumerate(itertools.product(LAYOUTS, HEADS)):
        t, n = ((11, 11), (7, 23), (1, 6), (40, 40))[number % 4]
        monkeypatch.setattr(band_module, "TILE", (3, 16)[number % 2])
        monkeypatch.setattr(band_module, "SMALL", (1, 4, 64)[number % 3])
        leaves, weights = qkv(heads=heads, kv=kv, t=t, n=n), draw(5, 2, heads, t, DIM)
        found = []
        for impl in ("auto", "reference"):
            live = [x.clone().requires_grad_() for x in leaves]
            if number % 4 < 2:  # as a product hands them on
                live = [x.transpose(2, 3).contiguous().transpose(2, 3).detach() for x in leaves]
                live = [x.requires_grad_() for x in live]
            kw = {"blocks": [4, n - 1] if number % 5 == 0 else None, "need_lse": False}
            out = run(*live, LAYOUTS[name], impl, **kw).out
            (out * weights).sum().backward()
            found.append([out.detach(), *(x.grad for x in live)])
        for one, other in zip(*found, strict=True):
            assert_close(one, other, rtol=0, atol=1e-9, msg=f"{name} {heads, kv} {t} of {n}")
    assert len(called) > 25, len(called)  # one causal triangle is torch's own


def test_a_missing_gradient_is_refused_instead_of_wrong():
    q, k, v = qkv()
    q.requires_grad_()
    for impl in ("sdpa", "decode"):
        with pytest.raises(ValueError, match=f"impl='{impl}' has no gradient; use 'chunked'"):
            run(q, k, v, LAYOUTS["sinks"], impl)
        with torch.no_grad():
            run(q, k, v, LAYOUTS["sinks"], impl)
    scored = run(q, k, v, [Region(score=slope)], "chunked")
    with pytest.raises(ValueError, match="no backward through a region's own score"):
        scored.out.sum().backward()


# The choice.

SIZES = {"queries": [1, 16, 17, 1 << 17], "keys": [1, 1 << 17], "heads": [1, 32]}
TRUTHS = ("aligned", "plain", "needs_grad", "compiler", "one_part")


def calls():
    for device, *sizes in itertools.product(["cpu", "cuda", "mps"], *SIZES.values()):
        for truths in itertools.product([False, True], repeat=len(TRUTHS)):
            numbers = dict(zip(SIZES, sizes, strict=True))
            yield {"device": device, **numbers, **dict(zip(TRUTHS, truths, strict=True))}


def test_choose_names_only_what_can_run():
    for call in calls():
        choice = choose(**call)
        assert choice == choose(**call)
        assert choice.reason and choice.name in set(IMPLEMENTATIONS) - {"auto", "reference"}
        fits = {
            "chunked": True,
            "decode": not call["needs_grad"] and call["queries"] <= 16,
            "sdpa": call["device"] == "cpu"
            and call["aligned"]
            and call["plain"]
            and not call["needs_grad"],
            "flex": call["compiler"]
            and (
                call["device"] == "cuda"
                or (call["device"] == "cpu" and call["one_part"] and not call["needs_grad"])
            ),
        }
        assert fits[choice.name], (call, choice)


CALL = {
    "device": "cpu", "queries": 1000, "keys": 1000, "heads": 8,
    "aligned": True, "plain": True, "needs_grad": False, "compiler": True,
}  # fmt: skip
HUGE = {"queries": 1 << 17, "keys": 1 << 17, "aligned": False, "one_part": True}


@pytest.mark.parametrize(
    "changed, name",
    [
        ({}, "sdpa"),
        ({"queries": 1}, "decode"),
        ({"queries": 16}, "decode"),
        ({"queries": 16, "keys": 1 << 18}, "decode"),
        ({"queries": 17}, "sdpa"),
        ({"queries": 1, "needs_grad": True}, "chunked"),
        ({"plain": False}, "chunked"),
        ({"aligned": False}, "chunked"),
        ({"needs_grad": True}, "chunked"),
        ({"needs_grad": True, "bands": True}, "bands"),
        ({"needs_grad": True, "bands": True, "one_part": True, "triangle": True}, "triangle"),
        ({"needs_grad": True, "bands": True, "device": "cuda"}, "flex"),
        ({"bands": True}, "sdpa"),
        ({"device": "cuda"}, "flex"),
        ({"device": "cuda", "needs_grad": True}, "flex"),
        ({"device": "cuda", "compiler": False}, "chunked"),
        (HUGE, "flex"),
        ({**HUGE, "compiler": False}, "chunked"),
        ({**HUGE, "one_part": False}, "chunked"),
        ({**HUGE, "needs_grad": True}, "chunked"),
        ({**HUGE, "queries": 1000}, "chunked"),  # compiling would not pay
        ({**HUGE, "aligned": True}, "sdpa"),
    ],
)
def test_choose(changed, name):
    assert choose(**{**CALL, **changed}).name == name


def test_a_choice_says_when_only_a_compiler_is_missing():
    assert choose(**{**CALL, **HUGE, "compiler": False}) == Choice(
        "chunked", "FlexAttention would pay, but needs a C++ compiler and AVX2"
    )


# FlexAttention's own.


def tail_thirds(b, h, q, k):
    return (k < 400) | thirds(b, h, q, k)


@pytest.mark.parametrize("capability", ["AVX2", "AVX512", "DEFAULT", "SVE256"])
def test_flex_is_compiled_for_processors_that_torch_writes_vectors_for(capability, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(flex_module.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert flex_module.has_compiler.__wrapped__() == capability.startswith("AVX")
    assert flex_module.has_compiler.__wrapped__("cuda")


def test_flex_compiled_for_one_processor_is_not_taken_for_another(monkeypatch):
    """torch's cache of compiled code goes by these options."""
    monkeypatch.undo()
    options = []
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: options.append(kwargs["options"]))
    for capability in ("AVX2", "AVX512"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda it=capability: it)
        flex_module._compiled.__wrapped__()
    assert options[0] != options[1]


@pytest.mark.skipif(not flex_module.has_compiler(), reason="no C++ compiler or no AVX2")
def test_compiled_flex_equals_reference(monkeypatch):
    monkeypatch.undo()
    q, k, v = qkv(heads=4, kv=2, t=600, n=640, dtype=torch.float32)
    p = torch.arange(640).repeat(2, 1)
    p[1] = (p[1] - 30).clamp(min=-1)
    s = (p > 500).long()
    region = Region(near=1, far=330, also=tail_thirds, score=slope)
    agree(
        "flex", q, k, v, [region], softcap=2.0,
        q_positions=p[:, 40:], k_positions=p, q_segments=s[:, 40:], k_segments=s,
    )  # fmt: skip


@pytest.mark.parametrize("changed", [{"near": 2, "far": 13}, {"also": thirds}, {"last": 5}])
@pytest.mark.parametrize("per_head", [False, True])
def test_flex_visits_every_tile_with_a_visible_pair(changed, per_head):
    q, k, v = qkv(t=22, n=30)
    p = torch.arange(30).repeat(2, 1)
    p[1] = (p[1] - 7).clamp(min=-1)
    k_positions = torch.stack([p, p.roll(3, 1)], 1) if per_head else p[:, None]
    s = (p > 20).long()
    queries, block = Queries(q, p[:, 8:], s[:, 8:]), KeyBlock(k, v, k_positions, s)
    region = Region(**changed)
    mask, blind = flex_module._block_mask(queries, block, region, None)
    seen = visible_pairs(region, queries.positions, k_positions, 4)
    seen = seen & same_segment(queries.segments, s)
    assert torch.equal(blind, ~seen.any(-1))
    heads, tiles = seen.shape[1], (6, 8)
    for b, h, i, j in itertools.product(range(2), range(heads), *map(range, tiles)):
        pairs = seen[b, h, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        listed = [
            j in indices[b, h, i, : int(counts[b, h, i])]
            for counts, indices in (
                (mask.kv_num_blocks, mask.kv_indices),
                (mask.full_kv_num_blocks, mask.full_kv_indices),
            )
        ]
        complete = pairs.shape == (4, 4) and bool(pairs.all())
        assert listed == [bool(pairs.any()) and not complete, complete]


def test_flex_on_a_cpu_keeps_the_log_sum_exp_to_itself():
    q, k, v = qkv()
    assert bool(run(q, k, v, [Region()], "flex").lse.isnan().all())
    for regions, kw in (
        (LAYOUTS["sinks"], {}),
        ([Region()], {"need_lse": True}),
        ([Region()], {"blocks": [4]}),
        ([Region()], {"learned_sink": torch.zeros(4)}),
    ):
        with pytest.raises(ValueError, match="takes one region over one block"):
            run(q, k, v, regions, "flex", **kw)


# Bad input.


def test_bad_calls_are_refused():
    q, k, v = qkv()
    with pytest.raises(ValueError, match=r"impl must be one of .*, got 'fast'"):
        attend(q, k, v, [Region()], impl="fast")
    with pytest.raises(ValueError, match="heads must be a multiple of kv_heads 2, got 3"):
        attend(q[:, :3], k, v, [Region()])
    with pytest.raises(ValueError, match="segments must be given for queries and keys"):
        attend(q, k, v, [Region()], q_segments=torch.zeros(2, 6))
    with pytest.raises(ValueError, match="impl='sdpa' takes plain bands"):
        attend(q, k, v, [Region(also=thirds)], impl="sdpa")
    with pytest.raises(ValueError, match="impl='sdpa' takes plain bands"):
        attend(q, k, v, [Region()], k_positions=torch.arange(9).expand(2, -1), impl="sdpa")


def test_attend_is_attend_blocks_over_one_block():
    q, k, v = qkv()
    got = attend(q, k, v, LAYOUTS["sinks"], rotary=ROTARY, scale=0.4, softcap=2.0,
                 learned_sink=draw(3, 4))  # fmt: skip
    want = run(q, k, v, LAYOUTS["sinks"], "reference", scale=0.4, softcap=2.0,
               learned_sink=draw(3, 4))  # fmt: skip
    assert isinstance(got, Partial)
    assert_close(got.out, want.out, rtol=0, atol=1e-10)
    p = torch.arange(9).expand(2, -1)
    same = attend(q, k, v, LAYOUTS["sinks"], q_positions=p[:, 3:], k_positions=p, rotary=ROTARY)
    each = attend(q, k, v, LAYOUTS["sinks"], q_positions=p[:, 3:],
                  k_positions=p[:, None].expand(-1, 2, -1), rotary=ROTARY)  # fmt: skip
    plain = attend(q, k, v, LAYOUTS["sinks"], rotary=ROTARY)
    for one in (same, each):
        assert_close(one.out, plain.out, rtol=0, atol=1e-10)
        assert_close(one.lse, plain.lse, rtol=0, atol=1e-10)


@pytest.mark.parametrize("start", [0, 5])
def test_the_triangle_and_groups_of_it_equal_the_reference_and_have_its_gradient(start):
    """Also runs that do not begin with the text: torch's kernel takes those of one size at once."""
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2, h, 43, 8, generator=g).double() for h in (4, 2, 2)]
    places = torch.arange(start, start + 43)
    for region in (Region(), Region(far=43), Region(range_of=ChunksBack(8, near=0, far=1))):
        found = []
        for impl in ("reference", "auto"):
            q, k, v = leaves = [x.clone().requires_grad_() for x in tensors]
            queries = Queries(q, places.expand(2, -1), None, start)
            block = KeyBlock(k, v, places.expand(2, 1, -1), None, start)
            kw = {"rotary": None, "stored": None, "need_lse": False}
            out = attend_blocks(queries, [block], [region], impl=impl, **kw).out
            found.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
        with recording() as noted:
            attend_blocks(queries, [block], [region], **kw)
        assert {choice.name for _, choice in noted} == {"triangle"}, region
        for ours, theirs in zip(*found, strict=True):
            assert (ours - theirs).abs().max() < 1e-12, region
    with recording() as noted:  # the merge would need the log-sum-exp
        attend_blocks(queries, [block], [Region()], rotary=None, stored=None)
    assert [choice.name for _, choice in noted] == ["chunked"]
    with pytest.raises(ValueError, match="impl='triangle' takes plain causal attention"):
        attend(*tensors, [Region()], impl="triangle")
