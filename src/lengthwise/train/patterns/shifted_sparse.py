"""Shifted sparse attention: groups of tokens, and for half of the heads groups between them."""

from dataclasses import dataclass

from lengthwise.extend.method import whole
from lengthwise.extend.plan import Groups as HeadGroups
from lengthwise.train.patterns.blocks import Groups
from lengthwise.train.patterns.pattern import Pattern


@dataclass(frozen=True)
class ShiftedSparse(Pattern):
    """Half of the heads attend within groups of tokens, the others within groups shifted by half.

    The two halves of a layer together let information pass from group to group. Trained with it, a
    model is read with plain attention.

    Source: Chen et al. 2023, LongLoRA (arXiv:2309.12307), section 3.2.
    Differs from the source: the published code shifts by rolling the tokens around, so the last
        half group and the first share a group; under its causal mask, which knows only the rolled
        order, the first tokens of the text then see the last ones. Here the first half group and
        the last are groups of their own. The group is a number of tokens, where the paper's is a
        quarter of the text, so that texts of different lengths are trained alike.
    Reduces to: plain causal attention in the first half of the heads, for texts of one group.

    Args:
        group: Tokens of a group, even, at least 2.

    Raises:
        ValueError: If `group` is odd or below 2, or the model has one head.
    """

    group: int = 2048

    def __post_init__(self) -> None:
        whole("ShiftedSparse", "group", self.group, 2)
        if self.group % 2:
            raise ValueError(f"ShiftedSparse: group must be even, got {self.group}")

    def parts(self, layers: int, heads: int) -> list[HeadGroups]:
        if heads < 2:
            raise ValueError(f"ShiftedSparse halves the heads of a layer, got {heads} head")
        half = heads // 2
        straight, shifted = Groups(self.group), Groups(self.group, self.group // 2)
        return [[(tuple(range(half)), straight), (tuple(range(half, heads)), shifted)]] * layers
