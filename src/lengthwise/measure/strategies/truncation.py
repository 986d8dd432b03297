from dataclasses import dataclass

from lengthwise.measure.published.base import cut_middle
from lengthwise.measure.strategies.base import Asking, Strategy


@dataclass(frozen=True)
class Truncation(Strategy):
    """Leave out the middle of what is too long: what the others are held against.

    Source: Bai et al. 2023, LongBench (arXiv:2308.14508), section 4.1.

    Args:
        window: Tokens of a prompt and its answer, at least 16; 0 is the model's own.
    """

    def answer(self, asking: Asking, document: str, question: str, new: int) -> str:
        """One prompt, of the document's first and last tokens and the question."""
        prompt = f"{document}\n{question}"
        # Around a chat come tokens that a cut of the text must leave room for.
        around = asking.tokens("a") - 1
        most = asking.window - new - around
        return asking.ask(cut_middle(getattr(asking.tokenizer, "inner", asking.tokenizer),
                                     prompt, most), new)  # fmt: skip
