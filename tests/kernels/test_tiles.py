"""Products by tiles, as processors with AMX compute them: the bits of any other way.

No such processor is needed: tests/kernels/tiles.h computes its instructions in C, and ends the
process where a processor would refuse them.
"""

import ctypes
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_operators import CASES, SEEDS, WIDTHS, draw_layer

from aobatch.kernels import SOURCES, KernelsError, Library, find_compiler, library
from aobatch.runners import operators

try:
    OWN = library()
except KernelsError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = pytest.mark.xdist_group("tiles")  # which compile two libraries once

EMULATION = Path(__file__).parent / "tiles.h"
OLDEST = {"x86_64": "-march=haswell", "aarch64": "-march=armv8-a"}[platform.machine()]
ENOUGH = 12
"""Rows from which on tiles multiply."""


class Packed(ctypes.Structure):
    """A weight as the library packs it."""

    _fields_ = (
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("pool", ctypes.c_void_p),
        ("panels", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
    )


class Rows(ctypes.Structure):
    """Rows of bytes as the library takes them."""

    _fields_ = (
        ("count", ctypes.c_int64),
        ("bytes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
    )


class Products:
    """The products of a library, and how many of them were those of tiles."""

    def __init__(self, path: Path) -> None:
        """Open a library."""
        self._library = ctypes.CDLL(str(path))
        floats, sizes = ctypes.c_float, [ctypes.c_int64] * 2
        self._library.pack_weight.argtypes = [*[ctypes.c_void_p] * 3, floats, *sizes]
        self._library.multiply.argtypes = [*[ctypes.c_void_p] * 2, *sizes, ctypes.c_void_p]
        self._library.multiply.argtypes += [ctypes.c_int64]

    @property
    def num_of_tiles(self) -> int:
        """Count what was multiplied by tiles."""
        return ctypes.c_int64.in_dll(self._library, "num_tile_products").value

    def __call__(
        self,
        rows: NDArray[np.uint8],
        row_scales: NDArray[np.float32] | None,
        weight: NDArray[np.int8],
        scales: NDArray[np.float32],
        cut: int,
    ) -> NDArray[np.float32]:
        """Multiply in two runs, divided at a panel; what nobody may write is checked to stay."""
        inputs, outputs = weight.shape
        depth, room, panels = -(-inputs // 64) * 64, -(-len(rows) // 16) * 16, -(-outputs // 32)
        packed, lines = Packed(), np.full((room, depth), 201, np.uint8)
        lines[: len(rows), :inputs] = rows
        pointers = ctypes.byref(packed), weight.ctypes.data, scales.ctypes.data
        assert self._library.pack_weight(*pointers, 1.0, inputs, outputs)
        given_scales = None if row_scales is None else row_scales.ctypes.data
        taken = Rows(len(rows), lines.ctypes.data, given_scales)
        stride = outputs + 3
        out = np.full((len(rows) + 1, stride), -7, np.float32)
        for start, stop in ((0, cut % (panels + 1)), (cut % (panels + 1), panels)):
            target = out.ctypes.data + 4 * 32 * start
            self._library.multiply(*map(ctypes.byref, (taken, packed)), start, stop, target, stride)
        self._library.release_weight(ctypes.byref(packed))
        assert (out[:, outputs:] == -7).all()
        assert (out[-1] == -7).all()
        return out[:-1, :outputs]


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Build the operators over emulated tiles; attention, which has no products, in a hurry."""
    folder = tmp_path_factory.mktemp("tiled")
    units = {str(unit) for unit in SOURCES if unit.suffix == ".c"}
    hurried = {unit for unit in units if "attention_" in unit}
    objects = {f"{Path(unit).stem}.o" for unit in hurried}
    flags = ("-std=gnu11", "-w", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", OLDEST)
    flags += (f'-DEMULATED_TILES="{EMULATION}"',)
    for step in (
        ("-O0", "-c", *hurried),
        ("-O2", "-shared", *(units - hurried), *objects, "-o", "tiled.so", "-lm"),
    ):
        command = (*find_compiler(), *flags, *step)
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    path = folder / "tiled.so"
    return Library(path, "emulated tiles")


@CASES
@given(
    seed=SEEDS,
    num_rows=st.integers(1, 150),
    inputs=st.integers(1, 40).map(lambda count: 16 * count),
    outputs=st.integers(1, 200),
    cut=st.integers(0, 6),
)
def test_tiles_multiply_to_the_bits_of_numpy(
    tiled: Library, seed: int, num_rows: int, inputs: int, outputs: int, cut: int
) -> None:
    """Any count of rows, depth, and columns in any division; with scales of rows and without."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(np.array([0, 1, 127, 128, 129, 254, 255], np.uint8), (num_rows, inputs))
    weight = rng.choice(np.array([-127, -1, 0, 1, 90, 127], np.int8), (inputs, outputs))
    scales, row_scales = (rng.random(n, np.float32) for n in (outputs, num_rows))
    integers = (rows.astype(np.float64) - 128) @ weight.astype(np.float64)  # exact, and by BLAS
    expected = integers.astype(np.float32) * scales
    products = Products(tiled.path)

    before = products.num_of_tiles
    for path in (tiled.path, OWN.path):
        found = Products(path)(rows, None, weight, scales, cut)
        assert np.array_equal(found, expected)
        scaled = Products(path)(rows, row_scales, weight, scales, cut)
        assert np.array_equal(scaled, expected * row_scales[:, None])
    assert (products.num_of_tiles > before) == (num_rows >= ENOUGH)


@CASES
@given(
    seed=SEEDS,
    rows=st.integers(1, 300),
    widths=st.tuples(WIDTHS, WIDTHS, WIDTHS),
    vocabulary=st.integers(1, 120),
)
def test_operators_over_tiles_have_the_bits_of_those_without(
    tiled: Library, seed: int, rows: int, widths: tuple[int, int, int], vocabulary: int
) -> None:
    """By one thread and by two of ONNX Runtime's own, each of which configures tiles for itself."""
    layer = draw_layer(seed, rows, widths, vocabulary)
    own = layer.computed()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operators, "library", lambda: tiled)
        for threads in (1, 2):
            found = layer.computed(threads=threads)
            assert all(map(np.array_equal, found, own))


def test_weights_that_are_packed_and_released_at_once_keep_to_their_memory() -> None:
    """By four threads, which share pools of 32 MB; one weight is larger than a pool."""
    drawn = np.random.default_rng(0).integers(-127, 128, (512, 70_000)).astype(np.int8)

    def multiply_often(seed: int) -> bool:
        rows = np.random.default_rng(seed).integers(0, 256, (2, 512), np.uint8)
        other = np.roll(drawn, seed, axis=0)
        is_right = []
        for outputs in (33, 70_000, 2_000, 9):
            weight = np.ascontiguousarray(other[:, -outputs:])
            found = Products(OWN.path)(rows, None, weight, np.ones(outputs, np.float32), 1)
            expected = (rows.astype(np.float32) - 128) @ weight.astype(np.float32)
            is_right.append(np.array_equal(found, expected))
        return all(is_right)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(multiply_often, range(8)))


def test_where_the_system_refuses_tiles_none_is_used(tiled: Library) -> None:
    """A process without leave would end by the first instruction; the bits are the same."""
    program = f"""
import numpy as np
from pathlib import Path
from test_tiles import OWN, Products
rng = np.random.default_rng(0)
rows, weight = rng.integers(0, 256, (33, 80), np.uint8), rng.integers(-127, 128, (80, 50), np.int8)
rest = rows, None, weight, np.ones(50, np.float32), 1
refused = Products(Path({str(tiled.path)!r}))
assert np.array_equal(refused(*rest), Products(OWN.path)(*rest))
print(refused.num_of_tiles)
"""
    paths = os.pathsep.join(path for path in (str(EMULATION.parent), *sys.path) if path)
    environment = os.environ | {"REFUSE_TILES": "1", "PYTHONPATH": paths}
    command = (sys.executable, "-c", program)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


@pytest.mark.skipif(platform.machine() != "x86_64", reason="compiles for x86-64")
def test_tiles_are_asked_for_only_where_the_processor_has_them(tmp_path: Path) -> None:
    """The real instructions compile, and a library that has them runs without them elsewhere."""
    flags = ("-std=gnu11", "-O2", "-ffp-contract=fast", "-w", "-fPIC", "-shared")
    flags += (OLDEST, "-mamx-tile", "-mamx-int8", "-o", str(tmp_path / "real.so"), "-lm")
    units = [str(unit) for unit in SOURCES if unit.name in {"product.c", "tiles.c"}]
    command = (*find_compiler(), *units, *flags)
    compiled = subprocess.run(command, check=False, capture_output=True, text=True)
    if "unrecognized" in compiled.stderr:
        pytest.skip("this compiler knows no AMX")
    assert not compiled.returncode, compiled.stderr

    rng = np.random.default_rng(0)
    rows, weight = rng.integers(0, 256, (33, 80), np.uint8), rng.integers(-127, 128, (80, 50))
    rest = rows, None, weight.astype(np.int8), np.ones(50, np.float32), 1
    expected = (rows.astype(np.int64) - 128) @ weight
    assert np.array_equal(Products(tmp_path / "real.so")(*rest), expected.astype(np.float32))
