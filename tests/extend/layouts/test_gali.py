"""GALI: the paper's list of positions, mixed scores, and noise that is the same every time."""

import math

import pytest
import torch

import lengthwise as lw
from lengthwise.testing.bench import Bench


def test_positions_of_the_authors_example():
    ids = lw.GALI(trained=8, window=2).ids(12)
    assert ids == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "trained, window, factor", [(8, 2, 4), (11, 3, 2.5), (16, 15, 2), (9, 1, 8)]
)
def test_positions_stay_inside_the_window_and_near_ones_whole(trained, window, factor):
    layout = lw.GALI(trained=trained, window=window, factor=factor)
    for length in range(1, int(trained * factor) + 1):
        ids = layout.ids(length)
        assert len(ids) == length and ids[0] == 0 and ids[-1] == min(length, trained) - 1
        steps = torch.tensor(ids, dtype=torch.float64).diff()
        assert (steps > 0).all() and (steps <= 1 + 1e-12).all()
        assert (steps[max(0, length - window) :] == 1).all()  # between the last `window`
        if length > trained:  # no more is packed than must be
            group = round(1 / steps.min().item())
            assert (group - 1) * (trained - window) + trained >= length
            assert (group - 2) * (trained - window) + trained < length


def test_beyond_its_factor_distances_leave_the_window_instead_of_failing():
    layout = lw.GALI(trained=8, window=2, factor=2)
    assert max(layout.ids(40)) > 7
    p = torch.arange(40)
    _, distance = layout.reference(p[-1], p)
    assert distance.max() > 7 and distance[-1] == 0


def test_the_score_between_two_positions_is_the_mix_of_theirs():
    bench = Bench(heads=2, kv_heads=1)
    layout = lw.GALI(trained=6, window=2, factor=3)
    region = next(r for r in layout.regions() if r.blend)  # groups of two
    assert region.range_of(torch.tensor([7]))[1].tolist() == [4]
    rotary = bench.engine().axes.scaling.rotary(bench.base, 64, torch.tensor([8]))
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 16, generator=g, dtype=torch.float64) for _ in range(2))

    def score(distance):
        turned = rotary.rotate(q, torch.tensor([[[distance]]]))
        return (turned * k).sum().item()

    v = torch.zeros(1, 1, 8, 16, dtype=torch.float64)
    v[0, 0, 3, 0] = 1
    keys = torch.zeros(1, 1, 8, 16, dtype=torch.float64)
    keys[:, :, 3] = k[0, 0]
    out = bench.run(
        bench.engine(layout),
        (q.expand(1, 2, 8, 16).contiguous(), keys, v),
    )
    # The query at position 7 stands at 5 and its key 3 at 1.5: between the distances 3 and 4.
    mixed = math.exp((score(3) + score(4)) / 2 / 4)
    assert out[0, 0, 7, 0].item() == pytest.approx(mixed / (mixed + 7), abs=1e-12)


def test_noise_is_the_same_for_a_pair_whenever_it_is_scored():
    bench = Bench()
    loud = bench.engine(lw.GALI(trained=10, window=3, factor=5, noise=1.0))
    tensors = bench.tensors(2, 37)
    whole = bench.run(loud, tensors)
    for chunks in ([1] * 37, [20, 1, 1, 15]):
        assert (bench.run(loud, tensors, chunks) - whole).abs().max() < 1e-10
    padded = bench.run(loud, tensors, padding=[0, 6])
    alone = bench.run(loud, tuple(x[1:, :, 6:] for x in tensors))
    assert (padded[1:, :, 6:] - alone).abs().max() < 1e-10
    other = bench.run(
        bench.engine(lw.GALI(trained=10, window=3, factor=5, noise=1.0, seed=1)), tensors
    )
    quiet = bench.run(bench.engine(lw.GALI(trained=10, window=3, factor=5)), tensors)
    assert (other - whole).abs().max() > 1e-3 and (quiet - whole).abs().max() > 1e-3
    assert torch.equal(quiet[:, :, :10], whole[:, :, :10])  # nothing is packed there


def test_noise_is_gaussian_in_proportion_to_distance_and_spares_whole_positions():
    region = next(r for r in lw.GALI(trained=100, window=4, noise=2.0).regions() if r.score)
    q, k = torch.tensor(999), torch.arange(999)
    heads = torch.arange(64)[:, None]
    noise = region.score(torch.zeros(64, 999, dtype=torch.float64), heads, heads, q, k)
    assert (noise[:, k % 2 == 0] == 0).all()
    unit = (noise / (2.0 * (q - k) / 1000))[:, k % 2 == 1].flatten()
    assert abs(unit.mean()) < 0.02 and abs(unit.std() - 1) < 0.02
    assert abs((unit**4).mean() - 3) < 0.15
    assert abs(torch.corrcoef(torch.stack([unit[:-1], unit[1:]]))[0, 1]) < 0.02
