"""Chelsea: clusters of keys, spelled out with lists."""

import math

import pytest
import torch

import lengthwise as lw
from lengthwise.testing import Case, parametrize
from lengthwise.testing.bench import Bench

CASE = Case(
    (lw.Chelsea(tokens=14, sinks=2, recent=4, chunk=6, every=5),),
    14,
    (lw.Chelsea(tokens=40, sinks=2, recent=4, chunk=6, every=5),),
    except_for={
        "check_oracle": "keys are merged, not chosen: test_clusters_by_hand",
        "check_kept": "keys stand for several tokens: test_clusters_by_hand",
        "check_geometries": "keys are merged, not chosen: test_clusters_by_hand",
        "check_bfloat16": "clusters of rounded keys are others, and torch has no attention to them",
    },
    refuses={"check_documents": "cannot read packed documents yet"},
)


def name(value):
    return value.name if isinstance(value, Case) else value.__name__.removeprefix("check_")


@pytest.mark.parametrize(*parametrize([CASE]), ids=name)
def test_contract(case, check):
    check(case)


def turn(x, position, inv_freq):
    half = len(inv_freq)
    angle = position * inv_freq
    a, b = x[:half], x[half : 2 * half]
    head = [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()]
    return torch.cat([*head, x[2 * half :]])


def merged_by_hand(method, clusters):
    """One round for clusters `(key, value, position, count)` of one head, in their order."""
    last = max(c[4] for c in clusters)
    free = [c for c in clusters if c[2] >= method.sinks and c[2] <= last - method.recent]
    even = {id(c): n for n, c in enumerate(free) if n % 2 == 0}
    edges = []
    for n, a in enumerate(free):
        chunk = [
            (m, b)
            for m, b in enumerate(free)
            if m % 2 == 1 and m // method.chunk == n // method.chunk
        ]
        if id(a) in even and chunk:
            m, b = max(chunk, key=lambda x: float(torch.cosine_similarity(a[0], x[1][0], dim=0)))
            edges.append((float(torch.cosine_similarity(a[0], b[0], dim=0)), n, m))
    return free, sorted(edges, key=lambda e: (-e[0], e[1]))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"softcap": 1.5},
        {"sinks": True},
        {"window": 15},
        {"softcap": 1.5, "sinks": True, "window": 15},
    ],
    ids=str,
)
def test_clusters_by_hand(settings):
    method = CASE.methods[0]
    bench = Bench(heads=4, kv_heads=2, head_dim=12, rotary_dim=8, **settings)
    cap, shown = bench.softcap, bench.window or 47
    engine = bench.engine(method)
    inv_freq = bench.base.own(0)[0].double()
    length = 47
    q, k, v = bench.tensors(1, length, seed=9)
    got = bench.run(engine, (q, k, v))
    want = torch.zeros_like(got)
    for kv in range(2):
        clusters = []
        for i in range(length):
            clusters.append((k[0, kv, i], v[0, kv, i], i, 1, i))
            for h in (2 * kv, 2 * kv + 1):
                seen = [c for c in clusters if i - c[2] < shown]
                products = torch.stack([
                    turn(q[0, h, i], i, inv_freq) @ turn(c[0], c[2], inv_freq) / math.sqrt(12)
                    for c in seen
                ])  # fmt: skip
                capped = products if cap is None else cap * (products / cap).tanh()
                scores = capped + torch.tensor([c[3] for c in seen], dtype=torch.float64).log()
                weights = bench.softmax(scores[None, None], [h])[0, 0]
                want[0, h, i] = weights @ torch.stack([c[1] for c in seen])
            while (i + 1) % method.every == 0 and len(clusters) > method.tokens:
                free, edges = merged_by_hand(method, [(*c[:4], i) for c in clusters])
                chosen = edges[: len(clusters) - method.tokens]
                for _, n, m in chosen:
                    joins = [x for _, x, y in chosen if y == m]
                    if n != joins[0]:
                        continue
                    all_of_it = [free[m], *(free[x] for x in joins)]
                    count = sum(c[3] for c in all_of_it)
                    means = [sum(c[p] * c[3] for c in all_of_it) / count for p in (0, 1, 2)]
                    new = (means[0], means[1], round(means[2]), count, free[m][4])
                    at = next(x for x, c in enumerate(clusters) if c[0] is free[m][0])
                    clusters[at] = new
                    gone = {id(free[x][0]) for x in joins}
                    clusters = [c for c in clusters if id(c[0]) not in gone]
    assert (got - want).abs().max() < 1e-9


def test_merging_equal_keys_changes_nothing():
    bench = Bench()
    q, k, v = bench.tensors(1, 60)
    k[:, :, 4:50], v[:, :, 4:50] = k[:, :, 4:5], v[:, :, 4:5]
    # Without positions: equal keys at other places are other keys.
    engine = bench.engine(lw.Chelsea(tokens=20, sinks=2, recent=4, every=10))
    plain = bench.engine()
    for one in (engine, plain):
        one.geometry.layers[0].__dict__["rotary"] = None
    gap = (bench.run(engine, (q, k, v)) - bench.run(plain, (q, k, v))).abs().max()
    assert gap < 1e-9
    state = engine.new_state(0)
    bench.run(engine, (q, k, v), [60], state=state)
    assert state.store.numbers().max() > 3
