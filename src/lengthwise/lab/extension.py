"""What the papers on extension claim, and how each claim is held against the bundled model.

Every method is measured the same way: loss by position to 16 trained windows, passkeys at 1 to 16,
loss inside the window, always untuned. Bounds are ours, for a small model.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lengthwise.lab.evidence import Finding, at_least, at_most, verdict
from lengthwise.measure.report.numbers import excess_spans
from lengthwise.measure.run.results import Cell, Results, grid

LOSS_WINDOWS, PASSKEY_WINDOWS = 16, (1, 2, 4, 8, 16)
PLAIN = "plain"


class Numbers:
    """What was measured of one method beside the others."""

    def __init__(self, results: Results, method: str) -> None:
        self.results, self.method, self.window = results, method, results.plan["window"]

    def of(self, method: str) -> "Numbers":
        return Numbers(self.results, method)

    def excess(self, windows: int) -> float | None:
        """Nats above the in-window reference in the doubling that ends at `windows` windows."""
        for span in self._spans:
            if span.end == windows * self.window:
                return span.mean.value
        return None

    @property
    def tax(self) -> float | None:
        """Nats lost against the plain model inside the window."""
        mine, plain = self.excess(1), self.of(PLAIN).excess(1)
        return None if mine is None or plain is None else mine - plain

    def passkeys(self, windows: int) -> float | None:
        """Share of passkeys found at `windows` windows."""
        found = self.results.values(self.method, "passkey", windows * self.window)
        return None if found is None else found["score"]

    @property
    def _spans(self) -> list[Any]:
        length = LOSS_WINDOWS * self.window
        return excess_spans(self.results, self.method, length, octaves=True)

    def record(self) -> dict[str, Any]:
        """All of it, for the file of evidence."""
        passkeys = {str(n): self.passkeys(n) for n in PASSKEY_WINDOWS}
        loss = {f"{span.start}-{span.end}": round(span.mean.value, 4) for span in self._spans}
        tax = self.tax
        return {
            "loss_above_reference": loss,
            "loss_inside_window_above_plain": None if tax is None else round(tax, 4),
            "passkeys_found": passkeys,
        }


@dataclass(frozen=True)
class Claim:
    """A method as it is measured, and what its paper says.

    Args:
        method: The class.
        spec: How the command line writes it, for the bundled model's window of 512.
        paper: Authors, year, arXiv number.
        says: The claim in our words.
        judge: From the numbers to findings.
        note: What to know before reading the verdict, such as that the paper tunes its weights.
    """

    method: str
    spec: str
    paper: str
    says: str
    judge: Callable[[Numbers], list[Finding]]
    note: str = ""


def flat(windows: int, bound: float = 0.2) -> Callable[[Numbers], Finding]:
    return lambda n: at_most(
        f"at {windows} windows the loss is within {bound} nats of the in-window reference",
        n.excess(windows),
        bound,
    )


def finds(windows: int, share: float = 0.8) -> Callable[[Numbers], Finding]:
    return lambda n: at_least(
        f"at {windows} windows at least {share:.0%} of the passkeys are found",
        n.passkeys(windows),
        share,
    )


def free(bound: float = 0.05) -> Callable[[Numbers], Finding]:
    return lambda n: at_most(f"inside the window it costs at most {bound} nats", n.tax, bound)


def beats(other: str, windows: int) -> Callable[[Numbers], Finding]:
    def judge(n: Numbers) -> Finding:
        mine, theirs = n.excess(windows), n.of(other).excess(windows)
        gap = None if mine is None or theirs is None else mine - theirs
        return at_most(f"at {windows} windows its loss is below that of {other}", gap, 0.0)

    return judge


def all_of(*judges: Callable[[Numbers], Finding]) -> Callable[[Numbers], list[Finding]]:
    return lambda n: [judge(n) for judge in judges]


def finds_more(windows: int) -> Callable[[Numbers], Finding]:
    def judge(n: Numbers) -> Finding:
        mine, plain = n.passkeys(windows), n.of(PLAIN).passkeys(windows)
        more = None if mine is None or plain is None else mine - plain
        return at_least(f"at {windows} windows it finds more passkeys than plain", more, 0.01)

    return judge


TUNED = "the paper tunes the weights after the change; here nothing is tuned"

CLAIMS = (
    Claim("PI", "pi:factor=16", "Chen et al. 2023, arXiv:2306.15595",
          "positions scaled into the window keep the loss after short tuning, find passkeys and "
          "cost little inside the window", all_of(flat(8), finds(4), free()), TUNED),
    Claim("NTK", "ntk:factor=16", "bloc97 2023 (NTK-aware RoPE)",
          "a raised base extends the window without tuning, better than PI",
          all_of(flat(4), beats("PI", 8), free())),
    Claim("DynamicNTK", "dynamicntk", "emozilla 2023 (dynamic NTK)",
          "a base that grows with the text costs nothing inside the window and extends it untuned",
          all_of(flat(4), free(0.01))),
    Claim("YaRN", "yarn:factor=16", "Peng et al. 2023, arXiv:2309.00071",
          "by-parts scaling with a temperature beats PI at equal tuning and extends 16 times",
          all_of(flat(16), beats("PI", 16), finds(4), free()), TUNED),
    Claim("DynamicYaRN", "dynamicyarn", "Peng et al. 2023, arXiv:2309.00071, section 3.3",
          "a factor that follows the text extends the window untuned and costs nothing inside it",
          all_of(flat(4), beats("PI", 8), free(0.01))),
    Claim("Llama3", "llama3:factor=16", "Llama Team 2024, arXiv:2407.21783 (by-parts scaling)",
          "high frequencies kept and low ones divided reach long texts after long-context training",
          all_of(flat(8), beats("PI", 8), free()), TUNED),
    Claim("ABF", "abf:base=160000", "Xiong et al. 2023, arXiv:2309.16039",
          "a raised base and continual training give a lower long loss than PI",
          all_of(flat(4), beats("PI", 8), free()), TUNED),
    Claim("Giraffe", "giraffe", "Pal et al. 2023, arXiv:2308.10882",
          "a truncated basis extends a tuned model beyond its scale",
          all_of(flat(4), free()), TUNED),
    Claim("GiraffeLinear", "giraffelinear:scale=16", "Pal et al. 2023, arXiv:2308.10882",
          "linear scaling is the best of the scalings, and longer scales at evaluation gain more",
          all_of(flat(8), finds(4)), TUNED),
    Claim("LogTemperature", "logtemperature", "Su 2021; Chiang and Cholak 2022",
          "scores sharpened by the logarithm of the length lose less on long texts than plain",
          all_of(beats(PLAIN, 4), beats(PLAIN, 16), free(0.01))),
    Claim("LMInfinite", "lminfinite:sinks=4,window=508", "Han et al. 2023, arXiv:2308.16137",
          "a Λ-shaped mask with bounded distances keeps the loss flat at any length, untuned",
          all_of(flat(8, 0.1), flat(16, 0.1), free(0.01))),
    Claim("StreamingLLM", "streamingllm:sinks=4,window=508", "Xiao et al. 2023, arXiv:2309.17453",
          "sinks and a rolling window keep the loss flat over very long texts",
          all_of(flat(8, 0.1), flat(16, 0.1), free(0.01))),
    Claim("SelfExtend", "selfextend:group=24,window=144", "Jin et al. 2024, arXiv:2401.01325",
          "grouped far positions keep the loss and find passkeys at 4 times the window, untuned",
          all_of(flat(4), finds(4), finds(8), free(0.01)),
          "group and window were picked among seven settings on these same passkeys"),
    Claim("ReRoPE", "rerope:window=256", "Su 2023 (ReRoPE)",
          "distances that stop growing at a window keep the loss at any length, untuned",
          all_of(flat(4), flat(16), free())),
    Claim("LeakyReRoPE", "leakyrerope:window=128,factor=24", "Su 2023 (Leaky ReRoPE)",
          "distances that grow slowly beyond a window keep the loss, untuned",
          all_of(flat(4), flat(16), free())),
    Claim("DualChunk", "dualchunk:chunk=384,window=64",
          "An et al. 2024, arXiv:2402.17463; Qwen2.5-1M, arXiv:2501.15383",
          "positions that start again in every chunk extend the window fourfold or more, untuned",
          all_of(flat(4), finds(4), free())),
    Claim("STRING", "string:shift=170,window=64", "An et al. 2024, arXiv:2410.18745",
          "shifting well-trained positions over far ones finds more inside the trained window",
          all_of(free(0.0), finds_more(1))),
    Claim("GALI", "gali:trained=512,window=128,factor=16", "Li et al. 2025, arXiv:2502.02659",
          "interpolated scores keep the loss flat at 4 to 8 windows, untuned, at no cost inside",
          all_of(flat(4), flat(8), free(0.01))),
    Claim("InfLLM", "infllm:pages=8,page_size=32,sinks=4,window=256",
          "Xiao et al. 2024, arXiv:2402.04617",
          "pages looked up in a memory find passkeys far beyond the window, untuned",
          all_of(finds(8), finds(16), flat(16))),
)  # fmt: skip


def find(names: Sequence[str]) -> list[Claim]:
    """The claims of these methods, or all of them.

    Raises:
        ValueError: If a method has none.
    """
    if not names:
        return list(CLAIMS)
    known = {claim.method.lower(): claim for claim in CLAIMS}
    for name in names:
        if name.lower() not in known:
            listed = ", ".join(claim.method for claim in CLAIMS)
            raise ValueError(f"no claim of {name!r} is held against the model; there are {listed}")
    return [known[name.lower()] for name in names]


def cells(claims: Sequence[Claim], window: int) -> list[Cell]:
    """What has to be measured for them."""
    names = [PLAIN, "PI", *(claim.method for claim in claims)]
    names = list(dict.fromkeys(names))
    return [
        *grid("loss", names, [LOSS_WINDOWS * window]),
        *grid("passkey", names, [times * window for times in PASSKEY_WINDOWS]),
    ]


def evidence(claim: Claim, results: Results, command: str) -> dict[str, Any]:
    """The record of one method."""
    numbers = Numbers(results, claim.method)
    findings = claim.judge(numbers)
    refused = {
        f"{row.task} {row.length}": row.refused
        for row in results.rows
        if row.method == claim.method and row.refused
    }
    seconds = sum(row.seconds for row in results.rows if row.method == claim.method)
    return {
        "method": claim.method,
        "spec": claim.spec,
        "paper": claim.paper,
        "claim": claim.says,
        "note": claim.note,
        "command": command,
        "seed": results.plan["seed"],
        "model": {key: results.plan[key] for key in ("model", "fingerprint", "window")},
        "items": {key: results.plan[key] for key in ("loss_samples", "passkey_count")},
        "seconds": round(seconds, 1),
        "numbers": numbers.record(),
        "refused": refused,
        "findings": [asdict(finding) for finding in findings],
        "verdict": verdict(findings),
    }


def place(folder: Path, claim: Claim) -> Path:
    """The file of a method."""
    return folder / f"{claim.method.lower()}.json"
