"""Programs that pack weights themselves, for calls after which these change."""

from __future__ import annotations

from ....geometry import Geometry
from ..emit.fresh import FreshPanelsKernel, FreshWeightsKernel
from ..machine import Machine
from ..plan.fresh import FreshCut, FreshPlan, fresh_panels_plan
from ..plan.product import Product
from ..plan.sizes import lanes_below
from ..plan.view import View
from ..run.program import Program, Stage

# Weights that one thread has packed before a team has met.
_SERIAL_WEIGHTS = 1 << 14


def packing_itself(program: Program, g: Geometry, machine: Machine, *, turned: bool, bias: bool) -> Program:
    """The program of one convolution, packing its weights itself; `turned` is that of `with_fresh_panels`."""
    product = program.pointwise
    if isinstance(product, Product):
        return with_fresh_panels(program, product, machine, turned=turned, bias=bias)
    return with_fresh_weights(program, g, machine, turned=False, bias=bias)


def with_fresh_weights(program: Program, g: Geometry, machine: Machine, *, turned: bool, bias: bool) -> Program:
    """The same, after a stage that packs what lies at `weight`, and `bias` where there is one.

    turned: with the taps of each filter in the opposite order
    """
    filters, taps = g.depthwise_channels, g.kernel_area
    plan = FreshPlan(filters, taps, lanes_below(filters, machine.vector_lanes), turned, bias)
    cut = FreshCut(threads=1 if filters * taps < _SERIAL_WEIGHTS else program.team)
    between = ("depthwise_weight", taps * plan.tap_stride), ("depthwise_bias", filters)
    stages = Stage(FreshWeightsKernel(machine, plan), View(), cut), *program.stages
    return Program(stages, (*program.between, *between))


def with_fresh_panels(program: Program, product: Product, machine: Machine, *, turned: bool, bias: bool) -> Program:
    """The same of pointwise weights.

    turned: those of the convolution whose input's gradient the program computes
    """
    plan = fresh_panels_plan(product, turned=turned, bias=bias)
    weights, biases = plan.elements
    cut = FreshCut(threads=1 if weights < _SERIAL_WEIGHTS else program.team)
    between = ("pointwise_weight", weights), ("pointwise_bias", biases)
    return Program(
        (Stage(FreshPanelsKernel(machine, plan), View(), cut), *program.stages), (*program.between, *between)
    )
