import re

import pytest

from lengthwise.measure.tasks import DiffusionScope


def test_bags_without_a_name_lead_nowhere(tokenizer):
    """Every bag that was handed in has its coins somewhere, whoever brought it."""
    whole, own = 0, 0
    for item in DiffusionScope(3, "linked").build(tokenizer, 3000, 8, 0):
        bags = re.findall(r"(\w+) handed in the (\w+) bag", item.prompt)
        both = [(name, bag) for name, bag in bags if f"The {bag} bag, as was" in item.prompt]
        whole += len(both)
        own += sum(name == item.record["name"] for name, _ in both)
    assert own == 3 * 8 and whole >= 3 * own


@pytest.mark.parametrize("scope", [1, 3, 12])
@pytest.mark.parametrize("diffusion", ["together", "scattered", "worded", "linked"])
def test_scope_and_diffusion_are_apart(tokenizer, scope, diffusion):
    item = DiffusionScope(scope, diffusion).build(tokenizer, 6000, 1, 0)[0]
    name, facts = item.record["name"], item.record["facts"]
    assert len(facts) == scope * (2 if diffusion == "linked" else 1) == len(item.depths)
    # Nobody but the facts speaks of the person, so the sum can be checked against the text.
    assert len(re.findall(rf"\b{name}\b", item.prompt)) == scope + 2  # twice in the question
    assert sum(name in fact for fact in facts) == scope
    spread = max(item.depths) - min(item.depths)
    if scope > 1:
        assert (spread < 0.35) if diffusion == "together" else (spread > 0.2)


def test_the_same_sum_for_every_diffusion(tokenizer):
    sums = {
        DiffusionScope(5, name).build(tokenizer, 1500, 1, 3)[0].answer
        for name in ("together", "scattered", "worded", "linked")
    }
    assert len(sums) == 1


def test_bags_lead_to_coins(tokenizer):
    item = DiffusionScope(3, "linked").build(tokenizer, 1500, 1, 0)[0]
    name, total = item.record["name"], 0
    for bag in re.findall(rf"{name} handed in the (\w+) bag", item.prompt):
        total += int(
            re.search(rf"The {bag} bag, as was found on day \d+, held (\d)", item.prompt)[1]
        )
    assert str(total) == item.answer


def test_bad_arguments():
    with pytest.raises(ValueError, match="from 1 to 50, got 0"):
        DiffusionScope(scope=0)
    with pytest.raises(ValueError, match="got 'everywhere'"):
        DiffusionScope(diffusion="everywhere")
