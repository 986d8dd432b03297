"""Rotation by apparent positions, against complex numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from lengthwise.core.rotary import Rotary

PAIRS = 4
FREQUENCIES = 10_000.0 ** -(torch.arange(PAIRS, dtype=torch.float64) / PAIRS)


def draw(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def spelled(x, positions, inv_freq, pairing, factor=1.0):
    """Each pair is a complex number, turned by exp(i * position * frequency)."""
    pairs = inv_freq.shape[-1]
    head, rest = x[..., : 2 * pairs].double(), x[..., 2 * pairs :].double()
    order = torch.arange(2 * pairs)
    order = order.view(2, pairs).T if pairing == "half" else order.view(pairs, 2)
    z = torch.complex(head[..., order[:, 0]], head[..., order[:, 1]])
    f = inv_freq.double()
    f = f[:, None, None] if f.ndim == 2 else f
    z = z * factor * torch.exp(1j * positions.double()[..., None] * f)
    out = torch.empty_like(head)
    out[..., order[:, 0]], out[..., order[:, 1]] = z.real, z.imag
    return torch.cat([out, rest], -1)


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("width", [8, 13], ids=["whole", "partial"])
@pytest.mark.parametrize("factor", [1.0, 1.3])
@pytest.mark.parametrize("fractional", [False, True])
@pytest.mark.parametrize("rows", ["one", "each"])
def test_equals_complex_numbers(pairing, width, factor, fractional, rows):
    x = draw(0, 2, 3, 5, width)
    positions = torch.tensor([[0, 1, 7, 511, 40_000], [3, 4, 5, 9, 10]])[:, None]
    if fractional:
        positions = positions / 8
    f = FREQUENCIES if rows == "one" else torch.stack([FREQUENCIES, FREQUENCIES / 4])
    got = Rotary(f, factor, pairing).rotate(x, positions)
    assert_close(got, spelled(x, positions, f, pairing, factor), rtol=0, atol=1e-11)


def test_every_head_may_have_its_own_positions():
    x, positions = draw(0, 2, 3, 5, 8), torch.arange(30).view(2, 3, 5)
    got = Rotary(FREQUENCIES).rotate(x, positions)
    assert_close(got, spelled(x, positions, FREQUENCIES, "half"), rtol=0, atol=1e-12)


def test_pairings_differ_by_an_order_of_dimensions():
    x, positions = draw(0, 1, 1, 3, 8), torch.arange(3)[None, None] + 1
    order = torch.arange(8).view(2, 4).T.flatten()  # dimension n beside n + 4
    half = Rotary(FREQUENCIES).rotate(x, positions)
    interleaved = Rotary(FREQUENCIES, pairing="interleaved").rotate(x[..., order], positions)
    assert_close(interleaved, half[..., order], rtol=0, atol=1e-12)
    assert not torch.allclose(Rotary(FREQUENCIES, pairing="interleaved").rotate(x, positions), half)


@given(p=st.integers(0, 2000), move=st.integers(-2000, 2000), seed=st.integers(0, 9))
def test_shift_after_rotate_is_rotate_at_the_sum(p, move, seed):
    x = draw(seed, 1, 2, 1, 11)
    start, offset = torch.full((1, 1, 1), p), torch.full((1, 1, 1), move)
    for pairing in ("half", "interleaved"):
        rotary = Rotary(FREQUENCIES, 1.7, pairing)  # the factor must enter once
        got = rotary.shift(rotary.rotate(x, start), offset)
        assert_close(got, rotary.rotate(x, start + offset), rtol=0, atol=1e-11)


@given(q=st.integers(0, 5000), k=st.integers(0, 5000), move=st.integers(0, 5000))
def test_scores_depend_on_the_distance_only(q, k, move):
    rotary = Rotary(FREQUENCIES)
    x, y = draw(0, 1, 1, 1, 8), draw(1, 1, 1, 1, 8)

    def score(a, b):
        at = torch.full((1, 1, 1), a), torch.full((1, 1, 1), b)
        return (rotary.rotate(x, at[0]) * rotary.rotate(y, at[1])).sum()

    assert_close(score(q, k), score(q + move, k + move), rtol=0, atol=1e-10)


def test_norms_are_kept_and_position_zero_changes_nothing():
    x = draw(0, 2, 3, 5, 13)
    rotary = Rotary(FREQUENCIES, pairing="interleaved")
    turned = rotary.rotate(x, torch.arange(5)[None, None] * 1000)
    assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=0, atol=1e-12)
    assert torch.equal(rotary.rotate(x, torch.zeros(1, 1, 5)), x)


def test_attention_factor_enters_scores_squared():
    q, k = draw(0, 1, 1, 4, 8), draw(1, 1, 1, 4, 8)
    p = torch.arange(4)[None, None]
    plain, sharp = Rotary(FREQUENCIES), Rotary(FREQUENCIES, 1.25)
    want = plain.rotate(q, p) @ plain.rotate(k, p).mT
    got = sharp.rotate(q, p) @ sharp.rotate(k, p).mT
    assert_close(got, 1.25**2 * want, rtol=0, atol=1e-12)


def test_dimensions_beyond_the_pairs_pass_through():
    x = draw(0, 1, 2, 3, 13)
    turned = Rotary(FREQUENCIES, 1.5).rotate(x, torch.arange(3)[None, None])
    assert torch.equal(turned[..., 8:], x[..., 8:])


@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-5), (torch.bfloat16, 0.04)])
def test_types_are_kept_and_angles_are_float32(dtype, close):
    x = draw(0, 1, 2, 3, 8).clamp(-3, 3).to(dtype)
    positions = torch.tensor([[[1, 300, 4095]]])  # bfloat16 could not even count to 300
    got = Rotary(FREQUENCIES.float(), 1.1).rotate(x, positions)
    assert got.dtype == dtype
    want = spelled(x, positions, FREQUENCIES.float(), "half", 1.1)
    assert_close(got.double(), want, rtol=0, atol=close * (40 if dtype == torch.float32 else 1))


def test_one_position_shared_by_rows_with_frequencies_of_their_own() -> None:
    generator = torch.Generator().manual_seed(0)
    rotary = Rotary(torch.rand(2, 4, generator=generator, dtype=torch.float64))
    x = torch.randn(2, 3, 1, 8, generator=generator, dtype=torch.float64)
    shared = rotary.rotate(x, torch.tensor([[[5]]]))
    assert torch.equal(shared, rotary.rotate(x, torch.tensor([[[5]], [[5]]])))


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_one_position_is_rotated_as_it_is_among_many(pairing: str) -> None:
    generator = torch.Generator().manual_seed(1)
    rotary = Rotary(torch.rand(3, generator=generator, dtype=torch.float64), 1.5, pairing)
    x = torch.randn(1, 2, 4, 8, generator=generator, dtype=torch.float64)
    positions = torch.tensor([[[0, 7, 1000, 3]]])
    many = rotary.rotate(x, positions)
    for at in range(4):
        one = rotary.rotate(x[:, :, at : at + 1], positions[..., at : at + 1])
        assert torch.allclose(one, many[:, :, at : at + 1], rtol=0, atol=1e-12)


def test_distances_stay_sharp_to_a_hundred_million() -> None:
    x, y = (draw(seed, 1, 2, 1, 8, dtype=torch.float32) for seed in (0, 1))
    for factor in (1.0, 1.5):
        rotary = Rotary(FREQUENCIES.float(), factor)

        def score(query: int, key: int, rotary: Rotary = rotary) -> torch.Tensor:
            at, of = torch.full((1, 1, 1), query), torch.full((1, 1, 1), key)
            moved = rotary.shift(rotary.rotate(y, of + 777), torch.full((1, 1, 1), -777))
            back = rotary.shift(rotary.rotate(y, torch.zeros_like(of)), of)
            assert_close(moved, back, rtol=0, atol=2e-6)
            return (rotary.rotate(x, at) * back).sum()

        for far in (10**5, 10**6, 4 * 10**6, 2**24 + 1, 10**8):
            assert_close(score(far + 30, far), score(30, 0), rtol=0, atol=1e-5)


def test_angles_below_a_border_are_those_of_transformers() -> None:
    """Rounded to float32 there, and exact from there on."""
    x, inv_freq = draw(0, 1, 1, 9, 8, dtype=torch.float32), FREQUENCIES.float()
    p = 90_000 + 1111 * torch.arange(9)
    rounded = Rotary(inv_freq, rounded_below=95_000).rotate(x, p[None, None])
    angles = (p[:, None].float() * inv_freq).double()
    near = p < 95_000
    assert near.any() and not near.all()
    a, b = x.double().split(4, dim=-1)
    for at, kept in ((angles, near), (p[:, None] * inv_freq.double(), ~near)):
        theirs = torch.cat([a * at.cos() - b * at.sin(), b * at.cos() + a * at.sin()], -1)
        gap = (rounded - theirs).abs().amax((0, 1, 3))
        assert (gap[kept] < 1e-6).all() and (gap[~kept] > 1e-4).any()
