"""Which rows make a step, and which of them a rank sees: shuffled, exact, resumable."""

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler


class PackedSampler(Sampler[list[int]]):
    """Batches of row numbers for a DataLoader's `batch_sampler`, in a fresh order every epoch.

    Best-fit packing sorts documents by length, so neighbouring rows are alike; the order is drawn
    from (seed, epoch) and is the same on every rank. Ranks take turns, and together see every row
    once an epoch. To go on where a run was killed, give `epoch` and `start`.

    Args:
        rows: Rows of the data set, at least 1.
        batch: Rows of one rank's batch, at least 1.
        seed: Of the order.
        rank, ranks: This process among those that train together.
        drop_last: Whether to leave out what fills no whole step. Without it the last step's rows
            are dealt out as far as they go.
        start: Batches of the first epoch that were taken already.

    Raises:
        ValueError: For numbers out of range, or a last step with fewer rows than ranks.
    """

    def __init__(
        self,
        rows: int,
        *,
        batch: int,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        drop_last: bool = False,
        epoch: int = 0,
        start: int = 0,
    ) -> None:
        for name, value in {"rows": rows, "batch": batch, "ranks": ranks}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= rank < ranks:
            raise ValueError(f"rank must be from 0 to {ranks - 1}, got {rank}")
        left = rows % (batch * ranks)
        if 0 < left < ranks and not drop_last:
            raise ValueError(
                f"the last step has {left} rows for {ranks} ranks, and a rank without any would "
                "stop the others; set drop_last=True or change the batch"
            )
        self.rows, self.batch, self.seed = rows, batch, seed
        self.rank, self.ranks, self.drop_last = rank, ranks, drop_last
        self.epoch, self.start = epoch, start
        if not 0 <= start <= self._steps():
            raise ValueError(f"start must be from 0 to {self._steps()} batches, got {start}")

    def _steps(self) -> int:
        whole, left = divmod(self.rows, self.batch * self.ranks)
        return whole + (left > 0 and not self.drop_last)

    def __len__(self) -> int:
        return self._steps() - self.start

    def set_epoch(self, epoch: int) -> None:
        """Draw another order; batches count from the first again."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(self.rows))
        random.Random(f"{self.seed} {self.epoch}").shuffle(order)
        step = self.batch * self.ranks
        for n in range(self.start, self._steps()):
            yield order[n * step : (n + 1) * step][self.rank :: self.ranks]


class PlannedSampler(Sampler[list[int]]):
    """Batches that were planned beforehand: buckets, a curriculum, balanced or sorted batches.

    Args:
        plan: The rows of every step, all ranks together, in order.
        rank, ranks: This process; ranks take turns within a step.
        start: Steps that were taken already.

    Raises:
        ValueError: For numbers out of range, or a step with fewer rows than ranks.
    """

    def __init__(
        self, plan: Sequence[Sequence[int]], *, rank: int = 0, ranks: int = 1, start: int = 0
    ) -> None:
        if not 0 <= rank < ranks:
            raise ValueError(f"rank must be from 0 to {ranks - 1}, got {rank}")
        if not 0 <= start <= len(plan):
            raise ValueError(f"start must be from 0 to {len(plan)} steps, got {start}")
        for n, step in enumerate(plan):
            if len(step) < ranks:
                raise ValueError(
                    f"step {n} has {len(step)} rows for {ranks} ranks; plan at least one for each"
                )
        self.plan, self.rank, self.ranks, self.start = plan, rank, ranks, start

    def __len__(self) -> int:
        return len(self.plan) - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.plan[self.start :]:
            yield list(step[self.rank :: self.ranks])
