"""NTK-aware scaling: a larger base, so that the lowest frequency is interpolated and the highest is unchanged (bloc97
2023; Peng et al. 2023, section 3.1)."""

from gptx.errors import ConfigError
from gptx.geometry.model_shape import ModelShape
from gptx.pos.range_check import at_least
from gptx.pos.rope import RoPE

ID = "pos.rope_ntk"
REVISION = 1


class RoPENTK(RoPE):
    """theta' = theta * factor^(R / (R - 2)), constant: if the base depended on the input length, rotated keys in a
    cache would be wrong."""

    def __init__(self, shape: ModelShape, dim: int, heads: int, *, theta: float, factor: float) -> None:
        at_least("factor", factor, 1, 4)
        if dim == 2:
            raise ConfigError(
                "pos=rope_ntk needs 4 or more rotated dims per head, given 2, whose one frequency it would not change; "
                "use pos=rope_linear"
            )
        super().__init__(shape, dim, heads, theta=theta)
        self.theta = theta * factor ** (dim / (dim - 2))
