"""A model that looks exactly so many tokens back: what a probe must find is known."""

from types import SimpleNamespace

import pytest
import torch

from lengthwise.hf.release import CACHE

VOCABULARY = 23


class LooksBack:
    """Predicts that the token `back` places before the next one comes again, if it is there."""

    training = False
    device = torch.device("cpu")

    def __init__(self, back: int, strength: float = 4.0) -> None:
        self.back, self.strength = back, strength
        self.read = 0  # tokens, to see what a probe costs
        self.widest = 0  # tokens of one forward pass with those before it

    def __call__(self, input_ids, use_cache=True, logits_to_keep=0, **named):
        before = named.get(CACHE)
        seen = input_ids if before is None else torch.cat([before, input_ids], 1)
        self.read += input_ids.numel()
        self.widest = max(self.widest, seen.shape[1])
        logits = torch.zeros(*seen.shape, VOCABULARY)
        copied = seen[:, : max(0, seen.shape[1] - self.back + 1)]
        logits[:, self.back - 1 :] += self.strength * torch.nn.functional.one_hot(
            copied, VOCABULARY
        )
        new = logits[:, -input_ids.shape[1] :]
        return SimpleNamespace(logits=new[:, -1:] if logits_to_keep else new, **{CACHE: seen})


@pytest.fixture
def looks_back():
    return LooksBack


@pytest.fixture
def periodic():
    """A text in which every token comes again after so many."""

    def make(period: int, length: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(1, VOCABULARY, (period,), generator=generator).repeat(
            length // period + 1
        )[:length]

    return make
