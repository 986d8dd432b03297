"""How the numbers of the bundled model, tuned by recipes, are judged."""

from typing import Any

from lengthwise.lab.evidence import Finding, at_least, at_most
from lengthwise.train.loop import Result

TARGET, WINDOW = "2048", "512"
NEAR = 0.1  # nats a token that count as no difference

# Recipes that the findings hold another one against, which has to be finished first.
BESIDE = {"longlora": "pi", "longqlora": "pi", "pose": "pi", "yarn": "pi", "anchor": "abf"}


def premise(name: str, base: dict[str, Any]) -> Finding | None:
    """That the base fails beyond its window, where a recipe is to mend that."""
    if name == "hyperfit":
        return None
    return at_least(
        "untuned, the base's loss is higher after 2,048 tokens than after 512 by at least 0.1",
        round(base["loss"][TARGET] - base["loss"][WINDOW], 4), NEAR,
    )  # fmt: skip


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
            result.after["passkeys_found"][TARGET], 0.5,
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
    if name == "yarn" and full is not None:
        found.append(
            at_most(
                "with the same tokens the loss at 2,048 is below that of recipe pi",
                round(after[TARGET] - full.after["loss"][TARGET], 4), 0.0,
            )
        )  # fmt: skip
    if name == "e2llm":
        scales = result.after["loss under scale g at g windows"]
        found += [
            at_most(
                f"under scale {scale} the loss at {scale} windows is the base's inside its window, "
                "within 0.1", round(loss - plain[WINDOW], 4), NEAR,
            )
            for scale, loss in scales.items()
        ]  # fmt: skip
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
