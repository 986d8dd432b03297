"""Every exported method passes the contract suite of its axis."""

from dataclasses import replace

import pytest
import torch
from tests.extend.scaling.formulas import angles

import lengthwise as lw
from lengthwise.extend import layouts, scaling, selectors, stores
from lengthwise.extend.stores.evicting import Evicting
from lengthwise.testing import Case, parametrize
from lengthwise.testing.models import tiny_model

GROWING = (
    "frequencies follow the length of the text, so what a token saw when it was read depends on "
    "how far reading had come; attention itself uses one base for all keys (check_oracle)"
)
MOVES_WITH_LENGTH = {
    "check_decode_is_prefill": GROWING,
    "check_chunked_prefill": GROWING,
    "check_rows_follow": GROWING,
    "check_geometries_in_parts": GROWING,
}
TRUNCATED = {
    "check_identity": "it has no limit in which it changes nothing: slow pairs always stop",
    "check_frequencies": "several pairs share one frequency, and the slowest have 0",
}
RISING = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 4.5)
EIGHT_PAIRS = ((6, 2, 16, 16), (4, 4, 16, 16), (5, 1, 24, 16))
PAIRS = {
    "check_regions_are_disjoint": (
        "places inside two units may differ by less than 0; tests/core/test_regions.py has the rest"
    ),
}
NOTHING_TO_DO = {"check_not_identity": "it is the identity of its axis"}


def infllm_pages(bench, axes, tensors):
    """InfLLM's choice spelled out with loops: mass, representatives, scores, top pages."""
    s, (rows, _, length, _) = axes.selector, tensors[0].shape
    shown = bench.window or length  # by the model itself
    products = bench.products_by_hand(axes, tensors).unflatten(1, (bench.kv_heads, -1))
    ends = {p: s.sinks + (p + 1) * s.page_size - 1 for p in range(length)}
    read = torch.zeros(rows, length, length, dtype=torch.bool)
    for row in range(rows):
        mass = torch.zeros(bench.kv_heads, length).double()
        for i in range(length):
            near = slice(max(0, i - min(s.window, shown) + 1), i + 1)
            mass[:, near] += bench.capped(products[row, :, :, i, near]).softmax(-1).sum(1)
            done = [p for p, end in ends.items() if end <= i - s.window]
            values = {}
            for p in done:
                first = s.sinks + p * s.page_size
                top = mass[:, first : first + s.page_size].topk(4).indices + first
                total = sum(products[row, kv, :, i, best].sum() for kv, best in enumerate(top))
                values[p] = round(1024 * float(total) / 4)
            last_seen = [p for p in done if i - ends[p] < shown]
            best = sorted(last_seen, key=lambda p: -values[p])[: s.pages]
            for j in range(i + 1):
                page = (j - s.sinks) // s.page_size
                always = j < s.sinks or i - j < s.window or page not in done
                read[row, i, j] = always or page in best
    return read


def quest_pages(bench, axes, tensors):
    """Quest spelled out with loops: bounds of rotated keys, the largest product within them."""
    q, k, _ = (x.double() for x in tensors)
    s, (rows, heads, length, d) = axes.selector, q.shape
    group, shown = heads // bench.kv_heads, bench.window or length
    f, factor, _ = bench.angles(axes, length)
    half = bench.rotary_dim // 2
    near = bench.pairing == "interleaved"
    first, second = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if near else (
        slice(half), slice(half, 2 * half)
    )  # fmt: skip

    def turn(x):
        a, b, turned = x[..., first], x[..., second], x.clone()
        angle = torch.arange(length)[:, None] * f
        c, n = factor * angle.cos(), factor * angle.sin()
        turned[..., first], turned[..., second] = a * c - b * n, b * c + a * n
        return turned

    q, k = (turn(x).to(tensors[0].dtype).double() for x in (q, k))  # as they are held
    ends = {p: s.sinks + (p + 1) * s.page_size - 1 for p in range(length)}
    read = torch.zeros(rows, heads, length, length, dtype=torch.bool)
    for row in range(rows):
        for i in range(length):
            done = [p for p, end in ends.items() if end <= i - s.window]
            for kv in range(bench.kv_heads):
                values = {}
                for p in done:
                    keys = k[row, kv, ends[p] - s.page_size + 1 : ends[p] + 1]
                    asked = q[row, kv * group : (kv + 1) * group, i]
                    bound = torch.maximum(asked * keys.amax(0), asked * keys.amin(0))
                    values[p] = round(1024 * float(bound.sum()) / d**0.5)
                last_seen = [p for p in done if i - ends[p] < shown]
                best = sorted(last_seen, key=lambda p: -values[p])[: s.pages]
                for j in range(i + 1):
                    page = (j - s.sinks) // s.page_size
                    always = j < s.sinks or i - j < s.window or page not in done
                    read[row, kv * group : (kv + 1) * group, i, j] = always or page in best
    return read


def longheads_pages(bench, axes, tensors):
    """LongHeads spelled out with loops: a vector of every chunk, scores, chunks in a row."""
    q, k, v = (x.double() for x in tensors)
    rows, heads, length, d = q.shape
    group = heads // bench.kv_heads
    size, most = axes.selector.chunk, axes.selector.chunks
    f, factor, _ = bench.angles(axes, length)
    half, shown = bench.rotary_dim // 2, bench.window or length

    def turn(x):  # a chunk, by the places in it
        near = bench.pairing == "interleaved"
        first, second = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if near else (
            slice(half), slice(half, 2 * half)
        )  # fmt: skip
        a, b, turned = x[:, first], x[:, second], x.clone()
        angle = torch.arange(size)[:, None] * f
        c, n = factor * angle.cos(), factor * angle.sin()
        turned[:, first], turned[:, second] = a * c - b * n, b * c + a * n
        return turned

    def pooled(queries, keys, values):
        return torch.softmax(queries @ keys.T / d**0.5, -1) @ values

    read = torch.zeros(rows, heads, length, length, dtype=torch.bool)
    distance = torch.arange(length)[:, None] - torch.arange(length)[None]
    distance = distance.expand(rows, heads, -1, -1).clone()
    for row in range(rows):
        wanted = {}  # of a KV head and a chunk, by every query
        for number in range(length // size):
            inside = slice(number * size, (number + 1) * size)
            for h in range(heads):
                keys, values = turn(k[row, h // group, inside]), v[row, h // group, inside]
                mean = pooled(turn(q[row, h, inside]), keys, values).mean(0)
                scores = q[row, h] @ pooled(mean, keys, keys) / d**0.5
                wanted[h // group, number] = wanted.get((h // group, number), 0) + scores
        for i in range(length):
            own = i // size
            for kv in range(bench.kv_heads):
                mine = slice(kv * group, (kv + 1) * group)
                last_seen = [n for n in range(1, own - 1) if i - (n * size + size - 1) < shown]
                best = sorted(last_seen, key=lambda n: -round(1024 * float(wanted[kv, n][i])))
                chosen = sorted({0, max(own - 1, 0), own, *best[: most - 3]})
                for rank, number in enumerate(chosen):
                    j = torch.arange(number * size, min((number + 1) * size, i + 1))
                    place = (len(chosen) - 1) * size + i % size - (rank * size + j % size)
                    read[row, mine, i, j] = True
                    distance[row, mine, i, j] = place
    return read, distance


def longcache_pages(bench, axes, tensors):
    """LongCache spelled out with loops: named keys, votes, neighbours, places by rank."""
    q, k, _ = (x.double() for x in tensors)
    rows, heads, length, d = q.shape
    group = heads // bench.kv_heads
    s, shown = axes.selector, bench.window or length
    read = torch.zeros(rows, heads, length, length, dtype=torch.bool)
    distance = torch.zeros(rows, heads, length, length, dtype=torch.long)
    for row in range(rows):
        for i in range(length):
            middle = range(max(s.sinks, i - shown + 1), i - s.window + 1)
            votes = dict.fromkeys(middle, 0)
            for h in range(heads):
                logits = {j: float(q[row, h, i] @ k[row, h // group, j]) / d**0.5 for j in middle}
                for j in sorted(middle, key=lambda j: (-round(1024 * logits[j]), j))[: s.top]:
                    votes[j] += 1
            named = [j for j in middle if votes[j]]
            centres = sorted(named, key=lambda j: (-votes[j], j))[: s.centres]
            runs = {
                c + step for c in centres for step in range(-(s.span // 2), s.span - s.span // 2)
            }
            near = range(max(0, i - min(s.window, shown) + 1), i + 1)
            chosen = sorted({*range(min(s.sinks, i + 1)), *(runs & {*middle}), *near})
            for rank, j in enumerate(chosen):
                read[row, :, i, j] = True
                distance[row, :, i, j] = len(chosen) - 1 - rank
    return read, distance


CASES = [
    Case((lw.PI(factor=4),), 16, (lw.PI(factor=1),)),
    Case((lw.NTK(factor=4),), 16, (lw.NTK(factor=1),)),
    Case((lw.DynamicNTK(factor=2),), 64, (lw.DynamicNTK(),), except_for=MOVES_WITH_LENGTH),
    Case((lw.YaRN(factor=4),), 16, (lw.YaRN(factor=1),)),
    Case((lw.DynamicYaRN(),), 24, (lw.DynamicYaRN(),), except_for=MOVES_WITH_LENGTH),
    Case((lw.Llama3(factor=4),), 16, (lw.Llama3(factor=1),)),
    Case((lw.ABF(base=1e4),), 16, (lw.ABF(base=100),)),
    Case((lw.Giraffe(factor=2),), 16, (), except_for=TRUNCATED),
    Case((lw.GiraffeLinear(scale=4),), 16, (lw.GiraffeLinear(scale=1),)),
    Case((lw.LongRoPE(RISING, 4),), 16, (lw.LongRoPE((1,) * 8, 1),), shapes=EIGHT_PAIRS),
    Case(
        (lw.LongRoPE(RISING, 4, short_factors=(1,) * 8),),
        24,
        (lw.LongRoPE(RISING, 4, short_factors=(1,) * 8, attention_factor=1),),
        except_for=MOVES_WITH_LENGTH,
        shapes=EIGHT_PAIRS,
    ),
    Case(
        (lw.CLEX(((1, 1.1, 1.3, 1.5, 1.8, 2, 2.2, 2.5), RISING)),),
        24,
        (lw.CLEX(((1,) * 8,)),),
        except_for=MOVES_WITH_LENGTH,
        shapes=EIGHT_PAIRS,
    ),
    Case(
        (lw.LongRoPE2(RISING, 4),),
        24,
        (lw.LongRoPE2(RISING, 4),),
        except_for=MOVES_WITH_LENGTH,
        shapes=EIGHT_PAIRS,
    ),
    Case((lw.LogTemperature(),), 24, (lw.LogTemperature(),)),
    Case(
        (lw.LogTemperature(over=lw.DynamicYaRN()),),
        24,
        (lw.LogTemperature(over=lw.YaRN(factor=1)),),
        except_for=MOVES_WITH_LENGTH,
    ),
    Case(
        (lw.HeadScale(2 * ((1.5, 1.1, 2, 1.3, 1.7, 1),)),),  # the same in two layers
        16,
        (lw.HeadScale(((1,) * 6,)),),
        shapes=((6, 2, 16, 16), (6, 3, 8, 4)),
    ),
    Case((lw.OwnScaling(),), 16, (lw.OwnScaling(),), except_for=NOTHING_TO_DO),
    Case((lw.Causal(),), 16, (lw.Causal(),), except_for=NOTHING_TO_DO),
    Case((lw.SlidingWindow(window=9),), 9, (lw.SlidingWindow(window=40),)),
    Case((lw.LMInfinite(sinks=3, window=8),), 8, (lw.LMInfinite(sinks=3, window=40),)),
    Case((lw.SelfExtend(group=4, window=8),), 8, (lw.SelfExtend(group=1, window=8),)),
    Case((lw.SelfExtend(group=3, window=9),), 9, (lw.SelfExtend(group=3, window=42),)),
    Case((lw.CacheSlots(sinks=3, window=8),), 8, (lw.CacheSlots(sinks=3, window=37),)),
    Case((lw.FarAsOne(window=8),), 8, (lw.FarAsOne(window=40),)),
    Case((lw.STRING(shift=10, window=4),), 10, (lw.STRING(shift=40, window=8),)),
    Case((lw.ReRoPE(window=8),), 8, (lw.ReRoPE(window=40),)),
    Case((lw.LeakyReRoPE(factor=3, window=8),), 8, (lw.LeakyReRoPE(factor=1, window=8),)),
    Case((lw.LeakyReRoPE(factor=2.5, window=8),), 8, (lw.LeakyReRoPE(factor=2, window=40),)),
    Case((lw.DualChunk(chunk=12, window=5),), 7, (lw.DualChunk(chunk=50, window=10),)),
    Case((lw.DualChunk(chunk=9, window=4, trained=8),), 9, (lw.DualChunk(chunk=50, window=10),)),
    Case((lw.GALI(trained=10, window=3, factor=3),), 6, (lw.GALI(trained=40, window=3),)),
    Case((lw.GALI(trained=7, window=2, factor=2),), 5, (lw.GALI(trained=40, window=8),)),
    Case(
        (lw.HiRoPE(starts=(0, 4, 9, 11, 20, 30), pairs=8, split=5, window=8),),
        8,
        (lw.HiRoPE(starts=(0,), pairs=8, split=8, window=8),),
        except_for=PAIRS,
        shapes=EIGHT_PAIRS,
    ),
    Case((lw.AllPages(),), 16, (lw.AllPages(),), except_for=NOTHING_TO_DO),
    Case((lw.FullStore(),), 16, (lw.FullStore(),), except_for=NOTHING_TO_DO),
    Case((lw.StreamingLLM(sinks=3, window=8),), 8, (lw.StreamingLLM(sinks=3, window=37),)),
    Case((lw.StreamingLLM(sinks=0, window=5),), 5, (lw.StreamingLLM(sinks=0, window=40),)),
    # Across axes.
    Case(
        (lw.YaRN(factor=4), lw.StreamingLLM(sinks=2, window=7)),
        7,
        (lw.YaRN(factor=1), lw.StreamingLLM(sinks=2, window=40)),
    ),
    Case(
        (lw.StreamingLLM(sinks=2, window=12), lw.SelfExtend(group=4, window=8)),
        12,
        (lw.StreamingLLM(sinks=2, window=40), lw.SelfExtend(group=4, window=40)),
    ),
    Case(
        (lw.StreamingLLM(sinks=2, window=12), lw.DualChunk(chunk=9, window=4)),
        12,
        (lw.StreamingLLM(sinks=2, window=40), lw.DualChunk(chunk=60, window=4)),
    ),
    Case(
        (lw.StreamingLLM(sinks=4, window=12), lw.LMInfinite(sinks=2, window=8), lw.NTK(factor=2)),
        12,
        (lw.StreamingLLM(sinks=4, window=40), lw.LMInfinite(sinks=2, window=40)),
    ),
]
SELECTORS = [
    Case(
        (lw.InfLLM(pages=2, page_size=4, sinks=2, window=6),),
        6,
        (lw.InfLLM(pages=2, page_size=4, sinks=2, window=40),),
        pages=infllm_pages,
    ),
    Case(
        (lw.InfLLM(pages=2, page_size=5, sinks=0, window=8), lw.SelfExtend(group=4, window=8)),
        8,
        (lw.InfLLM(pages=99, page_size=4, sinks=0, window=8), lw.Causal()),
        pages=infllm_pages,
    ),
    Case(
        (lw.InfLLM(pages=2, page_size=4, sinks=2, window=8), lw.STRING(shift=8, window=4)),
        8,
        (lw.InfLLM(pages=99, page_size=4, sinks=2, window=8), lw.Causal()),
        pages=infllm_pages,
    ),
    Case(
        (lw.InfLLM(pages=1, page_size=4, sinks=1, window=5), lw.YaRN(factor=4), lw.Causal()),
        5,
        (lw.InfLLM(pages=99, page_size=4, sinks=1, window=5), lw.Causal()),
        pages=infllm_pages,
    ),
    Case(
        (lw.Quest(pages=2, page_size=4, sinks=2, window=6),),
        6,
        (lw.Quest(pages=2, page_size=4, sinks=2, window=40),),
        pages=quest_pages,
    ),
    Case(
        (lw.Quest(pages=1, page_size=3, sinks=0, window=5), lw.YaRN(factor=4)),
        5,
        (lw.Quest(pages=99, page_size=3, sinks=0, window=5),),
        pages=quest_pages,
    ),
    Case(
        (lw.LongHeads(chunks=4, chunk=4),),
        16,
        (lw.LongHeads(chunks=5, chunk=8),),
        pages=longheads_pages,
    ),
    Case(
        (lw.LongHeads(chunks=5, chunk=3), lw.YaRN(factor=4), lw.Causal()),
        15,
        (lw.LongHeads(chunks=14, chunk=3),),
        pages=longheads_pages,
    ),
    Case(
        (lw.LongCache(top=1, centres=3, span=3, sinks=2, window=6),),
        6,
        (lw.LongCache(window=40),),
        pages=longcache_pages,
    ),
    Case(
        (lw.LongCache(top=2, centres=2, span=4, sinks=0, window=7), lw.DynamicNTK(factor=2)),
        7,
        (lw.LongCache(top=40, centres=40, span=1, sinks=0, window=5), lw.Causal()),
        pages=longcache_pages,
        except_for=MOVES_WITH_LENGTH,
    ),
]


# They scale the biases or scores of models that rotate nothing and keep their own attention, which
# the contract's bench does not have: tests/hf/test_alibi.py and tests/hf/test_encoders.py.
UNROTATED = (lw.ALiBiPI, lw.DynamicALiBiPI, lw.T5Align, lw.TempScale)


def name(value):
    return value.name if isinstance(value, Case) else value.__name__.removeprefix("check_")


CASES = [replace(case, formula=angles) for case in CASES]
ALONE = {"check_documents": "cannot read packed documents yet"}
SELECTORS = [replace(case, formula=angles, refuses=ALONE) for case in SELECTORS]


@pytest.mark.parametrize(*parametrize(CASES), ids=name)
def test_contract(case, check):
    check(case)


@pytest.mark.parametrize(*parametrize(SELECTORS), ids=name)
def test_selector_contract(case, check):
    check(case)


def test_every_exported_method_has_a_case():
    exported = {n for room in (scaling, layouts, selectors, stores) for n in room.__all__}
    covered = {type(case.methods[0]).__name__ for case in [*CASES, *SELECTORS]}
    # Stores that choose by attention have theirs in tests/extend/stores/test_evicting.py.
    evicting = {n for n in exported if issubclass(getattr(lw, n), Evicting)}
    assert exported - evicting == covered | {cls.__name__ for cls in UNROTATED}


def test_scalings_without_a_case_fit_no_rotary_model():
    for cls in UNROTATED:
        assert "rotary" not in cls.fits


def test_gradients_through_adapt_are_those_of_differences():
    """Along one direction over all weights that make queries, keys and values.

    GPT-NeoX, because other families' norms round to float32.
    """
    ids = torch.randint(3, 300, (1, 75), generator=torch.Generator().manual_seed(0))
    shape = {"num_hidden_layers": 1, "hidden_size": 96, "head_dim": 16, "rotary_pct": 1.0}
    one_each = {type(case.methods[0]): case.methods for case in [*CASES, *SELECTORS]}
    one_each[lw.HeadScale] = (lw.HeadScale(one_each[lw.HeadScale][0].scales[:1]),)
    for methods in one_each.values():
        model = tiny_model("gpt_neox", **shape).double()
        g = torch.Generator().manual_seed(1)
        weights = torch.randn(1, 75, 320, generator=g, dtype=torch.float64)
        moved = [p for n, p in model.named_parameters() if n.endswith("query_key_value.weight")]
        steps = [1e-5 * torch.randn(p.shape, generator=g, dtype=torch.float64) for p in moved]

        def value(model=model, weights=weights):
            return (model(ids, use_cache=False).logits * weights).sum()

        def value_at(times, moved=moved, steps=steps, value=value):
            with torch.no_grad():
                for parameter, step in zip(moved, steps, strict=True):
                    parameter.add_(step, alpha=times)
                return value().item()

        lw.adapt(model, *methods)
        if isinstance(methods[0], lw.InfLLM | lw.LongHeads | lw.LongCache | lw.Quest):
            words = f"{type(methods[0]).__name__} has no gradient for the keys of its pag"
            with pytest.raises(ValueError, match=words):
                value().backward()
            continue
        value().backward()
        slope = sum((p.grad * s).sum().item() for p, s in zip(moved, steps, strict=True))
        by_difference = (value_at(1) - value_at(-2)) / 2
        assert abs(slope) > 1e-5
        assert abs(slope - by_difference) < 1e-6 * abs(slope), (methods, slope, by_difference)
