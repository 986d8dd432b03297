import io

import pytest
import torch
from rich.console import Console

import lengthwise as lw
from lengthwise.files import hold
from lengthwise.measure import REFERENCE, Cell, Results, grid, run_grid
from lengthwise.measure.run.results import Unfinished
from lengthwise.measure.run.runner import _Bench
from lengthwise.measure.tasks.loss import in_window_losses, losses_by_position

from ..conftest import TEXT, make_model

METHODS = {
    "plain": (),
    "YaRN": (lw.YaRN(factor=4),),
    "StreamingLLM": (lw.StreamingLLM(sinks=2, window=40),),
}
CELLS = [
    *grid("loss", METHODS, [200]),
    *grid("passkey", ["plain", "StreamingLLM"], [120, 160]),
    *grid("speed", METHODS, [100]),
]


@pytest.fixture
def measure(tokenizer, tmp_path):
    def call(cells=CELLS, methods=METHODS, model=None, **settings):
        out = io.StringIO()
        call.said = lambda: " ".join(out.getvalue().split())
        settings = {"text": TEXT, "seed": 0, "passkey_count": 3, "decode_steps": 2} | settings
        return run_grid(
            model or make_model(),
            tokenizer,
            methods,
            cells,
            output=tmp_path / "out" / "results.jsonl",
            name="tiny",
            console=Console(file=out, width=300),
            **settings,
        )

    call.path = tmp_path / "out" / "results.jsonl"
    return call


def comparable(results):
    """Everything but the clock."""
    return {r.cell: r.values for r in results.rows if r.task != "speed"}


def test_every_cell_is_measured(measure):
    model = make_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    results = measure(model=model)
    assert [r.cell for r in results.rows] == [Cell(REFERENCE, "loss", 200), *CELLS]
    assert not any(r.refused for r in results.rows)
    assert Results.load(measure.path).rows == results.rows
    assert results.plan["window"] == 64 and results.plan["model"] == "tiny"
    for row in results.rows:
        assert row.seconds > 0 and row.seed == 0
        assert row.versions["torch"] == torch.__version__
        assert row.hardware["device"] == "cpu" and row.hardware["name"]
    specs = {r.method: r.spec for r in results.rows}
    assert specs["plain"] == specs[REFERENCE] == ""
    assert "YaRN(factor=4" in specs["YaRN"]
    after = model.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_losses_are_those_of_the_model(measure, tokenizer):
    results = measure(loss_samples=2)
    model = make_model()
    ids = torch.tensor(tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    starts = [0, len(ids) // 2]
    texts = torch.stack([torch.cat([torch.zeros(1).long(), ids[s : s + 199]]) for s in starts])
    expected = {
        "plain": losses_by_position(model, texts),
        REFERENCE: in_window_losses(model, texts, 64, head=0),
    }
    with lw.adapted(model, *METHODS["StreamingLLM"]):
        expected["StreamingLLM"] = losses_by_position(model, texts)
    for method, losses in expected.items():
        values = results.values(method, "loss", 200)
        assert values["block"] == 8
        blocks = torch.tensor(values["losses"])
        assert blocks.shape == (2, 25)
        torch.testing.assert_close(blocks[:, 0], losses[:, :7].mean(1), atol=1e-3, rtol=0)
        torch.testing.assert_close(blocks[:, 24], losses[:, 191:].mean(1), atol=1e-3, rtol=0)


def test_same_seed_same_values(measure):
    cells = grid("loss", METHODS, [100]) + grid("passkey", ["StreamingLLM"], [120])
    first = measure(cells)
    measure.path.unlink()
    assert comparable(measure(cells)) == comparable(first)
    measure.path.unlink()
    assert comparable(measure(cells, seed=1)) != comparable(first)


def test_methods_meet_the_same_passkeys(measure):
    results = measure()
    for length in (120, 160):
        plain, other = (results.values(m, "passkey", length) for m in ("plain", "StreamingLLM"))
        assert plain["answers"] == other["answers"]
        assert plain["depths"] == [0, 0.5, 1]
        assert plain["score"] == sum(plain["scores"]) / 3


def test_a_finished_cell_is_never_measured_again(measure, monkeypatch):
    first = measure(cells=CELLS[:4])
    asked = []
    original = _Bench.measure
    monkeypatch.setattr(
        _Bench, "measure", lambda b, *cell: asked.append(cell[0]) or original(b, *cell)
    )
    results = measure()
    assert asked == CELLS[4:]
    assert results.rows[:5] == first.rows
    assert "5 of 11 measurements are there already" in measure.said()
    assert measure().rows == results.rows
    assert asked == CELLS[4:]


def test_ctrl_c_keeps_what_is_finished(measure, monkeypatch):
    original = _Bench.measure

    def interrupted(bench, cell, spec):
        if cell == CELLS[2]:
            raise KeyboardInterrupt
        return original(bench, cell, spec)

    monkeypatch.setattr(_Bench, "measure", interrupted)
    model = make_model()
    with pytest.raises(KeyboardInterrupt):
        measure(model=model)
    assert "keeps the 3 measurements that are finished" in measure.said()
    assert [r.cell for r in Results.load(measure.path).rows] == [
        Cell(REFERENCE, "loss", 200),
        *CELLS[:2],
    ]
    monkeypatch.setattr(_Bench, "measure", original)
    resumed = measure(model=model)  # the model was restored
    measure.path.unlink()
    assert comparable(resumed) == comparable(measure())


@pytest.mark.parametrize("adds", [1, 4, 5, 9])
def test_a_loss_that_was_cut_off_goes_on_from_its_blocks(measure, monkeypatch, adds):
    """Blocks that are known are not measured again, and the same numbers come out."""
    settings = {"loss_samples": 2, "chunk": 20}
    cells = grid("loss", ["plain", "StreamingLLM"], [160])
    whole = comparable(measure(cells=cells, **settings))
    names = sorted(path.name for path in measure.path.parent.iterdir())
    measure.path.unlink()
    original, said = Unfinished.add, []

    def cut_off(kept, sample, losses):
        if len(said) == adds:
            raise KeyboardInterrupt
        said.append((sample, *losses))
        original(kept, sample, losses)

    monkeypatch.setattr(Unfinished, "add", cut_off)
    for _ in range(40):
        try:
            results = measure(cells=cells, **settings)
            break
        except KeyboardInterrupt:
            adds += 5
    assert comparable(results) == whole
    blocks = [row["losses"] for row in (r.values for r in results.rows)]
    assert sum(len(entry) - 1 for entry in said) == sum(len(b) for rows in blocks for b in rows)
    assert sorted(path.name for path in measure.path.parent.iterdir()) == names


def test_blocks_of_another_cell_or_half_a_line_are_not_taken_over(tmp_path):
    path, cell = tmp_path / "results.jsonl", Cell("plain", "loss", 64)
    kept = Unfinished(path, cell, "")
    kept.add(0, [1.0, 2.0])
    kept.add(1, [3.0])
    assert [Unfinished(path, cell, "").of(i) for i in range(3)] == [[1.0, 2.0], [3.0], []]
    part = tmp_path / "results.jsonl.part"
    content = part.read_bytes()
    first = content.index(b"\n") + 1
    for end in range(first, len(content) + 1):
        part.write_bytes(content[:end])
        lines = content[first:end].count(b"\n")
        again = Unfinished(path, cell, "")
        assert [len(row) for row in again.samples] == [[], [1], [2], [2, 1]][lines]
        assert part.read_bytes() == content[: first + content[first:end].rfind(b"\n") + 1]
    for damage in (b'{"sample": 3, "loss": 1.0}', b'{"sample": 1, "loss": "x"}', b"[]", b"\xff"):
        part.write_bytes(content + damage + b"\n")
        assert Unfinished(path, cell, "").samples == [[1.0, 2.0], [3.0]]
    for other in ((Cell("plain", "loss", 128), ""), (cell, "PI(factor=2)")):
        part.write_bytes(content)
        assert Unfinished(path, *other).samples == []


def test_two_runs_do_not_share_a_folder(measure):
    with hold(measure.path.parent), pytest.raises(ValueError, match="another lengthwise is"):
        measure(cells=grid("loss", ["plain"], [70]))
    assert measure(cells=grid("loss", ["plain"], [70])).rows


def test_a_refusal_is_recorded_and_the_rest_goes_on(measure):
    methods = {"both": (lw.PI(factor=2), lw.NTK(factor=2)), "plain": ()}
    cells = grid("loss", methods, [100]) + grid("passkey", ["plain"], [20, 120])
    results = measure(cells, methods)
    refused = {r.cell: r.refused for r in results.rows if r.refused}
    assert set(refused) == {Cell("both", "loss", 100), Cell("plain", "passkey", 20)}
    assert "PI and NTK both fill the scaling axis" in refused[Cell("both", "loss", 100)]
    assert "too short" in refused[Cell("plain", "passkey", 20)]
    assert results.values("plain", "passkey", 120)
    assert "refused loss 100 · both: PI and NTK" in measure.said()
    assert measure(cells, methods).rows == results.rows


def test_more_methods_and_lengths_may_join(measure):
    measure(cells=grid("loss", ["plain"], [100]))
    results = measure(cells=grid("loss", METHODS, [100, 150]))
    assert len(results.rows) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "its seed is 0, now it is 1"),
        ({"passkey_count": 4}, "its passkey count is 3"),
        ({"text": TEXT + "x"}, "its text is"),
        ({"model": make_model(seed=1)}, "its fingerprint is"),
        ({"window": 32}, "its window is 64, now it is 32"),
        (
            {"methods": METHODS | {"YaRN": (lw.YaRN(factor=8),)}},
            r"measured 'YaRN' as YaRN\(factor=4.*now it is YaRN\(factor=8.*another name",
        ),
    ],
)
def test_a_file_of_another_measurement_is_refused(measure, change, message):
    measure(cells=grid("loss", ["plain", "YaRN"], [70]))
    before = measure.path.read_bytes()
    with pytest.raises(ValueError, match=message):
        measure(**change)
    assert measure.path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": [Cell("plain", "sleep", 8)]}, "unknown task 'sleep': choose from loss, passkey"),
        ({"cells": [Cell("YARN", "loss", 8)]}, "unknown method 'YARN': the plan has plain, YaRN"),
        ({"cells": [Cell("plain", "loss", 1)]}, "length must be at least 2 tokens, got 1"),
        ({"text": "short"}, r"the text has \d tokens, but the plan reads 1 times 200"),
        ({"loss_samples": 0}, "loss_samples must be at least 1, got 0"),
        ({"methods": {**METHODS, REFERENCE: ()}}, "is the name of the reference"),
        ({"model": lw.adapt(make_model())}, r"call lengthwise\.restore"),
    ],
)
def test_bad_input_writes_nothing(measure, change, message):
    with pytest.raises(ValueError, match=message):
        measure(**change)
    assert not measure.path.exists()
