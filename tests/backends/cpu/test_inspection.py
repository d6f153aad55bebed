"""What is generated can be read: plan, IR and assembly, for this machine and for others."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any

import pytest

from depthwise import DepthwiseError
from depthwise.backends.cpu import machine
from depthwise.backends.cpu.inspection import MACHINES, inspect
from depthwise.backends.cpu.plan.depthwise import DepthwisePlan
from depthwise.backends.cpu.plan.direct import DirectPlan
from depthwise.backends.cpu.plan.planar import PlanarPlan
from depthwise.backends.cpu.plan.pointwise import PointwisePlan
from depthwise.backends.cpu.run import jit
from depthwise.geometry import geometry

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")

BLOCK = geometry((32, 14, 14), 3, padding=1, out_channels=40)
ALONE = geometry((32, 14, 14), 3, 2, padding="same")
# Each register of the widest vectors that code for an instruction set names, and its fused multiply-add.
ASSEMBLY = {
    "avx512": (r"%zmm\d", r"vfmadd\d+ps"),
    "avx2": (r"%ymm\d", r"vfmadd\d+ps"),
    "neon": (r"v\d+\.4s", r"fmla"),
}


def isas() -> list[str | None]:
    x86 = machine.host() is not None and str(machine.host()).find("x86_64") > 0
    return [None, "neon", *(["avx2"] if x86 else [])]


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.parametrize("g", [BLOCK, ALONE], ids=["separable", "depthwise"])
def test_everything_can_be_read(g: Any, layout: Any, isa: str | None) -> None:
    found = inspect(g, layout=layout, isa=isa)
    target = found.decision.program.machine
    assert target.isa == (isa or target.isa)
    plan = found.plan
    assert plan.splitlines()[0] == found.decision.program.name
    stages = found.decision.program.stages
    kinds: list[Any] = [type(part) for stage in stages for part in (*stage.kernel.plans, stage.cut)]
    assert kinds[0] in (DepthwisePlan, DirectPlan)
    assert bool({PlanarPlan, PointwisePlan} & {*kinds}) is (g.out_channels is not None)
    for kind in kinds:
        assert f"\n{kind.__name__}\n" in plan
        for field in fields(kind):
            assert re.search(rf"^  {field.name} +\S", plan, re.MULTILINE)
    assert found.ir.count("define void @kernel(ptr %frame, i64 %thread, i64 %threads)") == len(stages)
    vector, fma = ASSEMBLY[target.isa]
    assert re.search(vector, found.assembly)
    assert re.search(fma, found.assembly)


def test_restricted_code_stays_within_its_machine() -> None:
    for isa in isas()[1:]:
        assert "zmm" not in inspect(BLOCK, isa=isa).assembly
    assert set(MACHINES) == {"avx2", "neon"}


def test_what_is_shown_is_what_runs() -> None:
    found = inspect(BLOCK, batch=3, activations=(("relu6", 0.0), ("leaky_relu", 0.1)), residual=True)
    name = found.decision.name
    assert "relu60.0" in name
    assert "leaky_relu0.1" in name
    assert "_residual" in name
    assert found.ir == found.decision.program.ir()
    # The assembler takes what was printed for what is loaded.
    assert jit.compile_object(found.ir, found.decision.program.machine).startswith(b"\x7fELF")


def test_batch_and_size_are_not_in_the_code() -> None:
    wide = replace(BLOCK, input_size=(32, 28, 14))
    assert inspect(BLOCK, batch=1).ir == inspect(BLOCK, batch=7).ir
    assert inspect(replace(ALONE, input_size=(32, 31, 15))).ir == inspect(ALONE).ir
    assert inspect(wide).plan != inspect(BLOCK).plan


@pytest.mark.parametrize("isa", ["sse2", "AVX2", ""])
def test_unknown_machines(isa: str) -> None:
    with pytest.raises(DepthwiseError, match=f"isa is one of avx2, neon, or None for this machine; got '{isa}'"):
        inspect(BLOCK, isa=isa)
