"""AdamW (Loshchilov and Hutter 2019), torch's own implementation."""

from torch.optim import AdamW

__all__ = ["AdamW"]
