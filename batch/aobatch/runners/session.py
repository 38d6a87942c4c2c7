"""ONNX Runtime sessions: how they are opened, and whether this processor multiplies rightly."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from aobatch.errors import ModelError
from aobatch.kernels import Library
from aobatch.models.spec import MICROSOFT

# Packages of ONNX Runtime note what they are used for, under ~/.cache, and send it to their makers
# unless this is set before they are loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

Session: TypeAlias = Any
"""An onnxruntime.InferenceSession, which has no types."""
Entries: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values of a session's configuration."""

UNPACKED = ("session.disable_prepacking", "1")
"""The entry under which float weights are used where they are, in a mapped file.

They are not packed into memory then, which makes small batches slow.
"""
SLEEPING = ("session.intra_op.allow_spinning", "0")
"""The entry under which threads that have nothing to do leave their core to others at once."""
_SLOW_BUT_RIGHT = ("session.x64quantprecision", "1")


def open_session(
    model: Path | bytes, threads: int, entries: Entries = (), operators: Library | None = None
) -> Session:
    """Open a session on the CPU; ModelError if ONNX Runtime refuses the model.

    Nothing that comes with a model configures it: no settings out of its metadata, no other format
    than ONNX, no library of operators. `operators` is our own library of them.
    """
    os.environ["ORT_LOAD_CONFIG_FROM_MODEL"] = "0"
    # The tiled attention loops over ragged rows one by one; the plain one measured twice as fast.
    os.environ.setdefault("ORT_GQA_DISABLE_FLASH_ATTENTION", "1")
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    # Shapes change with every batch; remembered memory plans would pile up.
    settings.enable_mem_pattern = False
    for name, value in (("session.load_model_format", "ONNX"), *entries):
        settings.add_session_config_entry(name, value)
    source = model if isinstance(model, bytes) else str(model)
    try:
        if operators is not None:
            settings.register_custom_ops_library(str(operators.path))
        # A fallback would announce itself on standard output, and be the same provider again.
        return onnxruntime.InferenceSession(
            source, settings, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # the library raises half a dozen unrelated types
        where = "a model" if isinstance(model, bytes) else str(model)
        message = f"ONNX Runtime cannot open {where}: {first_line(error)}"
        raise ModelError(message) from error


class RunError(RuntimeError):
    """ONNX Runtime could not compute a run, or was told not to."""


class Interruption:
    """A switch by which another thread ends runs early, within one operator of the graph."""

    def __init__(self) -> None:
        import onnxruntime

        self._options = onnxruntime.RunOptions()
        # ONNX Runtime would write to standard error that it was told to end.
        self._options.log_severity_level = 4

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let runs fail while the block lasts."""
        self._options.terminate = True
        try:
            yield
        finally:
            self._options.terminate = False

    def run(self, session: Session, binding: Any) -> None:  # noqa: ANN401 - untyped library
        """Compute into bound memory; MemoryError if there is too little."""
        try:
            session.run_with_iobinding(binding, self._options)
        except Exception as error:  # the library raises half a dozen unrelated types
            if "allocate memory" in str(error) or "bad_alloc" in str(error):
                raise MemoryError(first_line(error)) from error
            raise RunError(first_line(error)) from error


def integer_entries() -> Entries:
    """Find the session entries under which U8S8 products are exact on this processor.

    x86 processors without VNNI add pairs of products in 16 bits, which saturates with full-range
    weights; ONNX Runtime then has to be told to multiply in another way, slower and exact. A
    product of extreme values against numpy decides. Raises ModelError if no way is exact.
    """
    for entries in ((), (_SLOW_BUT_RIGHT,)):
        if _is_exact(entries):
            return entries
    message = "8-bit products are wrong on this processor; use a model of precision fp32"
    raise ModelError(message)


def open_exactly(graph: Path, threads: int, entries: Entries = ()) -> Session:
    """Open a session of one of our graphs whose 8-bit products are exact on this processor.

    What ONNX Runtime is told holds for constant weights alone. An expert's is read when it is
    chosen: where pairs would saturate, its bytes are made unsigned behind that.
    """
    exact, source = integer_entries(), None
    if exact:
        # Few processors need it, and what it imports takes as long to load as a model.
        from aobatch.models.convert.experts import with_unsigned_experts

        source = with_unsigned_experts(graph)
    if source is None:
        return open_session(graph, threads, (*exact, *entries))
    folder = ("session.model_external_initializers_file_folder_path", str(graph.parent))
    return open_session(source, threads, (*exact, folder, *entries))


def _is_exact(entries: Entries) -> bool:
    depth, width = 128, 64
    rng = np.random.default_rng(0)
    weight = rng.choice(np.array([-127, 127], np.int8), (depth, width))
    weight[:, 0] = 127
    rows = rng.choice(np.array([0, 255], np.uint8), (17, depth))
    rows[0] = 255
    expected = (rows.astype(np.int64) - 128) @ weight.astype(np.int64)
    session = open_session(_product_model(weight), 1, entries)
    (product,) = session.run(None, {"rows": rows})
    return bool((product == expected).all())


def _product_model(weight: np.ndarray) -> bytes:
    import onnx_ir as ir  # what fused operators do without takes as long to load as a model

    from aobatch.models.convert.writer import GraphWriter

    graph = GraphWriter("self_test")
    rows = graph.input("rows", ir.DataType.UINT8, ["N", weight.shape[0]])
    product = graph.node(
        "MatMulIntegerToFloat",
        rows,
        graph.weight("weight", weight),
        graph.weight("row.scale", np.array(1, np.float32)),
        graph.weight("column.scales", np.ones(weight.shape[1], np.float32)),
        graph.weight("zero.point", np.array(128, np.uint8)),
        name="product",
        domain=MICROSOFT,
    )
    graph.output(product, "product", ir.DataType.FLOAT, ["N", weight.shape[1]])
    return bytes(ir.to_proto(graph.model()).SerializeToString())


def first_line(error: Exception) -> str:
    """Shorten what ONNX Runtime says of an error, perhaps nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:300].rstrip() if lines else type(error).__name__
