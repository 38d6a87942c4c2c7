"""Laws of the memory for keys and values: what a plan foretells is what a runner allocates."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from export_files import exported
from graph_surgery import changed, fused_cache, half_precision_cache

from aobatch.engine.config import EngineConfig
from aobatch.executors.local import open_runner
from aobatch.job.plan import Plan, Speed, Workload, plan_of
from aobatch.kernels import CacheDtype, Kernels
from aobatch.models.foreign import open_export
from aobatch.models.inspection import inspect_folder
from aobatch.models.store.folder import ModelFolder
from aobatch.runners import Chunk, RunnerConfig

EXPORTS = {
    "attention that lengthens": lambda path: exported("llama-optimum", path),
    "attention in place": lambda path: exported("llama-genai", path),
    "half precision": lambda path: changed(path, half_precision_cache),
    "keys and values in one": lambda path: changed(path, fused_cache),
}
LOAD = Workload(requests=4, sequences=4, prompt_tokens=20, longest=508)


def planned(folder: ModelFolder, runner: RunnerConfig) -> Plan:
    """Plan four long sequences."""
    config = EngineConfig(kv_cache_bytes=2**30)
    return plan_of(folder, LOAD, config, runner, Speed(1, 1, 1, 1, 1))


def allocated(folder: ModelFolder, config: RunnerConfig, plan: Plan) -> int:
    """Give the bytes of numpy's arrays once every slot of a plan is full but for one token."""
    runner = open_runner(folder, config)
    tracemalloc.start()
    runner.reserve(plan.slots, plan.capacity, [])
    for slot in range(plan.slots):
        runner.prefill([Chunk(slot, 0, np.ones(5, np.int64), 1)])
    runner.decode(np.ones(plan.slots, np.int64), np.full(plan.slots, plan.capacity - 1))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken


@pytest.mark.parametrize(
    ("kernels", "cache", "num_bytes"),
    [
        ("stock", "fp32", 768),
        ("fused", "fp32", 768),
        ("fused", "bf16", 384),
        ("fused", "int8", 3 * 2 * 2 * (16 + 4)),
    ],
)
def test_a_converted_model_takes_what_is_planned(
    tiny_int8: ModelFolder, kernels: Kernels, cache: CacheDtype, num_bytes: int
) -> None:
    """Within 5 %; inspection says the same of a token: 2 x 3 layers x 2 heads x 16 channels.

    Bytes have a scale a head, of four bytes.
    """
    config = RunnerConfig(1, kernels, cache)
    plan = planned(tiny_int8, config)
    facts = inspect_folder(tiny_int8).kv_cache[cache]

    assert (plan.slots, plan.capacity) == (4, 512)
    assert allocated(tiny_int8, config, plan) == pytest.approx(plan.kv_cache_bytes, rel=0.05)
    assert plan.kv_cache_bytes == 4 * 512 * facts.bytes_per_token == 4 * 512 * num_bytes
    assert facts.bytes_per_slot == tiny_int8.manifest.context_length * num_bytes


@pytest.mark.parametrize("kind", EXPORTS)
def test_an_export_takes_what_is_planned(kind: str, tmp_path: Path) -> None:
    """Within 5 %, whether attention writes in place or makes a longer cache."""
    folder = open_export(EXPORTS[kind](tmp_path / "export"))
    plan = planned(folder, RunnerConfig(1))

    assert allocated(folder, RunnerConfig(1), plan) == pytest.approx(plan.kv_cache_bytes, rel=0.05)
