"""The fine-tuning loop: it learns, matches layers, resumes bit for bit, and says what it cannot use."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from depthwise import DepthwiseError, distill, separate_
from depthwise.separate.distillation import divergence
from tests.support.dense import convolutional, images


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    teacher = convolutional()
    student = deepcopy(teacher)
    separate_(student, budget=0.25, input_size=(3, 12, 12))
    return student, teacher


def distance(student: nn.Module, teacher: nn.Module) -> float:
    x = images(64, seed=9)
    with torch.no_grad():
        return float(divergence(student(x), teacher(x), 1.0))


def loader() -> list[Tensor]:
    return list(images(64).split(16))


def test_the_student_comes_nearer_and_the_teacher_stays(pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = pair
    before, state = distance(student, teacher), deepcopy(teacher.state_dict())
    done = distill(student, teacher, loader(), epochs=8, lr=3e-3, progress=False)
    assert done.steps == 32
    assert len(done.losses) == 8
    assert done.losses[-1] < done.losses[0]
    assert distance(student, teacher) < 0.8 * before
    assert not student.training
    assert not teacher.training
    assert all(torch.equal(value, state[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize(
    "options",
    [
        {"layers": ["1", "4"], "layer_weight": 0.5},
        {"autocast": torch.bfloat16},
        {"labels_weight": 0.1},
        {"optimizer": "sgd"},
    ],
)
def test_every_option_trains(pair: tuple[nn.Module, nn.Module], options: dict[str, Any]) -> None:
    student, teacher = pair
    if options.get("optimizer") == "sgd":
        options = {"optimizer": torch.optim.SGD(student.parameters(), 0.01)}
    batches = [(x, teacher(x).argmax(1)) for x in loader()]
    seen: list[tuple[int, float]] = []
    done = distill(
        student, teacher, batches, epochs=3, progress=False, on_epoch=lambda *epoch: seen.append(epoch), **options
    )
    assert [number for number, _ in seen] == [1, 2, 3]
    assert done.losses == tuple(loss for _, loss in seen)
    assert done.losses[-1] < done.losses[0]


def test_a_run_taken_up_again_ends_as_one_that_was_not_interrupted(
    pair: tuple[nn.Module, nn.Module], tmp_path: Path
) -> None:
    student, teacher = pair
    whole, stopped, again = (deepcopy(student) for _ in range(3))
    expected = distill(whole, teacher, loader(), epochs=3, progress=False)

    def stop(epoch: int, _: float) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(stopped, teacher, loader(), epochs=3, checkpoint=tmp_path / "run.pt", on_epoch=stop, progress=False)
    resumed = distill(again, teacher, loader(), epochs=3, checkpoint=tmp_path / "run.pt", progress=True)
    assert resumed == expected
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not (tmp_path / "run.pt.unfinished").exists()


def test_the_divergence() -> None:
    given, wanted = torch.randn(6, 5), torch.randn(6, 5)
    p, q = (wanted / 3).softmax(1), (given / 3).softmax(1)
    assert float(divergence(given, wanted, 3.0)) == pytest.approx(
        float(9 * (p * (p / q).log()).sum(1).mean()), rel=1e-4
    )


class Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(images(32))


def test_batches_of_a_dict_and_of_a_data_set_without_length(pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = pair
    batches = [{"pixels": x} for x in loader()]
    done = distill(student, teacher, batches, adapter=lambda batch: (batch["pixels"], None), progress=False)
    assert done.steps == 4
    streamed: DataLoader[Tensor] = DataLoader(Endless(), batch_size=16)
    assert distill(student, teacher, streamed, epochs=2, progress=False).steps == 4


def test_a_sampler_draws_another_order_each_epoch(pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = pair
    data = list(range(64))
    sampler: DistributedSampler[int] = DistributedSampler(data, num_replicas=1, rank=0)  # type: ignore[arg-type]
    drawn: list[list[int]] = []

    def adapter(batch: Tensor) -> tuple[Tensor, None]:
        drawn.append(batch.tolist())
        return images(64)[batch], None

    distill(
        student,
        teacher,
        DataLoader(data, 64, sampler=sampler),  # type: ignore[arg-type]
        epochs=2,
        adapter=adapter,
        progress=False,
    )
    first, second = drawn
    assert sorted(first) == sorted(second) == data
    assert first != second


def test_errors(pair: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    student, teacher = pair
    with pytest.raises(DepthwiseError, match="student and teacher are one module"):
        distill(teacher, teacher, loader())
    with pytest.raises(DepthwiseError, match="epochs must be at least 1; got 0"):
        distill(student, teacher, loader(), epochs=0)
    with pytest.raises(DepthwiseError, match="layers= names nothing, and the student has no such module"):
        distill(student, teacher, loader(), layers=["nothing"])
    student.add_module("idle", nn.Identity())
    teacher.add_module("idle", nn.Identity())
    student.forward = teacher.forward = lambda x: x.flatten(1)
    with pytest.raises(DepthwiseError, match="layers= names idle, and the forward does not call it"):
        distill(student, teacher, loader(), layers=["idle"], progress=False)
    with pytest.raises(DepthwiseError, match="the loader gave no batches; an iterator gives its own only once"):
        distill(student, teacher, iter([]), progress=False)
    with pytest.raises(DepthwiseError, match="a batch is a tensor, or inputs and labels; got dict; give adapter="):
        distill(student, teacher, [{"x": images(2)}], progress=False)
    with pytest.raises(DepthwiseError, match="distill needs a model that gives one tensor; this one gives tuple"):
        distill(nn.LSTM(3, 4), nn.LSTM(3, 4), [torch.zeros(2, 3)], progress=False)
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(DepthwiseError, match=r"other\.pt is no checkpoint of this fine-tuning: it holds weights"):
        distill(student, teacher, loader(), checkpoint=tmp_path / "other.pt", progress=False)
