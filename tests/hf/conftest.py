"""What tests of bindings share."""

import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from torch import Tensor

Together = Callable[[Callable[[int], Tensor]], list[object]]


@pytest.fixture
def together() -> Iterator[Together]:
    """What goes wrong when four threads ask `read(length)`, each for a length of its own, at once.

    They take turns as often as the interpreter lets them.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def run(read: Callable[[int], Tensor]) -> list[object]:
        lengths = (10, 40, 70, 100)  # around tiny windows: each has its own scaling
        alone = [read(length) for length in lengths]
        wrong: list[object] = []

        def work(index: int) -> None:
            for _ in range(6):
                try:
                    gap = (read(lengths[index]) - alone[index]).abs().max().item()
                    wrong.extend([gap] if gap > 1e-5 else [])
                except Exception as error:
                    wrong.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(lengths))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return wrong

    yield run
    sys.setswitchinterval(before)
