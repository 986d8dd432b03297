"""The command line. Importing it costs next to nothing: torch waits until a command needs it."""

import os

from lengthwise.cli.interrupt import loading_begins


def main() -> None:
    """What the installed command `lengthwise` runs; ends the process."""
    loading_begins()
    # Read when torch is loaded: counting bytes would warn of tensors that are older than it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from lengthwise.cli.app import app

    app()
