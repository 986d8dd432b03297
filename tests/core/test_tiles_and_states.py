"""Block-sparse attention, a prefix as a state, softplus attention: each beside a plain formula."""

import math
from importlib import import_module

import pytest
import torch

from lengthwise.core.attention import attend
from lengthwise.core.attention.softplus import softplus_attention
from lengthwise.core.attention.state import PrefixState
from lengthwise.core.attention.tiles import Tiles
from lengthwise.core.partial import merge
from lengthwise.core.regions import Region


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(t: int = 70) -> list[torch.Tensor]:
    return [random(2, heads, t, 8, seed=heads + i) for i, heads in enumerate((4, 2, 2))]


def test_tiles_equal_the_masked_reference_forward_and_backward() -> None:
    for heads, size in ((1, 16), (4, 16), (1, 7)):
        seen = random(heads, 10, 10, seed=size) > 0.3
        region = Region(also=Tiles(seen, size))
        found = []
        for impl in ("reference", "chunked"):
            leaves = [x.clone().requires_grad_() for x in inputs()]
            part = attend(*leaves, [region], impl=impl)
            (part.out.sin().sum() + part.lse.clamp(min=-9).sum()).backward()
            found.append([part.out.detach(), *(x.grad for x in leaves)])
        for ours, wanted in zip(found[1], found[0], strict=True):
            assert torch.allclose(ours, wanted, atol=1e-11), (heads, size)


def test_tiles_that_no_head_sees_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, chunked = [], import_module("lengthwise.core.attention.chunked")
    inner = chunked.score_tile

    def counting(*args: object) -> object:
        made = inner(*args)
        counted.append(made is not None)
        return made

    monkeypatch.setattr(chunked, "score_tile", counting)
    seen = torch.eye(5, dtype=torch.bool)[None]
    attend(*inputs(80), [Region(also=Tiles(seen, 16))], impl="chunked")
    assert sum(counted) == 5


def test_a_state_equals_the_prefix_to_second_order_and_joins_the_rest() -> None:
    q, k, v = random(1, 2, 5, 8), random(1, 2, 40, 8, seed=1), random(1, 2, 40, 3, seed=2)
    own_k, own_v = random(1, 2, 6, 8, seed=3), random(1, 2, 6, 3, seed=4)
    off = []
    for size in (0.4, 0.2, 0.1):
        parts = [k * size, own_k * size]
        scores = [q @ one.transpose(-1, -2) / math.sqrt(8) for one in parts]
        wanted = torch.softmax(torch.cat(scores, -1), -1) @ torch.cat([v, own_v], 2)
        state = PrefixState.of(k * size, v)
        own = attend(q, own_k * size, own_v, [Region()], impl="reference",
                     q_positions=torch.full((1, 5), 9))  # fmt: skip
        off.append(float((merge([state.read(q), own]).out - wanted).abs().max()))
        assert state.values.shape == (1, 2, 73, 3)  # whatever the prefix holds
    assert off[0] > 5 * off[1] > 25 * off[2]  # a third order: 8 times less for half
    empty = PrefixState(torch.zeros(1, 2, 8, 3).double(), torch.zeros(1, 2, 8).double())
    assert torch.equal(merge([empty.read(q), own]).out, own.out)
    with pytest.raises(ValueError, match="one of positive, second order"):
        PrefixState(empty.values, empty.weights, "third")


def test_softplus_attention_equals_its_formula_row_by_row() -> None:
    q, k, v = inputs(9)
    for power in (0.0, 3.0, 15.0):
        found = softplus_attention(q, k, v, power)
        for h in range(4):
            for i in range(9):
                unit = [x / x.norm(dim=-1, keepdim=True) for x in (q[0, h, i], k[0, h // 2])]
                scores = unit[1][: i + 1] @ unit[0] * math.log(8) * math.log(i + 1)
                a = torch.log1p(scores.exp())
                a = a / a.sum()
                if power:
                    b = (a * (i + 1) - int(i >= 3)).clamp(min=0) ** power
                    a = b / b.sum() if b.sum() > 0 else a
                assert torch.allclose(found[0, h, i], a @ v[0, h // 2, : i + 1], atol=1e-10)
    assert torch.allclose(
        softplus_attention(q[:, :, 4:], k, v), softplus_attention(q, k, v)[:, :, 4:]
    )
    leaves = [x.clone().requires_grad_() for x in inputs(9)]
    softplus_attention(*leaves).sum().backward()
    assert all(bool(x.grad.isfinite().all()) for x in leaves)
    for wrong in (0.5, -1.0):
        with pytest.raises(ValueError, match="power"):
            softplus_attention(q, k, v, wrong)
