import math
import random

import pytest
import torch

from lengthwise.measure.statistics.judging import (
    NULL_ANSWERS,
    k_character_ties,
    null_model_check,
    wb_reward,
)
from lengthwise.measure.statistics.length_control import (
    PENALTIES,
    Comparisons,
    Gamed,
    fit,
    length_controlled_win_rate,
)


def annotations(seed, count=300):
    """Rows in the format of AlpacaEval's annotations.json; a judge who likes length."""
    rng = random.Random(seed)
    ability, liking = rng.gauss(0, 1), rng.uniform(0, 2)
    longer = rng.uniform(0.5, 2.5)
    rows = []
    for i in range(count):
        short, long = round(rng.lognormvariate(6, 0.5)), round(longer * rng.lognormvariate(6, 0.5))
        odds = ability + liking * math.tanh((long - short) / 400) - difficulties(count)[i]
        preference = 1 + 1 / (1 + math.exp(-odds - rng.gauss(0, 1)))
        if rng.random() < 0.3:
            preference = float(1 + (rng.random() < preference - 1))
        rows.append(
            {
                "instruction": f"instruction {i}", "output_1": "x" * short, "output_2": "y" * long,
                "generator_1": "baseline", "generator_2": f"model {seed}",
                "annotator": "synthetic", "preference": round(preference, 6),
            }
        )  # fmt: skip
    rows[3]["preference"], rows[5]["preference"] = 0.0, None  # a draw of old files, no verdict
    return rows


def difficulties(count):
    rng = random.Random(1234)
    return [round(rng.gauss(0, 0.8), 6) for _ in range(count)]


def gamed_rows(count=300):
    """Rows in the format of AlpacaEval's df_gamed.csv: the baseline, terse and wordy."""
    rng = random.Random(99)
    rows = []
    for name, sign in (("baseline_concise", 1), ("baseline_verbose", -1)):
        for i, difficulty in enumerate(difficulties(count)):
            gap = round(sign * rng.lognormvariate(0, 0.4), 6)
            preference = round(1 / (1 + math.exp(0.9 * math.tanh(gap) + rng.gauss(0, 0.5))), 6)
            rows.append(
                {
                    "preference": preference, "index": i, "std_delta_len": gap,
                    "instruction_difficulty": difficulty, "not_gamed_baseline": False,
                    "model": name,
                }
            )  # fmt: skip
    return rows


def write_gamed(path, count=300):
    rows = gamed_rows(count)
    lines = [",".join(rows[0]), *(",".join(str(v) for v in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# What alpaca_eval 0.6.6 with scikit-learn 1.9.1 gives for these very rows and this df_gamed.csv, in
# percent: length_controlled_winrate as it is, and with its solver's tolerance of 1e-4 set to 1e-10;
# win_rate.
PUBLISHED = {
    0: (65.041804844, 65.042194606, 64.269072241),
    1: (71.877883601, 71.878059492, 70.329095318),
    2: (86.460689373, 86.463039910, 84.820661538),
    5: (35.248530136, 35.246815464, 49.458583278),
    13: (45.674244610, 45.662897784, 60.545737793),
    17: (20.412677360, 20.432737080, 22.626837458),
}


@pytest.mark.parametrize("seed", PUBLISHED)
def test_win_rate_equals_the_published_package(seed, tmp_path):
    as_it_is, solved, raw = PUBLISHED[seed]
    gamed = Gamed.load(write_gamed(tmp_path / "df_gamed.csv"))
    found = length_controlled_win_rate(Comparisons.from_alpaca_eval(annotations(seed)), gamed)
    assert found.win_rate.value == pytest.approx(as_it_is / 100, abs=1e-3)
    assert 100 * found.win_rate.value == pytest.approx(solved, abs=1e-6)
    assert 100 * found.raw.value == pytest.approx(raw, abs=1e-8)


def judged(generator, count, ability, liking, gap_mean=0.0):
    """Verdicts of 0 or 1 by a judge with a known liking for length, and the true rate at equal."""
    model = torch.randint(200, 2000, (count,), generator=generator) + int(gap_mean)
    base = torch.randint(200, 2000, (count,), generator=generator)
    gap = (model - base).double()
    odds = ability + liking * torch.tanh(gap / gap.std())
    wins = (torch.rand(count, generator=generator) < torch.sigmoid(odds)).double()
    comparisons = Comparisons(tuple(wins.tolist()), tuple(model.tolist()), tuple(base.tolist()))
    return comparisons, 1 / (1 + math.exp(-ability))


def test_length_control_undoes_a_liking_for_length():
    generator = torch.Generator().manual_seed(0)
    comparisons, truth = judged(generator, 5000, ability=-0.5, liking=2.0, gap_mean=800)
    found = length_controlled_win_rate(comparisons)
    assert found.raw.low > truth + 0.1
    assert found.win_rate.low < truth < found.win_rate.high
    assert found.win_rate.high - found.win_rate.low < 0.06
    assert found.weights[0] == pytest.approx(-2.0, abs=0.2)
    assert found.extreme


def test_wordiness_moves_the_raw_rate_and_not_the_controlled_one():
    """The paper's claim: a model told to be terse or wordy keeps its length-controlled rate."""
    generator = torch.Generator().manual_seed(2)
    found = [
        length_controlled_win_rate(judged(generator, 3000, 0.4, 1.5, gap_mean=words)[0])
        for words in (-600, 0, 600)
    ]
    raw = [f.raw.value for f in found]
    controlled = [f.win_rate.value for f in found]
    assert raw == sorted(raw) and raw[2] - raw[0] > 0.25
    assert max(controlled) - min(controlled) < 0.06


def test_length_control_changes_nothing_where_length_does_not_matter():
    generator = torch.Generator().manual_seed(1)
    comparisons, _ = judged(generator, 4000, ability=0.7, liking=0.0, gap_mean=300)
    found = length_controlled_win_rate(comparisons)
    assert found.win_rate.value == pytest.approx(found.raw.value, abs=0.01)
    assert not found.extreme


def test_the_interval_covers():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(2000):
        comparisons, truth = judged(generator, 200, ability=0.5, liking=1.0, gap_mean=300)
        found = length_controlled_win_rate(comparisons, penalties=[1e4]).win_rate
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / 2000 <= 0.97


def test_fit_is_the_optimum():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    targets = torch.rand(200, generator=generator, dtype=torch.float64)
    weights = torch.rand(200, generator=generator, dtype=torch.float64)
    for penalty in PENALTIES:
        w = fit(rows, targets, weights, penalty)
        slope = penalty * rows.T @ (weights * (torch.sigmoid(rows @ w) - targets))
        for value, at in zip(slope.tolist(), w.tolist(), strict=True):
            if at:  # the slope of the loss balances that of |w|
                assert value == pytest.approx(-math.copysign(1, at), abs=1e-6 * penalty + 1e-9)
            else:
                assert abs(value) <= 1 + 1e-9


def test_fit_where_every_answer_won():
    w = fit(torch.ones(10, 1).double(), torch.ones(10).double(), torch.ones(10).double(), 1.0)
    # |w| + 10 log(1 + exp(-w)) is least where 10 / (1 + exp(w)) = 1.
    assert w.item() == pytest.approx(math.log(9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preference": 3}, "annotation 0 has the preference 3"),
        ({"preference": 0.5}, "annotation 0 has the preference 0.5"),
        ({"output_1": None}, None),
    ],
)
def test_annotations_refuse(change, message):
    rows = annotations(0, count=6)
    if message is None:
        del rows[0]["output_1"]
        message = "annotation 0 has no 'output_1'"
    else:
        rows[0] |= change
    with pytest.raises(ValueError, match=message):
        Comparisons.from_alpaca_eval(rows)


def test_length_control_refuses(tmp_path):
    good = Comparisons((0.5, 1.0, 0.0, 1.0, 0.3), (1, 2, 3, 4, 5), (5, 4, 9, 2, 1))
    with pytest.raises(ValueError, match="5 judged pairs or more, got 1"):
        length_controlled_win_rate(Comparisons((1.0, None), (1, 2), (3, 4)))
    with pytest.raises(ValueError, match="differ by 1 characters"):
        length_controlled_win_rate(Comparisons((0.5,) * 5, (1,) * 5, (2,) * 5))
    with pytest.raises(ValueError, match="penalties must be"):
        length_controlled_win_rate(good, penalties=[])
    with pytest.raises(ValueError, match="confidence"):
        length_controlled_win_rate(good, confidence=95)
    gamed = Gamed.load(write_gamed(tmp_path / "gamed.csv", count=9))
    with pytest.raises(ValueError, match="9 difficulties for 5 pairs"):
        length_controlled_win_rate(good, gamed)
    with pytest.raises(ValueError, match=r"preference 1 is 1\.5"):
        Comparisons((0.5, 1.5), (1, 2), (3, 4))
    with pytest.raises(ValueError, match="one each"):
        Comparisons((0.5,), (1, 2), (3, 4))
    (tmp_path / "bad.csv").write_text("index,preference\n0,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no column 'std_delta_len'"):
        Gamed.load(tmp_path / "bad.csv")


def test_k_characters_turn_slight_wins_of_long_answers_into_ties():
    outcomes = [1, 1, -1, -1, 2, -2, 0]
    model, base = [601, 600, 100, 100, 900, 0, 9], [100, 100, 601, 600, 0, 900, 900]
    assert k_character_ties(outcomes, model, base) == [0, 1, 0, -1, 2, -2, 0]
    assert k_character_ties(outcomes, model, base, math.inf) == outcomes
    assert k_character_ties([1, -1, 1], [2, 1, 1], [1, 2, 1], 0) == [0, 0, 1]
    # 0.5 - 0.5 + 1 - 1 = 0 of 7 as they are kept.
    assert wb_reward(outcomes, model, base).value == 0
    assert wb_reward([2, 1], [1, 1], [1, 1]).value == 0.75


def test_ties_lessen_the_reward_of_length():
    """A judge slightly prefers whatever is longer: with the rule, length earns less."""
    rng = random.Random(0)
    rewards = {}
    for extra in (0, 400, 1200):
        outcomes, model, base = [], [], []
        for _ in range(2000):
            base.append(rng.randrange(500, 1500))
            model.append(rng.randrange(500, 1500) + extra)
            bias = (model[-1] - base[-1]) / 500 + rng.gauss(0, 1)
            outcomes.append(max(-2, min(2, round(bias / 2))))
        for margin in (500, math.inf):
            rewards[extra, margin] = wb_reward(outcomes, model, base, margin).value
    gain = {margin: rewards[1200, margin] - rewards[0, margin] for margin in (500, math.inf)}
    assert 0 < gain[500] < 0.75 * gain[math.inf]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1], [1, 2], [1]), "one each"),
        (([3], [1], [1]), "outcome 0 is 3"),
        (([1], [1], [1], -1), "margin"),
        (([1], [1], [1], math.nan), "margin"),
        (([], [], []), "one outcome or more"),
    ],
)
def test_rewards_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        wb_reward(*arguments)


QUESTIONS = [f"Name the {i}th word of the list." for i in range(60)]
ANSWERS = [f"The {i}th word is a{i}." for i in range(60)]


def knows(instruction, first, second):
    """A fair judge: the answer must speak of what was asked."""
    asked = instruction.split()[2]
    right = [asked in answer.split() for answer in (first, second)]
    return 0.5 if right[0] == right[1] else float(right[1])


def likes_length(instruction, first, second):
    return float(len(second) > len(first))


def obeys(instruction, first, second):
    """Reads the answers as if they were a part of its own form."""
    for place, answer in ((0.0, first), (1.0, second)):
        if "### Verdict" in answer:
            return place
    return knows(instruction, first, second)


def likes_the_second(instruction, first, second):
    return 1.0


@pytest.mark.parametrize(
    ("judge", "gamed_by"),
    [
        (knows, set()),
        (likes_length, {"plea", "padding", "verdict"}),
        (obeys, {"verdict"}),
        (likes_the_second, set(NULL_ANSWERS)),
    ],
)
def test_null_answers_find_the_judge_that_can_be_gamed(judge, gamed_by):
    check = null_model_check(judge, QUESTIONS, ANSWERS)
    assert {r.name for r in check.results if r.above} == gamed_by
    assert check.gamed == bool(gamed_by)
    assert ("can be gamed" in check.verdict) == check.gamed
    assert [r.wins.value for r in check.results] == sorted(
        (r.wins.value for r in check.results), reverse=True
    )


def test_null_check_shows_a_liking_for_a_place():
    check = null_model_check(likes_the_second, QUESTIONS, ANSWERS)
    assert all(result.first == 0 and result.wins.value == 0.5 for result in check.results)
    assert all(r.first == 0.5 for r in null_model_check(knows, QUESTIONS, ANSWERS).results)


def test_few_items_prove_nothing():
    assert not null_model_check(likes_length, QUESTIONS[:1], ANSWERS[:1]).gamed
    assert null_model_check(likes_length, QUESTIONS[:8], ANSWERS[:8]).gamed


def test_null_check_keeps_its_rate_of_false_alarms():
    """Judges at whom each constant answer wins just the limit are accused in at most 5%."""
    rng = random.Random(0)
    nulls = {"one": "1", "two": "2"}

    def at_the_limit(instruction, first, second):
        constant = second in nulls.values()
        win = float(coin[first + second if constant else second + first] < 0.1)
        return win if constant else 1 - win

    accused = 0
    for _ in range(2000):
        coin = {answer + null: rng.random() for answer in ANSWERS[:20] for null in nulls.values()}
        accused += null_model_check(at_the_limit, QUESTIONS[:20], ANSWERS[:20], nulls).gamed
    assert accused / 2000 <= 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"answers": ANSWERS[:3]}, "60 instructions, 3 answers"),
        ({"instructions": [], "answers": []}, "0 instructions"),
        ({"nulls": {}}, "0 constant"),
        ({"limit": 0}, "limit"),
        ({"confidence": 0}, "confidence"),
        ({"judge": lambda *_: 2}, "the judge said 2"),
        ({"judge": lambda *_: math.nan}, "the judge said nan"),
    ],
)
def test_null_check_refuses(arguments, message):
    known = {"judge": knows, "instructions": QUESTIONS, "answers": ANSWERS} | arguments
    with pytest.raises(ValueError, match=message):
        null_model_check(**known)
