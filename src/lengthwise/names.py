"""Names of tasks, suites and files that the command line knows without torch."""

from collections.abc import Mapping

from lengthwise.specs import hint

SUITES = ("quick", "ruler", "effective", "full", "flenqa")
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
_LONGBENCH_E = (
    "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "gov_report", "multi_news", "trec",
    "triviaqa", "samsum", "passage_count", "passage_retrieval_en", "lcc", "repobench-p",
)  # fmt: skip
_LONGBENCH = (
    *_LONGBENCH_E, "narrativeqa", "multifieldqa_zh", "musique", "dureader", "qmsum", "vcsum",
    "lsht", "passage_retrieval_zh",
)  # fmt: skip
_LEVAL = (
    "coursera", "quality", "tpo", "gsm100", "codeU", "sci_fi", "topic_retrieval_longchat",
    "financial_qa", "gov_report_summ", "legal_contract_qa", "meeting_summ", "multidoc_qa",
    "narrative_qa", "natural_question", "news_summ", "paper_assistant", "patent_summ",
    "review_summ", "scientific_qa", "tv_show_summ",
)  # fmt: skip
_LVEVAL = (
    "hotpotwikiqa_mixup", "loogle_SD_mixup", "loogle_CR_mixup", "loogle_MIR_mixup",
    "multifieldqa_en_mixup", "factrecall_en", "multifieldqa_zh_mixup", "factrecall_zh",
    "cmrc_mixup", "lic_mixup", "dureader_mixup",
)  # fmt: skip
# Published suites: from their tasks to the files of a person's own copy, which may have any parent.
PUBLISHED: Mapping[str, Mapping[str, str]] = {
    "longbench": {f"longbench_{name}": f"{name}.jsonl" for name in _LONGBENCH},
    "longbench_e": {f"longbench_{name}_e": f"{name}_e.jsonl" for name in _LONGBENCH_E},
    "leval": {f"leval_{name}": f"{name}.jsonl" for name in _LEVAL},
    "published_lveval": {
        f"published_lveval_{name}_{level}k": f"{name}_{level}k.jsonl"
        for name in _LVEVAL
        for level in (16, 32, 64, 128, 256)
    },
    "cnnsum": {f"cnnsum_{tier}k": f"cnnsum_*_{tier}k.jsonl" for tier in (16, 32, 64, 128)},
    "fables": {"fables": "FABLES.json"},
    "longbench_write": {"longbench_write": "longbench_write.jsonl"},
    "longbench_write_en": {"longbench_write_en": "longbench_write_en.jsonl"},
    "longwrite_ruler": {"longwrite_ruler": "longwrite_ruler.jsonl"},
}
# What is no part of `full` and may be named alone, mostly with options.
ALONE = ("longsafety", *_PROCEDURES)
# Suites that are one task with all combinations of some options.
GRIDS = {
    "flenqa": {
        "problem": ("relations", "rooms", "rules"),
        "padding": ("repeated", "similar", "different"),
        "place": ("first", "middle", "last", "random"),
    },
}
# From how a task's name begins to its class.
FAMILIES = {
    "niah_": "NIAH", "vt": "VariableTracking", "cwe": "CommonWords", "fwe": "FrequentWords",
    "qa_": "DocumentQA", "passkey": "Passkey", "lines": "Lines", "nolima": "NoLiMa",
    "lveval": "LVEval", "tsort": "TSort", "best_answer": "BestAnswer", "needles": "Threads",
    "thread": "Threads", "branched_thread": "Threads", "conditional_needles": "ConditionalNeedles",
    "flenqa": "FLenQA", "longins": "LongIns", "longicl": "LongICL", "m4le": "M4LE",
    "diffusion": "DiffusionScope", "languages": "InContextLanguage", "lcfo": "LCFO",
    "hellobench": "HelloBench", "golden_thread": "GoldenThread", "longsafety": "LongSafety",
    "path": "PathTraversal", "belief": "BeliefTracking", "countdown": "Countdown",
    "travel": "TravelPlanning", "html": "HtmlToTable", "pseudocode": "PseudoToCode",
}  # fmt: skip
RESULTS, LOCK = "results.jsonl", ".lock"  # in the folder of a measurement


def home_of(name: str) -> str | None:
    """The published suite that a suite or task belongs to; None for our own."""
    return next((suite for suite, sets in PUBLISHED.items() if name in (suite, *sets)), None)


def suite_names(words: str) -> list[str]:
    """The suites and tasks of `quick,loss,lveval:confusing=0/4,replaced=false`, each once, with
    their options.

    Raises:
        ValueError: There is no such suite or task, several that ask beside an adaptive one, or
            published ones beside our own.
    """
    pieces: list[str] = []
    for word in (word.strip() for word in words.split(",")):
        if pieces and "=" in word and ":" not in word.partition("=")[0] and ":" in pieces[-1]:
            pieces[-1] += f",{word}"  # one more option
        else:
            pieces.append(word)
    names = list(dict.fromkeys(pieces))
    for name in (piece.partition(":")[0] for piece in names):
        if name not in (*SUITES, *TASKS, *ALONE) and home_of(name) is None:
            every = (
                f"there are the suites {', '.join(SUITES)}, every task of full, "
                f"{' and '.join(READINGS)}; of published sets {', '.join(PUBLISHED)}"
            )
            known = [one for suite, sets in PUBLISHED.items() for one in (suite, *sets)]
            rest = hint(name, (*SUITES, *TASKS, *ALONE, *known), every)
            raise ValueError(f"--suite: there is no suite or task {name!r}; {rest}")
    ours = [name for name in names if home_of(name) is None]
    if ours and len(ours) < len(names):
        raise ValueError(
            f"--suite: {ours[0]} is made to length and {names[0 if names[0] != ours[0] else 1]} is "
            "published; measure them one after the other, into one directory if you like"
        )
    others = [name for name in names if name not in (ADAPTIVE, *READINGS)]
    if ADAPTIVE in names and others:
        raise ValueError(
            f"--suite: {ADAPTIVE} spends items where the answer is open, and {others[0]} asks a "
            "fixed number; measure them into directories of their own"
        )
    return names


# Of the study of extension methods; the loss of a task's right answers is `answer of` that task.
PERPLEXITY, NEEDLE, ANSWER = "perplexity", "needle", "answer of "

# Strategies that ask and look into no model, so that a server can be asked too.
ASKING = ("ChainOfAgents", "JRT", "Truncation")
