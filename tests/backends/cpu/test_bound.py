"""Programs bound to addresses: the same result as through a call of the backend."""

import torch

from depthwise.backends.base import PointwiseTensors
from depthwise.backends.cpu.launch import decide
from depthwise.backends.cpu.pack import pack_of
from depthwise.backends.cpu.run.bound import Bound
from depthwise.backends.problem import Problem
from depthwise.geometry import geometry


def test_a_program_runs_on_the_memory_that_it_is_given() -> None:
    g = geometry((24, 5, 7), 1, out_channels=40)
    x, weight = (torch.randint(-8, 8, size).float() for size in ((2, 24, 5, 7), (40, 24, 1, 1)))
    x = x.contiguous(memory_format=torch.channels_last)
    out = torch.full((2, 40, 5, 7), torch.nan).contiguous(memory_format=torch.channels_last)
    problem = Problem("pointwise", g, torch.float32, "cpu", 2, x.stride(), out.stride())
    program = decide(problem).program
    packed = pack_of(PointwiseTensors(weight), program.pointwise)
    bound = Bound(program, 1.0, packed.addresses)
    for _ in range(2):
        bound.run({"x": x.data_ptr(), "out": out.fill_(torch.nan).data_ptr()})
        assert torch.equal(out, torch.nn.functional.conv2d(x, weight))
