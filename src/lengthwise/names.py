"""Names of tasks, suites and files that the command line knows without torch."""

TASKS = ("loss", "passkey", "speed")  # of a measurement
SUITES = ("quick", "ruler", "effective", "full")
SUITE_FILE, LOCK = "suite.jsonl", ".lock"  # in the folder of a suite
