"""LongProc's belief tracking: where somebody thinks a thing is, step by step."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import haystack
from lengthwise.measure.tasks.exact import Page, Pages, Tokens
from lengthwise.measure.tasks.longproc.procedure import Procedure, lines_in, right_share
from lengthwise.measure.tasks.words import NAMES

_ROOMS = ("hall", "kitchen", "attic", "cellar", "study", "nursery")
_SPOTS = ("shelf", "drawer", "table", "basket", "trunk")
_THINGS = ("candle", "compass", "lantern", "scarf", "whistle", "hammer", "mirror", "flute")

Move = tuple[str, str, str]  # who or what, "goes" or the mover, where to


@dataclass(frozen=True)
class _World:
    """Two people, two things, two rooms with two places each, and what happens."""

    people: Sequence[str]
    things: Sequence[str]
    rooms: Sequence[str]
    spots: Sequence[str]
    start: Mapping[str, str]
    moves: Sequence[Sequence[Sequence[str]]]

    def beliefs(self, steps: int) -> list[str]:
        """A line for each step: where both are, whether the person sees it, and the belief."""
        person, thing = self.people[0], self.things[0]
        at, belief = dict(self.start), "None"
        lines = []
        for i, happened in enumerate([[], *self.moves[:steps]]):
            for who, what in happened:
                at[who] = what
            sees = at[thing].startswith(at[person])
            belief = at[thing] if sees else belief
            lines.append(
                f"- Step {i}: {person} is in the {at[person]}; the {thing} is on the {at[thing]}; "
                f"{person} sees it: {sees}; {person} believes: {belief}"
            )
        return lines


@dataclass(frozen=True)
class BeliefTracking(Procedure):
    """Write down after every step where a thing is and where somebody believes it to be.

    Source: Ye et al., LongProc (arXiv:2501.05414), section 2, theory-of-mind tracking: two people,
    two things, two rooms with two containers each; a belief is "None" until person and thing are
    in the same room, and changes only then; partial credit up to the first wrong line.
    Differs from the source: wording is ours; there are as many steps as the budget allows in the
    model's own tokens; more length means more sentences around the steps.

    Args:
        budget: Tokens of output: 512, 2048 and 8192 are the source's levels.

    Raises:
        ValueError: A budget out of range.
    """

    @property
    def least(self) -> int:
        """No sentence but the steps."""
        return 0

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """A story; the haystack grows by sentences between its steps."""
        world = _draw(rng, self.budget // 8)

        def answer(steps: int) -> str:
            return "\n".join(["<Trace>", *world.beliefs(steps), "</Trace>"])

        steps = self.longest(answer, tokens)
        person, thing = world.people[0], world.things[0]
        story = [_opening(world)] + [
            f"Step {i}: {_told(world, moves)}" for i, moves in enumerate(world.moves[:steps], 1)
        ]
        units = haystack(None, rng)
        head = "Follow this story. Only the numbered steps matter.\n"
        tail = (
            f"\nFor every step from 0 on, write where {person} and the {thing} are, whether "
            f"{person} sees the {thing}, and where {person} believes the {thing} to be. {person} "
            f"sees it when both are in the same room. One line for each step, as in {_form(world)} "
            "Put the lines between <Trace> and </Trace>.\n"
        )
        record = {"world": dict(vars(world)), "steps": steps}
        text = answer(steps)

        def page(count: int) -> Page:
            around, lines = units.first(count), list[str]()
            for i, line in enumerate(story):
                share = range(i * count // len(story), (i + 1) * count // len(story))
                lines += [line, *(around[j] for j in share)]
            return Page(head, "\n".join(lines), tail, text, record, tuple(story))

        return page

    def score(self, text: str, item: Item) -> float:
        """The share of the lines before the first wrong one; 1 only if all is right."""
        found = [_plain(line) for line in lines_in(text, "Trace") if line.startswith("-")]
        wanted = [_plain(line) for line in lines_in(item.answer, "Trace")]
        return right_share(found, wanted)

    def oracle(self, record: Mapping[str, Any]) -> str:
        """Plays the story."""
        return "\n".join(_World(**record["world"]).beliefs(record["steps"]))

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """Nothing ever moves."""
        world = _World(**{**item.record["world"], "moves": [[]] * item.record["steps"]})
        return {"nothing moves": "\n".join(world.beliefs(item.record["steps"]))}

    def guess(self, item: Item, rng: random.Random) -> str:
        """Any state in every line."""
        world = _World(**item.record["world"])
        person, thing = world.people[0], world.things[0]
        return "\n".join(
            f"- Step {i}: {person} is in the {rng.choice(world.rooms)}; the {thing} is on the "
            f"{rng.choice(world.spots)}; {person} sees it: {rng.random() < 0.5}; {person} "
            f"believes: {rng.choice(world.spots)}"
            for i in range(item.record["steps"] + 1)
        )

    def chance(self, item: Item) -> float:
        """A line has 2 x 4 x 2 x 4 forms, and counts only after right ones."""
        lines, each = item.record["steps"] + 1, 1 / 64
        return sum(each**k for k in range(1, lines + 1)) / lines


def _draw(rng: random.Random, steps: int) -> _World:
    people, things = rng.sample(NAMES, 2), rng.sample(_THINGS, 2)
    rooms, kinds = rng.sample(_ROOMS, 2), rng.sample(_SPOTS, 2)
    spots = [f"{room} {kind}" for room in rooms for kind in kinds]
    at = {person: rng.choice(rooms) for person in people}
    at |= {thing: rng.choice(spots) for thing in things}
    start = dict(at)
    moves = []
    for i in range(max(steps, 4)):
        # They act in turn: walk to the other room, move a thing that is at hand, or both.
        who, happened = people[i % 2], []
        near = [thing for thing in things if at[thing].startswith(at[who])]
        if not near or rng.random() < 0.6:
            at[who] = rooms[1 - rooms.index(at[who])]
            happened.append([who, at[who]])
        if near and (not happened or rng.random() < 0.4):
            thing = rng.choice(near)
            at[thing] = rng.choice([spot for spot in spots if spot != at[thing]])
            if happened:  # carried along
                at[thing] = rng.choice([spot for spot in spots if spot.startswith(at[who])])
            happened.append([thing, at[thing]])
        moves.append(happened)
    return _World(people, things, rooms, spots, start, moves)


def _opening(world: _World) -> str:
    at = world.start
    people = " ".join(f"{person} is in the {at[person]}." for person in world.people)
    things = " ".join(f"The {thing} is on the {at[thing]}." for thing in world.things)
    return f"Step 0: {people} {things}"


def _told(world: _World, happened: Sequence[Sequence[str]]) -> str:
    parts = [
        f"{who} goes to the {what}" if who in world.people else f"the {who} is put on the {what}"
        for who, what in happened
    ]
    text = ", and ".join(parts) + "."
    return text[0].upper() + text[1:]


def _form(world: _World) -> str:
    person, thing = world.people[0], world.things[0]
    return (
        f'"- Step 0: {person} is in the ROOM; the {thing} is on the ROOM PLACE; {person} sees it: '
        f'True or False; {person} believes: ROOM PLACE", or None while {person} cannot know.'
    )


def _plain(line: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", line.lower()).strip()
