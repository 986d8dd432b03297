"""Rows of different lengths: equal to each row alone for any number of workers, loads even."""

import pytest
import torch

from lengthwise.core import operators
from lengthwise.core.attention.ragged import ragged_decode


def test_any_number_of_workers_gives_what_each_row_gives_alone() -> None:
    lengths = (700, 3, 0, 130, 64, 1)
    for dtype, close in ((torch.float32, 2e-5), (torch.bfloat16, 2e-2)):
        draws = torch.Generator().manual_seed(0)
        q = torch.randn(6, 4, 2, 32, generator=draws).to(dtype)
        keys, values = (
            [torch.randn(2, n, 32, generator=draws).to(dtype) for n in lengths] for _ in range(2)
        )
        wanted = [
            torch.softmax(x.float() @ k.float().repeat_interleave(2, 0).mT * 0.2, -1)
            @ v.float().repeat_interleave(2, 0)
            for x, k, v in zip(q, keys, values, strict=True)
        ]
        for workers in (1, 2, 3, 7, 60):
            part, loads = ragged_decode(q, keys, values, 0.2, workers, tile=32)
            assert torch.allclose(part.out.float(), torch.stack(wanted), atol=close), workers
            assert bool(part.lse[2].isneginf().all()) and bool(part.lse[0].isfinite().all())
            tiles = 2 * sum(-(-n // 32) for n in lengths)
            assert int(loads.sum()) == tiles
            if operators.steps(32, 32):
                assert len(loads) == workers and int(loads.max() - loads.min()) <= 1
    for wrong, said in (({"workers": 0}, "workers"), ({"tile": 0}, "tile")):
        with pytest.raises(ValueError, match=said):
            ragged_decode(q, keys, values, 0.2, **wrong)
    with pytest.raises(ValueError, match="each of 6 rows"):
        ragged_decode(q, keys[:2], values, 0.2)
