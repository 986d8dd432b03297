"""Distances that transforms cover, counted by hand and drawn."""

from xml.etree import ElementTree

import pytest
import torch

from lengthwise.train.tuning import CREAM, PoSE, SegmentedTraining, coverage, coverage_picture


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_coverage_of_a_plain_row():
    counts = coverage(
        SegmentedTraining(window=5, target=8), 8, length=5, draws=3, generator=seeded()
    )
    assert counts.tolist() == [5, 4, 3, 2, 1, 0, 0, 0]


def test_pose_covers_distances_that_a_row_lacks():
    plain = SegmentedTraining(window=64, target=512, segments=1)
    pose = PoSE(window=64, target=512)
    ours = coverage(pose, 512, length=300, draws=400, generator=seeded())
    theirs = coverage(plain, 512, length=64, draws=1, generator=seeded())
    assert ours.sum() == theirs.sum() == 64 * 65 / 2
    assert (theirs[64:] == 0).all() and (ours > 0).double().mean() > 0.95


def test_a_distance_beyond_the_target_is_refused():
    with pytest.raises(ValueError, match="beyond the target of 100"):
        coverage(PoSE(window=64, target=512), 100, length=64, draws=50, generator=seeded())


def test_the_picture_shows_every_name_and_its_share():
    curves = {
        "PoSE": coverage(PoSE(64, 512), 512, length=300, draws=60, generator=seeded()),
        "CREAM": coverage(CREAM(64, 256), 512, length=300, draws=60, generator=seeded()),
    }
    drawing = coverage_picture(curves, window=64)
    root = ElementTree.fromstring(drawing)
    words = "".join(root.itertext())
    for name, counts in curves.items():
        assert f"{name} {(counts > 0).double().mean():.0%}" in words
    assert "trained window: 64" in words
    lines = root.findall(".//{http://www.w3.org/2000/svg}path")
    assert {line.get("class") for line in lines} == {"curve c0", "curve c1"}
    with pytest.raises(ValueError, match="of one target"):
        coverage_picture({"a": torch.ones(4), "b": torch.ones(5)}, window=2)
    with pytest.raises(ValueError, match="1 to 8 coverages, got 0"):
        coverage_picture({}, window=2)
