"""The four axes. A method is a frozen dataclass that fills one axis or two.

Scaling   how does an apparent position become an angle?     identity: OwnScaling
Layout    which keys does a query see, and how far away?     identity: Causal
Selector  which pages of keys does a query read?             identity: AllPages
Store     which keys are kept, and in what form?             identity: FullStore
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from lengthwise.core.geometry import Geometry, RotaryBase
from lengthwise.core.keys import KeyBlock, Room, concatenate
from lengthwise.core.partial import Partial
from lengthwise.core.regions import OWN, Place, Region
from lengthwise.core.rotary import Rotary
from lengthwise.extend.read import Read

AXES = ("scaling", "layout", "selector", "store")
NO_ANGLES = (
    "in this {} the layers that see everything have no positions, and those with a window never "
    "meet a distance that is new to them; use a store, a selector or LogTemperature"
)


class Method(ABC):
    """Anything that `adapt` takes.

    Attributes:
        axis: The axis it fills.
        needs: What it asks for, and what is computed for nobody else: `all keys` of the store,
            `mass` or `logits` (see `Read`).
        offers: What a store or a selector gives to those that need it: `all keys`, if it never
            drops one, and `mass`, if every key is read.
    """

    axis: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    offers: ClassVar[frozenset[str]] = frozenset()

    def brings(self) -> "tuple[Method, ...]":
        """Methods for other axes that come with this one where the person names none."""
        return ()

    def check(self, window: int) -> None:
        """Raise ValueError when the method makes no sense for a trained window (tokens)."""
        return

    def sharpness(self, layer: int, window: int, positions: Tensor) -> Tensor | None:
        """A factor on the scores of every query: the inverse of a softmax temperature.

        It multiplies the queries, so the cache is untouched. Asked of scalings and layouts.

        Args:
            layer: Index of the layer.
            window: The trained window in tokens.
            positions: Logical positions of the queries `[b, t]`, -1 for padding.

        Returns:
            Factors that broadcast to `[b, heads, t]`, or None for 1 everywhere.
        """
        return None


class Scaling(Method):
    """From apparent position to angle, and how sharp the softmax is.

    Attributes:
        fits: The kinds of positions it is for: `rotary` (or none, on the same models), or those of
            `lengthwise.hf.other.kind_of`.
    """

    axis = "scaling"
    fits: ClassVar[tuple[str, ...]] = ("rotary",)

    @property
    def static(self) -> bool:
        """Whether frequencies stay what they are as the text grows."""
        return True

    def storable(self, base: RotaryBase) -> bool:
        """Whether keys can be stored rotated; otherwise they are rotated whenever they are read."""
        return self.static

    @abstractmethod
    def rotary(self, base: RotaryBase, window: int, lengths: Tensor) -> Rotary:
        """Frequencies for a layer.

        Args:
            base: The layer's own rotary embedding.
            window: The trained window in tokens.
            lengths: Tokens of each row so far, `[b]`; static methods ignore it.
        """

    @property
    def absolute(self) -> bool:
        """Whether angles depend on more than distances; then only the causal layout fits."""
        return False

    def rope_parameters(self, base: RotaryBase, window: int) -> dict[str, Any] | None:
        """The same scaling in transformers' own words, or None where it has none for it.

        With it a saved checkpoint needs no lengthwise, where transformers, when it is asked, reads
        the same frequencies for the model's family.
        """
        return None

    def reach(self, window: int) -> int:
        """Tokens that a saved checkpoint should claim as its window."""
        return window

    def replaces(self, base: RotaryBase) -> bool:
        """Whether it stands in the place of a scaling that the model carries."""
        return base.kind != "default"

    def counts_from(self, base: RotaryBase, window: int) -> int:
        """The window in tokens that factors count from: before a scaling that this one replaces.

        Raises:
            ValueError: Where the configuration does not say how long it was.
        """
        if not self.replaces(base):
            return window
        if base.trained is None:
            raise ValueError(
                f"{type(self).__name__} would replace rope_type {base.kind!r}, which this model "
                "carries, and its configuration does not say what window it had before: write "
                "original_max_position_embeddings into config.json, or set it in model.config"
            )
        return base.trained

    def check_geometry(self, geometry: Geometry) -> None:
        """Raise ValueError for a model whose layers or heads this scaling does not fit."""
        if not geometry.turns:
            raise ValueError(
                f"{type(self).__name__} would change nothing: {NO_ANGLES.format(geometry.family)}"
            )

    def check_base(self, base: RotaryBase) -> None:
        """Raise ValueError for a layer that this scaling cannot start from."""
        return


class Layout(Method):
    """Which keys a query sees, and how far away they seem.

    Attributes:
        key_place: Where keys are rotated to when they are stored: the place at which most of
            them are read, so that reading costs no rotation.
        by_head: Whether heads have layouts of their own; regions are then what any of them sees.
    """

    axis = "layout"
    key_place: ClassVar[Place] = OWN
    blends: ClassVar[bool] = False
    by_head: ClassVar[bool] = False

    @abstractmethod
    def regions(self) -> tuple[Region, ...]:
        """Disjoint regions; together they hold every pair that the layout shows."""

    @abstractmethod
    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """The layout as its paper's table has it, one pair at a time: the tests' oracle.

        Args:
            q, k: Logical positions that broadcast, with k <= q.

        Returns:
            Whether the pair is seen, and its apparent distance in tokens.
        """

    def check_base(self, base: RotaryBase) -> None:
        """Raise ValueError for a layer whose rotation this layout does not fit."""
        return


class Selector(Method):
    """Which pages of keys a query reads.

    Attributes:
        by_rank: Whether far keys stand where their rank among those that are read puts them. It
            gives distances itself then, and fits no layout but `Causal` and the one it brings.
    """

    axis = "selector"
    by_rank: ClassVar[bool] = False

    @abstractmethod
    def restrict(self, regions: Sequence[Region]) -> list[Region]:
        """The regions, with those among whose keys this selector chooses marked `paged`."""

    @abstractmethod
    def state(self) -> "SelectorState | None":
        """Fresh summaries for one layer, or None if there is nothing to choose."""

    def keys_read(self, length: int) -> int:
        """Keys that the last query of a text of `length` tokens reads from paged regions."""
        return length

    def keys_compared(self, length: int) -> int:
        """Keys that stand for pages and that the last query is compared with to choose."""
        return 0

    def noted_bytes(self, ends: Sequence[int], geometry: Geometry) -> int:
        """Bytes of what `state` notes of one row, as its `bytes` says them.

        Args:
            ends: Tokens read after each forward, rising.
        """
        return 0


class SelectorState(ABC):
    """The summaries of one layer's pages."""

    @abstractmethod
    def attend(self, read: Read) -> list[Partial]:
        """Take note of the newest keys, then attend the chosen pages of the paged regions."""

    @abstractmethod
    def select_rows(self, index: Tensor) -> None:
        """Keep the rows `index` of the batch, in that order."""

    @abstractmethod
    def bytes(self) -> int:
        """Bytes allocated."""


class Store(Method):
    """Which keys are kept, in what form and where.

    Attributes:
        every: Keys are dropped whenever a row has read so many tokens more; 0 for a store that
            needs to know nothing but positions. A forward is cut at these tokens, so what a token
            sees does not depend on how a text was cut into forwards.
        in_cache: Whether positions are places among the keys that are held, counted anew whenever
            some are dropped. Keys are stored un-rotated then.
    """

    axis = "store"
    packable = False  # whether a quantised store can wrap it
    every: int = 0
    in_cache: ClassVar[bool] = False

    def restrict(self, regions: Sequence[Region]) -> list[Region]:
        """The regions, without the pairs whose keys this store has dropped by then."""
        return list(regions)

    @abstractmethod
    def state(self, layer: int = 0, layers: int = 1) -> "StoreState":
        """An empty store for layer number `layer` of `layers`."""

    @abstractmethod
    def reference(self, q: Tensor, k: Tensor) -> Tensor:
        """Whether the query at position `q` still finds the key at `k`: the tests' oracle."""

    @abstractmethod
    def kept(self, length: int) -> int:
        """Tokens per KV head that are held after `length` tokens were read."""

    @abstractmethod
    def slots(self, ends: Sequence[int]) -> int:
        """Slots per KV head that are allocated: for what is held, and for what is to come.

        Args:
            ends: Tokens read after each forward, rising.
        """

    def allocated(self, ends: Sequence[int], geometry: Geometry, layer: int) -> int:
        """Bytes that the state of one layer allocates for one row: keys, values and positions.

        Args:
            ends: Tokens read after each forward, rising.
        """
        return self.slots(ends) * (geometry.token_bytes + 8)


class StoreState(ABC):
    """The keys and values of one layer.

    Attributes:
        croppable: Whether `crop`, `held` and `hide` work.
    """

    croppable: ClassVar[bool] = False

    @abstractmethod
    def extend(self, new: KeyBlock) -> list[KeyBlock]:
        """Take in new keys; return blocks that hold them and everything older a query may see.

        The blocks are valid until the next call. A key stands in exactly one of them. Under
        autograd the new keys are returned as they are and kept without their history.
        """

    def room(self, position: int) -> Room | None:
        """The slot for one token at `position` of every row, behind all that is held.

        None where `extend` has more to do than to fill a slot. Whoever has filled it says `took`.
        """
        return None

    def took(self) -> None:
        """The slot that `room` has named holds a token now."""
        raise AssertionError(f"{type(self).__name__} names no slots")

    @abstractmethod
    def select_rows(self, index: Tensor) -> None:
        """Keep the rows `index` of the batch, in that order (beam search)."""

    @abstractmethod
    def bytes(self) -> int:
        """Bytes allocated for keys, values and positions."""

    def after(self, read: Read) -> None:
        """A piece of at most `Store.every` tokens was read: score keys, and drop some where due."""
        raise ValueError(f"{type(self).__name__} drops keys by their positions alone")

    def whole(self) -> KeyBlock:
        """All keys that are held, in one block."""
        return concatenate(self.blocks())

    def blocks(self) -> list[KeyBlock]:
        """All keys that are held, in order of arrival, as they lie."""
        raise ValueError(f"{type(self).__name__} drops keys, so they cannot all be looked at")

    def shown(self) -> list[KeyBlock]:
        """What is held, in order of arrival, if all heads and rows hold the same; else nothing."""
        return []

    def gather(self, slots: Tensor) -> KeyBlock:
        """The keys in the slots `[b, #kv, m]`, counted in order of arrival; -1 gives an empty slot.

        One row of slots is for all KV heads.
        """
        raise ValueError(f"{type(self).__name__} drops keys, so pages of them cannot be looked up")

    def crop(self, tokens: int) -> None:
        """Forget the newest `tokens` tokens (assisted decoding)."""
        raise ValueError(
            f"{type(self).__name__} cannot take back tokens; use FullStore for assisted decoding"
        )

    @property
    def held(self) -> int:
        """Tokens held of every row, padding too."""
        raise AssertionError(f"{type(self).__name__} cannot take back tokens")

    def hide(self, hidden: Tensor) -> None:
        """Make padding of the tokens held where `hidden [b, held]` says so, in order of arrival."""
        raise AssertionError(f"{type(self).__name__} cannot take back tokens")


def by_axis(methods: "Sequence[Method]") -> "dict[str, Method]":
    """The methods, each under the axis that it fills.

    Raises:
        ValueError: If two fill one axis.
    """
    filled: dict[str, Method] = {}
    for method in methods:
        other = filled.setdefault(method.axis, method)
        if other is not method:
            raise ValueError(
                f"{type(other).__name__} and {type(method).__name__} both fill the "
                f"{method.axis} axis; choose one"
            )
    return filled


def at_least(owner: str, name: str, value: float, least: float) -> None:
    """Raise ValueError unless `value` is a finite number of at least `least`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < least:
        raise ValueError(f"{owner}: {name} must be at least {least}, got {value!r}")


def whole(owner: str, name: str, value: int, least: int) -> None:
    """Raise ValueError unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"{owner}: {name} must be a whole number of at least {least}, got {value!r}"
        )
