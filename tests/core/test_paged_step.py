"""One token that chooses pages, in C: the same pages, outputs and notes as written out in torch."""

import itertools
from typing import Any

import pytest
import torch
from tests.kinds import every_kind, needs_compiler  # noqa: F401
from torch import Tensor

from lengthwise.core import operators

SIZE, FIRST, CHOOSE, TABLE = 4, 3, 3, 70
DIM = 16


def turn(x: Tensor, circle: Tensor) -> Tensor:
    """Halves paired, all of it turned: x `[..., d]` by cosines and sines `[2, pairs]`."""
    cos, sin = circle
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class Given:
    """Arguments of one call: ragged rows, buffers that end within pages, scores that are whole
    numbers, so that many are equal and none is rounded.
    """

    def __init__(self, seed: int, dtype: torch.dtype, b: int, kv: int, group: int, **how: object):
        g = torch.Generator().manual_seed(seed)
        self.signed, self.shared = bool(how["signed"]), bool(how["shared"])
        self.ranked, self.mass = bool(how["ranked"]), bool(how["mass"])
        self.heads, self.kv, self.b, self.dtype = kv * group, kv, b, dtype

        def whole(*shape: int, most: int = 2) -> Tensor:
            return torch.randint(-most, most + 1, shape, generator=g).to(dtype)

        def real(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g).to(dtype)

        total = 41
        cuts = [0, 17, 30, total + 6]
        self.keys = [real(b, kv, hi - lo, DIM) for lo, hi in itertools.pairwise(cuts)]
        self.values = [real(b, kv, hi - lo, DIM) for lo, hi in itertools.pairwise(cuts)]
        self.positions = torch.full((b, 1, cuts[-1] - cuts[-2]), -7)
        self.slot = total - cuts[-2]
        pads = [0, 5, 2][:b]
        self.at = torch.tensor([total - pad for pad in pads])
        self.slots = torch.full((b, TABLE), -1)
        for row, pad in enumerate(pads):
            self.slots[row, : total - pad] = torch.arange(pad, total)
        if b > 1:  # padding in the middle
            self.slots[1, 20:] = torch.where(self.slots[1, 20:] >= 0, self.slots[1, 20:] + 1, -1)
            self.slots[1, self.at[1] - 1 :] = -1
            self.at[1] -= 1
        self.q, self.k = whole(b, self.heads, 1, DIM), real(b, kv, 1, DIM)
        self.v = real(b, kv, 1, DIM)
        angles = torch.randn(60, DIM // 2, generator=g)
        self.circles = torch.stack([angles.cos(), angles.sin()])
        made_heads = kv if how["by_kv"] else self.heads
        width = DIM * (2 if self.signed else 1)
        self.made = whole(b, made_heads, 9, width, most=1).float()
        self.made[:, :, 4] = self.made[:, :, 1]  # equal pages
        self.noted, self.from_note = real(b, kv, 40).float(), 5
        self.spans, rows = [], []
        for p in self.at.tolist():
            near = (p - 8, 9, 0, -1 if seed % 2 else 20, int(self.mass))
            sinks = (0, FIRST, 1, -1, 0)
            rest = (p - 11, 3, 1, 3, int(self.mass and seed % 3 == 0))
            self.spans.append((near, sinks, rest))
            low, high = (1, 6) if seed % 2 else (0, 2)
            rows += [7, low, high, FIRST + low * SIZE + seed % 3, 11, 12]
            rows += [x for span in (near, sinks, rest) for x in span]
        self.rows = rows
        self.how = (
            self.slot, False, SIZE, FIRST, CHOOSE, 1 if self.shared else kv, self.signed, -1,
            self.from_note, 30 if self.ranked else -1, 20, 1, 2, 3,
        )  # fmt: skip

    def arguments(self) -> tuple[Any, ...]:
        others = [
            x.clone() for pair in zip(self.keys[:2], self.values[:2], strict=True) for x in pair
        ]
        return (
            self.keys[2].clone(), self.values[2].clone(), self.positions.clone(),
            self.slots.clone(), self.noted.clone(), self.q, self.k, self.v, self.at, self.circles,
            self.made, self.rows, self.how, 1.0, DIM**-0.5, 1.0, others,
        )  # fmt: skip

    def by_hand(self) -> tuple[Tensor, list[list[int]], Tensor]:
        """Outputs `[b, h, e]`, what was chosen, and what is noted."""
        keys, values = torch.cat(self.keys, 2), torch.cat(self.values, 2)
        out, chosen, noted = torch.zeros(self.b, self.heads, DIM), [], self.noted.clone()
        group, per_row = self.heads // self.kv, len(self.rows) // self.b
        for row in range(self.b):
            low, high, first_key = self.rows[row * per_row + 1 : row * per_row + 4]
            slots = self.slots[row].clone()
            slots[self.at[row]] = 41
            keys[row, :, 41] = turn(self.k[row, :, 0], self.circles[:, 7])
            values[row, :, 41] = self.v[row, :, 0]
            x = self.q[row, :, 0].float()
            if self.signed:
                x = torch.cat([x.clamp(min=0), x.clamp(max=0)], -1)
            made = self.made[row].repeat_interleave(self.heads // self.made.shape[1], 0)
            wants = (made @ x[:, :, None])[..., 0]  # [h, pages]
            wants = wants.view(1 if self.shared else self.kv, -1, 9).sum(1)
            for h in range(self.heads):
                want = wants[0 if self.shared else h // group].tolist()
                best = sorted(range(low, high), key=lambda page: (-want[page], page))[:CHOOSE]
                best.sort()
                chosen.append(best)
                scores, read, local = [], [], []
                pages = [
                    (FIRST + c * SIZE, SIZE, 1, 30 + 20 + (i - len(best)) * SIZE, 0)
                    for i, c in enumerate(best)
                ]
                for first, count, which, circle, note in (*self.spans[row], *pages):
                    asked = turn(self.q[row, h, 0], self.circles[:, 11 + which]).float()
                    paged = (first, count, which, circle, note) in pages
                    for j in range(count):
                        if paged and first + j < first_key:
                            continue
                        key = keys[row, h // group, slots[first + j]]
                        if circle >= 0 and (not paged or self.ranked):
                            key = turn(key, self.circles[:, circle + j])
                        scores.append(asked @ key.float() * DIM**-0.5)
                        read.append(values[row, h // group, slots[first + j]].float())
                        local.append(first + j if note else -1)
                score = torch.stack(scores)
                out[row, h] = score.softmax(0) @ torch.stack(read)
                mine = torch.tensor(local)
                drawn = score.masked_fill(mine < 0, -torch.inf).softmax(0)
                for position, weight in zip(local, drawn, strict=True):
                    if position >= self.from_note:
                        noted[row, h // group, position - self.from_note] += weight
        return out, chosen, noted


HOW = [
    {"signed": a, "shared": b, "by_kv": c, "ranked": d, "mass": e}
    for a, b, c, d, e in itertools.product((False, True), repeat=5)
]


@needs_compiler
def test_it_is_what_is_written_out(kind: object) -> None:
    if not operators.steps(DIM, DIM):
        pytest.skip("torch alone")
    several = 0
    for seed, how in enumerate(HOW):
        shape = (1 + seed % 3, *((1, 1), (2, 2), (2, 3))[seed // 3 % 3])
        for dtype, near in ((torch.float32, 2e-6), (torch.bfloat16, 0.02)):
            given = Given(seed, dtype, *shape, **how)
            arguments = given.arguments()
            keys, values, positions, slots, noted = arguments[:5]
            got = operators.paged(*arguments)[:, :, 0].float()
            want, chosen, drawn = given.by_hand()
            case = f"{seed} {how} {dtype}"
            assert (got - want).abs().max() < near, case
            assert (noted - drawn).abs().max() < 1e-5, case
            assert given.mass or torch.equal(noted, given.noted), case
            cos, sin = given.circles[:, None, None, 7:8]
            turned = operators.turn(given.k, cos, sin, False)[:, :, 0]
            assert torch.equal(keys[:, :, given.slot], turned), case
            assert torch.equal(values[:, :, given.slot], given.v[:, :, 0]), case
            assert torch.equal(positions[:, 0, given.slot], given.at), case
            assert [slots[i, p] for i, p in enumerate(given.at)] == [41] * given.b, case
            several += len({tuple(c) for c in chosen}) > 1
    assert several > 10  # heads and rows do choose differently


@needs_compiler
def test_an_operator_like_the_others() -> None:
    """Schema, what it changes, shapes without numbers; whole in a graph, with the same bits."""
    for seed, dtype in ((0, torch.float32), (13, torch.bfloat16), (31, torch.float32)):
        given = Given(seed, dtype, 1 + seed % 3, 2, 2, **HOW[seed])
        torch.library.opcheck(operators.paged, given.arguments())
        plain, whole = given.arguments(), given.arguments()
        run = torch.compile(lambda *x: operators.paged(*x), fullgraph=True, backend="aot_eager")
        assert torch.equal(operators.paged(*plain), run(*whole))
        assert all(torch.equal(a, b) for a, b in zip(plain[:5], whole[:5], strict=True))
    torch._dynamo.reset()
