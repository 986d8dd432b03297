"""Names of tasks, suites and files that the command line knows without torch."""

from lengthwise.specs import hint

SUITES = ("quick", "ruler", "effective", "full")
ADAPTIVE = "effective"  # the suite that spends items where the answer is open
READINGS = ("loss", "speed")  # tasks that measure a model itself
STANDARD = "loss,passkey,speed"  # what is measured unless another suite is named
_PROCEDURES = ("path", "belief", "countdown", "travel", "html", "pseudocode")
# What may be named alone: the readings, and every task of `full`.
TASKS = (
    *READINGS,
    "niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2",
    "niah_multikey_3", "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2",
    "passkey", "lines", "nolima", "nolima_two_steps", "lveval", "tsort", "best_answer",
    "needles", "thread_forward", "thread_backward", "threads", "branched_thread",
    "conditional_needles", "flenqa_relations", "flenqa_rooms", "flenqa_rules", "longins_gist",
    "longins_list", "longins_limt", "longicl", "longicl_grouped", "m4le_explicit_single",
    "m4le_semantic_single", "m4le_explicit_multiple", "m4le_semantic_multiple", "m4le_global",
    "diffusion_together", "diffusion_scattered", "diffusion_worded", "diffusion_linked",
    "languages", "lcfo", "hellobench", "golden_thread",
    *(f"{name}_{tokens}" for name in _PROCEDURES for tokens in (512, 2048, 8192)),
)  # fmt: skip
RESULTS, LOCK = "results.jsonl", ".lock"  # in the folder of a measurement


def suite_names(words: str) -> list[str]:
    """The suites and tasks of `quick,loss`, each once.

    Raises:
        ValueError: There is no such suite or task, or several that ask beside an adaptive one.
    """
    names = list(dict.fromkeys(word.strip() for word in words.split(",")))
    for name in names:
        if name not in (*SUITES, *TASKS):
            every = (
                f"there are the suites {', '.join(SUITES)}, every task of full, "
                f"{' and '.join(READINGS)}"
            )
            rest = hint(name, (*SUITES, *TASKS), every)
            raise ValueError(f"--suite: there is no suite or task {name!r}; {rest}")
    others = [name for name in names if name not in (ADAPTIVE, *READINGS)]
    if ADAPTIVE in names and others:
        raise ValueError(
            f"--suite: {ADAPTIVE} spends items where the answer is open, and {others[0]} asks a "
            "fixed number; measure them into directories of their own"
        )
    return names


# Of the study of extension methods; the loss of a task's right answers is `answer of` that task.
PERPLEXITY, NEEDLE, ANSWER = "perplexity", "needle", "answer of "
