"""Graph files for tests: a converted model's graph, taken apart and put together in another way."""

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx

from aobatch.models.store.folder import ModelFolder

Change = Callable[[onnx.ModelProto], object]
NUM_ELEMENTS = 4


def changed_graph(model: ModelFolder, folder: Path, change: Change) -> Path:
    """Copy a model to a folder and change its graph; nothing of the change is checked."""
    shutil.copytree(model.path, folder, dirs_exist_ok=True)
    path = folder / "model.onnx"
    graph = onnx.load(path, load_external_data=False)
    change(graph)
    path.write_bytes(graph.SerializeToString())
    return path


def external(location: str, **entries: str) -> onnx.TensorProto:
    """Describe four floats that lie in a file; entries stand beside the location."""
    tensor = onnx.TensorProto(name="outside", data_type=onnx.TensorProto.FLOAT, dims=[NUM_ELEMENTS])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def sparse(tensor: onnx.TensorProto, *, hides_in: str) -> onnx.SparseTensorProto:
    """Make a tensor the values or the indices of a sparse one."""
    other = onnx.helper.make_tensor("other", onnx.TensorProto.INT64, [4], [0, 1, 2, 3])
    parts = {"values": other, "indices": other} | {hides_in: tensor}
    return onnx.SparseTensorProto(dims=[16], **parts)


def node_attribute(model: onnx.ModelProto) -> onnx.AttributeProto:
    """Add an attribute to a node of the graph."""
    return model.graph.node[5].attribute.add(name="hidden")


def branch(tensor: onnx.TensorProto) -> onnx.GraphProto:
    """Give a graph that has nothing but an initializer."""
    return onnx.GraphProto(name="branch", initializer=[tensor])
