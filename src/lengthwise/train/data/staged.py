"""Training at growing lengths, stage after stage, with constant tokens a step."""

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """So many steps at one length.

    Args:
        length: Tokens of a sequence.
        rows: Sequences of a step; `length * rows` is the same in every stage.
        steps: Optimizer steps of the stage.
    """

    length: int
    rows: int
    steps: int


@dataclass(frozen=True)
class Staged(ABC):
    """A staircase of lengths, each with its share of the tokens."""

    @abstractmethod
    def shares(self) -> dict[int, float]:
        """From each length, in the order of training, to its share of all tokens."""

    def schedule(self, steps: int, tokens: int) -> list[Stage]:
        """The stages of `steps` steps of `tokens` tokens each; stages without a step are left out.

        Args:
            steps: Optimizer steps in all, at least 1.
            tokens: Tokens of one step, a multiple of every length.

        Raises:
            ValueError: If there are no steps or `tokens` is no multiple of a length.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        shares = self.shares()
        stages, ended, seen = [], 0, 0.0
        for length, share in shares.items():
            if tokens < 1 or tokens % length:
                raise ValueError(
                    f"tokens of a step must be a multiple of every length, got {tokens} for "
                    f"length {length}: take a multiple of {max(shares)}"
                )
            seen += share
            end = round(steps * seen)
            if end > ended:
                stages.append(Stage(length, tokens // length, end - ended))
            ended = end
        assert ended == steps
        return stages


@dataclass(frozen=True)
class GrowLength(Staged):
    """Lengths double from stage to stage, each with an equal share of the tokens.

    Positions are extrapolated as they are: the model sees longer sequences and learns them.

    Source: GrowLength (2310.00576): from 128 to 4,096 tokens.
    Differs from the source: an equal share for each length is ours.
    Reduces to: training at one length when `start` is `end`.

    Args:
        start: Tokens of the shortest sequences, at least 2.
        end: Tokens of the longest, `start` times a power of two.

    Raises:
        ValueError: If `start` is below 2 or doubling it never gives `end`.
    """

    start: int = 128
    end: int = 4096

    def __post_init__(self) -> None:
        if self.start < 2:
            raise ValueError(f"start must be at least 2 tokens, got {self.start}")
        times, rest = divmod(self.end, self.start)
        if rest or times < 1 or times & times - 1:
            raise ValueError(
                f"end must be start ({self.start}) times a power of two, got {self.end}"
            )

    def shares(self) -> dict[int, float]:
        stages = (self.end // self.start).bit_length()
        return {self.start << stage: 1 / stages for stage in range(stages)}


@dataclass(frozen=True)
class XGen(Staged):
    """Three stages, each twice as long as the one before, with 8, 4 and 3 of 15 tokens.

    Source: XGen-7B Technical Report (2309.03450), pre-training: 800 billion tokens at 2,048,
    400 billion at 4,096 and 300 billion at 8,192.

    Args:
        end: Tokens of the longest sequences, a multiple of 4 and at least 8.

    Raises:
        ValueError: If `end` is below 8 or no multiple of 4.
    """

    end: int = 8192

    def __post_init__(self) -> None:
        if self.end < 8 or self.end % 4:
            raise ValueError(f"end must be a multiple of 4, at least 8 tokens, got {self.end}")

    def shares(self) -> dict[int, float]:
        return {self.end // 4: 8 / 15, self.end // 2: 4 / 15, self.end: 3 / 15}
