"""The allowed ranges of the config's numbers; the classes of options check their own arguments. Imports no torch."""

from dataclasses import dataclass

from gptx.config.plain_dict import PlainConfig, plain_value
from gptx.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """Attributes:
    least: smallest allowed value.
    above: whether ``least`` itself is excluded.
    below: the first value that is too large; None: no limit.
    """

    least: float
    above: bool = False
    below: int | None = None

    def expected(self, value: float) -> str | None:
        """What is expected instead of ``value``, or None if it is in range."""
        if self.above and value <= self.least:
            return f"more than {self.least}"
        if value < self.least:
            return f"at least {self.least}"
        if self.below is not None and value >= self.below:
            return f"less than 2^{self.below.bit_length() - 1}"
        return None


_SEED = Range(0, below=2**63)
RANGES = {
    "seed": _SEED,
    "data_seed": _SEED,
    "about.margin": Range(0),
    "model.n_layer": Range(1, below=2**12),
    "model.context": Range(1, below=2**24),
    "trainer.max_steps": Range(1),
    "trainer.batch_size": Range(1),
    "trainer.micro_batch": Range(0),
    "trainer.clip": Range(0),
    "trainer.eval_every": Range(1),
    "trainer.val_tokens": Range(0),
    "trainer.patience": Range(0),
    "trainer.max_skips": Range(0),
    "optim.lr": Range(0, above=True),
    "runtime.log_every": Range(1),
    "runtime.val_batch": Range(1),
    "runtime.keep": Range(1),
    "runtime.threads": Range(0),
    "runtime.sample_tokens": Range(0),
    "runtime.until": Range(0),
    "sweep.jobs": Range(0),
    "sweep.retry": Range(0),
    "sweep.timeout": Range(0),
    "sweep.grace": Range(0),
    "sweep.memory": Range(0),
    "sweep.lr_seeds": Range(1),
    "sweep.fresh_seeds": Range(0),
    "sweep.min_seeds": Range(2),
    "sweep.max_seeds": Range(2),
    "sweep.margin": Range(0),
}


def check_ranges(plain: PlainConfig) -> None:
    """Check that each number of the config that `RANGES` lists is in its range.

    Raises:
        ConfigError: one is out of range.
    """
    for key, allowed in RANGES.items():
        group, _, name = key.rpartition(".")
        value = plain_value(plain, group, name)  # a user's own optimiser may have no lr
        if value is not None and (expected := allowed.expected(value)):
            raise ConfigError(f"{key}={value}: expected {expected}")
