"""Objectives for Lightning's Trainer: its progress, checkpoints, precision, DDP and FSDP."""

from __future__ import annotations

from collections import UserList
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim import LBFGS, Adam, Optimizer

from declarative_dist.errors import ConstraintError, check_count
from declarative_dist.fitting.arguments import RATE, check_forward, make_optimizer
from declarative_dist.fitting.batches import as_batch
from declarative_dist.fitting.evaluation import begin, loss_of
from declarative_dist.fitting.finite import tensors_in

try:
    from lightning.pytorch import LightningModule
except ImportError as error:
    raise ImportError(
        "ObjectiveModule needs Lightning: pip install 'declarative-dist[lightning]'"
    ) from error


class ObjectiveModule(LightningModule):
    """An objective as Lightning's Trainer takes it.

    A batch that is a tuple or a list is the objective's arguments, anything else its one argument.
    The loss, a mean over processes, is logged as `loss`, of validation and test data as
    `val_loss` and `test_loss`: names for `ModelCheckpoint(monitor=...)` and early stopping. Steps
    take a closure, so LBFGS works, under DDP too.

    An objective without data needs no loader: `trainer.fit(module)` calls it without arguments,
    `steps_per_epoch` times an epoch. On several processes let each draw for itself, with a seed
    of its own (`torch.manual_seed(seed + rank)`); under one seed all would draw the same.

    As in `fit`, an automatic guide that is new finds its start before the first step; not where
    it is sharded, so call the objective's `before_fit(*batch)` before.

    `Trainer(strategy="ddp")` averages gradients over processes, which is the gradient of the whole
    batch where all have equally many rows. `ModelParallelStrategy(data_parallel_size=n,
    tensor_parallel_size=1)` shards the objective (FSDP2) when training begins.

    In a checkpoint, the state of the objective is under `objective.`. To load one, give the
    objective again: `ObjectiveModule.load_from_checkpoint(path, objective=objective)`.

    Args:
        objective: a module whose forward is a scalar loss.
        optimizer: a callable from the trainable parameters to an optimizer, or to a dict of one
            and a scheduler, as Lightning's `configure_optimizers` returns; or an optimizer. None
            for Adam at 0.01.
        steps_per_epoch: how long an epoch is where there is no loader.

    Raises:
        DeclarationError: if the objective is no module, or a distribution that needs one; if the
            optimizer is no such thing; in a step, if the loss is not scalar.
        ConstraintError: if `steps_per_epoch` is no count.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from lightning.pytorch import Trainer
        >>> from declarative_dist import learnable
        >>> from declarative_dist.integrations.lightning import ObjectiveModule
        >>> class Divergence(torch.nn.Module):
        ...     def __init__(self, q):
        ...         super().__init__()
        ...         self.q = q
        ...     def forward(self):
        ...         return dd.kl_divergence(self.q, dd.Normal(3.0, 2.0))
        >>> q = learnable(dd.Normal(0.0, 1.0))
        >>> module = ObjectiveModule(Divergence(q), lambda p: torch.optim.Adam(p, lr=0.1))
        >>> quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        >>> trainer = Trainer(max_steps=300, enable_checkpointing=False, **quiet)
        >>> trainer.fit(module)
        >>> round(q.loc.item(), 3), round(q.scale.item(), 3)
        (3.0, 2.0)
    """

    def __init__(
        self,
        objective: nn.Module,
        optimizer: Callable[[list[nn.Parameter]], Any] | Optimizer | None = None,
        *,
        steps_per_epoch: int = 100,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_forward(objective, f"{name}(objective=)")
        self.steps_per_epoch = check_count(f"{name}(steps_per_epoch=)", steps_per_epoch)
        self.objective = objective
        self._optimizer = optimizer or partial(Adam, lr=RATE)

    def forward(self, *batch: Any) -> Tensor:
        """The loss of a batch."""
        return self.objective(*batch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let an objective with a `before_fit` prepare on the first batch, as `fit` does."""
        if self.trainer.global_step == self.current_epoch == batch_idx == 0:
            begin(self.objective, as_batch(batch))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch, for its gradient; its value is the mean over processes."""
        loss = loss_of(self.objective, self.objective, as_batch(batch))
        mean = self.trainer.strategy.reduce(loss.detach().clone(), reduce_op="mean")
        self.log("loss", mean, prog_bar=True, batch_size=_rows_of(batch))
        # Line searches look at the value: all processes must see the same.
        return mean + (loss - loss.detach())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss of validation data, a mean over all of them."""
        self._evaluate("val_loss", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss of test data, a mean over all of them."""
        self._evaluate("test_loss", batch)

    def _evaluate(self, name: str, batch: Any) -> None:
        loss = loss_of(self.objective, self.objective, as_batch(batch))
        rows = _rows_of(batch)
        self.log(name, loss, on_epoch=True, prog_bar=True, batch_size=rows, sync_dist=True)

    def train_dataloader(self) -> Iterable[tuple[()]]:
        """What an objective without data is called with."""
        # Of a list Lightning takes each entry for a loader, and a DataLoader's it shares out.
        return UserList([()] * self.steps_per_epoch)

    def configure_optimizers(self) -> Any:
        """The optimizer, and its scheduler if there is one."""
        subject = f"{type(self).__name__}(optimizer=)"
        made = make_optimizer(self._optimizer, self.objective, subject)
        if isinstance(made, LBFGS) and isinstance(self.objective, FSDPModule):
            expected = "an optimizer that treats parameters one by one, for they are sharded"
            fix = 'Train with Trainer(strategy="ddp").'
            raise ConstraintError(subject, expected, "LBFGS", fix, code="sharded")
        return made

    def configure_model(self) -> None:
        """Shard the objective, under a strategy that has a mesh of devices."""
        mesh = self.device_mesh
        if mesh is None or isinstance(self.objective, FSDPModule):
            return
        sharing = mesh["tensor_parallel"].size()
        if sharing > 1:
            expected = "processes that each have their own part of the data"
            got = f"{sharing} that share tensors"
            fix = "Write ModelParallelStrategy(data_parallel_size=n, tensor_parallel_size=1)."
            raise ConstraintError(type(self).__name__, expected, got, fix, code="sharded")
        fully_shard(self.objective, mesh=mesh["data_parallel"])


def _rows_of(batch: Any) -> int:
    """How many rows a batch has: the size of the first tensor in it; 1 where there is none."""
    return next((tensor.shape[0] for _, tensor in tensors_in(as_batch(batch)) if tensor.ndim), 1)
