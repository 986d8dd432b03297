"""The command line. Importing it costs next to nothing: torch waits until a command needs it."""

from lengthwise.cli.interrupt import loading_begins


def main() -> None:
    """What the installed command `lengthwise` runs; ends the process."""
    loading_begins()
    from lengthwise.cli.app import app

    app()
