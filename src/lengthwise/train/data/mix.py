"""Mixes of sources by their share of the tokens: ProLong's, and a sweep from short to long."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mix:
    """Which share of the tokens comes from which source.

    Args:
        shares: From the name of a source to its share, 0 or more; they are divided by their sum.

    Raises:
        ValueError: If a share is negative or all are 0.
    """

    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        for source, share in self.shares.items():
            if not 0 <= share < float("inf"):
                raise ValueError(f"share of {source!r} must be 0 or more and finite, got {share}")
        total = sum(self.shares.values())
        if not total > 0:
            raise ValueError(f"shares must not all be 0, got {dict(self.shares)}")
        object.__setattr__(
            self, "shares", {source: share / total for source, share in self.shares.items()}
        )

    def draw(
        self,
        lengths: Mapping[str, Sequence[int] | np.ndarray],
        tokens: int,
        generator: np.random.Generator,
        epochs: int = 1,
    ) -> dict[str, list[int]]:
        """Documents in random order until each source has given its share of `tokens` tokens.

        Args:
            lengths: From the name of a source to the tokens of its documents.
            tokens: Tokens in all. A source gives at least its share, and less than one document
                more.
            generator: Draws the order of the documents, anew in every epoch.
            epochs: How often a document may be used, at least 1; a source that runs out starts
                again.

        Returns:
            From every source with a share to its documents, in order.

        Raises:
            ValueError: If a source is missing or has too few tokens, or tokens or epochs is below
                1.
        """
        if tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {tokens}")
        if epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {epochs}")
        drawn = {}
        for source, share in self.shares.items():
            if share == 0:
                continue
            if source not in lengths:
                raise ValueError(
                    f"source {source!r} of the mix has no documents, there are "
                    f"{', '.join(sorted(lengths)) or 'none'}: add it or give it the share 0"
                )
            sizes = np.asarray(lengths[source], dtype=np.int64)
            wanted, there = share * tokens, int(sizes.sum()) * epochs
            if there < wanted - 1e-6 * tokens:
                raise ValueError(
                    f"source {source!r} has {there} tokens in {epochs} epochs, the mix needs "
                    f"{wanted:.0f}: ask for fewer tokens or allow more epochs"
                )
            order = np.concatenate([generator.permutation(len(sizes)) for _ in range(epochs)])
            ends = np.cumsum(sizes[order])
            enough = int(np.searchsorted(ends, wanted - 1e-6)) + 1
            drawn[source] = order[:enough].tolist()
        return drawn


def sweep(long: Mix, short: Mix, long_shares: Sequence[float]) -> dict[float, Mix]:
    """Mixes from all short to all long, for finding out how much long data helps.

    Source: ProLong (2410.02660), section 3, which compares shares of long data from 0 to 1 and
    takes 0.6.

    Args:
        long, short: The two ends; a source in both adds up.
        long_shares: The shares of `long`, each in 0..1.

    Raises:
        ValueError: If a share is outside 0..1.
    """
    mixes = {}
    for part in long_shares:
        if not 0 <= part <= 1:
            raise ValueError(f"a share of long data must be in 0..1, got {part}")
        sources = [*long.shares, *(source for source in short.shares if source not in long.shares)]
        mixes[part] = Mix(
            {
                source: part * long.shares.get(source, 0) + (1 - part) * short.shares.get(source, 0)
                for source in sources
            }
        )
    return mixes


# Source: ProLong (2410.02660), train_64K.sh and train_512K.sh of the authors.
PROLONG_SHORT = Mix(
    {
        "fineweb": 0.10, "fineweb-edu": 0.10, "wikipedia": 0.04, "stackexchange": 0.04,
        "tulu": 0.03, "openwebmath": 0.03, "arxiv": 0.03,
    }
)  # fmt: skip
PROLONG_64K = Mix({"code": 0.30, "books": 0.30, "textbooks": 0.03, **{
    source: 0.37 * share for source, share in PROLONG_SHORT.shares.items()
}})  # fmt: skip
PROLONG_512K = Mix({
    "code-512k": 0.15, "code-64k": 0.15, "books-512k": 0.05, "books-64k": 0.25, "textbooks": 0.03,
    **{source: 0.37 * share for source, share in PROLONG_SHORT.shares.items()},
})  # fmt: skip
