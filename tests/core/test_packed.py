"""Keys and values in a byte or half of one: what packing costs, and the C code that reads them."""

import pytest
import torch
from tests.kinds import every_kind, needs_compiler  # noqa: F401

from lengthwise.core import native, operators
from lengthwise.core.attention.decode import decode
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.packed import KINDS, PackedBlock, encode, grid, room
from lengthwise.core.packed import decode as unpacked
from lengthwise.core.regions import Region


def block(b, kv, n, d, e, kind, group, generator, dtype=torch.float32):
    """A packed block, with channels of different sizes, and what went into it."""
    keys = torch.randn(b, kv, n, d, generator=generator) * torch.linspace(1, 9, d) + torch.linspace(
        -1, 1, d
    )
    values = torch.randn(b, kv, n, e, generator=generator)
    positions = torch.arange(n).expand(b, 1, n)
    plain = KeyBlock(keys.to(dtype), values.to(dtype), positions, None, 0)
    held = room(plain, kind, n, group)
    shown = torch.ones(b, 1, n, dtype=torch.bool)
    held.put(torch.arange(b), 0, plain.keys, plain.values, shown, False)
    return PackedBlock(held, 0, positions, 0), plain


def test_no_number_moves_by_more_than_half_a_step():
    generator = torch.Generator().manual_seed(0)
    for kind, steps in (("int8", 127), ("int4", 15), ("float8", 14)):  # 448 stands in steps of 32
        for offset in (0.0, 3.0, -50.0):
            x = torch.randn(4, 64, 32, generator=generator) * 10.0 ** torch.arange(-4, 4).repeat(4)
            x = x + offset
            for nested in (False, True):
                to = grid(x, kind, 1, None, nested)
                once = unpacked(encode(x, kind, to), kind, to)
                span = x.amax(1) - x.amin(1) if kind == "int4" else x.abs().amax(1)
                slack = 2.3 if nested else 1.03
                if kind == "int4":  # the zero has 8 bits of the lowest number
                    span = span + x.abs().amax(1) * (0.12 if nested else 0.012)
                allowed = slack * span / steps / 2
                assert ((once - x).abs().amax(1) <= allowed).all(), (kind, offset, nested)


def test_packing_again_on_nested_grids_moves_nothing():
    """So what is grouped anew whenever keys are dropped does not wear out."""
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, 32)
    for kind in KINDS:
        to = grid(x, kind, 0, None, True)
        once = unpacked(encode(x, kind, to), kind, to)
        half = once[::2]
        again = grid(half, kind, 0, None, True)
        assert (again.scale <= to.scale).all()
        torch.testing.assert_close(
            unpacked(encode(half, kind, again), kind, again), half, atol=0, rtol=0
        )


def test_empty_slots_and_zeros():
    for kind in KINDS:
        x = torch.zeros(2, 8, 4)
        x[1] = torch.tensor([1.0, -2.0, 0.0, 7.0])
        x[1, 5:] = 1e6
        shown = torch.ones(2, 8, 1, dtype=torch.bool)
        shown[1, 5:], shown[0] = False, False
        to = grid(x, kind, 1, shown, False)
        back = unpacked(encode(x, kind, to), kind, to)
        assert back.isfinite().all() and (back[0] == 0).all()
        assert ((back - x)[1, :5].abs() <= 0.08 * x[1, 0].abs()).all(), kind


@needs_compiler
def test_c_reads_what_torch_unpacks():
    generator = torch.Generator().manual_seed(2)

    def pick(*choices):
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    for kind in KINDS:
        for turn in range(24):
            b, kv, group = pick(1, 3), pick(1, 2, 3), pick(8, 16, 64, 100)
            d, e = pick(16, 32, 64, 128), pick(16, 64, 96)
            n, h, t = group * pick(1, 3, 20), kv * pick(1, 3), pick(1, 4)
            dtype = torch.bfloat16 if turn % 3 == 0 else torch.float32
            packed, _ = block(b, kv, n, d, e, kind, group, generator, dtype)
            low = pick(0, 1, n // 3)
            some = packed.slots(low, n - pick(0, n // 5))
            fresh = [torch.randn(b, kv, 7, x, generator=generator).to(dtype) for x in (d, e)]
            near = KeyBlock(*fresh, torch.arange(n, n + 7).expand(b, 1, 7), None, n)
            q = torch.randn(b, h, t, d, generator=generator).to(dtype)
            places = torch.arange(n + 8, n + 8 + t).expand(b, t)
            queries = Queries(q, places, None, n + 8)
            pairs = [(q, some), (q, near)] if turn % 2 else [(q, some)]
            assert native.takes(pairs)
            out, lse = native.decode(pairs, d**-0.5)
            parts = [(Region(), queries, keys.opened(torch.float32)) for _, keys in pairs]
            wide = [
                (region, Queries(q.double(), places, None, n + 8),
                 KeyBlock(x.keys.double(), x.values.double(), x.positions, None, x.start))
                for region, _, x in parts
            ]  # fmt: skip
            exact, total = decode(wide, scale=d**-0.5, softcap=None)
            near_enough = 2e-5 if dtype is torch.float32 else 2e-2
            torch.testing.assert_close(out.double(), exact, atol=near_enough, rtol=0)
            torch.testing.assert_close(lse.double(), total, atol=1e-3, rtol=1e-5)
            by_torch, _ = decode(
                [(Region(), queries, keys) for _, keys in pairs], scale=d**-0.5, softcap=1e9
            )
            torch.testing.assert_close(by_torch.double(), exact, atol=near_enough, rtol=0)


@needs_compiler
def test_opcheck():
    generator = torch.Generator().manual_seed(4)
    for number, kind in enumerate(KINDS):
        packed, plain = block(2, 2, 48, 16, 32, kind, 16, generator)
        plain = KeyBlock(plain.keys, plain.values, plain.positions, None, 48)
        q = torch.randn(2, 4, 1, 16, generator=generator)
        held = [*packed.held.tensors(), plain.keys, plain.values]
        how = [number + 1, 16, 3, 40, 0, 0, 0, 48]
        torch.library.opcheck(operators.unpack, ([q, q], held, how, 0.25))


def test_a_block_is_cut_between_groups_too():
    generator = torch.Generator().manual_seed(3)
    for kind in KINDS:
        packed, plain = block(2, 2, 48, 16, 8, kind, 16, generator)
        whole, part = packed.opened(), packed.slots(5, 41).slots(2, 30)
        assert part.start == 7 and len(part) == 28
        torch.testing.assert_close(part.keys, whole.keys[:, :, 7:35], atol=0, rtol=0)
        torch.testing.assert_close(part.values, whole.values[:, :, 7:35], atol=0, rtol=0)
        worst = (whole.keys - plain.keys).abs().max() / plain.keys.abs().max()
        assert worst < (0.07 if kind == "int4" else 0.04 if kind == "float8" else 0.005)


def test_odd_heads_have_no_two_in_a_byte():
    odd = KeyBlock(torch.ones(1, 1, 4, 5), torch.ones(1, 1, 4, 5), torch.zeros(1, 1, 4).long())
    with pytest.raises(ValueError, match="heads must be even, got 5 and 5"):
        room(odd, "int4", 4, 4)
