"""transformers' Trainer with a loss in which every document counts the same."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from lengthwise.train.data.weights import total_weight, weighted_loss


class SequenceWeightedTrainer(Trainer):
    """`Trainer` over batches with `loss_weights`, right under accumulation and data parallel.

    transformers normalises by `num_items_in_batch`, a count of target tokens over micro-batches and
    ranks; here it is the sum of weights over both. Batches come from
    `PackedCollator(weights=True)`, with `remove_unused_columns=False`.

    Raises:
        ValueError: In training, for batches without `loss_weights`.
    """

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Tensor:
        for batch in batch_samples:
            if "loss_weights" not in batch:
                raise ValueError(
                    "batches have no loss_weights; use PackedCollator(weights=True) and "
                    "TrainingArguments(remove_unused_columns=False)"
                )
        samples = [
            {name: batch[name].to(device) for name in ("labels", "loss_weights")}
            for batch in batch_samples
        ]
        return total_weight(samples)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The share of this micro-batch; see `lengthwise.train.data.weights.weighted_loss`."""
        if num_items_in_batch is None:  # evaluation of a single batch
            num_items_in_batch = self._get_num_items_in_batch([inputs], self.args.device)
        labels, weights = inputs.pop("labels"), inputs.pop("loss_weights")
        outputs = model(**inputs)
        total = torch.as_tensor(num_items_in_batch)
        loss = weighted_loss(outputs.logits, labels, weights, total)
        # Gradients are averaged over processes, and the total is already the sum over them.
        loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss
