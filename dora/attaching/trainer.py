"""A callback by which the Transformers Trainer trains an attached adapter."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback as Callback
from transformers import TrainerControl, TrainerState, TrainingArguments

from dora.attaching.adapter import Adapter
from dora.errors import UserError


class TrainerCallback(Callback):
    """Adds the method's penalty to each step, and lets the method act after the optimizer.

        adapter = dora.attach(model, method="dora", budget="r8", steps=1000)
        Trainer(model, arguments, callbacks=[dora.TrainerCallback(adapter)], …).train()

    The penalty's gradient is there when a step begins, and the task's is added to it. So it counts
    once a step however many micro-batches there are, is clipped with the rest, and is in no
    evaluation's loss; the loss that the Trainer logs is the task's alone. The method acts after
    the optimizer's step and before the Trainer clears gradients.

    Checkpoints of the Trainer hold the adapter's state in the model's weights. To resume, attach
    with the same arguments and call train(resume_from_checkpoint=…) as usual.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """Raises UserError where the adapter does not fit this training."""
        adapter = self.adapter
        if adapter.steps and adapter.steps != state.max_steps:
            raise UserError(
                f"the adapter plans for steps={adapter.steps}, and this Trainer takes "
                f"{state.max_steps}: attach with steps={state.max_steps}, or set max_steps"
            )
        # A scaler of fp16 skips steps, which the Trainer counts and the adapter does not.
        if adapter.taken != state.global_step and not args.fp16:
            raise UserError(
                f"the Trainer goes on after step {state.global_step}, the adapter after step "
                f"{adapter.taken}: attach it anew to the model as it was loaded, and resume from a "
                "checkpoint of a Trainer with this callback"
            )
        if args.fp16 and (adapter.uses_gradients or adapter.penalty().requires_grad):
            raise UserError(
                "fp16=True scales the loss and its gradients, and neither the method's penalty nor "
                "what it moves or adjusts itself would follow: train with bf16=True or in fp32"
            )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """Puts the penalty's gradient in place, to which backward adds the task's."""
        self.adapter.add_penalty_gradient()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """Lets the method act; gradients are still there, as clipped.

        Raises UserError if the optimizer does not step on the adapter's own parameters.
        """
        before = self.adapter.taken
        self.adapter.step()
        if self.adapter.taken == before and not args.fp16:
            raise UserError(
                "this Trainer's optimizer does not move the adapter's parameters: make one that you "
                "pass after attach, from adapter.groups(lr); DeepSpeed and FSDP, which keep copies of "
                "parameters, are not supported"
            )
