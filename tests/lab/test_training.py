"""The lab's loop: losses fall, a killed run ends with the same bits, jobs run two at a time."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import LRScheduler

from lengthwise.lab.muon import muon_and_adamw
from lengthwise.lab.training import best_of, held, learn, one_cycle, side_by_side

STEPS = 12
Pair = tuple[Tensor, Tensor]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 1))


def batches() -> Iterator[Pair]:
    draw = torch.Generator().manual_seed(1)
    while True:
        x = torch.randn(64, 4, generator=draw)
        yield x, x.sum(1, keepdim=True)


def cycle(model: nn.Module) -> list[LRScheduler]:
    return one_cycle(torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95)), STEPS, 0.1)


def trapezoid(model: nn.Module) -> list[LRScheduler]:
    return held(muon_and_adamw(model, 0.1, 0.1), STEPS, warmup=3)


class Killed(BaseException):
    pass


def trained(
    schedule: Callable[[nn.Module], list[LRScheduler]], folder: Path | None, dies_at: int = -1
) -> tuple[nn.Module, list[float]]:
    model = network()
    calls = 0

    def loss(pair: Pair) -> Iterator[Tensor]:
        nonlocal calls
        calls += 1
        if calls == dies_at:
            raise Killed
        x, y = pair
        yield mse_loss(model(x[:32]), y[:32]) / 2
        yield mse_loss(model(x[32:]), y[32:]) / 2

    learned = learn(model, batches(), loss, schedule(model), STEPS, folder, save_every=3)
    return model, learned.losses


@pytest.mark.parametrize("schedule", [cycle, trapezoid])
def test_losses_fall_and_a_killed_run_ends_with_the_same_bits(
    schedule: Callable[[nn.Module], list[LRScheduler]], tmp_path: Path
) -> None:
    before = torch.random.get_rng_state()
    whole, losses = trained(schedule, None)
    assert torch.equal(torch.random.get_rng_state(), before) and not whole.training
    assert len(losses) == STEPS and sum(losses[6:]) < 0.8 * sum(losses[:6])
    for dies_at in (1, 3, 5, 12):
        folder = tmp_path / str(dies_at)
        with pytest.raises(Killed):
            trained(schedule, folder, dies_at)
        again, found = trained(schedule, folder)
        assert found == losses
        for one, other in zip(whole.parameters(), again.parameters(), strict=True):
            assert torch.equal(one, other)
        lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [*range(1, STEPS + 1)]
        # A run that is finished trains no more.
        assert trained(schedule, folder, 1)[1] == losses


def test_the_trapezoid_goes_up_and_is_held_and_falls_to_nothing() -> None:
    (schedule,) = held([torch.optim.SGD(network().parameters(), lr=2.0)], 10, warmup=2)
    rates = []
    for _ in range(10):
        rates.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1, 2, 2, 2, 2, 2, 2, 1.5, 1, 0.5])


def test_what_cannot_be_trained_on_is_said(tmp_path: Path) -> None:
    model = network()

    def go(folder: Path | None, times: float = 1.0, **how: object) -> None:
        learn(
            model, islice(batches(), 5), lambda pair: times * model(pair[0]).square().mean(),
            cycle(model), folder=folder, save_every=2, **{"steps": STEPS} | how,
        )  # fmt: skip

    with pytest.raises(ValueError, match="there are 5 batches, and 12 steps are wanted"):
        go(tmp_path / "few")
    with pytest.raises(ValueError, match="holds another run"):
        go(tmp_path / "few", about={"seed": 1})
    kept = [weights.clone() for weights in model.parameters()]
    with pytest.raises(ValueError, match="the loss of step 1 is inf"):
        go(None, math.inf)
    assert all(map(torch.equal, model.parameters(), kept))


def job(name: str, folder: Path) -> dict[str, int]:
    """Waits until the other has begun: alone it would wait for ever."""
    (folder / f"{name}.begun").touch()
    if name == "broken":
        raise ValueError("this one is broken")
    ends = time.monotonic() + 60
    while len(list(folder.glob("*.begun"))) < 2 and time.monotonic() < ends:
        time.sleep(0.01)
    assert time.monotonic() < ends
    return {"process": os.getpid(), "threads": torch.get_num_threads()}


def test_two_jobs_run_side_by_side_and_are_not_done_again(tmp_path: Path) -> None:
    jobs = {name: partial(job, name, tmp_path) for name in ("one", "other", "broken")}
    with pytest.raises(ValueError, match="this one is broken"):
        side_by_side(jobs, tmp_path / "results")
    del jobs["broken"]
    for file in tmp_path.glob("*.begun"):
        file.unlink()
    found = side_by_side(jobs, tmp_path / "results")  # alone, each would wait for ever
    assert not [*tmp_path.glob("*.begun")]
    assert found["one"]["process"] != found["other"]["process"]
    assert {one["threads"] for one in found.values()} == {1}


def test_the_best_of_several_rates() -> None:
    best = best_of({1e-3: [3.0], 2e-3: [1.0], 4e-3: [math.nan]}, min)
    assert (best.rate, best.found, best.at_edge) == (2e-3, [1.0], False)
    assert best_of({1e-3: [3.0], 2e-3: [4.0]}, min).at_edge
