"""Our tasks as lm-evaluation-harness asks them."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask
from transformers import PreTrainedTokenizerBase

from lengthwise.hf.loading import load_tokenizer
from lengthwise.measure.run.suites import suite
from lengthwise.measure.tasks import RULER, Task
from lengthwise.measure.tasks.text import held_out_text

GROUP = "lengthwise"
LENGTHS = (4096,)  # tokens, as the harness's own RULER has it
ITEMS = 20

# As `lengthwise measure` calls them.
FULL = suite("full", held_out_text())
TASKS: Mapping[str, Task] = {name: FULL.asking(name) for name in FULL.tasks}
GROUPS = {GROUP: tuple(TASKS), f"{GROUP}_ruler": tuple(RULER)}


class GeneratedTask(ConfigurableTask):
    """One of `TASKS`, its score at every length as a metric of its own.

    What `--metadata` (a JSON object) may say, beside the arguments of the model: `max_seq_lengths`
    in tokens, prompt and answer together, as for the harness's own RULER; `items` of each length;
    `seed`; and `tokenizer`, where the model's arguments name none that the hub or a folder has.

    Raises:
        ValueError: No tokenizer, or a length that the task cannot be built at.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.generator = TASKS[config["task"].removeprefix(f"{GROUP}_")]
        super().__init__(
            config={
                "output_type": "generate_until",
                "test_split": "test",
                "doc_to_text": "prompt",
                "doc_to_target": "answer",
                "num_fewshot": 0,
                "metric_list": [],
                # Nothing but its own end stops an answer: the task scores what was written.
                "generation_kwargs": {"until": [], "do_sample": False},
                **{key: value for key, value in config.items() if key != "class"},
            }
        )

    def download(self, *_: Any, **__: Any) -> None:
        """Generate the items; nothing is downloaded."""
        given = self.config.metadata or {}
        tokenizer = _tokenizer(given.get("tokenizer") or given.get("pretrained"))
        lengths = given.get("max_seq_lengths", LENGTHS)
        count, seed = int(given.get("items", ITEMS)), int(given.get("seed", 0))
        self.items = [
            item
            for length in (lengths if isinstance(lengths, Sequence) else [lengths])
            for item in self.generator.build(tokenizer, int(length), count, seed)
        ]
        rows = [
            {
                "prompt": item.prompt,
                "answer": item.answer,
                "length": item.length,
                "allowance": item.allowance,
                "index": index,
            }
            for index, item in enumerate(self.items)
        ]
        self.dataset = {"test": Dataset.from_list(rows)}

    def construct_requests(self, doc: Mapping[str, Any], ctx: str, **options: Any) -> Instance:
        """The prompt, with as many new tokens as the item allows."""
        request = super().construct_requests(doc, ctx, **options)
        prompt, settings = request.arguments
        request.arguments = (prompt, {**settings, "max_gen_toks": doc["allowance"]})
        return request

    def process_results(self, doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
        """The score, under the length of the item."""
        return {str(doc["length"]): self.generator.score(results[0], self.items[doc["index"]])}

    def aggregation(self) -> dict[str, Any]:
        """The mean, at every length."""
        return {str(item.length): mean for item in self.items}

    def higher_is_better(self) -> dict[str, bool]:
        """It is, at every length."""
        return {str(item.length): True for item in self.items}


def _tokenizer(name: str | None) -> PreTrainedTokenizerBase:
    if name is None:
        raise ValueError(
            "the tasks need the model's tokenizer for their exact lengths; name it with "
            "--metadata '{\"tokenizer\": …}'"
        )
    bundled = str(files("lengthwise") / "assets" / "lab")
    return load_tokenizer(bundled if name == "demo" else name)


def write_tasks(folder: Path) -> None:
    """A file for each task and group, as the harness looks for them under `--include_path`."""
    here = f"{GeneratedTask.__module__}.{GeneratedTask.__name__}"
    version = "metadata:\n  version: 1.0\n"
    for name in TASKS:
        text = f"task: {GROUP}_{name}\nclass: !function {here}\n{version}"
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    for group, names in GROUPS.items():
        members = "".join(f"  - {GROUP}_{name}\n" for name in names)
        text = f"group: {group}\ntask:\n{members}{version}"
        (folder / f"group_{group}.yaml").write_text(text, encoding="utf-8")
