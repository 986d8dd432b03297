"""The harness's own command, which knows our model type and tasks."""

import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Run `lm_eval` with the arguments of the command line."""
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError:
        print("lengthwise: this needs the harness: pip install lm-eval", file=sys.stderr)
        sys.exit(2)
    from lengthwise.measure.engines.lm_eval.model import NAME  # its import registers the model type
    from lengthwise.measure.engines.lm_eval.tasks import write_tasks

    with tempfile.TemporaryDirectory(prefix=NAME) as folder:
        if len(sys.argv) > 2 and "--include_path" not in sys.argv:
            write_tasks(Path(folder))
            sys.argv += ["--include_path", folder]
        try:
            cli_evaluate()
        except ValueError as error:
            print(f"lengthwise: {error}", file=sys.stderr)
            sys.exit(2)


if __name__ == "__main__":
    main()
