"""The sizes of a model that every variant may read. Plain numbers, no torch."""

from dataclasses import dataclass

from gptx.errors import ConfigError


@dataclass(frozen=True)
class ModelShape:
    """Sizes that all variants share. Sizes of one variant only are keyword arguments of its class and keys of its YAML.

    Attributes:
        n_layer: number of blocks.
        n_head: number of query heads.
        d_model: width of the residual stream.
        context: trained sequence length in tokens.
        vocab_size: number of rows of the token embedding.
        dropout: probability in [0, 1), applied as in GPT-2: to embeddings, attention weights and residual branches.
        bias: whether linear layers and layer norms have a bias.

    Raises:
        ConfigError: a size is out of range, or ``d_model`` is not divisible by ``n_head``.
    """

    n_layer: int
    n_head: int
    d_model: int
    context: int
    vocab_size: int
    dropout: float
    bias: bool

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "d_model", "context", "vocab_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name}={getattr(self, name)}: expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout={self.dropout}: expected 0 <= dropout < 1")
        if self.d_model % self.n_head:
            step = 2 * self.n_head  # an even head_dim works with every encoding
            raise ConfigError(
                f"model.d_model={self.d_model} is not divisible by model.n_head={self.n_head}; "
                f"use model.d_model={step * max(1, round(self.d_model / step))}"
            )

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_head
