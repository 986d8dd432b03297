"""Generated pages are what their sources say."""

import runpy
import sys
from pathlib import Path

from tests import forked

GENERATE = Path(__file__).parent.parent / "docs" / "generate.py"


def test_generated_pages_are_up_to_date(tmp_path: Path) -> None:
    def check() -> None:
        sys.argv = [str(GENERATE), "--check"]
        sys.path.insert(0, str(GENERATE.parent))
        runpy.run_path(str(GENERATE), run_name="__main__")

    status = forked.run(check, tmp_path / "log")
    assert status == 0, (tmp_path / "log").read_text(encoding="utf-8")
