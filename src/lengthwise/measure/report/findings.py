"""What was seen, in plain words."""

from lengthwise.measure.report.numbers import Span, far_excess, plain_name, signed, size, windows
from lengthwise.measure.run.results import REFERENCE, Results

CLOSE = 0.1  # nats per token that count as no loss


def headline(results: Results) -> str:
    """The most telling comparison in one sentence."""
    model, window = results.plan["model"], results.plan["window"]
    plain = plain_name(results)
    lengths = results.lengths("loss")
    if lengths and lengths[-1] > window:
        first = windows(max(window, lengths[-1] // 2), window).split()[0]
        at = f"Between {first} and {windows(lengths[-1], window)} of text"
        excess = _excesses(results, lengths[-1])
        best = min(
            (m for m in excess if m != plain), key=lambda m: excess[m].mean.value, default=None
        )
        if plain in excess and best is not None:
            if excess[best].mean.value < excess[plain].mean.value - CLOSE:
                return (
                    f"{at}, {best} {_kept(excess[best])}; "
                    f"the plain model loses {excess[plain].mean.value:.1f} nats per token."
                )
            return f"{at}, no method reads better than the plain model."
        for name in (plain, best):
            if name in excess:
                return f"{at}, {name} {_kept(excess[name])}."
    if results.lengths("passkey"):
        return _passkey(results)
    return f"{model}, measured."


def findings(results: Results) -> list[str]:
    """A sentence for everything that was measured, the headline's matter first."""
    sentences: list[str] = []
    lengths = results.lengths("loss")
    if lengths:
        sentences += _loss(results, lengths[-1])
    if results.lengths("passkey"):
        sentences.append(_passkey(results))
    if results.lengths("speed"):
        sentences += _cost(results)
    refused = [row for row in results.rows if row.refused]
    if refused:
        sentences.append(f"Refused: {len(refused)} of {len(results.rows)} measurements, see below.")
    return sentences


def _excesses(results: Results, length: int) -> dict[str, Span]:
    found = {m: far_excess(results, m, length) for m in results.methods("loss") if m != REFERENCE}
    return {method: span for method, span in found.items() if span is not None}


def _kept(excess: Span) -> str:
    if excess.mean.value <= CLOSE:
        return "reads as well as inside the window"
    return f"loses {excess.mean.value:.1f} nats per token"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _loss(results: Results, length: int) -> list[str]:
    window = results.plan["window"]
    excess = _excesses(results, length)
    if not excess or length <= window:
        return []
    means = {method: excess[method].mean.value for method in excess}
    order = sorted(means, key=lambda method: means[method])
    close = [f"{m} ({signed(means[m])})" for m in order if means[m] <= CLOSE]
    far = [m for m in order if means[m] > CLOSE]
    where = f"From position {max(window, length // 2):,} to {length:,}"
    reference = "the untouched model reading the same tokens inside its window"
    sentences = []
    if close:
        verb = "stays" if len(close) == 1 else "stay"
        sentences.append(
            f"{where}, {_join(close)} {verb} within {CLOSE} nats per token of {reference}."
        )
    if far:
        first = f"{far[0]} loses {means[far[0]]:.2f} nats per token"
        rest = [f"{m} {means[m]:.2f}" for m in far[1:]]
        start = "There, " if close else f"{where}, against {reference}, "
        sentences.append(f"{start}{_join([first, *rest])}.")
    return sentences


def _passkey(results: Results) -> str:
    length = results.lengths("passkey")[-1]
    window = results.plan["window"]
    cells = {m: results.values(m, "passkey", length) for m in results.methods("passkey")}
    found = {m: values for m, values in cells.items() if values is not None}
    order = sorted(found, key=lambda m: -found[m]["score"])
    parts = [f"{m} finds {sum(found[m]['scores']):.0f} of {len(found[m]['scores'])}" for m in order]
    return f"Passkeys hidden in {length:,} tokens ({windows(length, window)}): {_join(parts)}."


def _cost(results: Results) -> list[str]:
    length = results.lengths("speed")[-1]
    cells = {m: results.values(m, "speed", length) for m in results.methods("speed")}
    found = {m: values for m, values in cells.items() if values is not None}
    plain = plain_name(results)
    least = min(found, key=lambda m: found[m]["cache_bytes"])
    if plain not in found or least == plain:
        return []
    ours, theirs = found[least], found[plain]
    return [
        f"After {length:,} tokens the cache of {least} holds {size(ours['cache_bytes'])} where the "
        f"plain model's holds {size(theirs['cache_bytes'])}, and it decodes "
        f"{ours['tokens_per_second']:.0f} tokens a second against "
        f"{theirs['tokens_per_second']:.0f}."
    ]
