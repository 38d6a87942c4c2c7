"""The largest model files that are read; each is far beyond any decoder known."""

MAX_GRAPH_BYTES = 2 << 30
MAX_PARSED_BYTES = 256 << 20
"""Memory for a graph beside its weights; one of 80 layers takes 40 MB."""
MAX_NESTING = 64
MAX_ELEMENTS = 1 << 40
MAX_RANK = 8
MAX_STATIC_ELEMENTS = 1 << 26
"""Elements of a tensor whose size stands in an exported graph."""
MAX_LAYERS = 1024
MAX_WIDTH = 1 << 22
"""Tokens in a vocabulary, channels of a layer, positions of a context."""
MAX_MANIFEST_BYTES = 64 << 10
MAX_TOKENIZER_BYTES = 64 << 20
MAX_ADDED_TOKENS = 65_536
MAX_SAFETENSORS_HEADER_BYTES = 100_000_000
MAX_SAFETENSORS_TENSORS = 65_536
