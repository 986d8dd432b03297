"""Loss by position, speed and memory are tasks of a suite, with a file that goes on from blocks."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import lengthwise as lw
from lengthwise.files import hold
from lengthwise.measure.engines.local import LocalReader
from lengthwise.measure.run.file import ResultsFile
from lengthwise.measure.run.results import Results
from lengthwise.measure.run.rows import REFERENCE, Cell
from lengthwise.measure.run.runner import measure
from lengthwise.measure.run.suites import Suite
from lengthwise.measure.tasks import Passkey
from lengthwise.measure.tasks.loss import in_window_losses, losses_by_position
from lengthwise.measure.tasks.readings import Loss, Speed
from lengthwise.names import RESULTS

from ..conftest import TEXT, make_model

METHODS = {
    "plain": (),
    "YaRN": (lw.YaRN(factor=4),),
    "StreamingLLM": (lw.StreamingLLM(sinks=2, window=40),),
}
SUITE = Suite(
    "three", {"loss": Loss(TEXT), "passkey": Passkey(TEXT), "speed": Speed(TEXT, steps=2)}, items=3
)


def losses_of(samples):
    return Suite("loss", {"loss": Loss(TEXT, samples)}, items=1)


@pytest.fixture
def carry_out(tokenizer, tmp_path):
    def call(suite=SUITE, lengths=(120, 160), methods=METHODS, model=None, chunk=512, **more):
        out = io.StringIO()
        call.said = lambda: " ".join(out.getvalue().split())
        reader = LocalReader(model or make_model(), tokenizer, chunk, "tiny")
        console = Console(file=out, width=300)
        return measure(reader, suite, methods, lengths, folder=call.folder, console=console, **more)

    call.folder = tmp_path / "out"
    call.file = call.folder / RESULTS
    return call


def comparable(results):
    """Everything but the clock."""
    losses = {row.key: row.values for row in results.readings if row.task == "loss"}
    return losses, {row.key: (row.prompt, row.reply, row.score) for row in results.rows}


def test_every_cell_is_measured_and_the_model_is_what_it_was(carry_out):
    model = make_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    results = carry_out(model=model)
    assert Results.load(carry_out.folder) == results
    assert {row.cell for row in results.readings} == {
        *(Cell(name, "loss", 160) for name in (REFERENCE, *METHODS)),
        *(Cell(name, "speed", n) for name in METHODS for n in (120, 160)),
    }
    assert len(results.rows) == 3 * 2 * 3
    assert not any(row.refused for row in (*results.rows, *results.readings))
    assert results.plan["reader"]["window"] == 64 and results.methods == list(METHODS)
    assert results.counts == {"loss": 1, "passkey": 3, "speed": 1}
    assert results.read_methods("loss") == [REFERENCE, *METHODS]
    assert results.read_lengths("speed") == [120, 160]
    (values,) = results.values("YaRN", "speed", 120)
    assert values["cache_bytes"] > 0 and values["first_token_seconds"] > 0
    assert all(row.seconds > 0 for row in results.readings)
    assert "YaRN(factor=4" in results.specs["YaRN"] and results.specs["plain"] == ""
    after = model.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    asked = [row.answer for row in results.cell("plain", "passkey", 120)]
    assert asked == [row.answer for row in results.cell("YaRN", "passkey", 120)]
    assert results.cell("plain", "passkey", 120)[0].depths == (0.0,)

    content = carry_out.file.read_bytes()
    assert carry_out() == results and carry_out.file.read_bytes() == content
    assert "28 measurements are there already" in carry_out.said()


def test_losses_are_those_of_the_model(carry_out, tokenizer):
    results = carry_out(losses_of(2), (200,))
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
        assert [one["block"] for one in values] == [8, 8]
        means = torch.tensor([one["losses"] for one in values])
        assert means.shape == (2, 25)
        torch.testing.assert_close(means[:, 0], losses[:, :7].mean(1), atol=1e-3, rtol=0)
        torch.testing.assert_close(means[:, 24], losses[:, 191:].mean(1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("adds", [1, 4, 5, 9])
def test_a_loss_that_was_cut_off_goes_on_from_its_blocks(carry_out, monkeypatch, adds):
    """Blocks that are known are not measured again, and the same file comes out."""
    words = {"suite": losses_of(2), "lengths": (160,), "chunk": 20}
    words["methods"] = {name: METHODS[name] for name in ("plain", "StreamingLLM")}
    whole = comparable(carry_out(**words))
    kinds = [next(iter(json.loads(line))) for line in carry_out.file.read_text().splitlines()]
    assert kinds[1:] == ["session"] + ["reading"] * 6
    names = sorted(path.name for path in carry_out.folder.iterdir())
    carry_out.file.unlink()
    original, said = ResultsFile.keep, []

    def kept():
        return b'\n{"block":' in carry_out.file.read_bytes()

    def cut_off(file, key, blocks):
        if len(said) == adds:
            raise KeyboardInterrupt
        said.append(blocks)
        original(file, key, blocks)

    monkeypatch.setattr(ResultsFile, "keep", cut_off)
    interrupted = 0
    for _ in range(40):
        try:
            results = carry_out(**words)
            break
        except KeyboardInterrupt:
            parts = "finished, and parts of one that is not; run the same" in carry_out.said()
            assert parts == kept()
            interrupted, adds = interrupted + 1, adds + 5
    assert interrupted and comparable(results) == whole
    assert sum(map(len, said)) == 3 * 2 * 20
    assert sorted(path.name for path in carry_out.folder.iterdir()) == names
    again = [next(iter(json.loads(line))) for line in carry_out.file.read_text().splitlines()]
    assert [kind for kind in again if kind != "session"][1:] == ["reading"] * 6


def test_ctrl_c_restores_the_model_and_keeps_what_is_finished(carry_out, monkeypatch):
    original, model = Loss.measure, make_model()

    def interrupted(self, reader, *rest):
        if lw.extend.adapt.is_adapted(reader.model):
            raise KeyboardInterrupt
        return original(self, reader, *rest)

    monkeypatch.setattr(Loss, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        carry_out(losses_of(1), (100,), model=model)
    assert "keeps the 2 measurements that are finished" in carry_out.said()
    monkeypatch.undo()
    resumed = comparable(carry_out(losses_of(1), (100,), model=model))
    carry_out.file.unlink()
    assert resumed == comparable(carry_out(losses_of(1), (100,)))


def test_a_refusal_is_recorded_and_the_rest_goes_on(carry_out, monkeypatch):
    methods = {"both": (lw.PI(factor=2), lw.NTK(factor=2)), "plain": ()}
    results = carry_out(SUITE, (100,), methods)
    refused = {row.cell: row.refused for row in results.readings if row.refused}
    assert set(refused) == {Cell("both", "loss", 100), Cell("both", "speed", 100)}
    assert "PI and NTK both fill the scaling axis" in refused[Cell("both", "loss", 100)]
    assert "refused loss 100 · both: PI and NTK" in carry_out.said()
    assert results.values("both", "loss", 100) == [] and results.values("plain", "loss", 100)
    assert results.read_methods("loss") == [REFERENCE, "plain"]
    assert carry_out(SUITE, (100,), methods) == results

    def full(*_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(Speed, "measure", full)
    (row,) = carry_out(SUITE, (110,), methods).reading("plain", "speed", 110)
    assert row.refused == "out of memory on cpu"


def test_more_methods_tasks_and_lengths_may_join(carry_out):
    carry_out(losses_of(1), (100,), {"plain": ()})
    results = carry_out(SUITE, (100, 150), METHODS, only={Cell("YaRN", "passkey", 150)})
    assert len(results.rows) == 3 and len(results.readings) == 2
    results = carry_out(SUITE, (150,), METHODS)
    assert results.read_lengths("loss") == [100, 150] and len(results.sessions) == 3
    assert results.suite == "loss, three" and results.settings.keys() == SUITE.tasks.keys()
    with hold(carry_out.folder), pytest.raises(ValueError, match="another lengthwise is"):
        carry_out()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "its seed is 0, now it is 1"),
        ({"suite": replace(SUITE, items=4)}, "its items passkey is 3, now it is 4"),
        ({"suite": losses_of(2)}, r"its tasks loss is 'Loss\(samples=1\)', now it is 'Loss\(sam"),
        ({"text": "x"}, "its text is"),
        ({"model": make_model(seed=1)}, "its reader fingerprint is"),
        ({"chunk": 32}, "its reader chunk is 512, now it is 32"),
        (
            {"methods": METHODS | {"YaRN": (lw.YaRN(factor=8),)}},
            r"measured 'YaRN' as YaRN\(factor=4.*now it is YaRN\(factor=8.*another name",
        ),
    ],
)
def test_a_file_of_another_measurement_is_refused(carry_out, change, message):
    carry_out(SUITE, (70,), only={Cell("plain", "loss", 70)})
    before = carry_out.file.read_bytes()
    with pytest.raises(ValueError, match=message):
        carry_out(**change)
    assert carry_out.file.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": (1,)}, "length must be at least 2 tokens, got 1"),
        ({"suite": losses_of(30_000)}, "tokens, but the plan reads 30000 times"),
        ({"methods": {**METHODS, REFERENCE: ()}}, "is the name of the reference"),
        ({"model": lw.adapt(make_model())}, r"call lengthwise\.restore"),
    ],
)
def test_bad_input_writes_nothing(carry_out, change, message):
    with pytest.raises(ValueError, match=message):
        carry_out(**change)
    assert not carry_out.file.exists()


def test_only_a_model_in_this_process_is_read(tokenizer, tmp_path):
    class Server:
        def describe(self):
            return {"name": "a server"}

    server = Server()
    server.tokenizer = tokenizer
    with pytest.raises(ValueError, match="loss measures a model in this process; a server or"):
        measure(server, SUITE, {"plain": ()}, [100], folder=tmp_path)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        Loss(TEXT, samples=0)
