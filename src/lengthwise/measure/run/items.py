"""The items of one task and length, built as far as they are needed."""

from transformers import PreTrainedTokenizerBase

from lengthwise.measure.tasks.base import Item, Task


class Items:
    """Item number i is the same whenever it is asked for, whatever was asked for before.

    Builds double in size, and an item belongs to the smallest build that holds it: an allowance
    that is the largest of its build never changes under an item that has been answered. So all of
    n items cost less than building 2 n.

    Args:
        first: Size of the first build.
    """

    def __init__(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, length: int, seed: int, first: int
    ) -> None:
        self._build = lambda count: task.build(tokenizer, length, count, seed)
        self._first = first
        self._built: list[Item] = []

    def take(self, indices: list[int]) -> list[Item]:
        """The items of these numbers.

        Raises:
            ValueError: The length is too short for the task, or this tokenizer cannot meet it.
        """
        while max(indices, default=-1) >= len(self._built):
            size = 2 * len(self._built) or self._first
            more = self._build(size)[len(self._built) :]
            if not more:
                raise ValueError(f"the task makes no more than {len(self._built)} items")
            self._built += more
        return [self._built[index] for index in indices]
