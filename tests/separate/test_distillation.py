"""The fine-tuning loop: it learns, matches layers, resumes bit for bit, and says what it cannot use."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from depthwise import DepthwiseError, distill, separate_
from depthwise.separate.losses import auto, divergence, relative_squares
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
    done = distill(student, teacher, batches, adapter=lambda batch: batch["pixels"], progress=False)
    assert done.steps == 4
    streamed: DataLoader[Tensor] = DataLoader(Endless(), batch_size=16)
    assert distill(student, teacher, streamed, epochs=2, progress=False).steps == 4


def test_a_sampler_draws_another_order_each_epoch(pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = pair
    data = list(range(64))
    sampler: DistributedSampler[int] = DistributedSampler(data, num_replicas=1, rank=0)  # type: ignore[arg-type]
    drawn: list[list[int]] = []

    def adapter(batch: Tensor) -> Tensor:
        drawn.append(batch.tolist())
        return images(64)[batch]

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


class Several(nn.Module):
    """Gives an image, class logits and a constant, and takes a second input where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 1, 3), nn.Linear(3, 4)

    def forward(self, x: Tensor, shift: Tensor | None = None) -> dict[str, Any]:
        x = x if shift is None else x + shift
        return {"image": self.first(x), "more": (self.second(x.mean((2, 3))), 7, torch.arange(3))}


def apart(student: nn.Module, teacher: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        pairs = [(net(x)["image"], net(x)["more"][0]) for net in (student, teacher)]
    (image, logits), (wanted, their_logits) = pairs
    return float((image - wanted).norm() / wanted.norm() + divergence(logits, their_logits, 1.0))


def test_outputs_in_dicts_and_tuples_are_matched_term_by_term() -> None:
    teacher, student = Several(), Several()
    x = images(64)
    before = apart(student, teacher, x)
    distill(student, teacher, x.split(16), epochs=60, lr=3e-2, progress=False)
    assert apart(student, teacher, x) < 0.2 * before


@pytest.mark.parametrize(
    "head",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 1, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        lambda: nn.Conv2d(3, 1, 3),
        lambda: nn.Sequential(nn.Conv2d(3, 1, 12), nn.Flatten(0)),
        lambda: nn.Conv2d(3, 2, 3),
    ],
)
def test_a_network_of_one_output_learns(head: Any) -> None:
    torch.manual_seed(1)
    teacher, student = head(), head()
    x = images(32)
    with torch.no_grad():
        before = float((student(x) - teacher(x)).norm())
    done = distill(student, teacher, x.split(8), epochs=40, lr=2e-2, progress=False)
    assert min(done.losses) > 0
    with torch.no_grad():
        assert float((student(x) - teacher(x)).norm()) < 0.3 * before


def test_the_relative_squares_are_of_the_variance() -> None:
    wanted = torch.randn(50, 1) * 3 + 10
    given = wanted + 0.3
    assert float(relative_squares(given, wanted)) == pytest.approx(0.09 / float(wanted.var(correction=0)), rel=1e-4)
    # Of what is constant the square, and of zeros nothing.
    assert float(relative_squares(torch.full((4, 1), 3.0), torch.full((4, 1), 2.0))) == pytest.approx(0.25)
    assert float(relative_squares(torch.full((4, 1), 3.0), torch.zeros(4, 1))) == 9


def test_a_loss_of_the_users(pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = pair
    done = distill(
        student,
        teacher,
        loader(),
        epochs=3,
        loss=lambda given, wanted: (given - wanted).abs().mean(),
        progress=False,
    )
    assert done.losses[-1] < done.losses[0]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda given, wanted: given - wanted, r"loss= gives a scalar tensor .*; got shape \(64, 5\)"),
        (lambda given, wanted: 1.0, "loss= gives a scalar tensor .*; got type float"),
        (lambda given, wanted: torch.zeros(()), "the loss does not depend on the student's parameters"),
        (lambda given, wanted: given.sum() * float("nan"), "the loss is nan, and a step would spoil the student"),
        ("kl", "loss is \"auto\", or takes the student's output and the teacher's; got 'kl'"),
    ],
)
def test_a_loss_that_cannot_be_used(pair: tuple[nn.Module, nn.Module], loss: Any, message: str) -> None:
    student, teacher = pair
    before = deepcopy(student.state_dict())
    with pytest.raises(DepthwiseError, match=message):
        distill(student, teacher, images(64), loss=loss, progress=False)
    for name, parameter in student.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_outputs_that_do_not_belong_together() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(DepthwiseError, match=r"the output\['a'\] is of shape \(2, 3\) by the student and \(2, 1\)"):
        auto({"a": x}, {"a": x[:, :1]}, 1.0)
    with pytest.raises(DepthwiseError, match="the output is another by the student, dict of a, than by the teacher"):
        auto({"a": x}, {"b": x}, 1.0)
    with pytest.raises(DepthwiseError, match=r"the output\[1\] is another by the student, list of 0, than"):
        auto((x, []), (x, x), 1.0)
    with pytest.raises(DepthwiseError, match="the networks give Tensor without a floating-point tensor to match"):
        auto(x.long(), x.long(), 1.0)


@pytest.mark.parametrize(
    "batches",
    [
        lambda x: [((x, 0 * x[:, :, :1, :1]),)],
        lambda x: [[(x, 0 * x[:, :, :1, :1]), torch.arange(len(x))]],
        lambda x: [{"x": x, "shift": 0 * x[:, :, :1, :1]}],
        lambda x: [{"x": x}],
        lambda x: [(x, torch.arange(len(x)))],
        lambda x: (x,),
        lambda x: x,
        lambda x: {"x": x},
        lambda x: iter([x]),
        lambda x: DataLoader(TensorDataset(x, torch.arange(len(x))), batch_size=len(x)),
    ],
)
def test_a_batch_is_the_same_however_it_is_given(batches: Any) -> None:
    teacher = Several()
    student, other = (Several() for _ in range(2))
    other.load_state_dict(student.state_dict())
    x = images(16)
    expected = distill(other, teacher, [x], progress=False)
    assert distill(student, teacher, batches(x), progress=False) == expected
    for name, value in other.state_dict().items():
        assert torch.equal(student.state_dict()[name], value), name


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_trains_whatever_surrounds_it(pair: tuple[nn.Module, nn.Module], context: Any) -> None:
    student, teacher = pair
    plain = deepcopy(student)
    expected = distill(plain, teacher, loader(), progress=False)
    with context():
        assert distill(student, deepcopy(teacher), [x.clone() for x in loader()], progress=False) == expected


def test_every_module_of_the_teacher_keeps_its_mode(pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = pair
    teacher.get_submodule("1").train()
    distill(student, teacher, loader()[:1], progress=False)
    assert [name for name, module in teacher.named_modules() if module.training] == ["1"]


def test_an_optimizer_from_before_the_separation() -> None:
    teacher = convolutional()
    student = deepcopy(teacher)
    before = torch.optim.SGD(student.parameters(), 0.01)
    convolutions = [parameter for parameter in student.parameters() if parameter.dim() == 4]
    only_those = torch.optim.SGD(convolutions, 0.01)
    separate_(student, budget=0.25, input_size=(3, 12, 12))
    with pytest.warns(UserWarning, match="optimizer= leaves out 6 of the student's 14 parameters that require"):
        distill(student, teacher, loader()[:1], optimizer=before, progress=False)
    student.requires_grad_(False)
    for layer in student:
        if "pointwise" in dict(layer.named_children()):
            layer.requires_grad_(True)
    with pytest.raises(DepthwiseError, match="optimizer= leaves out 6 of the student's 6 parameters"):
        distill(student, teacher, loader()[:1], optimizer=only_those, progress=False)


class Broken:
    """Gives one batch and then fails."""

    def __iter__(self) -> Iterator[Tensor]:
        yield images(8)
        raise RuntimeError("the disk is gone")


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (None, {}, "loader is a tensor, a batch or an iterable of batches; got NoneType"),
        (TensorDataset(images(8)), {}, "loader is a data set, TensorDataset, which gives single samples; wrap it in a"),
        (DataLoader(TensorDataset(images(0)), 4), {}, "the loader has no batches: its length is 0"),
        (Broken(), {}, "the loader failed after 1 batches: RuntimeError: the disk is gone"),
        (iter([images(8)]), {"epochs": 2}, "the loader is an iterator, .* and epochs=2 goes through them 2 times"),
        ([images(8).log()], {}, "a training batch holds NaN; leave such samples out"),
        ([images(8) / 0.0], {}, "a training batch holds NaN|the loss is nan"),
        ([images(8, channels=4)], {}, r"the teacher failed on a training batch of \(8, 4, 12, 12\): RuntimeError"),
        (["text"], {}, "a training batch is a tensor, or a tuple or dict with tensors; got str; give adapter="),
        ([images(8)], {"adapter": lambda batch: batch.x}, "adapter= failed on a training batch: AttributeError"),
        ([images(8)], {"adapter": 3}, "adapter is something to call; got 3"),
        ([images(8)], {"on_epoch": 3}, "on_epoch is something to call; got 3"),
        ([images(8)], {"epochs": 1.5}, "epochs must be an integer; got 1.5"),
        ([images(8)], {"lr": 0}, "lr is a finite number above 0; got 0"),
        ([images(8)], {"lr": 10**5000}, "lr is a finite number above 0; got a number beyond 64 bits"),
        ([images(8)], {"temperature": 0}, "temperature is a finite number above 0; got 0"),
        ([images(8)], {"temperature": float("nan")}, "temperature is a finite number above 0; got nan"),
        ([images(8)], {"temperature": "4"}, "temperature is a finite number above 0; got '4'"),
        ([images(8)], {"layer_weight": -1}, "layer_weight is a finite number of at least 0; got -1"),
        ([images(8)], {"labels_weight": float("inf")}, "labels_weight is a finite number of at least 0; got inf"),
        (
            [images(8)],
            {"labels_weight": 1},
            r"labels_weight= needs batches of inputs and labels, .*; got NoneType",
        ),
        (
            [(images(8), torch.ones(3))],
            {"labels_weight": 1},
            r"labels of shape \(3,\) and torch.float32 do not fit",
        ),
        (
            [images(8)],
            {"autocast": torch.float32},
            "autocast is torch.bfloat16, torch.float16 or None; got",
        ),
        (
            [images(8)],
            {"optimizer": "adam"},
            "optimizer is one of torch.optim over .*; got 'adam'",
        ),
        ([images(8)], {"layers": "nothing"}, "layers= names nothing, and the student has no such module"),
    ],
)
def test_what_comes_from_outside_is_checked(
    pair: tuple[nn.Module, nn.Module], data: Any, options: dict[str, Any], message: str
) -> None:
    student, teacher = pair
    with pytest.raises(DepthwiseError, match=message):
        distill(student, teacher, data, progress=False, **options)


def test_networks_that_cannot_be_trained(pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = pair
    for student_, teacher_, whose in ((None, teacher, "student"), (student, "net", "teacher")):
        with pytest.raises(DepthwiseError, match=rf"the {whose} is a torch\.nn\.Module; got "):
            distill(student_, teacher_, loader())  # type: ignore[arg-type]
    with pytest.raises(DepthwiseError, match=r"the student has no weights yet: 0\.weight is lazy, or on"):
        distill(nn.Sequential(nn.LazyConv2d(4, 3)), teacher, loader())
    with pytest.raises(DepthwiseError, match=r"the teacher has no weights yet: 0\.weight is lazy, or on"):
        distill(student, nn.Sequential(nn.Conv2d(3, 4, 3, device="meta")), loader())
    with torch.inference_mode():
        made = convolutional()
    with pytest.raises(DepthwiseError, match=r"the student's 0\.weight was made in inference mode and cannot be"):
        distill(made, teacher, loader())
    # As a teacher it will do.
    assert distill(deepcopy(made), made, loader()[:1], progress=False).steps == 1
    teacher.add_module("extra", student.get_submodule("0"))
    with pytest.raises(DepthwiseError, match=r"student and teacher share the parameter 0\.\w+\.weight, and"):
        distill(student, teacher, loader())
    student.requires_grad_(False)
    with pytest.raises(DepthwiseError, match="no parameter of the student requires a gradient"):
        distill(student, teacher, loader())


def test_labels_need_classes() -> None:
    student, teacher = (nn.Sequential(nn.Conv2d(3, 1, 12), nn.Flatten()) for _ in range(2))
    with pytest.raises(DepthwiseError, match=r"labels_weight= needs logits of several classes, .*; got \(4, 1\)"):
        distill(student, teacher, [(images(4), torch.zeros(4).long())], labels_weight=1, progress=False)


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
    student, teacher = (nn.Sequential(nn.LSTM(3, 4)) for _ in range(2))
    with pytest.raises(DepthwiseError, match="layers= names 0, which gives tuple, not one tensor; leave it out"):
        distill(student, teacher, [torch.zeros(2, 3)], layers=["0"], progress=False)


def test_a_file_that_is_no_checkpoint(pair: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    student, teacher = pair
    calls: list[int] = []

    def run(name: str) -> None:
        distill(
            student,
            teacher,
            loader(),
            checkpoint=tmp_path / name,
            on_epoch=lambda epoch, _: calls.append(epoch),
            progress=False,
        )

    torch.save({"weights": 1}, tmp_path / "other.pt")
    torch.save([1], tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "folder.pt").mkdir()
    distill(student, teacher, loader(), checkpoint=tmp_path / "good.pt", progress=False)
    good = torch.load(tmp_path / "good.pt", weights_only=True)
    torch.save({**good, "losses": ["low"]}, tmp_path / "losses.pt")
    torch.save({**good, "student": {}}, tmp_path / "student.pt")
    for name, message in (
        ("other.pt", r"other\.pt is no checkpoint of this fine-tuning: it holds weights"),
        ("list.pt", r"list\.pt is no checkpoint of this fine-tuning: it holds a list"),
        ("text.pt", r"text\.pt is no checkpoint of this fine-tuning: "),
        ("empty.pt", r"empty\.pt is no checkpoint of this fine-tuning: "),
        ("losses.pt", r"losses\.pt is no checkpoint of this fine-tuning: its losses or steps are no numbers"),
        ("student.pt", r"student\.pt does not fit this fine-tuning: its student: .*Missing key"),
        ("folder.pt", r"checkpoint=.*folder\.pt' cannot be written or read: "),
        ("no/such.pt", r"checkpoint=.*no/such\.pt' cannot be written or read: "),
    ):
        with pytest.raises(DepthwiseError, match=f"(?s){message}"):
            run(name)
    assert not calls
