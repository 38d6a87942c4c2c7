"""Everything that is to be known of a model which can run, without loading its weights."""

from collections import Counter
from pathlib import Path

import msgspec
from onnx import TensorProto

from aobatch.models.checks.graph import check_graph
from aobatch.models.checks.operators import EXPORTED, OURS
from aobatch.models.checks.tensors import stored_bytes
from aobatch.models.checks.tokenizer import check_tokenizer
from aobatch.models.facts import ModelFacts, cache_facts, token_texts
from aobatch.models.folder import MANIFEST, ModelFolder, has_file
from aobatch.models.manifest import Manifest

_NAMES = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64"}

_DESCRIBED = [name for name in Manifest.__struct_fields__ if name in ModelFacts.__struct_fields__]
"""What a model.toml says in the same words."""


def inspect_folder(folder: ModelFolder) -> ModelFacts:
    """Give the facts of a model; ModelError if its graph or its tokenizer is not to be read."""
    manifest = folder.manifest
    is_ours = has_file(folder.path, MANIFEST)
    named = {
        *manifest.eos_token_ids,
        *manifest.infill_token_ids,
        manifest.document_start_token_id,
    }
    caches = cache_facts(
        manifest.num_layers, manifest.num_kv_heads, manifest.head_dim, manifest.context_length
    )
    if not manifest.int8_cache.digest:
        del caches["int8"]
    facts = ModelFacts(
        **{name: getattr(manifest, name) for name in _DESCRIBED},
        path=str(folder.path),
        layout=f"aobatch {manifest.format}" if is_ours else "exported ONNX graph",
        is_usable=True,
        reason="",
        size_bytes=folder.size_bytes,
        dtypes=_dtypes(folder.graph(), is_ours=is_ours),
        token_texts=token_texts(check_tokenizer(folder.tokenizer), named),
        kv_cache=caches,
    )
    return facts if is_ours else msgspec.structs.replace(facts, int8_cache=None)


def _dtypes(graph: Path, *, is_ours: bool) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for tensor in check_graph(graph, OURS if is_ours else EXPORTED).graph.initializer:
        name = str(TensorProto.DataType.Name(tensor.data_type)).lower()
        sizes[_NAMES.get(name, name)] += stored_bytes(tensor)
    return dict(sizes.most_common())
