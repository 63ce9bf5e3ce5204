"""Jobs in several processes that talk through gloo, on this machine's CPU."""

from __future__ import annotations

import datetime as dt
import gc
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

SECONDS = 120
"""After that a job is taken for hanging."""

EXPECTED = (
    # Raised inside Lightning, about torch and about loaders that are small on purpose.
    ".*isinstance.treespec, LeafSpec.* is deprecated",
    ".*does not have many workers which may be a bottleneck",
    "You defined a `validation_step` but have no `val_dataloader`",
    # Raised inside torch, whose generators are not in step over CPUs.
    "DTensor random operators may not have complete support on cpu",
)
"""What outside libraries warn of in these jobs; any other warning is an error."""


def in_processes(job: Callable[[int, Path], Any], folder: Path, count: int = 2) -> list[Any]:
    """What a job returns in each of several processes, which form one process group."""
    spawned = torch.multiprocessing.spawn(_run, (job, count, folder), count, join=False)
    assert spawned is not None
    end = time.monotonic() + SECONDS
    while not spawned.join(timeout=1.0):
        if time.monotonic() > end:
            for process in spawned.processes:
                process.kill()
            raise TimeoutError(f"{job.__name__} hangs")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _run(rank: int, job: Callable[[int, Path], Any], count: int, folder: Path) -> None:
    warnings.simplefilter("error")
    for message in EXPECTED:
        warnings.filterwarnings("ignore", message)
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=count,
        timeout=dt.timedelta(seconds=SECONDS // 2),
    )
    torch.save(job(rank, folder), folder / f"{rank}.pt")
    gc.collect()  # DDP must not outlive the group: it may wait for its threads for ever
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
