"""What an exported graph takes and gives, whichever tool wrote it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its name, numpy type and dimensions, None where a name stands."""

    name: str
    dtype: str
    dimensions: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class CacheTensor:
    """Keys or values of one layer, or both: what goes in, what comes out, and where tokens lie."""

    layer: int
    past: str
    present: str
    dtype: str
    dimensions: tuple[int, ...]
    """0 stands for the batch and for the tokens."""
    batch_axis: int
    token_axis: int

    def shape(self, num_rows: int, num_tokens: int) -> tuple[int, ...]:
        """Give the shape for so many rows of so many tokens."""
        sizes = list(self.dimensions)
        sizes[self.batch_axis], sizes[self.token_axis] = num_rows, num_tokens
        return tuple(sizes)


@dataclass(frozen=True, slots=True)
class Layout:
    """One graph's inputs and outputs by their roles; None where the graph does not ask for one."""

    input_ids: Port
    attention_mask: Port | None
    position_ids: Port | None
    use_cache_branch: Port | None
    num_logits_to_keep: Port | None
    logits: Port
    caches: tuple[CacheTensor, ...]
    shares_buffers: bool
    """Whether attention writes into the cache it reads (GroupQueryAttention); otherwise it makes a
    longer one."""
    vocab_size: int
    num_kv_heads: int
    head_dim: int
    precision: str
    """How the weights are kept."""

    @property
    def has_one_row(self) -> bool:
        """Whether the graph was exported for a batch of one."""
        return self.input_ids.dimensions[0] == 1


@dataclass(frozen=True, slots=True)
class Hints:
    """Sizes in the files beside a graph, for those that it leaves open; 0 if there are none."""

    vocab_size: int = 0
    num_kv_heads: int = 0
    head_dim: int = 0
