"""Untie the Knots: chunks of documents shuffled, so that reading on means looking back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

IGNORED = -100  # a label without loss


@dataclass(frozen=True)
class Tangle:
    """One tangled sequence.

    Args:
        input_ids: Tokens of the sequence.
        labels: The same, -100 where nothing could be known: markers, ids that were drawn at
            random, and the first token after a marker.
        sources: For every token `(document, token of it)`, or (-1, -1) for what was added.
    """

    input_ids: list[int]
    labels: list[int]
    sources: list[tuple[int, int]]


@dataclass(frozen=True)
class UntieTheKnots:
    """Cuts documents into chunks, ties a knot at every cut, and shuffles the chunks of all.

    A chunk of a document that was cut begins with `<D> id </D>`. After the last of its chunks
    stands the task of backtracing, `<S> id <s> id </S>`: the ids of its chunks in the order of the
    document. The end of the last document stays at the end. Everything in a sequence sees
    everything before it: train without document masks, as one segment.

    Source: Untie the Knots (2409.04774), and the authors' gpt_dataset_utk.py.
    Differs from the source: nothing is cut off at the end, so a sequence grows by its markers
    (`added` says by how many tokens at most); two chunks never have the same id; one pair of knots
    serves all cuts.
    Reduces to: concatenation when `chunks` is (1, 1).

    Args:
        chunks: Least and most chunks of a document, drawn evenly, at least 1; a document with
            fewer tokens than that is not cut.
        knots: Two tokens: one ends a chunk that goes on elsewhere, one begins its continuation.
        markers: Five tokens, `<D> </D> <S> <s> </S>`.
        alphabet: Tokens that ids are drawn from.
        id_length: Tokens of an id, at least 1.
        keep_order: Whether the chunks of a document keep their order among each other.

    Raises:
        ValueError: If a setting is out of range or the seven markers are not different.
    """

    knots: tuple[int, int]
    markers: tuple[int, int, int, int, int]
    alphabet: Sequence[int]
    chunks: tuple[int, int] = (2, 3)
    id_length: int = 6
    keep_order: bool = True

    def __post_init__(self) -> None:
        least, most = self.chunks
        if not 1 <= least <= most:
            raise ValueError(
                f"chunks must be (least, most) with 1 <= least <= most, got {self.chunks}"
            )
        if self.id_length < 1:
            raise ValueError(f"id_length must be at least 1 token, got {self.id_length}")
        added = [*self.knots, *self.markers]
        if len(added) != 7 or len(set(added)) != 7:
            raise ValueError(f"2 knots and 5 markers must be 7 different tokens, got {added}")
        if not self.alphabet or set(added) & set(self.alphabet):
            raise ValueError(
                "alphabet must have at least one token, and no knot or marker among them"
            )

    def added(self, documents: int) -> int:
        """Most tokens that tangling so many documents adds; leave that much room in a sequence."""
        most = self.chunks[1]
        if most == 1:
            return 0
        tagged = most * (self.id_length + 2)
        trace = most * (self.id_length + 1) + 1
        return documents * (2 * (most - 1) + tagged + trace)

    def __call__(
        self, documents: Sequence[Sequence[int]], generator: np.random.Generator
    ) -> Tangle:
        """Tangle documents into one sequence.

        Args:
            documents: Their tokens, each at least 1, without knots and markers.
            generator: Draws cuts, order and ids.

        Raises:
            ValueError: If there is no document, one is empty, or there are more chunks than ids.
        """
        if not documents:
            raise ValueError("there must be at least one document to tangle, got none")
        for index, tokens in enumerate(documents):
            if len(tokens) == 0:
                raise ValueError(f"document {index} is empty: leave it out before tangling")
            if not {*self.knots, *self.markers}.isdisjoint(tokens):
                raise ValueError(
                    f"document {index} contains a knot or a marker: choose tokens that no text has"
                )
        edges = [self._cuts(len(tokens), generator) for tokens in documents]
        order = self._order([len(cuts) - 1 for cuts in edges], generator)
        ids = self._ids(len(order), generator)
        name_of = dict(zip(order, ids, strict=True))
        last_of = {document: at for at, (document, _) in enumerate(order)}
        begin_id, end_id, begin_trace, between, end_trace = self.markers
        rope = _Rope()
        for at, (document, chunk) in enumerate(order):
            cuts = edges[document]
            parts = len(cuts) - 1
            if parts > 1:
                rope.add([begin_id, *name_of[document, chunk], end_id], learned=False)
            if chunk > 0:
                rope.add([self.knots[1]], learned=False)
            rope.text(documents[document], document, cuts[chunk], cuts[chunk + 1])
            if chunk < parts - 1:
                rope.add([self.knots[0]], learned=False)
            if parts > 1 and at == last_of[document]:
                rope.add([begin_trace], learned=False)
                trace = list(name_of[document, 0])
                for following in range(1, parts):
                    trace += [between, *name_of[document, following]]
                rope.add([*trace, end_trace], learned=True)
        return Tangle(rope.input_ids, rope.labels, rope.sources)

    def _cuts(self, length: int, generator: np.random.Generator) -> list[int]:
        parts = int(generator.integers(self.chunks[0], self.chunks[1] + 1))
        if length < parts:
            return [0, length]
        inner = generator.choice(length - 1, parts - 1, replace=False) + 1
        return [0, *sorted(inner.tolist()), length]

    def _order(self, parts: list[int], generator: np.random.Generator) -> list[tuple[int, int]]:
        """All (document, chunk) shuffled, but the end of the last document last."""
        end = (len(parts) - 1, parts[-1] - 1)
        chunks = [(document, part) for document, count in enumerate(parts) for part in range(count)]
        chunks.remove(end)
        order = [chunks[at] for at in generator.permutation(len(chunks))]
        if self.keep_order:
            turn = [0] * len(parts)
            for at, (document, _) in enumerate(order):
                order[at] = (document, turn[document])
                turn[document] += 1
        return [*order, end]

    def _ids(self, count: int, generator: np.random.Generator) -> list[tuple[int, ...]]:
        possible = len(set(self.alphabet)) ** self.id_length
        if possible < count:
            raise ValueError(
                f"{count} chunks need as many ids, {possible} are possible with this alphabet and "
                f"id_length {self.id_length}: take longer ids or fewer documents"
            )
        letters = sorted(set(self.alphabet))
        ids: dict[tuple[int, ...], None] = {}
        while len(ids) < count:
            drawn = generator.integers(len(letters), size=self.id_length).tolist()
            ids[tuple(letters[at] for at in drawn)] = None
        return list(ids)


class _Rope:
    """A sequence as it grows; the token after something that was added has no loss."""

    def __init__(self) -> None:
        self.input_ids: list[int] = []
        self.labels: list[int] = []
        self.sources: list[tuple[int, int]] = []

    def add(self, tokens: list[int], learned: bool) -> None:
        self.labels += tokens if learned else [IGNORED] * len(tokens)
        self.input_ids += tokens
        self.sources += [(-1, -1)] * len(tokens)

    def text(self, tokens: Sequence[int], document: int, start: int, end: int) -> None:
        follows_added = bool(self.sources) and self.sources[-1] == (-1, -1)
        piece = list(tokens[start:end])
        self.labels += [IGNORED, *piece[1:]] if follows_added else piece
        self.input_ids += piece
        self.sources += [(document, at) for at in range(start, end)]
