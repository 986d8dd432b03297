"""Every scaling has the frequencies of its paper; and so have the formulas themselves."""

import math

import pytest
import torch
from tests.extend.scaling.formulas import FORMULAS, angles

import lengthwise as lw
from lengthwise.core.geometry import RotaryBase

SHAPES = [(16, 100.0, 64), (64, 10_000.0, 512), (128, 500_000.0, 8192)]


def scalings(pairs):
    rising = torch.linspace(1, 6, pairs).tolist()
    slower = torch.linspace(1, 3, pairs).tolist()
    return [
        lw.PI(4), lw.NTK(4), lw.DynamicNTK(2), lw.DynamicNTK(), lw.ABF(1e6), lw.YaRN(8),
        lw.YaRN(2, 8.0, 2.0), lw.DynamicYaRN(), lw.Llama3(8), lw.Llama3(4, 0.5, 3.0, 48),
        lw.Giraffe(), lw.Giraffe(3), lw.GiraffeLinear(8), lw.LongRoPE(rising, 4),
        lw.LongRoPE(rising, 4, slower), lw.LongRoPE2(rising, 4), lw.CLEX((slower, rising)),
        lw.LogTemperature(), lw.LogTemperature(lw.YaRN(4)),
    ]  # fmt: skip


@pytest.mark.parametrize(("dim", "theta", "window"), SHAPES)
def test_every_scaling_is_its_formula(dim, theta, window):
    own = theta ** -(torch.arange(0, dim, 2).double() / dim)
    base = RotaryBase(dim, theta, "default", lambda length: (own.float(), 1.0), True)
    lengths = (1, window, window + 1, 2 * window, 2 * window + 1, 9 * window)
    checked = {lw.OwnScaling, lw.HeadScale}  # the contract suite has them
    for scaling in scalings(dim // 2):
        found = scaling.rotary(base, window, torch.tensor(lengths))
        rows = found.inv_freq.expand(len(lengths), -1)
        factors = torch.as_tensor(found.attention_factor).expand(len(lengths))
        for length, row, factor in zip(lengths, rows, factors, strict=True):
            wanted = angles(scaling, dim, theta, window, length)
            formula = torch.tensor(wanted.inv_freq, dtype=torch.float64)
            torch.testing.assert_close(row.double(), formula, rtol=2e-6, atol=0, msg=str(scaling))
            assert float(factor) == pytest.approx(wanted.factor, rel=1e-6), scaling
        checked.add(type(scaling))
    assert checked == {*FORMULAS}


def test_formulas_have_known_values():
    """Numbers worked out apart: bases, and how many of 64 pairs are kept, mixed and slowed."""

    def found(scaling, window, length=1, theta=10_000.0):
        return angles(scaling, 128, theta, window, length).inv_freq

    def base(freqs):
        return freqs[1] ** -64

    for factor, expected in ((2, 20221.3), (4, 40889.9), (8, 82684.6)):
        assert base(found(lw.NTK(factor), 4096)) == pytest.approx(expected, abs=0.1)
    for factor, expected in ((1, 20221.3), (2, 30527.7)):
        assert base(found(lw.DynamicNTK(factor), 4096, 8192)) == pytest.approx(expected, abs=0.1)
    own = [500_000 ** (-n / 64) for n in range(64)]
    slowed = [f / x for f, x in zip(own, found(lw.Llama3(8), 8192, 1, 500_000.0), strict=True)]
    assert [round(x, 6) for x in slowed[:29]] == [1] * 29
    assert [round(x, 6) for x in slowed[35:]] == [8] * 29
    assert all(1 < x < 8 for x in slowed[29:35])
    for window, kept, slow, still in ((4096, 46, 14, 4), (2048, 41, 14, 9)):
        freqs = found(lw.Giraffe(), window)
        assert (freqs.count(2 * math.pi / (16 * window)), freqs.count(0.0)) == (slow, still)
        assert sum(f >= 2 * math.pi / window for f in freqs) == kept
    yarn = found(lw.YaRN(4), 4096)
    kept = [10_000 ** (-n / 64) for n in range(64)]
    assert yarn[:21] == kept[:21] and yarn[21] < kept[21]  # 32 turns in 4,096 tokens: pair 20.9
    assert yarn[45] > kept[45] / 4 and yarn[46:] == [f / 4 for f in kept[46:]]  # one turn: 45.03
