"""The contract of a norm.

Letters: D model width.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Norm(nn.Module, ABC):
    """Base class. A constructor takes the model's shape (`gptx.geometry.model_shape.ModelShape`), and the keys of the
    YAML file as keyword arguments. It is called once for each place that has a norm."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D). A token must not depend on another one: positions are normalised separately."""
