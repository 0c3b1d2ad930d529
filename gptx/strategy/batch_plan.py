"""Split the global batch evenly over ranks, then into micro-batches."""

from dataclasses import dataclass

from omegaconf import DictConfig

from gptx.errors import ConfigError, processes_as


@dataclass(frozen=True)
class BatchPlan:
    """Attributes:
    batch_size: sequences of one optimiser step, over all ranks.
    rank_batch: sequences of one step that a rank computes (or a group of ranks that share rows).
    micro_batch: sequences that a rank computes at once.
    """

    batch_size: int
    rank_batch: int
    micro_batch: int

    @property
    def micro_batches(self) -> int:
        """The number of micro-batches in a step."""
        return self.rank_batch // self.micro_batch

    @staticmethod
    def of(cfg: DictConfig, slices: int, ranks_per_slice: int = 1) -> "BatchPlan":
        """Return the plan for a batch that is split into ``slices``.

        Args:
            ranks_per_slice: how many ranks share the rows of a slice; error messages need it.

        Raises:
            ConfigError: the batch cannot be split evenly.
        """
        batch = cfg.trainer.batch_size
        owners = "processes" if ranks_per_slice == 1 else f"groups of {ranks_per_slice} processes"
        if batch % slices:
            fewer = max(n for n in range(1, slices + 1) if batch % n == 0)
            raise ConfigError(
                f"trainer.batch_size={batch} cannot be split over {slices} {owners}: use "
                f"{processes_as(fewer * ranks_per_slice)}, or trainer.batch_size="
                f"{slices * max(1, round(batch / slices))}"
            )
        rank_batch = batch // slices
        micro = cfg.trainer.micro_batch or rank_batch
        if rank_batch % micro:
            smaller = max(n for n in range(1, rank_batch + 1) if rank_batch % n == 0 and n <= micro)
            raise ConfigError(
                f"trainer.micro_batch={micro} does not divide the {rank_batch} sequences of each "
                f"{'process' if ranks_per_slice == 1 else 'group'} (trainer.batch_size={batch} over {slices} "
                f"{owners}): use trainer.micro_batch={smaller}"
            )
        return BatchPlan(batch, rank_batch, micro)
