"""How the global batch is cut: over processes, then over micro-batches. Refused here if it does not come out even."""

from dataclasses import dataclass

from omegaconf import DictConfig

from gptx.errors import ConfigError, processes_as


@dataclass(frozen=True)
class BatchPlan:
    """Attributes:
    batch_size: sequences in one optimiser step, all processes together.
    share: sequences of one process.
    micro_batch: sequences a process holds at once.
    """

    batch_size: int
    share: int
    micro_batch: int

    @staticmethod
    def of(cfg: DictConfig, slices: int, sharing: int = 1) -> "BatchPlan":
        """The plan for so many slices of the batch, each of them computed by ``sharing`` processes.

        Raises:
            ConfigError: a number that is out of range, or a batch that cannot be cut evenly.
        """
        _check_ranges(cfg)
        batch = cfg.trainer.batch_size
        who = "processes" if sharing == 1 else f"groups of {sharing} processes"
        if batch % slices:
            near = [p for p in range(1, batch + 1) if batch % p == 0 and p <= slices]
            raise ConfigError(
                f"trainer.batch_size={batch} cannot be split over {slices} {who}: use "
                f"{processes_as(near[-1] * sharing)}, or trainer.batch_size={slices * max(1, round(batch / slices))}"
            )
        share = batch // slices
        micro = cfg.trainer.micro_batch or share
        if share % micro:
            near = [m for m in range(1, share + 1) if share % m == 0 and m <= micro]
            raise ConfigError(
                f"trainer.micro_batch={micro} does not divide the {share} sequences of each "
                f"{'process' if sharing == 1 else 'group'} (trainer.batch_size={batch} over {slices}): use {near[-1]}"
            )
        return BatchPlan(batch, share, micro)


def _check_ranges(cfg: DictConfig) -> None:
    least = {
        "trainer.max_steps": 1,
        "trainer.batch_size": 1,
        "trainer.micro_batch": 0,
        "trainer.clip": 0,
        "trainer.eval_every": 1,
        "trainer.val_tokens": 0,
        "runtime.val_batch": 1,
        "trainer.patience": 0,
        "trainer.max_skips": 0,
        "runtime.log_every": 1,
        "runtime.keep": 1,
        "runtime.threads": 0,
        "runtime.sample_tokens": 0,
        "runtime.until": 0,
        "seed": 0,
        "data_seed": 0,
    }
    for key, low in least.items():
        group, _, name = key.rpartition(".")
        value = cfg[group][name] if group else cfg[name]
        if value < low:
            raise ConfigError(f"{key}={value}: expected at least {low}")
    for key in ("seed", "data_seed"):
        if cfg[key] >= 2**63:
            raise ConfigError(f"{key}={cfg[key]}: expected less than 2^63")
    if cfg.optim.lr <= 0:
        raise ConfigError(f"optim.lr={cfg.optim.lr}: expected more than 0")
