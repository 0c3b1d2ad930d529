"""Initialisation of a model's weights."""

import math
import zlib

import torch
from torch import nn

from gptx.model.gpt import GPT


def initialise(model: GPT, seed: int) -> None:
    """Initialise as GPT-2 does: matrices with standard deviation 0.02, or 0.02/sqrt(2 n_layer) for the last layer of
    a residual branch; biases of linear layers with 0. Other vectors stay as their module created them.

    Each matrix is drawn from its own random stream, seeded with its name. Two variants with the same seed therefore
    start with equal weights wherever they have the same parameters, and a comparison between them is paired.
    """
    for name, parameter in model.named_parameters():
        module = name.removesuffix(".weight")
        if parameter.dim() > 1:
            joins = module.startswith("blocks.") and module.endswith(".out")
            std = 0.02 / math.sqrt(2 * model.shape.n_layer) if joins else 0.02
            stream = torch.Generator().manual_seed(zlib.crc32(f"{seed} {module}".encode()))  # torch uses 32 bits only
            parameter.data.normal_(0.0, std, generator=stream)
    for child in model.modules():
        if isinstance(child, nn.Linear) and child.bias is not None:
            child.bias.data.zero_()
