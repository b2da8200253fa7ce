"""The same results where no compiler runs, where bounds are checked, and on other processors.

Each of them is a process of its own with an empty cache; those that compile everything are slow.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

# Every row of the table, values and gradients, and some larger shapes; run in a fresh process.
CHECK_TABLE = """
import sys, warnings
warnings.simplefilter("error")
sys.path.insert(0, {tests!r})
import numpy as np
{before}
from cases import CASES
from numeric import directional
import minidl as md

def near(a, b, rtol, case):
    b = np.asarray(b)
    assert a.shape == b.shape, str(case)
    assert np.abs(a - b).max(initial=0) <= rtol * max(np.abs(b).max(initial=0), 1e-30), str(case)

def check(case, dtype):
    inputs, fixed = case.draw(dtype)
    tensors = [md.Tensor(x, requires_grad=True) for x in inputs]
    y = case.run(tensors, fixed)
    y = y[0] if isinstance(y, tuple) else y
    wide = {{k: v.astype(float) if v.dtype.kind == "f" else v for k, v in fixed.items()}}
    inputs = [x.astype(float) for x in inputs]
    def expect(*inputs):
        expected = case.expect(inputs, wide)
        return expected[0] if isinstance(expected, tuple) else expected
    near(y.numpy(), expect(*inputs), 1e-12 if dtype is np.float64 else case.rtol32, case)
    u = np.asarray(np.random.default_rng(1).standard_normal(y.shape))
    y.backward(u.astype(dtype))
    for i, x in enumerate(inputs):
        v = np.random.default_rng(2).standard_normal(x.shape)
        wanted = directional(lambda *xs: (expect(*xs) * u).sum(), inputs, i, v)
        scale = max(np.linalg.norm(tensors[i].grad) * np.linalg.norm(v), 1e-3)
        rtol = 1e-8 if dtype is np.float64 else 2 * case.rtol32
        assert abs((tensors[i].grad * v).sum() - wanted) <= rtol * scale, (str(case), i)

chosen = [case for case in CASES if {chosen}]
assert len(chosen) > {least}, len(chosen)
for case in chosen:
    for dtype in (np.float32, np.float64):
        check(case, dtype)
{after}
print("equal")
"""

# np.empty full of NaN: what is read before it is written shows.
GARBAGE = """
original = np.empty
def garbage(shape, dtype=float, *args, **options):
    array = original(shape, dtype, *args, **options)
    if array.dtype.kind == "f":
        array.fill(np.nan)
    return array
np.empty = garbage
np.empty_like = lambda a, dtype=None, **o: garbage(np.shape(a), dtype or a.dtype)
"""

# Shapes that reach the borders of blocks, and the algorithms that small ones do not take.
LARGE = """
import reference
for x, w, s in [((1, 13, 14, 35), (3, 3, 35, 70), 1), ((2, 9, 9, 70), (3, 3, 70, 65), 1),
                ((1, 30, 31, 3), (3, 3, 3, 5), 2), ((1, 5, 5, 90), (3, 3, 90, 40), 1)]:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in (x, w))
    leaves = [md.Tensor(a, requires_grad=True) for a in (x, w)]
    y = md.functional.conv2d(*leaves, stride=s, padding=1)
    gy = rng.standard_normal(y.shape).astype(np.float32)
    y.backward(gy)
    near(y.numpy(), reference.conv_nd(x.astype(float), w.astype(float), None, s, 1), 3e-5, "large")
    doubles = [md.Tensor(a.astype(float), requires_grad=True) for a in (x, w)]
    md.functional.conv2d(*doubles, stride=s, padding=1).backward(gy.astype(float))
    for single, double in zip(leaves, doubles):
        near(single.grad, double.grad, 3e-5, "large")
"""

X86 = "+sse,+sse2"
AVX2 = X86 + ",+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2"
PROCESSORS = {
    "x86-64": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": X86},
    "avx2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": AVX2},
}


def _run(script, folder, timeout=600, **variables):
    """Output of a script in a process with an empty cache in `folder`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "MINIDL_"))}
    environment = {**kept, "MINIDL_CACHE_DIR": str(folder), "MINIDL_QUIET": "1", **variables}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=timeout,
        env=environment, cwd=TESTS.parent,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def _has(feature):
    import llvmlite.binding as llvm

    return "x86" in llvm.get_process_triple() and llvm.get_host_cpu_features().get(feature, False)


def _table(chosen="True", before="", after="", least=100):
    return CHECK_TABLE.format(
        tests=str(TESTS), chosen=chosen, before=before, after=after, least=least
    )


@pytest.mark.parametrize(
    "processor", ["host", "x86-64", pytest.param("avx2", marks=pytest.mark.slow)]
)
def test_without_a_compiler(processor, tmp_path):
    """Kernels as plain Python: an index out of range raises, what was never written is garbage."""
    if processor != "host" and not _has("sse2"):
        pytest.skip("not this family of processors")
    script, settings = _table(before=GARBAGE, after=LARGE), PROCESSORS.get(processor, {})
    assert _run(script, tmp_path, NUMBA_DISABLE_JIT="1", **settings) == "equal\n"


@pytest.mark.slow
def test_with_bounds_checks(tmp_path):
    assert _run(_table(after=LARGE), tmp_path, NUMBA_BOUNDSCHECK="1") == "equal\n"


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS)
def test_on_another_processor(processor, tmp_path):
    if not _has("avx2" if processor == "avx2" else "sse2"):
        pytest.skip("this processor cannot stand in for it")
    assert _run(_table(after=LARGE), tmp_path, **PROCESSORS[processor]) == "equal\n"


RELU = """
import numpy as np
from minidl import functional as F
from minidl.kernels import jit
print(F.relu(np.float32([-1, 2])).data.tolist(), jit.cache_folder())
"""


@pytest.mark.slow
def test_where_no_cache_can_be_written(tmp_path):
    """The folder cannot be made: a file is in its place. Everything works, compiled anew."""
    (tmp_path / "file").write_text("in the way")
    blocked = tmp_path / "file" / "cache"
    assert _run(RELU, blocked) == "[0.0, 2.0] None\n"


def test_the_cache_is_where_it_was_asked_for(tmp_path):
    output = _run(RELU, tmp_path)
    assert output.startswith(f"[0.0, 2.0] {tmp_path}")
    kept = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert {".nbi", ".nbc"} <= kept
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}
    assert _run(RELU, tmp_path) == output
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")} == written


def test_compiling_is_announced(tmp_path):
    """Silence while something compiles would look like a crash."""
    environment = {**os.environ, "MINIDL_CACHE_DIR": str(tmp_path)}
    environment.pop("MINIDL_QUIET", None)
    result = subprocess.run(
        [sys.executable, "-c", RELU], capture_output=True, text=True, timeout=120,
        env=environment, cwd=TESTS.parent,
    )  # fmt: skip
    assert "minidl: compiling elementwise._relu (once; kept for later runs)" in result.stderr
