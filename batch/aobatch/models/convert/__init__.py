"""From a checkpoint to a model folder: folded weights, the graph, the quality gate."""
