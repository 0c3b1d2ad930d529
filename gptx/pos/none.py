"""No positional encoding (NoPE): only the causal mask distinguishes the order of tokens (Haviv et al. 2022, Kazemnejad
et al. 2023)."""

from gptx.pos.base import PositionalEncoding

ID = "pos.none"
REVISION = 1


class NoPE(PositionalEncoding):
    """No encoding in any of the four places."""

    relative = True
