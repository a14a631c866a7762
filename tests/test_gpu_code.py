"""Counting a GPU kernel's instructions: loops, layers, and the two ways of a pool."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "jobs" / "benchmarks"


@pytest.fixture
def gpu_code(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_code

    return gpu_code


def listing(*lines):
    """Write instructions and labels (``.L_x_1:``) as nvdisasm does."""
    return "\n".join(
        line if line.startswith(".") else f"        /*{at:04x}*/                   {line} ;"
        for at, line in enumerate(lines)
    )


def to(label):
    return f"`(.L_x_{label})"


# a step of two cells: three layers, the second in a loop, then a pool
STEP = (
    "MOV R1, c[0x0][0x28]",
    *("@P0 EXIT", ".L_x_10:", "MUFU.RSQ R1, R1", "MUFU.RSQ R2, R2", f"@!P2 BRA {to(16)}"),
    *(".L_x_18:", "BAR.SYNC 0x0", "MUFU.RSQ R1, R1", "MUFU.RSQ R2, R2", "FFMA R3, R3, R3, R3"),
    *(f"@!P3 BRA {to(17)}", "FMUL R3, R3, R3", ".L_x_17:", f"@P6 BRA {to(18)}"),
    *(".L_x_16:", "MUFU.RSQ R1, R1", "MUFU.RSQ R2, R2", f"@!P1 BRA {to(20)}"),
    *("IADD3 R4, R4, R4, R4", f"@!P4 BRA {to(21)}", "BAR.SYNC 0x0", "STS [R4], R3"),
    *(f"BRA {to(21)}", ".L_x_20:", "FADD R4, R4, R4", "FADD R5, R5, R5", ".L_x_21:"),
    *(f"@P5 BRA {to(10)}", "EXIT", ".L_x_23:", f"BRA {to(23)}"),
)


def test_loops_are_found_with_those_within_them(gpu_code):
    code = gpu_code.Code.parse(listing(*STEP))
    sizes = sorted(len(loop) for loop in code.loops)
    assert sizes == [1, 7, 21]
    assert [code.count(loop)["MUFU"] for loop in sorted(code.loops, key=len)] == [0, 2, 6]


def test_half_of_each_way_of_a_pool_is_counted_and_a_layer_as_often_as_it_is_there(gpu_code):
    code = gpu_code.Code.parse(listing(*STEP))
    step, layer = gpu_code.counts(code, 2, 3, pools=True)
    assert layer == {"MUFU": 2, "BAR": 1, "FFMA": 1, "FMUL": 1, "BRA": 2}
    assert (step["FADD"], step["STS"], step["IADD3"]) == (1, 0.5, 0.5)
    assert step.total() == 21 - (5 + 2) / 2
    deeper, same = gpu_code.counts(code, 2, 10, pools=True)
    assert same == layer
    assert deeper.total() == step.total() + 7 * 7


def test_both_ways_count_where_no_pool_tells_them_apart(gpu_code):
    code = gpu_code.Code.parse(listing(*STEP))
    assert gpu_code.counts(code, 2, 3, pools=False)[0].total() == 21
    assert gpu_code.counts(code, 2, 2, pools=False)[1] is None
    plain = (".L_x_1:", "MUFU.RSQ R1, R1", f"@P0 BRA {to(1)}", "EXIT")
    with pytest.raises(ValueError, match="no branch of the loop has barriers"):
        gpu_code.counts(gpu_code.Code.parse(listing(*plain)), 1, 1, pools=True)
