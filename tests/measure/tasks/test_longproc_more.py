"""LongProc's plans, tables and programs, each against a second source."""

import random
import re
from html.parser import HTMLParser
from itertools import permutations

import pytest

from lengthwise.measure.tasks import HtmlToTable, PseudoToCode, TravelPlanning
from lengthwise.measure.tasks.longproc.procedure import lines_in
from lengthwise.measure.tasks.longproc.program import ProgramError, outputs
from lengthwise.measure.tasks.longproc.travel import _draw, _Trip

TASKS = [TravelPlanning, HtmlToTable, PseudoToCode]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("budget", [512, 2048, 8192])
def test_the_answer_fills_the_level(tokenizer, task, budget):
    count = 2 if budget < 8192 else 1
    for item in task(budget=budget).build(tokenizer, 6 * budget, count, 0):
        size = len(tokenizer(item.answer, add_special_tokens=False)["input_ids"])
        least = 0.5 if task is TravelPlanning else 0.8
        assert least * budget <= size <= budget == item.allowance
    with pytest.raises(ValueError, match="from 128 to 65536 output tokens, got 10"):
        task(budget=10)


# Plans


def every_plan(trip):
    """All orders that meet the constraints, by trying all of them."""
    ways = {tuple(flight) for flight in trip.flights}
    for order in permutations(trip.stays):
        day, good = 1, True
        for i, city in enumerate(order):
            good &= trip.fixed.get(city, day) == day
            good &= i == 0 or (order[i - 1], city) in ways
            day += trip.stays[city] - 1
        if good:
            yield order


def test_the_search_finds_a_plan_exactly_where_there_is_one():
    rng = random.Random(0)
    found = 0
    for _ in range(40):
        trip = _draw(rng, rng.randint(3, 6), 0.3)
        # Some of the trips can no longer be made.
        flights = [flight for flight in trip.flights if rng.random() < 0.8]
        trip = _Trip(trip.stays, trip.fixed, flights)
        lines = list(trip.search())
        plan = lines[-1] if lines and isinstance(lines[-1], tuple) else None
        plans = list(every_plan(trip))
        assert (plan is not None) == bool(plans)
        if plan is not None:
            found += 1
            assert trip.holds(plan)
            assert tuple(line.split(": ")[1] for line in plan) in plans
    assert 5 < found < 40


def test_plans_are_checked(tokenizer):
    task = TravelPlanning()
    item = task.build(tokenizer, 2500, 1, 0)[0]
    trip = _Trip(**item.record["trip"])
    plan = lines_in(item.answer, "Plan")
    search = lines_in(item.answer, "Search")
    assert trip.holds(plan) and not trip.holds(plan[:-1]) and not trip.holds([])
    assert not trip.holds([*plan[:-1], plan[0]])
    assert not trip.holds([plan[1], plan[0], *plan[2:]])
    later = re.sub(r"Day (\d+) to (\d+)", lambda m: f"Day {int(m[1]) + 1} to {int(m[2]) + 1}",
                   plan[0])  # fmt: skip
    assert not trip.holds([later, *plan[1:]])
    assert task.score("<Plan>\n" + "\n".join(plan) + "\n</Plan>", item) == 1
    assert len(search) > len(plan)
    half = "<Search>\n" + "\n".join([*search[:4], "Day 1 to 2: Nowhere: go on"])
    assert task.score(half, item) == pytest.approx(4 / len(search))
    assert task.score("<Search>\n" + "\n".join(search), item) < 1  # no plan was given


def test_the_order_of_the_search():
    trip = _Trip(
        {"Ada": 3, "Bel": 2, "Cor": 4}, {"Cor": 3},
        [["Ada", "Cor"], ["Bel", "Ada"], ["Cor", "Bel"], ["Ada", "Bel"]],
    )  # fmt: skip
    assert list(trip.search()) == [
        "Day 1 to 3: Ada: go on",
        " Day 3 to 6: Cor: go on",
        "  Day 6 to 7: Bel: done",
        ("Day 1 to 3: Ada", "Day 3 to 6: Cor", "Day 6 to 7: Bel"),
    ]
    late = _Trip({"Ada": 4, "Bel": 3, "Cor": 4}, {"Cor": 3}, [["Bel", "Cor"], ["Cor", "Ada"]])
    assert next(late.search()) == "Day 1 to 4: Ada: later than day 3"


# Tables


class Reader(HTMLParser):
    """The entries of the page, by Python's own parser."""

    def __init__(self):
        super().__init__()
        self.rows, self.inside = [], ""

    def handle_starttag(self, tag, attributes):
        self.inside = dict(attributes).get("class", tag)

    def handle_endtag(self, tag):
        self.inside = "p" if tag == "b" else ""

    def handle_data(self, data):
        if self.inside == "h3":
            self.rows.append({"name": data})
        elif self.rows and self.inside in ("p", "b", "stars", "price"):
            self.rows[-1][self.inside] = data


def test_the_page_holds_the_table(tokenizer):
    task = HtmlToTable()
    item = task.build(tokenizer, 6000, 1, 0)[0]
    reader = Reader()
    reader.feed(item.prompt)
    kept = [row for row in reader.rows if len(row["stars"]) >= 3]
    rows = [
        "\t".join(
            [r["name"], r["p"].removesuffix(" by "), r["b"], r["price"], str(len(r["stars"]))]
        )
        for r in kept
    ]
    assert item.answer.split("\n")[1:] == rows
    assert len(reader.rows) == len(rows) + item.record["units"] > len(rows)


def test_rows_count_by_f1(tokenizer):
    task = HtmlToTable()
    item = task.build(tokenizer, 4000, 1, 0)[0]
    lines = item.answer.split("\n")
    rows = len(lines) - 1
    assert task.score("\n".join(lines[:-2]), item) == pytest.approx(2 * (rows - 2) / (2 * rows - 2))
    assert task.score("```tsv\n" + "\n".join([lines[0], *lines[:0:-1]]) + "\n```", item) == 1
    assert task.score(item.answer.upper(), item) == 1
    wrong = [*lines[:-1], lines[-1].replace("\t", "\tvery ", 1)]
    assert task.score("\n".join(wrong), item) == pytest.approx((rows - 1) / rows)
    left_out = next(row for row in item.record["entries"] if int(row[4]) < 3)
    assert task.score("\n".join([*lines, "\t".join(left_out)]), item) < 1


# Programs


def python_prints(code, inputs):
    """What Python itself prints; for programs that this project wrote."""
    printed = []
    space = {"print": printed.append, "range": range, "__builtins__": {}}
    exec(code, space)
    space["program"](*inputs)
    return printed


def test_programs_do_what_python_does(tokenizer):
    for item in PseudoToCode().build(tokenizer, 2500, 5, 0):
        code = item.answer.removeprefix("<Code>\n").removesuffix("\n</Code>")
        for test, wanted in zip(item.record["tests"], item.record["wanted"], strict=True):
            assert python_prints(code, test) == wanted == outputs(code, test)
        assert len({tuple(wanted) for wanted in item.record["wanted"]}) > 1


def test_a_changed_line_is_noticed_mostly(tokenizer):
    task = PseudoToCode()
    noticed, changed = 0, 0
    for item in task.build(tokenizer, 2500, 4, 0):
        lines = item.answer.split("\n")
        assert task.score("Here:\n```python\n" + "\n".join(lines[1:-1]) + "\n```", item) == 1
        for i, line in enumerate(lines):
            other = re.sub(r"\d+", lambda m: str(int(m[0]) + 1), line)
            if other != line:
                changed += 1
                noticed += task.score("\n".join([*lines[:i], other, *lines[i + 1 :]]), item) == 0
    assert changed > 40 and noticed > 0.7 * changed


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os", "must be one function"),
        ("def program(a):\n    import os", "Import is not a part"),
        ("def program(a):\n    print(open('x'))", "Call is not a part"),
        ("def program(a):\n    print(a.__class__)", "Attribute is not a part"),
        ("def program(a):\n    while 1 == 1:\n        a += 1", "too many steps"),
        ("def program(a):\n    for i in range(10 ** 9):\n        pass", "BinOp is not a part"),
        ("def program(a):\n    for i in range(999999999):\n        pass", "too many steps"),
        ("def program(a):\n    a = 999999\n    a = a * a * a", "a number is beyond"),
        ("def program(a):\n    print(a // 0)", "division by zero"),
        ("def program(a):\n    print(b)", "b has no value"),
        ("def program(a, b):\n    print(a)", "program with 1 inputs"),
        ("def other(a):\n    print(a)", "must be program"),
        ("def program(a)\n", "no program"),
        ("def program(a):\n    print('x')", "Constant is not a part"),
        ("def program(a):\n    print(" + "(" * 5000 + "1" + ")" * 5000 + ")", "no program"),
        ("def program(a):\n    print(" + "-" * 3000 + "1)", "no program|too many levels"),
    ],
)
def test_nothing_but_small_programs_is_carried_out(code, words):
    with pytest.raises(ProgramError, match=words):
        outputs(code, [1])


def test_the_language():
    code = """def program(a, b):
    c = -a
    while c < b and not c == 3:
        c += 2
    if c >= 3 or a != 1:
        print(c)
    else:
        print(0)
    for i in range(1, 3):
        print(i * b // 2 % 5)
"""
    for inputs in ([1, 9], [4, 3], [0, 0]):
        assert outputs(code, inputs) == python_prints(code, inputs)
