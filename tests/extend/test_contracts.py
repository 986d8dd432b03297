"""Every exported method passes the contract suite of its axis."""

import pytest
import torch

import lengthwise as lw
from lengthwise.extend import layouts, scaling, selectors, stores
from lengthwise.testing import Case, parametrize

GROWING = (
    "frequencies follow the length of the text, so what a token saw when it was read depends on "
    "how far reading had come; attention itself uses one base for all keys (check_oracle)"
)
MOVES_WITH_LENGTH = {
    "check_decode_is_prefill": GROWING,
    "check_chunked_prefill": GROWING,
    "check_rows_follow": GROWING,
}
NOTHING_TO_DO = {"check_not_identity": "it is the identity of its axis"}


def infllm_pages(bench, axes, tensors):
    """InfLLM's choice spelled out with loops: mass, representatives, scores, top pages."""
    q, k, _ = (x.double() for x in tensors)
    rows, heads, length, d = q.shape
    group = heads // bench.kv_heads
    s = axes.selector
    rotary = axes.scaling.rotary(bench.base, 64, torch.full((rows,), length))
    f = rotary.inv_freq.double()
    half = bench.rotary_dim // 2

    def turn(x, p):
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        c, n = torch.cos(p * f), torch.sin(p * f)
        return torch.cat([a * c - b * n, b * c + a * n, rest], -1) * 1.0

    def score(row, h, i, key, j):
        _, distance = axes.layout.reference(torch.tensor(i), torch.tensor(j))
        return turn(q[row, h, i], distance) @ key

    read = torch.zeros(rows, length, length, dtype=torch.bool)
    for row in range(rows):
        mass = torch.zeros(bench.kv_heads, length).double()
        for i in range(length):
            near = range(max(0, i - s.window + 1), i + 1)
            for h in range(heads):
                logits = torch.stack([score(row, h, i, k[row, h // group, j], j) for j in near])
                weights = torch.softmax(logits / d**0.5, 0)
                mass[h // group, near.start : i + 1] += weights
            done = [p for p in range(length) if s.sinks + (p + 1) * s.page_size - 1 <= i - s.window]
            values = []
            for p in done:
                first = s.sinks + p * s.page_size
                total = 0.0
                for h in range(heads):
                    kv = h // group
                    top = mass[kv, first : first + s.page_size].topk(4).indices + first
                    total += sum(score(row, h, i, k[row, kv, j], j) for j in top.tolist())
                values.append(float(total))
            best = sorted(done, key=lambda p: -values[p])[: s.pages]
            for j in range(i + 1):
                page = (j - s.sinks) // s.page_size
                always = j < s.sinks or i - j < s.window or page not in done
                read[row, i, j] = always or page in best
    return read


CASES = [
    Case((lw.PI(factor=4),), 16, (lw.PI(factor=1),)),
    Case((lw.NTK(factor=4),), 16, (lw.NTK(factor=1),)),
    Case((lw.DynamicNTK(factor=2),), 64, (lw.DynamicNTK(),), except_for=MOVES_WITH_LENGTH),
    Case((lw.YaRN(factor=4),), 16, (lw.YaRN(factor=1),)),
    Case((lw.OwnScaling(),), 16, (lw.OwnScaling(),), except_for=NOTHING_TO_DO),
    Case((lw.Causal(),), 16, (lw.Causal(),), except_for=NOTHING_TO_DO),
    Case((lw.SlidingWindow(window=9),), 9, (lw.SlidingWindow(window=40),)),
    Case((lw.LMInfinite(sinks=3, window=8),), 8, (lw.LMInfinite(sinks=3, window=40),)),
    Case((lw.SelfExtend(group=4, window=8),), 8, (lw.SelfExtend(group=1, window=8),)),
    Case((lw.SelfExtend(group=3, window=9),), 9, (lw.SelfExtend(group=3, window=42),)),
    Case((lw.CacheSlots(sinks=3, window=8),), 8, (lw.CacheSlots(sinks=3, window=37),)),
    Case((lw.FarAsOne(window=8),), 8, (lw.FarAsOne(window=40),)),
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
        (lw.InfLLM(pages=1, page_size=4, sinks=1, window=5), lw.YaRN(factor=4), lw.Causal()),
        5,
        (lw.InfLLM(pages=99, page_size=4, sinks=1, window=5), lw.Causal()),
        pages=infllm_pages,
    ),
]


def name(value):
    return value.name if isinstance(value, Case) else value.__name__.removeprefix("check_")


@pytest.mark.parametrize(*parametrize(CASES), ids=name)
def test_contract(case, check):
    check(case)


@pytest.mark.parametrize(*parametrize(SELECTORS), ids=name)
def test_selector_contract(case, check):
    check(case)


def test_every_exported_method_has_a_case():
    exported = {n for room in (scaling, layouts, selectors, stores) for n in room.__all__}
    covered = {type(case.methods[0]).__name__ for case in [*CASES, *SELECTORS]}
    assert exported == covered
