from dataclasses import dataclass

from lengthwise.measure.strategies.base import Asking, Strategy


@dataclass(frozen=True)
class JRT(Strategy):
    """Read the question and the document twice before answering.

    Who reads with a fixed memory knows at the second time what to keep. It costs twice the tokens,
    and both copies must fit into the window.

    Source: Arora et al. 2024, Just read twice (arXiv:2407.05483), section 3.1 (JRT-Prompt).
    Reduces to: the plain prompt, with `times=1` and no hint.

    Args:
        window: Tokens of a prompt and its answer, at least 16; 0 is the model's own.
        times: How often it is read, at least 1.
        hint: Whether the question also stands before the first copy.
    """

    times: int = 2
    hint: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.within("times", self.times, 1)

    def answer(self, asking: Asking, document: str, question: str, new: int) -> str:
        """One prompt; the question stands behind every copy."""
        copy = f"{document}\n{question}"
        return asking.ask("\n".join([question] * self.hint + [copy] * self.times), new)
