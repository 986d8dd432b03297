"""What nobody has written is not a number."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan() -> Iterator[None]:
    # In this mode torch.empty fills what it hands out with NaN, or the largest integer.
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
