"""Attention in C equals dense attention on each kind of processor, or is left to torch."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.kinds import every_kind, needs_compiler  # noqa: F401

from lengthwise.core import built, native
from lengthwise.core.attention import attend, attend_blocks
from lengthwise.core.attention.decode import decode
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.regions import Region
from lengthwise.core.rotary import Rotary


def draw(b: int, h: int, kv: int, keys: int, d: int = 64, e: int = 64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(keys)
    shapes = [(b, h, 1, d), (b, kv, keys, d), (b, kv, keys, e)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def dense(
    q: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor], scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every query sees every key, in float64."""
    group = q.shape[1] // keys[0].shape[1]
    k, v = (torch.cat(x, 2).double().repeat_interleave(group, 1) for x in (keys, values))
    scores = q.double() @ k.transpose(2, 3) * scale
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def block(k: torch.Tensor, v: torch.Tensor, start: int = 0) -> KeyBlock:
    positions = torch.arange(start, start + k.shape[2]).expand(k.shape[0], 1, -1)
    return KeyBlock(k, v, positions, None, start)


@needs_compiler
def test_equals_dense_attention() -> None:
    generator = torch.Generator().manual_seed(0)

    def pick(*choices: int) -> int:
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    shapes = [(2, 6, 2, 1, keys, 64, 64) for keys in (1, 7, 8, 15, 16, 31, 32, 33, 64, 130, 4097)]
    for _ in range(40):
        kv, d, e = (
            pick(1, 2, 3),
            pick(8, 16, 24, 40, 64, 80, 128, 256),
            pick(8, 48, 64, 96, 128, 512),
        )
        shapes.append((pick(1, 3), kv * pick(1, 2, 5), kv, pick(1, 2, 5), pick(3, 40, 333), d, e))
    for shape in shapes:
        b, h, kv, t, keys, d, e = shape
        q, k = (4 * torch.randn(b, n, x, d, generator=generator) for n, x in ((h, t), (kv, keys)))
        v = torch.randn(b, keys, kv, e, generator=generator).transpose(1, 2)  # time before heads
        pairs = [(q, block(k, v))]
        assert native.takes(pairs), shape
        out, lse = native.decode(pairs, 0.25 * d**-0.5)
        exact, total = dense(q, [k], [v], 0.25 * d**-0.5)
        torch.testing.assert_close(out.double(), exact, atol=2e-5, rtol=0, msg=str(shape))
        torch.testing.assert_close(lse.double(), total, atol=2e-5, rtol=0, msg=str(shape))


@needs_compiler
def test_halves_are_widened_and_rounded_once() -> None:
    """bfloat16 keys, values and vectors to turn: float32 inside, then the nearest, ties to even."""
    generator = torch.Generator().manual_seed(1)
    for keys, h, kv, d in ((1, 2, 2, 16), (33, 6, 2, 64), (130, 5, 1, 128), (4097, 4, 4, 40)):
        q, k = (
            torch.randn(2, n, x, d, generator=generator).bfloat16() for n, x in ((h, 2), (kv, keys))
        )
        v = torch.randn(2, keys, kv, d, generator=generator).bfloat16().transpose(1, 2)
        out, lse = native.decode([(q, block(k, v))], 0.25)
        exact, total = dense(q, [k], [v], 0.25)
        once = (exact.bfloat16().double() - exact).abs().max()
        assert out.dtype == torch.bfloat16 and lse.dtype == torch.float32
        assert (out.double() - exact).abs().max() <= 1.01 * once + 1e-6, keys
        torch.testing.assert_close(lse.double(), total, atol=2e-5, rtol=0)
    for pairing in ("half", "interleaved"):
        rotary = Rotary(torch.rand(20, generator=generator), 1.0, pairing)  # type: ignore[arg-type]
        places = torch.arange(33)[None, None]
        assert native.takes_turn(k[:, :, :33], rotary.inv_freq)
        got, exact = (rotary.rotate(x[:, :, :33], places) for x in (k, k.float()))
        assert (got.float() - exact).abs().max() <= (exact.bfloat16().float() - exact).abs().max()
    x = torch.tensor([[3e38, 1e-40], [-0.0, 1.0], [float("nan"), 2.0]]).bfloat16()[None, None]
    still = native.turn(x, torch.ones(1, 1, 3, 1), torch.zeros(1, 1, 3, 1), True)
    torch.testing.assert_close(still[:, :, :2], x[:, :, :2], atol=0, rtol=0)
    assert still[0, 0, 2].isnan().tolist() == [True, True]


@needs_compiler
def test_parts_with_queries_of_their_own_share_one_softmax() -> None:
    q, k, v = draw(2, 4, 2, 6000)
    far, near = block(k[:, :, :4001], v[:, :, :4001]), block(k[:, :, 4001:], v[:, :, 4001:], 4001)
    out, lse = native.decode([(q, far), (2 * q, near)], 0.125)
    doubled = torch.cat([far.keys, 2 * near.keys], 2)
    exact, total = dense(q, [doubled], [v], 0.125)
    torch.testing.assert_close(out.double(), exact, atol=1e-5, rtol=0)
    torch.testing.assert_close(lse.double(), total, atol=1e-5, rtol=0)


@needs_compiler
def test_what_is_no_number_stays_none(threads: Callable[[int], None]) -> None:
    """NaN, infinities and scores beyond float32 come out as in the dense softmax.

    With three threads one of them sees nothing but what is no number.
    """
    threads(3)
    nan, inf = float("nan"), float("inf")
    for keys in (5, 100):
        for who, where, what in [
            ("q", 3, nan), ("q", 3, inf), ("k", 0, nan), ("k", -1, nan), ("k", 2, inf),
            ("k", 2, -inf), ("v", 0, nan), ("v", -1, inf), ("k", slice(40), nan),
            ("k", slice(40), -inf), ("k", slice(None), -inf),
        ]:  # fmt: skip
            q, k, v = (x.abs() for x in draw(1, 2, 1, keys))
            if who == "q":
                q[0, 0, 0, where] = what
            else:
                {"k": k, "v": v}[who][0, 0, where] = what
            whole = attend(q, k, v, [Region()], scale=0.125, impl="reference")
            step = native.decode([(q, block(k, v))], 0.125)
            band = native.band(
                q, k, v, offset=keys - 1, near=0, far=None, first=0, last=keys, scale=0.125
            )
            for part in (step, band):
                case = f"{keys} keys, {what} in {who}[{where}]"
                torch.testing.assert_close(
                    part.out, whole.out, atol=1e-5, rtol=0, equal_nan=True, msg=case
                )
                torch.testing.assert_close(part.lse.isfinite(), whole.lse.isfinite(), msg=case)


@needs_compiler
def test_places_beyond_two_to_the_31(tmp_path: Path) -> None:
    """Rows far apart in a file that is mostly a hole."""
    apart, keys = 1 << 27, 20
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(4 * apart * keys)
    far = torch.from_file(str(tmp_path / "hole"), shared=True, size=apart * keys)
    q, k, v = draw(1, 2, 1, keys)
    spread = far.as_strided((1, 1, keys, 64), (0, 0, apart, 1)).copy_(k)
    step, near = (native.decode([(q, block(x, v))], 0.125) for x in (spread, k))
    assert torch.equal(step.out, near.out)
    bands = [
        native.band(q, x, v, offset=keys - 1, near=0, far=None, first=0, last=keys, scale=0.125)
        for x in (spread, k)
    ]
    assert torch.equal(bands[0].out, bands[1].out)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_compiler
def test_any_number_of_threads(threads: Callable[[int], None]) -> None:
    q, k, v = draw(1, 4, 1, 5001)
    outs = []
    for count in (1, 2, 3):
        threads(count)
        outs.append(native.decode([(q, block(k, v))], 0.125)[0])
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], atol=1e-6, rtol=0)


@needs_compiler
def test_a_large_score_does_not_overflow() -> None:
    q, k, v = draw(1, 2, 2, 4096)
    k[:, :, 1000] = 100 * q[:, :, 0]
    out, lse = native.decode([(q, block(k, v))], 1.0)
    assert out.isfinite().all() and lse.isfinite().all()
    torch.testing.assert_close(out[:, :, 0], v[:, :, 1000], atol=1e-6, rtol=0)


def test_what_is_not_taken() -> None:
    q, k, v = draw(1, 4, 2, 4096)
    assert not native.takes([(q.double(), block(k.double(), v.double()))])
    odd = draw(1, 4, 2, 4096, d=20)
    assert not native.takes([(odd[0], block(*odd[1:]))])
    strided = k.transpose(2, 3).contiguous().transpose(2, 3)
    assert not native.takes([(q, block(strided, v))])
    assert not native.takes([(q, block(k[:, :, :0], v[:, :, :0]))])
    assert not native.takes([(q[:0], block(k[:0], v[:0]))])
    assert not native.takes_band(q, k, v[..., :40])
    assert not native.takes_band(q[..., ::2], k[..., :32], v)


@needs_compiler
def test_the_widest_code_that_fits_is_taken(kind: built.Kind) -> None:
    for band in (False, True):
        assert kind.title in native.why(64, 64, band=band)
        assert "AVX2" in native.why(16 * 5, 16 * 5, band=band)  # two vectors of 8 values
        assert "torch: heads of this size" in native.why(20, 64, band=band)
    assert "AVX2" in native.why(128, 128)  # a step waits for memory


@needs_compiler
def test_hidden_keys_go_another_way() -> None:
    """A window that hides some of the keys, and a row of its own padding."""
    q, k, v = draw(2, 4, 2, 5000)
    positions = torch.arange(5000).expand(2, -1).clone()
    positions[1] -= 100
    positions[1, :100] = -1
    last = torch.tensor([[4999], [4899]])
    blocks = [KeyBlock(k, v, positions[:, None])]
    kw = {"rotary": None, "stored": None}
    got = attend_blocks(Queries(q, last), blocks, [Region(far=4000)], **kw)  # type: ignore[arg-type]
    dense = attend_blocks(
        Queries(q, last),
        blocks,
        [Region(far=4000)],
        impl="reference",
        **kw,  # type: ignore[arg-type]
    )
    torch.testing.assert_close(got.out, dense.out, atol=1e-5, rtol=0)


def test_the_step_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = draw(1, 4, 2, 4096)
    called = []
    monkeypatch.setattr(native, "takes", lambda pairs: called.append(len(pairs)))
    part = (Region(), Queries(q, torch.tensor([[4095]]), None, 4095), block(k, v))
    decode([part], scale=0.125, softcap=None)
    assert called == [1]


@needs_compiler
def test_a_band_equals_dense_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    regions = [
        Region(), Region(far=64), Region(near=20, far=100), Region(near=300, last=40),
        Region(first=90),
    ]  # fmt: skip
    heads = [(6, 2, 40, 48), (2, 2, 64, 64), (3, 1, 80, 80), (4, 1, 128, 32)]
    for t, n in ((1, 90), (145, 145), (257, 300), (100, 700)):
        for index, region in enumerate(regions):
            h, kv, d, e = heads[(index + t) % len(heads)]
            q = 3 * torch.randn(2, h, t, d, generator=generator) * (40 / d) ** 0.5
            k, v = (torch.randn(2, kv, n, x, generator=generator) for x in (d, e))
            assert native.takes_band(q, k, v)
            part = native.band(
                q, k, v, offset=n - t, near=region.near, far=region.far, first=region.first,
                last=n if region.last is None else region.last, scale=0.125,
            )  # fmt: skip
            exact = [x.double() for x in (q, k, v)]
            whole = attend(*exact, [region], scale=0.125, impl="reference")
            case = f"{t} of {n}, {region}, heads {h, kv, d, e}"
            torch.testing.assert_close(part.out.double(), whole.out, atol=1e-5, rtol=0, msg=case)
            torch.testing.assert_close(part.lse.double(), whole.lse, atol=1e-5, rtol=0, msg=case)


@needs_compiler
def test_a_band_of_strided_queries() -> None:
    """As models hand them over: time before heads."""
    q, k, v = (torch.randn(1, 300, heads, 64).transpose(1, 2) for heads in (4, 2, 2))
    kw = {"near": 0, "far": None, "first": 0, "last": 300, "scale": 0.125}
    strided = native.band(q, k, v, offset=0, **kw)  # type: ignore[arg-type]
    flat = native.band(*(x.contiguous() for x in (q, k, v)), offset=0, **kw)  # type: ignore[arg-type]
    assert torch.equal(strided.out, flat.out) and torch.equal(strided.lse, flat.lse)


@needs_compiler
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("width,pairs", [(64, 32), (40, 12), (6, 3)])
@pytest.mark.parametrize("t", [1, 5, 300])
def test_a_turn_equals_torch_in_float64(pairing: str, width: int, pairs: int, t: int) -> None:
    """Also a part of the head, positions and frequencies of each row, and strided vectors."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(2, t, 3, width, generator=g).transpose(1, 2)
    for shape in ((pairs,), (2, pairs)):
        freq = torch.rand(shape, generator=g)
        for places in (torch.randint(500, (2, 1, t), generator=g), 7.5 * torch.ones(1, 1, t)):
            turned = Rotary(freq, 1.0, pairing).rotate(x, places)
            exact = Rotary(freq.double(), 1.0, pairing).rotate(x.double(), places.double())
            torch.testing.assert_close(turned.double(), exact, atol=5e-4, rtol=0)
            assert native.takes_turn(x, freq)


@needs_compiler
def test_a_turn_that_needs_a_gradient_has_one() -> None:
    """As torch's, also of a part of a head and behind memory in another order."""
    g = torch.Generator().manual_seed(4)
    for pairing, width, pairs in (("half", 64, 32), ("interleaved", 40, 12), ("half", 40, 12)):
        x, weights = (torch.randn(2, 3, 5, width, generator=g) for _ in range(2))
        freq, places = torch.rand(pairs, generator=g), torch.arange(5)[None, None]
        found = []
        for dtype in (torch.float32, torch.float64):
            live = x.detach().to(dtype, copy=True).requires_grad_()
            rotary = Rotary(freq.to(dtype), 1.0, pairing)  # type: ignore[arg-type]
            turned = rotary.rotate(live, places)
            (turned.transpose(2, 3) * weights.to(dtype).transpose(2, 3)).sum().backward()
            assert live.grad is not None
            found.append(live.grad.double())
        torch.testing.assert_close(*found, atol=1e-5, rtol=0)
    x = torch.randn(1, 1, 1, 8, requires_grad=True)
    Rotary(torch.ones(4)).rotate(x, torch.tensor([[[2]]])).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    learned = torch.ones(4, requires_grad=True)
    Rotary(learned).rotate(x.detach(), torch.tensor([[[2]]])).sum().backward()
    assert learned.grad is not None and learned.grad.abs().sum() > 0
