"""Rows of tuning: arms shared and kept, rates chosen, items paired, with two layers."""

import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

import lengthwise as lw
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import load, write
from lengthwise.testing.models import tiny_model, tiny_tokenizer
from lengthwise.train.recipes import RECIPES

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
WINDOW = 128


@pytest.fixture(scope="module")
def rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(EXPERIMENTS), *sys.path])
        import tuning_rows

        yield tuning_rows


@pytest.fixture(scope="module")
def runs(rows, tmp_path_factory):
    """Of two steps on two seeds; answers are read off two passkeys."""
    folder = tmp_path_factory.mktemp("tuning")
    shape = {"hidden_size": 64, "num_attention_heads": 8}  # widths that four bits can hold
    model = tiny_model("llama", max_position_embeddings=WINDOW, **shape)
    lw.save(model, tiny_tokenizer(), folder / "base")
    size = rows.Size(tokens=2048, step=1024, corpus=30_000, rows=16, seeds=(0, 1), texts=2,
                     passkeys=4, validation=20_000)  # fmt: skip
    return rows.Runs(str(folder / "base"), folder / "runs", size, Console(quiet=True))


def test_every_row_has_arms_and_a_claim(rows) -> None:
    recipes = {f"tuning/{name}" for name in RECIPES}
    assert {f"tuning/{name}" for name in rows.CLAIMS} == recipes <= {*claims()}
    assert {*rows.DIFFERENCES} == {*rows.CLAIMS}
    for name, judged in rows.CLAIMS.items():
        assert judged.arms[0] == name and {*judged.arms} <= {*rows.ARMS}
        assert rows.ARMS[name].recipe == name
        assert claims()[f"tuning/{name}"].script == ("tuning_rows.py", name)


def test_a_row_is_made_in_pieces(rows, runs, monkeypatch, tmp_path) -> None:
    """An arm is trained once a rate and a seed, whoever asks, and a row that is made needs none."""
    monkeypatch.setattr(rows, "CLAIMS", {"pose": rows.CLAIMS["pose"]})
    runs.runs("pi")
    done = {path.name for path in (runs.folder / "pi").iterdir()}
    best = runs.rate("pi")[0]
    assert done == {*(f"0.1-{rate:g}-0" for rate in rows.FULL), f"1-{best:g}-0", f"1-{best:g}-1"}
    losses = runs.rate("pi")[1]["losses"]
    assert losses[f"{best:g}"] == min(losses.values())

    made = rows.row("tuning/pose", runs)
    monkeypatch.setattr(rows, "train", None)
    again = rows.row("tuning/pose", runs)
    assert made.record() == again.record()
    assert load(write(tmp_path, made)).record()["claim"] == claims()["tuning/pose"].claim
    assert made.seeds == (0, 1) and made.items == {"texts": 4, "passkeys": 8}
    near, below, time, memory = made.findings
    assert near.low is not None and below.against
    assert memory.value is not None and memory.value < 0.5 and time.of is None

    mine, others = (runs.values("loss", name, 4) for name in ("pose", "pi"))
    assert len(mine) == 4 and not mine.equal(others)
    assert near.value == pytest.approx(float((mine - others).mean()))
    assert not mine[:2].equal(mine[2:])  # seeds differ


def test_every_arm_fits_its_base(rows, runs) -> None:
    """All are recipes that can be built; some of every kind of data train for two steps."""
    left = {*rows.ARMS}
    for name, arm in rows.ARMS.items():
        if arm.data not in ("pairs", "plain_pairs", "chosen", "marked"):
            recipe = runs.sized(name, arm.rates[0], 1.0, 0)
            assert recipe.steps == 2 and recipe.target == arm.windows * WINDOW
            left.remove(name)
    # A model that learned nothing answers short and long texts alike: it has no preferences.
    assert {rows.ARMS[name].recipe for name in left} == {"longpo", "longrecipe"}
    for name in ("direct", "longqlora", "longrecipe", "skipalign_plain", "anchor", "hyperfit"):
        if RECIPES[rows.ARMS[name].recipe].four_bit:
            pytest.importorskip("bitsandbytes")
        folder = runs.trained(name, rows.ARMS[name].rates[0], 1.0, 0)
        model, _ = lw.load(folder / "model", dtype=torch.float32)
        assert model.config.max_position_embeddings == rows.ARMS[name].windows * WINDOW


def test_the_middle_is_half_of_the_passkeys(rows, runs) -> None:
    values = {("a", 4): [1.0, 5.0, 7.0, 1.0], ("b", 4): [0.0, 0.0, 0.0, 0.0]}
    chosen = rows.Runs.middle
    runs_ = type("", (), {"size": runs.size, "values": lambda _, what, name, n: torch.tensor(
        values[name, n] * 2)})()  # fmt: skip
    assert chosen(runs_, "nats", "a", "b", 4).value == 6.0
