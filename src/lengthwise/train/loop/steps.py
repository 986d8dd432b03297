"""The steps of a run: forward, backward, the optimizer, and what is kept of it."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lengthwise.train.data.weights import total_weight, weighted_loss
from lengthwise.train.loop.checkpoint import load_checkpoint, save_checkpoint
from lengthwise.train.loop.evaluate import Evaluation
from lengthwise.train.loop.metrics import Metrics
from lengthwise.train.loop.optimize import learning_rate, make_optimizer
from lengthwise.train.loop.pairs import pair_batches, refuse_tokens
from lengthwise.train.loop.parts import Parts, in_training
from lengthwise.train.loop.rows import Plan, Source, Step, micro_batches
from lengthwise.train.loop.subject import Subject
from lengthwise.train.objectives.base import model_inputs
from lengthwise.train.recipe import Recipe

# Told how far the run is: steps done, all steps, the newest loss.
Progress = Callable[[int, int, float], None]


class Steps:
    """A model in training.

    Attributes:
        done, tokens, seconds: Steps, what the model read, and the time that it took.
        metrics: Of the main process.
    """

    def __init__(
        self,
        recipe: Recipe,
        subject: Subject,
        parts: Parts,
        source: Source,
        plan: Plan,
        evaluation: Evaluation,
        accelerator: Any,
        say: Callable[[str], None],
    ) -> None:
        self.recipe, self.subject, self.parts = recipe, subject, parts
        self.source, self.plan, self.evaluation = source, plan, evaluation
        self.accelerator, self.say = accelerator, say
        self.metrics: Metrics | None = None
        self.done, self.tokens, self.seconds = 0, 0, 0.0
        self._stepping = False  # while weights are being changed
        if recipe.checkpointing:
            subject.inner.activation_checkpointing_enable({"use_reentrant": False})
            subject.inner.enable_input_require_grads()
        self.modules = [
            subject.model,
            *(m.to(accelerator.device) for m in parts.modules(subject.model)),
        ]
        self.learning = [p for m in self.modules for p in m.parameters() if p.requires_grad]
        self.optimizer = accelerator.prepare_optimizer(make_optimizer(recipe, self.modules))
        self.model = accelerator.prepare_model(subject.model)

    def run(self, folder: Path, progress: Progress | None) -> None:
        """All steps that are left, with a checkpoint after the last.

        Raises:
            ValueError: If a loss is no number; the state before that step is kept.
            KeyboardInterrupt: With words, once the state is kept.
        """
        recipe = self.recipe
        try:
            if not self.done:
                self.evaluate()
            while self.done < recipe.steps:
                loss = self._step(folder)
                middle = self.done < recipe.steps
                if middle and recipe.evaluate_every and self.done % recipe.evaluate_every == 0:
                    self.evaluate()
                if not middle or self.done % recipe.save_every == 0:
                    self.save(folder)
                if progress is not None and self.accelerator.is_main_process:
                    progress(self.done, recipe.steps, loss)
        except KeyboardInterrupt:
            if self._stepping:
                raise
            if self.done:
                self.save(folder)
            raise KeyboardInterrupt(
                f"{self.done} of {recipe.steps} steps are kept; the same command goes on"
            ) from None

    def _step(self, folder: Path) -> float:
        began = time.perf_counter()
        recipe, accelerator = self.recipe, self.accelerator
        rank, world = accelerator.process_index, accelerator.num_processes
        step = self.plan.step(self.done, rank, world)
        batches, read = self._batches(step)
        torch.manual_seed(_mixed(recipe.seed, self.done, rank))  # dropout's
        rate = learning_rate(recipe, self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for module in self.modules:
            module.train()
        total = None if self.parts.pairs else total_weight(batches)
        loss = torch.zeros((), device=accelerator.device)
        with in_training(self.model, self.subject, self.parts):
            for left, batch in zip(reversed(range(len(batches))), batches, strict=True):
                with accelerator.no_sync(self.model) if left else nullcontext():
                    share = self._share(batch, total, len(batches))
                    accelerator.backward(share * world)  # ranks' gradients are averaged
                loss += share.detach()
        loss = accelerator.reduce(loss, "sum")
        norm = accelerator.clip_grad_norm_(self.learning, recipe.clip or float("inf"))
        self._refuse_nan(float(loss), float(norm), step, folder)
        self._stepping = True
        self.optimizer.step()
        self.done += 1
        self._stepping = False
        self.optimizer.zero_grad()
        self.tokens += int(accelerator.reduce(torch.tensor(read, device=accelerator.device)))
        self.seconds += time.perf_counter() - began
        self._note({"loss": float(loss), "norm": float(norm), "learning_rate": rate}, step.short)
        return float(loss)

    def _batches(self, step: Step) -> tuple[list[Any], int]:
        """The micro-batches of this process on its device, and the tokens in them."""
        device, recipe, source = self.accelerator.device, self.recipe, self.source
        if self.parts.pairs:
            rows = [source.rows[row] for row in step.rows]
            pairs = list(pair_batches(rows, recipe.rows, pad=0))
            sides = ("chosen_long", "rejected_long")
            read = sum(one[side]["input_ids"].numel() for one in pairs for side in sides)
            refuse_tokens(pairs, int(self.subject.inner.config.vocab_size), recipe.data)
            return [{k: _on(device, x) for k, x in one.items()} for one in pairs], read
        facts = self.subject.facts
        vocabulary = int(self.subject.inner.config.vocab_size)
        made, read = micro_batches(
            source, step, recipe, self.parts.transform, facts.target / facts.window, vocabulary
        )
        return [_on(device, batch) for batch in made], read

    def _share(self, batch: Any, total: Tensor | None, batches: int) -> Tensor:
        """What a micro-batch adds to the loss of the step."""
        if self.parts.objective is not None:
            with self.accelerator.autocast():
                loss: Tensor = self.parts.objective(self.model, batch)
            return loss / batches
        assert total is not None
        inputs = {"input_ids": batch["input_ids"], **model_inputs(batch)}
        if "tiledloss" in self.recipe.memory.lower():
            inputs |= {"labels": batch["labels"], "num_items_in_batch": total}
            tiled: Tensor = self.model(**inputs, use_cache=False).loss
            return tiled
        logits = self.model(**inputs, use_cache=False).logits
        return weighted_loss(logits, batch["labels"], batch["loss_weights"], total)

    def _refuse_nan(self, loss: float, norm: float, step: Step, folder: Path) -> None:
        """Stop before a step that would spoil the weights."""
        fine = torch.tensor([loss, norm]).isfinite().tolist()
        # Half precision's scaler meets infinite gradients now and then, and leaves the step out.
        if all(fine) or (fine[0] and self.recipe.precision == "fp16"):
            return
        self.optimizer.zero_grad()
        what = f"the gradient's norm is {norm}" if fine[0] else f"the loss is {loss}"
        rows = ", ".join(map(str, step.rows[:8])) + (" …" if len(step.rows) > 8 else "")
        kept = "nothing has been trained yet"
        if self.done:
            self.save(folder)
            kept = f"the state after {self.done} steps is kept in {folder}"
        raise ValueError(
            f"step {self.done + 1}: {what} on rows {rows} of {self.recipe.data}; {kept}: look at "
            "these rows, or begin anew with a lower learning_rate"
        )

    def evaluate(self) -> None:
        """Measure the model as it is now, with dense attention, and write it down."""
        self.accelerator.wait_for_everyone()
        if self.metrics is not None:
            found = self.evaluation(self.subject.inner)
            self.metrics.write(self.done, evaluation=found)
            flat = {f"{what}/{n}": value for what, by in found.items() for n, value in by.items()}
            self.accelerator.log(flat, step=self.done)
        self.accelerator.wait_for_everyone()

    def _note(self, values: dict[str, float], short: bool) -> None:
        if self.metrics is not None:
            kind = {"short": True} if short else {}
            seconds = round(self.seconds, 3)
            self.metrics.write(self.done, tokens=self.tokens, **values, **kind, seconds=seconds)
            self.accelerator.log(values, step=self.done)

    def save(self, folder: Path) -> None:
        """Keep the state after the steps that are done."""
        self.accelerator.wait_for_everyone()
        if self.metrics is None:
            return
        self.metrics.to_disk()
        scaler = self.accelerator.scaler
        state = {
            "weights": self._weights(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "tokens": self.tokens,
            "seconds": self.seconds,
            "processes": self.accelerator.num_processes,
        }
        save_checkpoint(folder, self.done, state)

    def resume(self, folder: Path) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        found = load_checkpoint(folder, self.say, self.accelerator.device)
        if found is None:
            return
        self.done, state = found
        for name, weight in self._weights().items():
            weight.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.tokens, self.seconds = state["tokens"], state["seconds"]
        self.say(f"Going on after {self.done} of {self.recipe.steps} steps.")
        if state["processes"] != self.accelerator.num_processes:
            self.say(
                f"The run was on {state['processes']} processes and is on "
                f"{self.accelerator.num_processes} now: every step has the same rows, but sums "
                "are added in another order, so the bits will differ."
            )

    def unwrap(self) -> None:
        """Take accelerate's wrappers off the model."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

    def _weights(self) -> dict[str, Tensor]:
        """What learns, by name; tensors that share their memory once."""
        return {
            f"{number}.{name}": weight.detach()
            for number, module in enumerate(self.modules)
            for name, weight in module.named_parameters()
            if weight.requires_grad
        }


def _on(device: torch.device, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.to(device) for name, x in batch.items()}


def _mixed(*numbers: int) -> int:
    """One seed from several numbers."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % (1 << 63)
    return mixed
