"""The race: who goes on, what the clock and the memory refuse, and how it goes on after a stop."""

import contextlib
import hashlib
import json
import math

import pytest
import torch

import lengthwise as lw
from lengthwise.search.candidates import candidates
from lengthwise.search.longrope import LongRoPESearch
from lengthwise.search.race import Race, Rung, name_of
from lengthwise.search.windows import Windows
from lengthwise.testing.models import tiny_model

WINDOW = 64
FIELD = [(), (lw.PI(factor=4.0),), (lw.LMInfinite(sinks=2, window=32),), (lw.SelfExtend(8, 16),)]


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", max_position_embeddings=WINDOW)


def windows(seed: int, count: int = 1, length: int = 96) -> Windows:
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 60, (count, length), generator=g)
    return Windows(tuple(ids), (4,) * count, length)


def rungs(keeps: int = 2) -> list[Rung]:
    return [Rung(windows(0), windows(1), keeps), Rung(windows(2, 2), windows(3, 2), 1)]


def test_the_better_half_goes_on_and_the_best_of_the_last_rung_wins(model) -> None:
    race = Race(model, FIELD, rungs())
    winner = race.run(1e9)
    first, last = race.at(0), race.at(1)
    assert [run.methods for run in first] == [name_of(methods) for methods in FIELD]
    better = sorted(first, key=lambda run: run.score)[:2]
    assert {run.methods for run in last} == {run.methods for run in better}
    assert name_of(winner) == min(last, key=lambda run: run.score).methods


def test_a_score_is_the_mean_of_both_losses_as_the_windows_give_them(model) -> None:
    race = Race(model, FIELD[1:2], rungs())
    race.run(1e9)
    run, rung = race.at(0)[0], rungs()[0]
    assert run.text_loss == rung.texts.loss(model, *FIELD[1])
    assert run.needle_loss == rung.needles.loss(model, *FIELD[1])
    assert run.score == (run.text_loss + run.needle_loss) / 2


def test_without_time_one_candidate_runs_and_is_the_best_so_far(model) -> None:
    race = Race(model, FIELD, rungs())
    assert race.run(0.0) == FIELD[0]
    assert len(race.runs) == 1


def test_a_race_that_was_stopped_ends_as_one_that_was_not(model, tmp_path) -> None:
    whole = Race(model, FIELD, rungs())
    whole.run(1e9)
    state = tmp_path / "race.json"

    class Stop(Exception):
        pass

    def stop(race, run) -> None:
        if len(race.runs) == 3:
            raise Stop

    with pytest.raises(Stop):
        Race(model, FIELD, rungs(), state=state).run(1e9, stop)
    again = Race(model, FIELD, rungs(), state=state)
    assert len(again.runs) == 3
    again.run(1e9)
    assert [(r.rung, r.methods, r.score) for r in again.runs] == [
        (r.rung, r.methods, r.score) for r in whole.runs
    ]


class Killed(Exception):
    pass


def raced(model, state, dies_after: float) -> Race:
    """A race with a search of factors as its arm, which dies at a write of its state."""
    arm = LongRoPESearch(
        model, windows(0), 1.5, start_tokens=(0,), population=4, parents=2, mutations=1,
        crossovers=1, seed=0,
    )  # fmt: skip
    race = Race(model, FIELD, rungs(), arm=arm, state=state, about={"model": "tiny"})
    save, writes = race._save, 0

    def dying() -> None:
        nonlocal writes
        save()
        writes += 1
        if writes == dies_after:
            raise Killed

    race._save = dying  # type: ignore[method-assign]
    with contextlib.suppress(Killed):
        race.run(1e9)
        race.finished = True  # type: ignore[attr-defined]
    return race


def test_a_race_with_a_search_ends_alike_however_often_it_is_killed(
    model, tmp_path, monkeypatch
) -> None:
    def loss(self, model, *methods) -> float:
        """Numbers without rhyme or reason, so that every candidate wins in some race."""
        digest = hashlib.sha256(f"race {trial} {self.fingerprint} {methods}".encode())
        return digest.digest()[0] / 256

    monkeypatch.setattr(Windows, "loss", loss)
    monkeypatch.setattr("lengthwise.search.race.SEARCH_STEPS", 7)
    searched = 0
    for trial in range(8):
        whole = raced(model, None, math.inf)
        scores = [(r.rung, r.methods, r.score) for r in whole.runs]
        searched += "LongRoPE" in whole.best_run.methods
        for dies_after in (1, 2, 3, 5, 8, 13):
            state = tmp_path / f"{trial}-{dies_after}.json"
            while not hasattr(race := raced(model, state, dies_after), "finished"):
                pass
            assert [(r.rung, r.methods, r.score) for r in race.runs] == scores
            assert race.best == whole.best
    assert 0 < searched < 8


def test_the_file_of_another_race_is_refused(model, tmp_path) -> None:
    state = tmp_path / "race.json"
    Race(model, FIELD, rungs(), state=state).run(0.0)
    with pytest.raises(ValueError, match="belongs to another race"):
        Race(model, FIELD, rungs(keeps=3), state=state)
    with pytest.raises(ValueError, match="belongs to another race"):
        Race(model, FIELD, rungs(), state=state, about={"model": "another"})
    record = json.loads(state.read_text(encoding="utf-8"))
    for damage in ({"runs": [3]}, {"runs": [{}]}, {"about": None}, {"runs": None}):
        state.write_text(json.dumps(record | damage), encoding="utf-8")
        with pytest.raises(ValueError, match="cannot go on"):
            Race(model, FIELD, rungs(), state=state)
    state.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="cannot go on"):
        Race(model, FIELD, rungs(), state=state)


def test_what_does_not_fit_in_memory_is_refused_with_both_sizes(model) -> None:
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    race = Race(model, [(), (lw.StreamingLLM(2, 14),)], rungs(), memory=weights + 20_000)
    race.run(1e9)
    plain, streaming = race.at(0)
    assert "GiB" in plain.refused and not streaming.refused
    assert name_of(race.best) == name_of((lw.StreamingLLM(2, 14),))


def test_a_record_is_json_without_infinities(model) -> None:
    race = Race(model, FIELD, rungs(), memory=1)
    with pytest.raises(ValueError, match="nothing has run"):
        race.run(1e9)
    record = json.loads(json.dumps(race.record(), allow_nan=False))
    assert all(run["score"] is None and run["refused"] for run in record["runs"])


@pytest.mark.parametrize("window, length", [(64, 65), (512, 4096), (512, 8192), (4096, 1 << 20)])
def test_every_candidate_reaches_the_length_with_distances_of_the_window(window, length) -> None:
    field = candidates(window, length)
    assert field[0] == () and len(field) == len({name_of(m) for m in field})
    for methods in field:
        for method in methods:
            if isinstance(method, lw.SelfExtend):
                far = method.window + -(-(length - method.window) // method.group)
                assert far <= window


@pytest.mark.parametrize("window, length", [(16, 64), (512, 512), (512, 100)])
def test_a_length_inside_the_window_is_refused(window, length) -> None:
    with pytest.raises(ValueError, match="window"):
        candidates(window, length)
