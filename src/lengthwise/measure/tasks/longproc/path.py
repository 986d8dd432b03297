"""LongProc's path traversal: one way out of every city, from the start to the goal."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import Endless, invented, new_from
from lengthwise.measure.tasks.exact import Page, Pages, Tokens
from lengthwise.measure.tasks.longproc.procedure import Procedure, lines_in, right_share

_WAYS = ("bus", "train", "plane", "ferry")
Link = tuple[str, str, str]  # from, to, by


def _told(link: Link) -> str:
    return "{} is a lively place. From {} you can go to {} by {}.".format(link[0], *link)


def _step(link: Link) -> str:
    return f"From {link[0]}, take a {link[2]} to {link[1]}."


@dataclass(frozen=True)
class PathTraversal(Procedure):
    """Write down the route from one city to another, link by link.

    Source: Ye et al., LongProc (arXiv:2501.05414), section 2: every city has one way out, the lines
    are shuffled, partial credit up to the first wrong line; output of about 0.5k, 2k or 8k tokens.
    Differs from the source: cities are invented; the route is as long as the budget allows in the
    model's own tokens; more length means more cities.

    Args:
        budget: Tokens of output: 512, 2048 and 8192 are the source's levels.

    Raises:
        ValueError: A budget out of range.
    """

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """A route; the haystack grows by cities off the route."""
        taken: set[str] = set()
        own = new_from(rng)
        cities = Endless(partial(_city, new_from(rng), taken))
        ways = Endless(lambda: own.choice(_WAYS))

        def route(steps: int) -> list[Link]:
            names = cities.first(steps + 1)
            return list(zip(names, names[1:], ways.first(steps), strict=False))

        def answer(steps: int) -> str:
            return "\n".join(["<Route>", *map(_step, route(steps)), "</Route>"])

        links = route(self.longest(answer, tokens))
        others, shuffled = new_from(rng), new_from(rng)
        order = [rng.random() for _ in links]
        ends = [link[0] for link in links]

        def off() -> tuple[float, Link]:
            # A city off the route may lead onto it, never the other way round.
            to = others.choice(ends) if others.random() < 0.5 else _city(others, taken)
            return shuffled.random(), (_city(others, taken), to, others.choice(_WAYS))

        off_route = Endless(off)
        head = "In this country every city has one way out, to one other city.\n"
        tail = (
            f"\nGive the route from {links[0][0]} to {links[-1][1]}, one line for each link in the "
            f"form {_step(('A', 'B', 'bus'))!r}, between <Route> and </Route>.\n"
        )
        text, marks = answer(len(links)), tuple(map(_told, links))

        def page(count: int) -> Page:
            rows = sorted([*zip(order, links, strict=True), *off_route.first(count)])
            context = "\n".join(_told(link) for _, link in rows)
            record = {"start": links[0][0], "goal": links[-1][1], "links": [row[1] for row in rows]}
            return Page(head, context, tail, text, record, marks)

        return page

    def score(self, text: str, item: Item) -> float:
        """The share of the route before the first wrong line; 1 only if all is right."""
        return right_share(lines_in(text, "Route"), lines_in(item.answer, "Route"))

    def oracle(self, record: Mapping[str, Any]) -> str:
        """Goes from the start to the goal."""
        out = {link[0]: link for link in record["links"]}
        city, lines = record["start"], []
        while city != record["goal"]:
            lines.append(_step(out[city]))
            city = out[city][1]
        return "\n".join(["<Route>", *lines, "</Route>"])

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """The links as they are told."""
        links = [link for link in item.record["links"]]
        steps = len(lines_in(item.answer, "Route"))
        return {"the links as they stand": "\n".join(map(_step, links[:steps]))}

    def guess(self, item: Item, rng: random.Random) -> str:
        """Somewhere, by any way, from where the last line ended."""
        city, lines = item.record["start"], []
        goals = [link[1] for link in item.record["links"]]
        for _ in lines_in(item.answer, "Route"):
            link = (city, rng.choice(goals), rng.choice(_WAYS))
            lines.append(_step(link))
            city = link[1]
        return "\n".join(lines)

    def chance(self, item: Item) -> float:
        """Each line is right with the same small probability, and counts only after right ones."""
        goals = [link[1] for link in item.record["links"]]
        steps = lines_in(item.answer, "Route")
        expected, before = 0.0, 1.0
        for step in steps:
            goal = step.rsplit(" ", 1)[1].rstrip(".")
            before *= goals.count(goal) / len(goals) / len(_WAYS)
            expected += before / len(steps)
        return expected


def _city(rng: random.Random, taken: set[str]) -> str:
    while (name := invented(rng, 3).capitalize()) in taken:
        pass
    taken.add(name)
    return name
