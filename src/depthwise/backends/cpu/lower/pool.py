"""A pooling becomes one stage."""

from __future__ import annotations

from ...pixels import Pool
from ..emit.pool import PoolKernel
from ..machine import Machine
from ..plan.pool import pool_plan, windows
from ..plan.view import view_of
from ..run.program import Program, Stage
from .decision import Decision, dense_strides, of_pixels


def lower_pool(problem: Pool, machine: Machine, threads: int) -> Decision:
    view = view_of(problem.geometry, problem.images, dense_strides(problem.geometry, channels_last=True))
    kernel = PoolKernel(machine, pool_plan(problem, machine))
    return of_pixels(Program((Stage(kernel, view, windows(problem, threads)),)))
