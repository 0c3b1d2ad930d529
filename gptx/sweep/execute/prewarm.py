"""What a process that is kept in store has loaded before it is forked: all that every run needs. It starts no thread
and touches no device: neither would survive the fork."""

from contextlib import suppress

import torch

from gptx.config.compose import compose

with suppress(Exception):  # a YAML that is just being edited: its run will say so
    compose()  # Hydra looks through all packages for plugins, once
torch.optim.SGD([torch.zeros(1)])  # torch loads its compiler with the first optimiser
