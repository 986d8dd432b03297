"""The search: monotone candidates, the same seed the same, stopped anywhere and gone on with."""

import json

import pytest
import torch

import lengthwise as lw
from lengthwise.extend.adapt import is_adapted
from lengthwise.extend.scaling.frequencies import unscaled
from lengthwise.hf.families import read_geometry
from lengthwise.measure.tasks import Passkey
from lengthwise.search import (
    LongRoPE2Search,
    LongRoPESearch,
    SecondStageSearch,
    ShortSearch,
    longrope2_search,
    longrope_search,
    needle_windows,
    text_windows,
)
from lengthwise.search.windows import Windows
from lengthwise.testing.models import VOCABULARY, WINDOW, tiny_model, tiny_tokenizer

SIZES = {"population": 6, "parents": 3, "mutations": 2, "crossovers": 2}


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def windows():
    ids = torch.randint(3, VOCABULARY, (600,), generator=torch.Generator().manual_seed(0))
    return text_windows(ids, 2 * WINDOW, 1, head=1)


def new(model, windows, **kw):
    return LongRoPESearch(model, windows, 2, **{**SIZES, **kw})


def cheap(search, target):
    """Replace the model by a distance from known factors: a thousand steps in no time."""
    wanted = torch.tensor(target)
    search._loss = lambda scaling: float((torch.tensor(scaling.factors) - wanted).square().sum())
    return search


def test_seeds_are_yarn_ntk_and_pi(model, windows):
    search = new(model, windows)
    trials = [search.step() for _ in range(3)]
    base = read_geometry(model).layers[0].rotary
    for trial, method in zip(trials, (lw.YaRN(2.0), lw.NTK(2.0), lw.PI(2.0)), strict=True):
        divided = unscaled(base) / method.rotary(base, WINDOW, torch.ones(1)).inv_freq
        torch.testing.assert_close(torch.tensor(trial.genome.factors), divided)
        assert trial.loss == windows.loss(model, search.scaling(trial.genome))
    assert not is_adapted(model)


def test_a_loss_is_that_of_the_adapted_model(model, windows):
    lw.adapt(model, lw.PI(factor=2))
    with torch.no_grad():
        ids = torch.stack(windows.texts)
        expected = model(ids, labels=ids, use_cache=False).loss.item()
    lw.restore(model)
    assert windows.loss(model, lw.PI(factor=2)) == pytest.approx(expected, rel=1e-5)


def test_candidates_never_fall_and_the_search_finds_what_is_best(model, windows):
    target = (1.0, 1.1, 1.6, 2.3)
    search = cheap(new(model, windows, population=20, parents=8, start_tokens=(0,)), target)
    first = [search.step() for _ in range(3)]
    search.run(generations=150)
    assert search.generation == 150 and len(search.evaluated) == 20 + 150 * 4
    for trial in search.evaluated:
        factors = trial.genome.factors
        assert list(factors) == sorted(factors) and factors[0] >= 1 and factors[-1] <= 2.5
    assert search.best_loss == min(trial.loss for trial in search.evaluated)
    assert search.best_loss < 0.01 < min(trial.loss for trial in first)
    assert search.best == lw.LongRoPE(search.best_trial.genome.factors, 2)


def test_the_same_seed_finds_the_same(model, windows):
    def run(seed):
        search = cheap(new(model, windows, seed=seed), (1.0, 1.2, 1.4, 1.9))
        search.run(evaluations=60)
        return search.evaluated

    assert run(3) == run(3) != run(4)


@pytest.mark.parametrize("stop", [1, 5, 6, 7, 29])
def test_a_stopped_search_goes_on_as_if_it_had_not_been(model, windows, stop, tmp_path):
    target = (1.0, 1.2, 1.4, 1.9)
    whole = cheap(new(model, windows), target)
    whole.run(evaluations=40)
    broken = cheap(new(model, windows), target)

    def interrupt(search):
        if len(search.evaluated) == stop:
            raise KeyboardInterrupt

    file = tmp_path / "search.json"
    with pytest.raises(KeyboardInterrupt):
        broken.run(evaluations=40, checkpoint=file, on_step=interrupt)
    json.loads(file.read_text())
    again = cheap(new(model, windows), target)
    again.run(evaluations=40, checkpoint=file)
    assert again.evaluated == whole.evaluated and again.state_dict() == whole.state_dict()
    assert [path.name for path in tmp_path.iterdir()] == ["search.json"]


def test_an_interruption_within_an_evaluation_loses_only_that(model, windows):
    search = cheap(new(model, windows), (1.0, 1.2, 1.4, 1.9))
    search.step()
    loss, search._loss = search._loss, lambda scaling: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        search.step()
    search._loss = loss
    whole = cheap(new(model, windows), (1.0, 1.2, 1.4, 1.9))
    for one in (search, whole):
        one.run(evaluations=20)
    assert search.evaluated == whole.evaluated


def test_a_checkpoint_of_another_search_is_refused(model, windows, tmp_path):
    file = tmp_path / "search.json"
    cheap(new(model, windows), (1.0, 1.2, 1.4, 1.9)).run(evaluations=2, checkpoint=file)
    other = Windows.of(torch.stack(windows.texts).flip(1))
    for search, words in (
        (new(model, windows, seed=1), "has another seed: 0 instead of 1"),
        (new(model, other), "has another texts"),
        (new(tiny_model("llama", seed=1), windows), "has another model"),
        (LongRoPESearch(model, windows, 1.5, **SIZES), "has another high"),
        (LongRoPE2Search(model, windows, 2, **SIZES), "has another search"),
    ):
        with pytest.raises(ValueError, match=words):
            search.load(file)
    file.write_text("{")
    with pytest.raises(ValueError, match="cannot go on from"):
        new(model, windows).load(file)
    file.write_text('{"format": 9}')
    with pytest.raises(ValueError, match="format 9"):
        new(model, windows).load(file)


def test_a_model_that_gives_no_number_loses(model, windows):
    search = new(model, windows)
    search._loss = lambda scaling: float("nan")
    assert search.step().loss == float("inf")


def test_seconds_end_it(model, windows):
    search = cheap(new(model, windows), (1.0, 1.2, 1.4, 1.9))
    search.run(seconds=0)
    assert len(search.evaluated) == 1  # one at least: there is always a best


def test_the_second_stage_starts_from_the_first(model, windows, tmp_path):
    first = lw.LongRoPE((1.0, 1.2, 1.6, 2.0), 2)
    ids = torch.randint(3, VOCABULARY, (600,), generator=torch.Generator().manual_seed(2))
    longer = text_windows(ids, 4 * WINDOW, 1, head=1)
    lw.save(lw.adapt(tiny_model("llama"), first), tiny_tokenizer(), tmp_path / "extended")
    extended, _ = lw.load(tmp_path / "extended")
    on_checkpoint = SecondStageSearch(extended.eval(), longer, first, 2, **SIZES)
    trial = on_checkpoint.step()
    on_plain = SecondStageSearch(model, longer, first, 2, **SIZES)
    assert on_plain.step().loss == pytest.approx(trial.loss, abs=1e-5)
    on_plain.run(evaluations=4)
    assert all(a >= b for a, b in zip(on_plain.best.factors, first.factors, strict=True))
    assert on_plain.best.factor == 4


def test_readjustment_gives_short_texts_factors_of_their_own(model, windows):
    extended = lw.LongRoPE((1.0, 1.3, 1.7, 2.5), 2)
    short = text_windows(windows.texts[0][1:], WINDOW, 1, head=1)
    search = ShortSearch(model, short, extended, **SIZES)
    best = search.run(evaluations=8)
    assert best.factors == extended.factors and len(best.short_factors) == 4
    assert all(a <= b for a, b in zip(best.short_factors, extended.factors, strict=True))
    assert search.best_loss <= windows_loss(model, short, extended)
    # As it is used, a short text is read as it was evaluated.
    assert short.loss(model, best) == pytest.approx(search.best_loss, abs=1e-6)
    with pytest.raises(ValueError, match="at most 64 tokens"):
        ShortSearch(model, windows, extended)


def windows_loss(model, windows, method):
    return windows.loss(model, method) + 1e-6


def test_longrope2_keeps_to_its_critical_pair(model, windows):
    search = cheap(LongRoPE2Search(model, windows, 2, **SIZES), (1.0, 1.5, 2.1, 2.2))
    search.run(generations=40)
    assert search.theoretical_pair == 2
    for trial in search.evaluated:
        factors, critical = trial.genome.factors, trial.genome.extra
        assert 1 <= critical <= 2 and list(factors) == sorted(factors)
        assert all(value <= 2 for value in factors[:critical])
        assert all(value >= 2 for value in factors[critical:])
    assert search.best == lw.LongRoPE2(search.best_trial.genome.factors, 2)
    assert search.critical_pair == search.best_trial.genome.extra


def test_the_functions_give_methods(model, windows):
    found = longrope_search(
        model, torch.stack(windows.texts), 2, evaluations=1, start_tokens=(0,), **SIZES
    )
    assert isinstance(found, lw.LongRoPE)
    assert isinstance(longrope2_search(model, windows, 2, evaluations=1, **SIZES), lw.LongRoPE2)


@pytest.mark.parametrize(
    ("family", "window"), [("gemma3_text", 64), ("gpt_neox", 64), ("phi3", 32), ("smollm3", 64)]
)
def test_every_kind_of_rotary_can_be_searched(family, window):
    model = tiny_model(family)
    ids = torch.randint(3, VOCABULARY, (1, 2 * window), generator=torch.Generator().manual_seed(0))
    search = LongRoPESearch(model, ids, 2, **SIZES)
    search.run(evaluations=7)
    found = search.best
    assert Windows.of(ids).loss(model, found) == pytest.approx(search.best_loss, abs=1e-6)
    with pytest.raises(ValueError, match=f"needs {2 * window}"):
        LongRoPESearch(model, ids[:, :-2], 2, **SIZES)


def test_windows_of_a_text():
    ids = torch.arange(3, 203)
    got = text_windows(ids, 50, 3, head=1)
    rows = torch.stack(got.texts)
    assert rows.shape == (3, 50) and (rows[:, 0] == 1).all() and got.counted == (49,) * 3
    assert rows[0, 1] == 3 and rows[2, -1] == 202 and got.length == 50
    assert text_windows(ids, 50, 1, head=None).texts[0][0] == 3


def test_windows_with_needles_count_the_answer_alone(model):
    tokenizer = tiny_tokenizer()
    filler = "0 1 2 3 4 5 6 7 8 9; what leaves the window is forgotten. " * 20
    items = Passkey(filler).build(tokenizer, 300, 3, 5)
    got = needle_windows(tokenizer, items)
    assert got.length == 300
    for row, counted, item in zip(got.texts, got.counted, items, strict=True):
        answer = tokenizer.decode(row[-counted:]).strip()
        assert answer == item.answer and tokenizer.decode(row).endswith(f"passkey is {answer}")
        assert row[0] == tokenizer.bos_token_id and 300 - 7 + counted == len(row)
    logits = lw.adapt(model, lw.PI(factor=8))(got.texts[1][None]).logits[0]
    lw.restore(model)
    n = got.counted[1]
    expected = torch.nn.functional.cross_entropy(logits[-n - 1 : -1], got.texts[1][-n:])
    assert got.losses(model, lw.PI(factor=8))[1].mean().item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def bad(**kw):
    return lambda model, windows: new(model, windows, **kw)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (bad(parents=9), "parents must be at most the population"),
        (bad(mutations=0, crossovers=0), "at least 1 together"),
        (bad(start_tokens=()), "start_tokens needs a choice"),
        (bad(population=1), "population must be a whole number of at least 2"),
        (lambda m, w: LongRoPESearch(m, w, 8), "the texts have 128 tokens, and a search at factor"),
        (lambda m, w: LongRoPESearch(m, w, 1), "factor must be above 1"),
        (lambda m, w: new(m, w).best, "has tried nothing yet"),
        (lambda m, w: new(m, w).run(), "needs a limit"),
        (lambda m, w: text_windows(w.texts[0], 500, 1, 1), "the text has 128 tokens, and a search"),
        (
            lambda m, w: Windows(w.texts, (0,), 128),
            "and not the first, got [128] tokens of which [0",
        ),
        (lambda m, w: Windows(w.texts, (128,), 128), "of which [128] count"),
        (lambda m, w: Windows((), (), 128), "a search needs texts of at least 2 tokens"),
        (lambda m, w: w.loss(tiny_model("llama").train()), "training mode"),
    ],
)
def test_mistakes(make, words, model, windows):
    with pytest.raises(ValueError) as caught:
        make(model, windows)
    assert words in str(caught.value) and "\n" not in str(caught.value)
