"""Numbers that methods must keep: pages in half precision, distances far out, gradients."""

import torch

import lengthwise as lw
from lengthwise.testing.bench import Bench


def test_pages_are_chosen_in_float32():
    """Page scores are sums over all heads: in float16 they would all be infinite."""
    method = lw.InfLLM(pages=1, page_size=4, sinks=1, window=6)
    half, exact = Bench(dtype=torch.float16), Bench(dtype=torch.float32)
    q, k, v = half.tensors(2, 60)
    pull = torch.linspace(60, 20, 60).half()[:, None]  # earlier pages win, and by much
    tensors = (q + 60, k + pull, v)
    got = half.run(half.engine(method), tensors)
    want = exact.run(exact.engine(method), tuple(x.float() for x in tensors))
    assert (got.float() - want).abs().max() < 0.05
