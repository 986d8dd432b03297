"""A method to check, and how near its outputs must be."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lengthwise.extend.method import Method
from lengthwise.testing.bench import Formula, own_angles

SHAPES = ((6, 2, 16, 16), (4, 4, 8, 8), (5, 1, 16, 8), (3, 3, 8, 4))
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@dataclass(frozen=True)
class Case:
    """One method to check.

    Args:
        methods: The method under test first, then methods for other axes if it is to be checked
            in their company.
        window: The number around which lengths are chosen.
        identity: Methods that must equal full attention up to `identity_length` tokens.
        identity_length: See there.
        pages: For a selector: from (bench, axes, tensors) to the pairs that it reads, by hand; with
            their apparent distances where those are its own.
        formula: For a scaling: its frequencies by its paper, without its `rotary`.
        except_for: Reasons for the checks that do not hold, by name.
        refuses: Checks in whose place the method raises ValueError, with words of the error.
        shapes: Heads, KV heads, head dimensions and rotated dimensions to try; a method with a
            number for each rotated pair needs 16 of the last.
    """

    methods: tuple[Method, ...]
    window: int
    identity: tuple[Method, ...]
    identity_length: int = 40
    pages: Callable[..., Tensor | tuple[Tensor, Tensor]] | None = None
    formula: Formula = own_angles
    except_for: Mapping[str, str] = field(default_factory=dict)
    refuses: Mapping[str, str] = field(default_factory=dict)
    shapes: Sequence[tuple[int, int, int, int]] = SHAPES

    @property
    def name(self) -> str:
        """For test ids."""
        return "+".join(type(method).__name__ for method in self.methods)

    @property
    def lengths(self) -> list[int]:
        """Around nothing, around the window, and well beyond it."""
        w = self.window
        return sorted({1, 2, max(1, w - 1), w, w + 1, 4 * w + 3})


def close(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Assert closeness within the tolerance of `ours.dtype`."""
    worst = (ours.double() - theirs.double()).abs().max().item()
    assert worst <= TOLERANCE[ours.dtype], f"{what}: differs by {worst:.2e}"
