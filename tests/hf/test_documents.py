"""The fused kernel on one document at a time equals one softmax under the documents' mask."""

import pytest
import torch
from torch import nn

from lengthwise.hf.documents import attend_documents, documents_of

SEGMENTS = torch.tensor([[4, 4, 4, 4, 4, 7, 7, -1], [0, 1, 1, 1, 1, 1, 1, 1]])


def draw(heads, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, heads, 8, 16, generator=g, dtype=torch.float64)


def test_documents_are_runs_of_a_number():
    assert documents_of(torch.tensor([[4, 4, 7], [0, -1, -1]])) == [
        (0, 0, 2), (0, 2, 3), (1, 0, 1), (1, 1, 3),
    ]  # fmt: skip


def test_an_interrupted_document_is_refused():
    with pytest.raises(ValueError, match="row 1 is interrupted by another one"):
        documents_of(torch.tensor([[4, 4, 4], [0, 1, 0]]))


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("heads", [2, 6])
def test_equals_a_dense_softmax(window, heads):
    q, k, v = draw(heads, 0), draw(2, 1), draw(2, 2)
    got, _ = attend_documents(
        nn.Module(), q, k, v, None,
        lengthwise_documents=documents_of(SEGMENTS), scaling=0.3, sliding_window=window,
    )  # fmt: skip
    k, v = (x.repeat_interleave(heads // 2, dim=1) for x in (k, v))
    distance = torch.arange(8)[:, None] - torch.arange(8)
    seen = (SEGMENTS[:, :, None] == SEGMENTS[:, None]) & (distance >= 0)
    if window is not None:
        seen = seen & (distance < window)
    scores = (0.3 * q @ k.transpose(-1, -2)).masked_fill(~seen[:, None], float("-inf"))
    want = (scores.softmax(-1) @ v).transpose(1, 2)
    assert torch.allclose(got, want, rtol=0, atol=1e-12)
