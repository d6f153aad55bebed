"""One process of several that separate and fine-tune together: `python -m tests.support.process FOLDER RANK WORLD`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed

from depthwise import DepthwiseError, distill, separate_
from tests.support.dense import convolutional, images


def errors(rank: int) -> list[str]:
    """What each process is told where only one has no data, or data that the model fails on."""
    told = []
    for wrong in ([], [images(8), images(8, channels=4)]):
        try:
            separate_(convolutional(), images(16) if rank == 0 else wrong, budget=0.4)
        except DepthwiseError as error:
            told.append(str(error))
    return told


def wrapped(model: torch.nn.Module, rank: int) -> dict[str, torch.Tensor]:
    """Gradients of a separated network inside torch's own data parallelism."""
    model.requires_grad_(True)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    parallel(images(8, seed=rank)).square().sum().backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def main(folder: Path, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=world)
    torch.manual_seed(0)
    model, teacher = convolutional(), convolutional()
    teacher.load_state_dict(model.state_dict())
    batches = images(64).split(16)
    report = separate_(model, list(batches[rank::world]), budget=0.4)
    separated = {name: value.clone() for name, value in model.state_dict().items()}
    # One step: with batches of one size the mean over processes is that over the whole batch, but for batch norms.
    for module in model.modules():
        module.requires_grad_(not isinstance(module, torch.nn.BatchNorm2d))
    losses = distill(model, teacher, [images(32)[rank::world]], lr=1e-4, progress=False).losses
    torch.save(
        {"report": report.to_dict(), "separated": separated, "tuned": model.state_dict(), "losses": losses},
        folder / f"{rank}of{world}.pt",
    )
    if world > 1:
        torch.save(errors(rank), folder / f"errors{rank}.pt")
        torch.save(wrapped(model, rank), folder / f"gradients{rank}.pt")
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
