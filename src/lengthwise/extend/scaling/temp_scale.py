"""TempScale: a softmax temperature below one, against the collapse of long embeddings."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lengthwise.extend.scaling.scores import ScoreScaling


@dataclass(frozen=True)
class TempScale(ScoreScaling):
    """Divide all scores of a bidirectional encoder by one temperature.

    Averaging over many tokens pulls the embeddings of long texts together; a sharper softmax
    averages less. For BERT and its kin and for the encoder of T5 (its relative bias is divided
    too). `length_collapse` measures what it does.

    Source: Zhou et al. 2024, arXiv:2410.24200, section 4.
    Differs from the source: it works under every attention implementation of transformers, the
        fused ones included, because queries are scaled and not the softmax.
    Reduces to: the model itself, bit for bit, at temperature 1.

    Args:
        temperature: What scores are divided by, above 0.

    Raises:
        ValueError: If `temperature` is not a number above 0.
    """

    what = "scores"
    fits = ("absolute", "t5")
    temperature: float

    def __post_init__(self) -> None:
        check_temperature("TempScale", self.temperature)

    def multiplier_at(self, window: int, length: int) -> float:
        return 1.0 / self.temperature


def check_temperature(owner: str, value: object) -> None:
    """Raise ValueError unless `value` is a finite number above 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:  # type: ignore[arg-type, operator]
        raise ValueError(f"{owner}: temperature must be a number above 0, got {value!r}")


def length_collapse(embeddings: Float[Tensor, "n d"]) -> float:
    """How narrow a space embeddings fill: their average cosine similarity over all pairs.

    The nearer to 1, the narrower. Compare texts of one length with texts of another: collapse
    means that the longer ones are more alike.

    Source: Zhou et al. 2024, arXiv:2410.24200, section 2.

    Args:
        embeddings: At least two vectors, none of them 0.

    Raises:
        ValueError: If there are fewer than two, or one has no direction.
    """
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise ValueError(
            "length_collapse compares at least two embeddings [n, d], got shape "
            f"{tuple(embeddings.shape)}"
        )
    lengths = embeddings.double().norm(dim=1)
    if not (lengths.isfinite() & (lengths > 0)).all():
        raise ValueError("length_collapse: an embedding is zero or not finite; leave it out")
    total = (embeddings.double() / lengths[:, None]).sum(0)
    count = len(embeddings)
    # The square of the sum holds every pair twice, and every vector with itself once.
    return float((torch.dot(total, total) - count) / (count * (count - 1)))
