"""Best fit among a bounded number of open bins: for data that never ends."""

from bisect import bisect_left, insort
from dataclasses import dataclass, field


@dataclass
class StreamingPacker:
    """Documents as they come, each into the fullest open bin that has room for it.

    When none has room and all `open_bins` are in use, the fullest bin is closed. A bin that is
    full to the last token is closed at once. Holds at most `open_bins` bins, whatever it has seen.

    Reduces to: best fit in the order given when `open_bins` is at least the number of documents,
    `greedy` when it is 1.

    Args:
        capacity: Tokens that a bin holds, at least 2.
        open_bins: Most bins that are open at a time, at least 1; 64 is a good start.

    Raises:
        ValueError: If the capacity is below 2 or `open_bins` below 1.
    """

    capacity: int
    open_bins: int = 64
    # (space, number of the bin), smallest space first, and the documents of every open bin
    _spaces: list[tuple[int, int]] = field(default_factory=list, init=False, repr=False)
    _documents: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False)
    _opened: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.capacity < 2:
            raise ValueError(
                f"capacity must be at least 2 tokens (one to predict), got {self.capacity}"
            )
        if self.open_bins < 1:
            raise ValueError(f"open_bins must be at least 1, got {self.open_bins}")

    def add(self, index: int, length: int) -> list[list[int]]:
        """Put a document in; the bins that this closed, their documents in order of arrival.

        Args:
            index: Any number that tells the document from the others.
            length: Its tokens, 1..capacity.

        Raises:
            ValueError: If the length is outside 1..capacity.
        """
        if not 1 <= length <= self.capacity:
            raise ValueError(
                f"length {length} of document {index} is outside 1..{self.capacity} (the capacity):"
                " split, truncate or drop long documents and leave out empty ones before packing"
            )
        closed = []
        at = bisect_left(self._spaces, (length, -1))
        if at < len(self._spaces):
            space, number = self._spaces.pop(at)
        else:
            if len(self._spaces) == self.open_bins:
                closed.append(self._documents.pop(self._spaces.pop(0)[1]))
            space, number = self.capacity, self._opened
            self._documents[number] = []
            self._opened += 1
        self._documents[number].append(index)
        if space == length:
            closed.append(self._documents.pop(number))
        else:
            insort(self._spaces, (space - length, number))
        return closed

    def finish(self) -> list[list[int]]:
        """The bins still open, in the order in which they were opened; the packer is empty then."""
        rest = [self._documents[number] for number in sorted(self._documents)]
        self._spaces.clear()
        self._documents.clear()
        return rest
