"""Text of an exact number of tokens, for any tokenizer."""

from collections.abc import Callable, Iterator

# A tokenizer may jump over the wanted count wherever the text is cut. Every short word of the
# tail adds about one token to any vocabulary, so one of these combinations nearly always fits.
_TAILS = ("", " a", " a b", " a b a", ".", "\n")
_REACH = 12  # characters tried on both sides of the best cut


def _candidates(best: int) -> Iterator[tuple[int, str]]:
    for tail in _TAILS:
        yield best, tail
        for distance in range(1, _REACH + 1):
            yield best + distance, tail
            yield max(best - distance, 0), tail


def fit(count: Callable[[str], int], start: Callable[[int], str], wanted: int) -> str | None:
    """The longest filler, give or take a few letters, that makes `count` exact.

    Args:
        count: Tokens of the whole prompt around a given filler; grows with the filler, nearly.
        start: The first n characters of an endless filler.
        wanted: The count to meet; at least that of an empty filler.

    Returns:
        A filler with `count(filler) == wanted`, or None if no cut near the best one meets it.
    """
    low, tokens_low = 0, count("")
    high = 4 * wanted
    while (tokens_high := count(start(high))) < wanted:
        high *= 2
    # Regula falsi on the number of characters: `low` never counts too many, `high` never too few.
    while tokens_low < wanted and high - low > _REACH:
        share = (wanted - tokens_low) / max(tokens_high - tokens_low, 1)
        # Away from the ends by a sixteenth, so that the bracket always shrinks.
        middle = low + round((high - low) * min(max(share, 1 / 16), 15 / 16))
        tokens = count(start(middle))
        if tokens <= wanted:
            low, tokens_low = middle, tokens
        else:
            high, tokens_high = middle, tokens
    for cut, tail in _candidates(low):
        filler = start(cut) + tail
        if count(filler) == wanted:
            return filler
    return None
