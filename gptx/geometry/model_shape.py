"""What every part may know of the model it is built for: plain numbers, no torch."""

from dataclasses import dataclass

from gptx.errors import ConfigError


@dataclass(frozen=True)
class ModelShape:
    """The sizes that variants share; a variant's own numbers are its keyword arguments, named in its YAML.

    Attributes:
        context: trained sequence length in tokens.
        dropout: probability, in 0..1, wherever GPT-2 drops (embeddings, attention weights, residual branches).
        bias: whether linear layers and layer norms carry a bias.
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
            even = 2 * self.n_head  # an even head_dim suits every encoding
            raise ConfigError(
                f"model.d_model={self.d_model} is not divisible by model.n_head={self.n_head}: "
                f"{even * max(1, round(self.d_model / even))} would be"
            )

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_head
