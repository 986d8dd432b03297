"""The command line. Importing it costs next to nothing: torch waits until a command needs it."""

import sys


def main() -> None:
    """What the installed command `lengthwise` runs; ends the process."""
    try:
        from lengthwise.cli.app import app  # Ctrl-C may come while modules are loading

        app()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
