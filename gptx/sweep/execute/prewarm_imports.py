"""Imported by the fork server (see `gptx.sweep.execute.prewarm`) and by nothing else: loads the modules of every run.

It starts no thread and uses no device, because neither would survive the fork.
"""

from contextlib import suppress

import torch

from gptx.config.compose import compose

with suppress(Exception):  # a YAML file may be half edited right now: the run that needs it will report that
    compose()  # at the first call Hydra searches all packages for plugins
torch.optim.SGD([torch.zeros(1)])  # torch loads its compiler with the first optimizer
