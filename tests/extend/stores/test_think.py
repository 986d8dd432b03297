"""ThinK: which channels kept keys lose, spelled out key by key."""

import pytest
import torch

import lengthwise as lw
from lengthwise.testing import Case, parametrize
from lengthwise.testing.bench import Bench

OTHER = "kept keys lose channels: test_outputs_by_hand"
CASE = Case(
    (lw.ThinK(tokens=10, recent=3, kernel=3, every=5),),
    10,
    (lw.ThinK(tokens=40, recent=3, kernel=3, every=5, ratio=0),),
    except_for={
        "check_oracle": OTHER,
        "check_kept": OTHER,
        "check_geometries": OTHER,
        "check_bfloat16": "torch has no attention to thin keys to hold it to",
    },
    refuses={"check_documents": "cannot read packed documents yet"},
)


def name(value):
    return value.name if isinstance(value, Case) else value.__name__.removeprefix("check_")


@pytest.mark.parametrize(*parametrize([CASE]), ids=name)
def test_contract(case, check):
    check(case)


def turned(x, position, inv_freq):
    half = len(inv_freq)
    angle = position * inv_freq
    a, b = x[..., :half], x[..., half:]
    head = [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()]
    return torch.cat(head, -1)


def test_outputs_by_hand():
    method = lw.ThinK(tokens=10, recent=3, kernel=3, every=5, ratio=0.4)
    bench = Bench()
    engine, length = bench.engine(method), 34
    tensors = bench.tensors(1, length)
    got = bench.run(engine, tensors)[0]
    inv_freq = bench.angles(engine.axes, length)[0]
    q, k, v = (x[0].double() for x in tensors)
    q, k = (torch.stack([turned(x[:, i], i, inv_freq) for i in range(length)], 1) for x in (q, k))
    group, lost = bench.heads // bench.kv_heads, 0
    for kv in range(bench.kv_heads):
        held, channels = {}, None  # token: its key
        mine = range(kv * group, (kv + 1) * group)
        drawn = dict.fromkeys(range(length), 0.0)
        for i in range(length):
            held[i] = k[kv, i].clone()
            order = sorted(held)
            keys = torch.stack([held[j] for j in order])
            for h in mine:
                weights = torch.softmax(keys @ q[h, i] / 4, 0)
                want = weights @ v[kv, order]
                torch.testing.assert_close(got[h, i], want, atol=1e-10, rtol=0)
                for j, weight in zip(order, weights.tolist(), strict=True):
                    drawn[j] += weight * (i % 5 >= 2)
            if (i + 1) % 5:
                continue
            mass = [0.0, *(drawn[j] for j in order), 0.0]
            pooled = {j: sum(mass[n : n + 3]) / 3 for n, j in enumerate(order)}
            old = sorted(order[:-3], key=lambda j: -pooled[j])[:7]
            held = {j: held[j] for j in sorted(old) + order[-3:]}
            drawn = dict.fromkeys(range(length), 0.0)
            if channels is None and old:
                asked = sum(q[h, i - n] ** 2 for h in mine for n in range(3))
                there = sum(held[j] ** 2 for j in old)
                channels = (asked * there).argsort(descending=True)[:10]
            for j in old:
                thin = torch.zeros_like(held[j])
                thin[channels] = held[j][channels]
                lost += int((thin != held[j]).sum())
                held[j] = thin
    assert lost > 50


def test_chosen_channels_lose_less_than_the_smallest_and_bytes_fall():
    """Scores of the window's queries are nearer than without the channels of the smallest keys."""
    gaps, sizes = [], []
    for seed in range(20):
        bench = Bench(kv_heads=6)
        q, k, v = bench.tensors(1, 40, seed)
        g = torch.Generator().manual_seed(seed)
        uneven = torch.rand(1, 6, 1, 16, generator=g).double() * 3
        q, k = q * uneven, k * torch.rand(1, 6, 1, 16, generator=g).double() * 3
        whole = lw.ThinK(tokens=60, recent=20, every=40, ratio=0.0)
        states = [bench.engine(m).new_state(0) for m in (whole, lw.ThinK(60, 20, 5, 40, 0.5))]
        for state, ratio in zip(states, (0.0, 0.5), strict=True):
            engine = bench.engine(lw.ThinK(tokens=60, recent=20, every=40, ratio=ratio))
            bench.run(engine, (q, k, v), [40], state=state)
        exact, thin = (state.store.whole().keys[:, :, :20] for state in states)
        norms = (exact**2).sum(2, keepdim=True)
        by_norm = exact * (norms >= norms.topk(8, -1).values[..., -1:])
        turn = engine._rotary(engine.plans[0][0], step_of(40))
        asked = turn.rotate(q, torch.arange(40)[None, None])[:, :, 20:]
        gap = [((asked @ (x - exact).mT) ** 2).mean().item() for x in (thin, by_norm)]
        gaps.append(gap[1] - gap[0])
        sizes.append(states[1].bytes() / states[0].bytes())
    assert sum(x > 0 for x in gaps) >= 16 and sum(gaps) > 0
    assert max(sizes) < 0.95


def step_of(length):
    from lengthwise.hf.positions import Step

    return Step(torch.arange(length)[None], None, 0, torch.tensor([length]))


def test_numbers_out_of_range():
    for ratio, words in ((1.0, "ratio must be below 1, got 1.0"), (-0.1, "ratio must be at least")):
        with pytest.raises(ValueError, match=words):
            lw.ThinK(ratio=ratio)
