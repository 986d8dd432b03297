"""LongProc's travel planning: put stays in an order that flights and fixed dates allow."""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import different, invented
from lengthwise.measure.tasks.longproc.procedure import Search

_PLAN = re.compile(r"Day (\d+) to (\d+): (\w+)")
_STAYS = (2, 3, 4, 5)


@dataclass(frozen=True)
class _Trip:
    """Cities in the order in which they are told.

    Attributes:
        stays: From city to days there, the days of arrival and departure included.
        fixed: From city to its first day, for cities that must be visited then.
        flights: Pairs of cities with a flight from the first to the second.
    """

    stays: Mapping[str, int]
    fixed: Mapping[str, int]
    flights: Sequence[Sequence[str]]

    def search(self) -> Iterator[str | tuple[str, ...]]:
        """Lines of a depth-first search; at the goal the plan's lines, as the last thing."""
        ways = {(a, b) for a, b in self.flights}
        yield from self._search(1, (), (), ways)

    def _search(
        self, day: int, done: tuple[str, ...], plan: tuple[str, ...], ways: set[tuple[str, str]]
    ) -> Iterator[str | tuple[str, ...]]:
        due = [city for city, first in self.fixed.items() if first == day and city not in done]
        free = [city for city in self.stays if city not in self.fixed and city not in done]
        indent = " " * len(done)
        for city in due or free:
            end = day + self.stays[city] - 1
            ahead = [first for c, first in self.fixed.items() if c != city and c not in done]
            said = f"{indent}Day {day} to {end}: {city}: "
            if done and (done[-1], city) not in ways:
                yield f"{said}no flight from {done[-1]}"
                continue
            if ahead and min(ahead) < end:
                yield f"{said}later than day {min(ahead)}"
                continue
            if len(done) + 1 == len(self.stays):
                yield f"{said}done"
                yield (*plan, f"Day {day} to {end}: {city}")
                return
            yield f"{said}go on"
            stay = f"Day {day} to {end}: {city}"
            for step in self._search(end, (*done, city), (*plan, stay), ways):
                yield step
                if isinstance(step, tuple):
                    return

    def holds(self, plan: Sequence[str]) -> bool:
        """Whether a plan visits every city once, on the right days, by flights that there are."""
        day, last = 1, None
        seen = set()
        for line in plan:
            found = _PLAN.fullmatch(line)
            if found is None:
                return False
            first, end, city = int(found[1]), int(found[2]), found[3]
            if city not in self.stays or city in seen:
                return False
            if first != day or end != first + self.stays[city] - 1:
                return False
            if self.fixed.get(city, first) != first:
                return False
            if last is not None and [last, city] not in [list(flight) for flight in self.flights]:
                return False
            seen.add(city)
            day, last = end, city
        return len(seen) == len(self.stays)


@dataclass(frozen=True)
class TravelPlanning(Search):
    """Order stays in cities by a search that is written down, then give the plan.

    Source: Ye et al., LongProc (arXiv:2501.05414), section 2, travel planning: stays of given
    length, some with fixed dates, one-way flights, the days of arrival and departure shared;
    depth-first search day by day; 1 for the plan, otherwise the share of the search before the
    first wrong line.
    Differs from the source: cities are invented and wording is ours; any plan that meets the
    constraints scores 1; trips are drawn until the search fills half of the budget at least in the
    model's own tokens; more length means more sentences before.

    Args:
        budget: Tokens of output: 512, 2048 and 8192 are the source's levels.

    Raises:
        ValueError: A budget out of range.
    """

    tag = "Plan"
    head = "Notes, and a trip to plan.\n"

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """A trip that can be made."""
        most = 6 + self.budget.bit_length() // 2
        return {"trip": dict(vars(_draw(rng, rng.randint(4, most), rng.uniform(0.25, 0.7))))}

    def search(self, record: Mapping[str, Any]) -> Iterator[str | tuple[str, ...]]:
        """Day by day."""
        return _Trip(**record["trip"]).search()

    def holds(self, found: Sequence[str], record: Mapping[str, Any]) -> bool:
        """Whether a plan meets all constraints."""
        return _Trip(**record["trip"]).holds(found)

    def worth(self, trace: Sequence[str], found: Sequence[str]) -> bool:
        """A search that hardly goes wrong would be no search."""
        return len(trace) >= 1.5 * len(found)

    def told(self, record: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
        """Stays, then flights."""
        trip = _Trip(**record["trip"])
        stays = [
            f"Stay {days} days in {city}"
            + (f", from day {trip.fixed[city]} on." if city in trip.fixed else ".")
            for city, days in trip.stays.items()
        ]
        flights = [f"One can fly from {a} to {b}." for a, b in trip.flights]
        tail = (
            "\nPlan the trip from day 1. The day of departure is the day of arrival in the next "
            "city. Search depth first, day by day: where a stay must begin today, it is the only "
            "one to try; otherwise try every city without a date that is left, in the order above. "
            "First see whether there is a flight from the last city, then whether the stay ends "
            "later than the next fixed stay begins. Write a line for each try between <Search> and "
            '</Search>, one more blank in front of each deeper one: "Day 1 to 3: A: go on", "Day 3 '
            'to 6: B: no flight from A", "Day 3 to 6: C: later than day 5" or "Day 3 to 6: D: '
            'done". Then write the plan between <Plan> and </Plan>, a line for each stay: "Day 1 '
            'to 3: A".\n'
        )
        return (*stays, *flights), tail

    def guess(self, item: Item, rng: random.Random) -> str:
        """A stay in a city whose name has two syllables more than any that can be given."""
        return f"Day 1 to {rng.choice(_STAYS)}: {invented(rng, 4).capitalize()}: go on"


def _draw(rng: random.Random, count: int, density: float) -> _Trip:
    """A trip that can be made; flights between other pairs are there with probability `density`."""
    order = different(lambda: invented(rng, 2).capitalize(), count)
    days = {city: rng.choice(_STAYS) for city in order}
    fixed, day = {}, 1
    for i, city in enumerate(order):
        if i and rng.random() < 0.25:
            fixed[city] = day
        day += days[city] - 1
    told = rng.sample(order, count)
    way = {*pairwise(order)}
    flights = [
        [a, b] for a in order for b in order if a != b and ((a, b) in way or rng.random() < density)
    ]
    rng.shuffle(flights)
    return _Trip({c: days[c] for c in told}, {c: fixed[c] for c in told if c in fixed}, flights)
