"""Readers on Ray answer as one reader does."""

import json
import subprocess
import sys

import pytest

import lengthwise as lw
from lengthwise.measure.engines.fanout import RayReader, _Worker

pytest.importorskip("ray")

METHODS = ("plain", "yarn")

# In a process of its own: Ray leaves threads and sockets behind.
ON_RAY = """
import json, sys
from pathlib import Path
import lengthwise as lw
from lengthwise.measure.engines.fanout import RayReader
from lengthwise.measure.engines.local import LocalReader
from lengthwise.measure.run.runner import measure
from lengthwise.measure.run.suites import Suite
from lengthwise.measure.tasks import Passkey
from lengthwise.measure.tasks.text import held_out_text

def make():
    model, tokenizer = lw.load("demo", dtype="float32")
    return LocalReader(model.eval(), tokenizer)

suite = Suite("tiny", {"passkey": Passkey(held_out_text())}, items=3)
methods = {"plain": (), "yarn": (lw.YaRN(factor=4),)}

def rows(reader, folder, lengths=(300, 640)):
    found = measure(reader, suite, methods, lengths, folder=Path(sys.argv[1], folder)).rows
    return [[*r.key, r.score, r.reply, r.tokens, r.held, r.refused, r.session] for r in found]

def refusal(words):
    try:
        words()
    except ValueError as error:
        return str(error)

alone, many = make(), RayReader(make, 2, batch=2, cpus=0.5)
print(json.dumps({
    "alone": rows(alone, "alone"),
    "many": rows(many, "many"),
    "begun": rows(alone, "mixed", (300,)),
    "continued": rows(many, "mixed"),
    "both": refusal(lambda: many.adapt(lw.YaRN(factor=4), lw.PI(factor=2))),
}), file=sys.__stdout__)
"""


def test_a_suite_gives_the_rows_of_one_reader(tmp_path):
    words = [sys.executable, "-c", ON_RAY, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["many"] == found["alone"]
    replies = {method: [row[5] for row in found["alone"] if row[0] == method] for method in METHODS}
    assert all(len(set(said)) > 1 for said in replies.values()), "an order would not show"
    assert replies["plain"] != replies["yarn"], "the workers were not adapted"
    # What one reader has begun the workers go on with: all but the session is the same.
    assert len(found["begun"]) == 6 and found["continued"][:6] == found["begun"]
    without = [row[:-1] for row in found["continued"]]
    assert without == [row[:-1] for row in found["alone"]]
    assert {row[-1] for row in found["continued"]} == {0, 1}
    assert "both fill the scaling axis" in found["both"]


def test_bad_arguments():
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        RayReader(lambda: None, 0)
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        RayReader(lambda: None, 1, batch=0)


class Broken:
    tokenizer = None

    def describe(self):
        return {"name": "broken"}

    def answer(self, items):
        raise ValueError("no such thing")
        yield


def test_a_worker_hands_back_what_goes_wrong():
    worker = _Worker(Broken)
    assert worker.begin() == (None, {"name": "broken"})
    assert "a server has its own" in str(worker.adapt([lw.YaRN(factor=4)]))
    assert str(worker.answer([])) == "no such thing"
    assert "no checkpoint" in str(_Worker(lambda: lw.load("./nowhere")).begin())
