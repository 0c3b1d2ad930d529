"""No positional encoding (NoPE): only the causal mask tells order (Haviv et al. 2022, Kazemnejad et al. 2023)."""

from gptx.pos.base import PositionalEncoding

ID = "pos.none"
REVISION = 1


class NoPE(PositionalEncoding):
    relative = True
