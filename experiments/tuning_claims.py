"""What the papers of the tuning recipes claim, and how the bundled model's numbers are judged."""

from typing import Any

from lengthwise.lab.evidence import Finding, at_least, at_most
from lengthwise.train.loop import Result

TARGET, WINDOW = "2048", "512"
NEAR = 0.1  # nats a token that count as no difference

CLAIMS = {
    "pi": "Interpolated positions and about a thousand steps of tuning extend the window up to 16 "
    "times (32 in one case); the loss falls with context, quality in the old window is kept.",
    "yarn": "YaRN reaches a longer window with 10 times fewer tokens and 2.5 times fewer steps "
    "than methods before it, and short texts do not suffer.",
    "abf": "A larger base and light continual training make the longer window usable, with good "
    "retrieval from anywhere in it.",
    "longlora": "Shifted sparse attention with low-rank adapters, embeddings and norms comes near "
    "full tuning, and dense attention works afterwards.",
    "longqlora": "PI, shifted sparse attention and adapters over a base in 4 bits extend the "
    "window within 1000 steps and come near full tuning.",
    "llama3_qlora": "A larger base and QLoRA overnight make the window ten times as long; short "
    "texts are kept.",
    "pose": "Rows of the old window with skipped positions come near tuning at the full length, "
    "for a fraction of its time and memory.",
    "cream": "Rows of the old window with positions drawn from the middle extend to 8 times and "
    "more; passkeys are found throughout.",
    "e2llm": "One tuning with rows of the old window, under random scales and offsets, serves "
    "every scale afterwards.",
    "longrecipe": "Positions of impactful sentences, rows at 30% of the target, make the full "
    "target usable; short tasks are kept.",
    "skipalign": "Instruction tuning on short samples with skipped positions gives long-context "
    "answers that plain tuning on them does not.",
    "segmented": "Training on segments that keep their positions lowers the perplexity at 4 times "
    "the window, at unchanged memory.",
    "anchor": "Documents apart, with an anchor that all see, train faster than full attention and "
    "retrieve better from the long window.",
    "longrope2_mixed": "Mixed windows keep the short window (98.5% of its quality) while the long "
    "one becomes usable.",
    "longpo": "Preferring the model's own answers to short contexts, under a short-context "
    "constraint, makes the long window usable without losing the short one.",
    "hyperfit": "Tuned to near zero loss on a small set, greedy texts are more varied, though the "
    "loss on other texts grows.",
}  # fmt: skip

NEEDS_MORE = {
    "anchor": "the paper's speed is against full attention at 64K; here rows are of 2,048 tokens",
    "longrecipe": "impactful sentences need a model that was tuned on long texts; all stay here",
    "llama3_qlora": "the paper tunes on questions about long texts; here the text is plain",
    "longpo": "the instructions are passkeys, answered by the bundled model itself",
    "skipalign": "the samples are the bundled model's own retrieval problems, labels on answers",
}


def findings(
    name: str, result: Result, finished: dict[str, Result], base: dict[str, Any]
) -> list[Finding]:
    """What would have to be true, in numbers; thresholds are ours, for a small model."""
    if name == "hyperfit":
        return hyperfit(result, base)
    plain, after = base["loss"], result.after["loss"]
    found = [
        at_most(
            "at 2,048 tokens the loss is lower than the base model's by at least 0.1",
            round(after[TARGET] - plain[TARGET], 4), -NEAR,
        ),
        at_most(
            "at 2,048 tokens tuning lowers the loss under the same frequencies",
            round(after[TARGET] - result.before["loss"][TARGET], 4), 0.0,
        ),
        at_most(
            "the same tokens are predicted as well after 2,048 tokens as by the base after 512, "
            "within 0.1",
            round(after[TARGET] - plain[WINDOW], 4), NEAR,
        ),
        at_most(
            "after 512 tokens the loss is the base model's, within 0.1",
            round(after[WINDOW] - plain[WINDOW], 4), NEAR,
        ),
        at_least(
            "half of the passkeys or more are found in 2,048 tokens",
            result.after["passkey"][TARGET], 0.5,
        ),
    ]  # fmt: skip
    full = finished.get("pi")
    if name in ("longlora", "longqlora", "pose") and full is not None:
        found.append(
            at_most(
                "at 2,048 tokens the loss is that of full tuning (recipe pi), within 0.1",
                round(after[TARGET] - full.after["loss"][TARGET], 4), NEAR,
            )
        )  # fmt: skip
    if name == "pose" and full is not None:
        found.append(
            at_most(
                "the same tokens take less time than at the full length",
                round(result.seconds / full.seconds, 3), 1.0,
            )
        )  # fmt: skip
    joined = finished.get("abf")
    if name == "anchor" and joined is not None:
        found.append(
            at_most(
                "the same tokens take less time than with documents joined (recipe abf)",
                round(result.seconds / joined.seconds, 3), 1.0,
            )
        )  # fmt: skip
    if name == "longpo":
        found.append(at_most("divergence from the base on 512 tokens, nats a token",
                             result.after["short_kl"], NEAR))  # fmt: skip
    return found


def hyperfit(result: Result, base: dict[str, Any]) -> list[Finding]:
    """Variety up, held-out loss up, training loss near zero."""
    before, after = base["diversity"], result.after["diversity"]
    return [
        at_most("the loss on the small set falls below 0.5", result.after["training"], 0.5),
        at_least(
            "greedy texts have a higher type-token ratio",
            round(after["type_token_ratio"] - before["type_token_ratio"], 4), 0.01,
        ),
        at_most(
            "greedy texts repeat fewer 4-grams",
            round(after["repetition"] - before["repetition"], 4), -0.01,
        ),
        at_least(
            "the loss on held-out text grows",
            round(result.after["loss"][WINDOW] - base["loss"][WINDOW], 4), 0.0,
        ),
    ]  # fmt: skip
