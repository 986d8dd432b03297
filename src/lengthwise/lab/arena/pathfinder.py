"""Pathfinder and Path-X: are two marks the ends of one dashed curve?"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.lab.arena.base import Arena

Mask = NDArray[np.bool_]
Point = NDArray[np.float64]
Pixels = NDArray[np.int64]  # rows and columns, [2, n]

_INK, _MARK = 160, 255  # grey values of dashes and of marks
_LONG = 2  # curves that may carry a mark
_DIRECTIONS = 4  # tries for the next dash
_DASHES = 12  # tries for a curve, times its dashes
_STARTS = 20  # of one curve
_APART = 1 / 32  # of a side: by how much distances of marks may differ between the classes


@dataclass(frozen=True)
class _Curve:
    """A dashed curve: the pixels of its dashes, and those of a mark on either end."""

    ink: Mask
    ends: tuple[Mask, Mask]
    places: tuple[Point, Point]  # the middle of each mark


@dataclass(frozen=True)
class Pathfinder(Arena):
    """Tell from the pixels whether the two marks lie on one curve (1) or on two (0).

    Two long curves and some short ones are drawn before it is known which ends are marked, so the
    curves say nothing about the class; and only curves on which marks of both classes would be
    equally far apart, to about a pixel, so that their distance says nothing either. A dash is at
    most `gap + 1` pixels from the next one of its curve, and further from every other curve:
    `solve` joins dashes by that alone.

    Source: Tay et al., Long Range Arena (arXiv:2011.04006), section 2.2.5, with the sizes of its
    code: 32 x 32 pixels, its middle level with long curves of 9 dashes of length 2, short ones of
    a third, marks of radius 1.5; Linsley et al. (arXiv:1805.08315).
    Differs from the source: drawn by us, without antialiasing; gaps are 2 pixels, so that they can
    be seen; curves never cross or touch, and short ones are drawn while there is room.

    Args:
        size: Pixels of a side, at least 24.
        dashes: Of a long curve, at least 3; a short one has a third of them.
        dash: Length of a dash in pixels, at least 1.
        gap: Pixels between two dashes, at least 1.
        thickness: Of a dash in pixels, at least 1.
        mark: Radius of a mark in pixels, at least 1.
        short: Short curves at most; fewer where there is no room.
        turn: Radians by which the direction changes at most from dash to dash.

    Raises:
        ValueError: A size out of range.
    """

    classes = 2
    vocabulary = 256
    size: int = 32
    dashes: int = 9
    dash: float = 2.0
    gap: float = 2.0
    thickness: float = 1.0
    mark: float = 1.5
    short: int = 5
    turn: float = 0.8

    def __post_init__(self) -> None:
        least = {"size": 24, "dashes": 3, "dash": 1, "gap": 1, "thickness": 1, "mark": 1}
        least |= {"short": 0, "turn": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(
                    f"{type(self).__name__}: {name} must be at least {bound}, got "
                    f"{getattr(self, name)}"
                )
        swath = (self.thickness + self._reach) * (self.dash + self.gap) * self.dashes * _LONG
        if swath > 0.5 * self.size**2:
            raise ValueError(
                f"{type(self).__name__}: two curves of {self.dashes} dashes do not fit "
                f"{self.size} x {self.size} pixels; take fewer or shorter dashes, or a larger size"
            )

    @property
    def length(self) -> int:  # type: ignore[override]
        """Pixels."""
        return self.size**2

    @property
    def _reach(self) -> int:
        """Pixels of one curve lie at most so far from the next; those of two curves further."""
        return int(np.ceil(self.gap)) + 1

    def example(self, label: int, rng: np.random.Generator) -> NDArray[np.uint16]:
        """The curves, then two marks."""
        while True:
            taken = np.zeros((self.size, self.size), dtype=bool)
            curves = [self._curve(self.dashes, taken, rng) for _ in range(_LONG)]
            long = [curve for curve in curves if curve is not None]
            if len(long) == _LONG and (choices := self._choices(long)):
                break
        image = np.zeros((self.size, self.size), dtype=np.uint16)
        for _ in range(self.short):
            # Here marks are not needed, and one failure says that the image is nearly full.
            curve = self._curve(max(2, self.dashes // 3), taken, rng, marked=False)
            if curve is not None:
                image[curve.ink] = _INK
        for curve in long:
            image[curve.ink] = _INK
        first, end, other = choices[int(rng.integers(len(choices)))]
        image[long[first].ends[end]] = _MARK
        partner = long[first].ends[1 - end] if label else long[1 - first].ends[other]
        image[partner] = _MARK
        return image.ravel()

    def _choices(self, long: list[_Curve]) -> list[tuple[int, int, int]]:
        """Which curve, which end of it, and which end of the other one may be marked: those whose
        marks are as far from each other as the ends of the curve.
        """
        found = []
        for first, end, other in np.ndindex(_LONG, 2, 2):
            mark = long[first].places[end]
            own = np.linalg.norm(mark - long[first].places[1 - end])
            far = np.linalg.norm(mark - long[1 - first].places[other])
            if abs(own - far) <= _APART * self.size:
                found.append((first, end, other))
        return found

    def _curve(
        self, dashes: int, taken: Mask, rng: np.random.Generator, marked: bool = True
    ) -> _Curve | None:
        """A curve that keeps away from what is taken, and is taken then; None without room."""
        for _ in range(_STARTS):
            curve = self._try(dashes, taken, rng, marked)
            if curve is not None:
                whole = curve.ink | curve.ends[0] | curve.ends[1]
                taken |= grown(whole, self._reach)
                return curve
        return None

    def _try(
        self, dashes: int, taken: Mask, rng: np.random.Generator, marked: bool
    ) -> _Curve | None:
        """A curve from a random place; one that runs into something goes back some dashes."""
        margin = self.mark + 1
        place = rng.uniform(margin, self.size - 1 - margin, 2)
        start = self._disc(place) if marked else np.zeros_like(taken)
        if (start & taken).any():
            return None
        drawn: list[Pixels] = []
        left = _DASHES * dashes  # tries

        def grow(place: Point, heading: float) -> Point | None:
            """Draw what is missing from a place on; the end of the last dash, or None."""
            nonlocal left
            for angle in heading + rng.uniform(-self.turn, self.turn, _DIRECTIONS):
                left -= 1
                step = np.array([np.sin(angle), np.cos(angle)])
                end = place + self.dash * step
                if left < 0 or ((end < margin) | (end > self.size - 1 - margin)).any():
                    continue
                pixels = self._line(place, end)
                if taken[pixels[0], pixels[1]].any() or self._meets(pixels, drawn[:-2]):
                    continue
                drawn.append(pixels)
                if len(drawn) == dashes:
                    return end
                finish = grow(end + self.gap * step, angle)
                if finish is not None:
                    return finish
                drawn.pop()
            return None

        finish = grow(place, rng.uniform(0, 2 * np.pi))
        if finish is None:
            return None
        final = self._disc(finish) if marked else np.zeros_like(taken)
        if (final & (taken | start)).any():
            return None
        ink = np.zeros_like(taken)
        rows, columns = np.concatenate(drawn, axis=1)
        ink[rows, columns] = True
        return _Curve(ink, (start, final), (place, finish))

    def _meets(self, pixels: Pixels, older: list[Pixels]) -> bool:
        """Whether a dash comes near the curve's own dashes before the last two."""
        if not older:
            return False
        apart = np.abs(pixels[:, :, None] - np.concatenate(older, axis=1)[:, None, :])
        return bool((apart.max(0) <= self._reach).any())

    def _line(self, start: Point, end: Point) -> Pixels:
        """The pixels within half of the thickness of the line, those under it at least."""
        count = int(np.ceil(2 * self.dash)) + 1
        along = start + np.linspace(0, 1, count)[:, None] * (end - start)
        across = np.array([-(end - start)[1], (end - start)[0]]) / self.dash
        half = (self.thickness - 1) / 2
        offsets = np.linspace(-half, half, int(np.ceil(2 * half)) + 1)
        points = along[None] + offsets[:, None, None] * across
        return points.reshape(-1, 2).round().astype(int).clip(0, self.size - 1).T

    def _disc(self, centre: Point) -> Mask:
        rows, columns = np.mgrid[0 : self.size, 0 : self.size]
        return np.hypot(rows - centre[0], columns - centre[1]) <= self.mark

    def solve(self, tokens: NDArray[Any]) -> int:
        """Whether every marked pixel is joined to the first one."""
        image = tokens.reshape(self.size, self.size)
        marked, ink = image == _MARK, image > 0
        reached = np.zeros_like(ink)
        reached[tuple(np.argwhere(marked)[0])] = True
        while True:
            more = grown(reached, self._reach) & ink
            if (more == reached).all():
                return int((marked <= reached).all())
            reached = more


@dataclass(frozen=True)
class PathX(Pathfinder):
    """Pathfinder on 128 x 128 pixels: 16,384 tokens.

    Source: Tay et al., Long Range Arena (arXiv:2011.04006), section 2.2.6, with the sizes of its
    code: 14 dashes 1.5 pixels thick, marks of radius 3, up to eight short curves.
    Differs from the source: as `Pathfinder`; dashes are 6 pixels long with gaps of 3.
    """

    size: int = 128
    dashes: int = 14
    dash: float = 6.0
    gap: float = 3.0
    thickness: float = 1.5
    mark: float = 3.0
    short: int = 8


def grown(mask: Mask, by: int) -> Mask:
    """The pixels at most `by` rows and `by` columns from a pixel of the mask."""
    result = mask
    for axis in (0, 1):
        parts = list(_moved(result, by, axis))
        result = np.logical_or.reduce(parts)
    return result


def _moved(mask: Mask, by: int, axis: int) -> Iterator[Mask]:
    wide = np.pad(mask, [(by, by) if a == axis else (0, 0) for a in (0, 1)])
    for shift in range(2 * by + 1):
        yield np.take(wide, range(shift, shift + mask.shape[axis]), axis=axis)
