"""One process of several that train together: `python -m tests.support.parallel FOLDER RANK WORLD`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from depthwise import accelerate_, restore_

STEPS, BATCH = 5, 8


def network() -> nn.Sequential:
    """Without batch norms but in evaluation mode, so that the mean over processes is that over the whole batch."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(4, 16, 1), nn.BatchNorm2d(16).eval(), nn.ReLU6()),
        nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.GroupNorm(4, 16), nn.SiLU()),
        nn.Conv2d(16, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def normed() -> nn.Sequential:
    """With batch norms of each process's own statistics."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(4, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True)),
        *(nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.SiLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
    )


def losses(model: nn.Module, rank: int, world: int) -> list[float]:
    """Of some steps on this process's share of the batch; their mean is the whole batch's."""
    torch.manual_seed(1)
    x = torch.randn(BATCH, 4, 9, 9).contiguous(memory_format=torch.channels_last)[rank::world]
    target = (torch.arange(BATCH) % 4)[rank::world]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def data_parallel(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model)


def sharded(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    assert isinstance(model, nn.Sequential)
    # A convolution by itself too, whose class FSDP replaces.
    for part in model:
        if next(part.parameters(), None) is not None:
            fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def trained(wrap: Callable[[nn.Module], nn.Module], order: str, make: Callable[[], nn.Module]) -> list[float]:
    """Losses with `accelerate_` before or after the wrapper, or without; restored at the end, they go on."""
    model = make()
    if order == "before":
        accelerate_(model)
    wrapped = wrap(model)
    if order == "after":
        accelerate_(wrapped)
    found = losses(wrapped, dist.get_rank(), dist.get_world_size())
    assert (restore_(wrapped) > 0) is (order != "never")
    wrapped(torch.randn(2, 4, 9, 9))
    return found


def main(folder: Path, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    if world == 1:
        torch.save({"whole": losses(network(), 0, 1)}, folder / "0of1.pt")
        return
    dist.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=world)
    found: dict[str, Tensor] = {}
    for order in ("never", "before", "after"):
        for wrap, make in ((data_parallel, network), (data_parallel, normed), (sharded, network)):
            mean = torch.tensor(trained(wrap, order, make))
            dist.all_reduce(mean)
            found[f"{wrap.__name__} of {make.__name__} {order}"] = mean / world
    torch.save(found, folder / f"{rank}of{world}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
