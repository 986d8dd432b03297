"""What the papers on extension claim, and how each claim is held against the bundled model.

Every method is measured the same way: loss by position to 16 trained windows, passkeys at 1 to 16,
loss inside the window, always untuned. Bounds are ours, for a small model. Intervals of losses are
over blocks of 64 tokens, of differences between the same blocks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lengthwise.lab import evidence
from lengthwise.lab.claims import Claim, claims
from lengthwise.lab.evidence import Evidence, Finding, at_least, at_most, share
from lengthwise.measure.report.readings import excess_spans
from lengthwise.measure.run.results import Results
from lengthwise.measure.run.rows import REFERENCE, Cell
from lengthwise.measure.statistics.intervals import Interval
from lengthwise.names import RESULTS

if TYPE_CHECKING:
    from lengthwise.extend.method import Method

ROOM = "extend"
LOSS_WINDOWS, PASSKEY_WINDOWS = 16, (1, 2, 4, 8, 16)
PLAIN = "plain"


class Numbers:
    """What was measured of one method beside the others."""

    def __init__(self, results: Results, method: str) -> None:
        self.results, self.method, self.window = results, method, results.plan["reader"]["window"]

    def of(self, method: str) -> "Numbers":
        return Numbers(self.results, method)

    def excess(self, windows: int, against: str = REFERENCE) -> Interval | None:
        """Nats above the reference, or another method, in the doubling that ends there."""
        for span in self._spans(against):
            if span.end == windows * self.window:
                return span.mean
        return None

    @property
    def tax(self) -> Interval | None:
        """Nats lost against the plain model inside the window."""
        return self.excess(1, PLAIN)

    def passkeys(self, windows: int) -> dict[str, float] | None:
        """How many passkeys were found at `windows` windows."""
        scores = self.results.scores(self.method, "passkey", windows * self.window)
        return share(sum(scores), len(scores)) if scores else None

    def _spans(self, against: str = REFERENCE) -> list[Any]:
        length = LOSS_WINDOWS * self.window
        return excess_spans(self.results, self.method, length, octaves=True, against=against)

    def record(self) -> dict[str, Any]:
        """All of it, for the file of evidence."""
        loss = {f"{span.start}-{span.end}": round(span.mean.value, 4) for span in self._spans()}
        return {
            "loss_above_reference": loss,
            "loss_inside_window_above_plain": self.tax and round(self.tax.value, 4),
            "passkeys_found": {str(n): self.passkeys(n) for n in PASSKEY_WINDOWS},
        }


Judge = Callable[[Numbers], Finding]


@dataclass(frozen=True)
class Measured:
    """How a claim is measured.

    Args:
        spec: The method as the command line writes it, for the bundled model's window of 512.
        judges: From the numbers to findings.
        premise: What has to be so of the plain model, which is the control.
    """

    spec: str
    judges: tuple[Judge, ...]
    premise: Judge


def flat(windows: int, bound: float = 0.2) -> Judge:
    return lambda n: at_most(
        f"at {windows} windows the loss is within {bound} nats of the in-window reference",
        n.excess(windows),
        bound,
    )


def finds(windows: int, least: float = 0.8) -> Judge:
    return lambda n: at_least(
        f"at {windows} windows at least {least:.0%} of the passkeys are found",
        n.passkeys(windows),
        least,
    )


def free(bound: float = 0.05) -> Judge:
    return lambda n: at_most(f"inside the window it costs at most {bound} nats", n.tax, bound)


def beats(other: str, windows: int) -> Judge:
    return lambda n: at_most(
        f"at {windows} windows its loss is below that of {other}", n.excess(windows, other), 0.0
    )


def finds_more(windows: int) -> Judge:
    def judge(n: Numbers) -> Finding:
        mine, plain = n.passkeys(windows), n.of(PLAIN).passkeys(windows)
        more = None if mine is None or plain is None else mine["share"] - plain["share"]
        return at_least(f"at {windows} windows it finds more passkeys than plain", more, 0.01)

    return judge


def lost(windows: int) -> Judge:
    return lambda n: at_least(
        f"at {windows} windows plain attention is at least 0.2 nats above the in-window reference",
        n.of(PLAIN).excess(windows),
        0.2,
    )


def misses(windows: int) -> Judge:
    return lambda n: at_most(
        f"at {windows} windows plain attention finds less than all passkeys",
        n.of(PLAIN).passkeys(windows),
        0.99,
    )


def _claim(spec: str, *judges: Judge, premise: Judge) -> Measured:
    return Measured(spec, judges, premise)


MEASURED = {
    "extend/pi": _claim("pi:factor=16", flat(8), finds(4), free(), premise=lost(8)),
    "extend/ntk": _claim("ntk:factor=16", flat(4), beats("PI", 8), free(), premise=lost(4)),
    "extend/dynamicntk": _claim("dynamicntk", flat(4), free(0.01), premise=lost(4)),
    "extend/yarn": _claim(
        "yarn:factor=16", flat(16), beats("PI", 16), finds(4), free(), premise=lost(16)
    ),
    "extend/dynamicyarn": _claim(
        "dynamicyarn", flat(4), beats("PI", 8), free(0.01), premise=lost(4)
    ),
    "extend/llama3": _claim("llama3:factor=16", flat(8), beats("PI", 8), free(), premise=lost(8)),
    "extend/abf": _claim("abf:base=160000", flat(4), beats("PI", 8), free(), premise=lost(4)),
    "extend/giraffe": _claim("giraffe", flat(4), free(), premise=lost(4)),
    "extend/giraffelinear": _claim(
        "giraffelinear:scale=16", flat(8), finds(4), premise=lost(8)
    ),
    "extend/logtemperature": _claim(
        "logtemperature", beats(PLAIN, 4), beats(PLAIN, 16), free(0.01), premise=lost(4)
    ),
    "extend/lminfinite": _claim(
        "lminfinite:sinks=4,window=508", flat(8, 0.1), flat(16, 0.1), free(0.01),
        premise=lost(16),
    ),
    "extend/streamingllm": _claim(
        "streamingllm:sinks=4,window=508", flat(8, 0.1), flat(16, 0.1), free(0.01),
        premise=lost(16),
    ),
    "extend/selfextend": _claim(
        "selfextend:group=24,window=144", flat(4), finds(4), finds(8), free(0.01),
        premise=lost(4),
    ),
    "extend/rerope": _claim("rerope:window=256", flat(4), flat(16), free(), premise=lost(16)),
    "extend/leakyrerope": _claim(
        "leakyrerope:window=128,factor=24", flat(4), flat(16), free(), premise=lost(16)
    ),
    "extend/dualchunk": _claim(
        "dualchunk:chunk=384,window=64", flat(4), finds(4), free(), premise=lost(4)
    ),
    "extend/string": _claim(
        "string:shift=170,window=64", free(0.0), finds_more(1), premise=misses(1)
    ),
    "extend/gali": _claim(
        "gali:trained=512,window=128,factor=16", flat(4), flat(8), free(0.01), premise=lost(8)
    ),
    "extend/infllm": _claim(
        "infllm:pages=8,page_size=32,sinks=4,window=256", finds(8), finds(16), flat(16),
        premise=misses(16),
    ),
    "extend/longheads": _claim(
        "longheads:chunks=8,chunk=64", finds(8), finds(16), flat(16), premise=misses(16)
    ),
    "extend/longcache": _claim("longcache", finds(8), finds(16), flat(16), premise=misses(16)),
    "extend/sirllm": _claim(
        "sirllm:tokens=384,recent=128,every=128", flat(16), free(0.01), finds_more(4),
        premise=lost(16),
    ),
}  # fmt: skip


def cells(methods: Sequence[str], window: int) -> set[Cell]:
    """What has to be measured for methods by name; plain and PI, which others are held against."""
    plan = (("loss", (LOSS_WINDOWS,)), ("passkey", PASSKEY_WINDOWS))
    return {
        Cell(name, task, times * window)
        for task, windows in plan
        for times in windows
        for name in {PLAIN, "PI", *methods}
    }


def measure(
    systems: Sequence[str],
    root: Path,
    *,
    others: Mapping[str, Sequence["Method"]] | None = None,
    passkeys: int | None = None,
    samples: int | None = None,
) -> Results:
    """Measure the bundled model under methods beside those that are in the results already.

    Args:
        systems: Which, by name.
        root: The directory of all evidence.
        others: Methods that a search or a tuning made, by name.
        passkeys, samples: Items of a length, and texts for the loss; None is what the results
            have, or 4 and 1.

    Raises:
        ValueError: The results are of another model, or of other numbers of items.
        KeyboardInterrupt: Passed on; what is measured is kept.
    """
    import torch
    from rich.console import Console

    from lengthwise.catalogue import parse_many
    from lengthwise.extend.checkpoint import load
    from lengthwise.measure import LocalReader, Loss, Passkey, Suite
    from lengthwise.measure import measure as carry_out
    from lengthwise.measure.tasks.text import held_out_text

    folder, text = root / ROOM, held_out_text()
    there = Results.load(folder).counts if (folder / RESULTS).exists() else {}
    loss, items = Loss(text, samples or there.get("loss", 1)), passkeys or there.get("passkey", 4)
    suite = Suite("claims", {"loss": loss, "passkey": Passkey(text)}, items)
    model, tokenizer = load("demo", dtype=torch.float32)
    only = cells(systems, model.config.max_position_embeddings)
    known = {claims()[name].system: parse_many(one.spec) for name, one in MEASURED.items()}
    return carry_out(
        LocalReader(model.eval(), tokenizer, name="demo"),
        suite,
        {PLAIN: (), **known, **(others or {})},
        sorted({cell.length for cell in only}),
        only=only,
        text=text,
        folder=folder,
        console=Console(stderr=True),
    )


def judged(claim: Claim, results: Results) -> Evidence:
    """The evidence of one claim of `MEASURED`."""
    measured, numbers = MEASURED[claim.name], Numbers(results, claim.system)
    mine = [row for row in results.finished if row.method == claim.system]
    passkeys, texts = results.counts["passkey"], results.counts["loss"]
    asked = f" --passkeys {passkeys} --samples {texts}" * ((passkeys, texts) != (4, 1))
    return evidence.of(
        claim,
        command=claim.command + asked,
        model=described(results),
        seeds=(results.plan["seed"],),
        items={"texts": texts, "passkeys": passkeys},
        numbers={**numbers.record(), "control": numbers.of(PLAIN).record()},
        findings=[judge(numbers) for judge in measured.judges],
        control="plain attention",
        premise=measured.premise(numbers),
        spec=measured.spec,
        seconds=round(sum(row.seconds for row in mine), 1),
        refused={f"{row.task} {row.length}": row.refused for row in mine if row.refused},
    )


def described(results: Results) -> dict[str, Any]:
    """The model that was measured."""
    reader = results.plan["reader"]
    return {key: reader[key] for key in ("name", "fingerprint", "window")}
