import pytest

from lengthwise.measure.tasks import InContextLanguage


@pytest.mark.parametrize("task", [InContextLanguage(), InContextLanguage(states=3, symbols=6)])
def test_every_string_is_of_the_language_and_shows_every_way_on(tokenizer, task):
    for item in task.build(tokenizer, 900, 5, 0):
        automaton, asked = item.record["automaton"], item.record["asked"]
        *lines, last = item.prompt.split("\n")[1:]
        assert last.replace(" ", "") == asked
        seen = set()
        for line in lines:
            if set(line) <= {".", " "}:
                continue  # the padding
            state = 0
            for symbol in line.split():
                assert symbol in automaton[state]
                seen.add((state, symbol))
                state = automaton[state][symbol]
        state = 0
        for symbol in asked:
            state = automaton[state][symbol]
        assert {(state, symbol) for symbol in automaton[state]} <= seen
        assert 4 >= len(automaton[state]) < len(item.record["alphabet"])


def test_any_allowed_symbol_is_right(tokenizer):
    task = InContextLanguage(states=4, symbols=8)
    item = task.build(tokenizer, 500, 1, 0)[0]
    right = [symbol for symbol in item.record["alphabet"] if task.score(" " + symbol, item)]
    assert item.answer in right
    assert len(right) / 8 == task.chance(item)
    assert task.score("7 ?", item) == 0


def test_bad_arguments():
    with pytest.raises(ValueError, match="from 2 to 50, got 1"):
        InContextLanguage(states=1)
    with pytest.raises(ValueError, match="from 5 to 26, got 30"):
        InContextLanguage(symbols=30)
