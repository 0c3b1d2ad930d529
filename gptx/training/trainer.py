"""The training loop. It is the same for all variants: the model computes, the strategy distributes.

To follow one step, read `Trainer.step`, `gptx.model.gpt.GPT.forward`, and one attention file.
"""

import math
import os
import zlib
from functools import partial

import torch
from omegaconf import DictConfig
from torch import Tensor

from gptx.config.instantiate import part
from gptx.data.batches import TrainingRows
from gptx.data.from_config import separator_of, tokens_of
from gptx.errors import Interrupted, RunFailed
from gptx.geometry.side_losses import SideLosses
from gptx.geometry.visibility import documents
from gptx.hardware.cpu import keep_freed_memory, return_freed_memory, threads
from gptx.hardware.description import peak_memory
from gptx.hardware.device import autocast, compute_dtype, use_deterministic_sums
from gptx.model.build import build
from gptx.optim.update_step import decay_groups, update
from gptx.runs.checkpoint_files import steps
from gptx.runs.folder import RunFolder
from gptx.runs.journal import Journal
from gptx.runs.machine_runs import other_runs
from gptx.runs.records import VALIDATION, DivergedRecord, MetricsRecord
from gptx.runs.unit_losses import write_unit_losses
from gptx.strategy.base import Batch, Strategy
from gptx.strategy.batch_plan import BatchPlan
from gptx.training import checkpoint
from gptx.training.best_weights import save_best
from gptx.training.evaluation import FormerValidationSet, ValidationSet
from gptx.training.meter import Meter
from gptx.training.progress import ProgressBar
from gptx.training.state import checkpoint_meta, resume


class Trainer:
    """Trains one run in one of its processes.

    Args:
        journal: rank 0 writes it; None on the other ranks.
    """

    def __init__(self, cfg: DictConfig, folder: RunFolder, strategy: Strategy, journal: Journal | None) -> None:
        self.cfg, self.folder, self.strategy, self.journal = cfg, folder, strategy, journal
        torch.set_num_threads(threads(cfg.runtime.threads, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        if strategy.device.type == "cpu":
            (return_freed_memory if strategy.shards_weights else keep_freed_memory)()
        self.autocast = partial(autocast, strategy.device, compute_dtype(cfg.precision.dtype, strategy.device))
        self._open_data()
        self._build_model()
        self.meter = Meter(strategy, self.plan.batch_size * cfg.model.context)
        self.other_runs = 0  # the largest number of other runs on this machine since the last validation
        self.stop_interval = 1  # steps between two times that the ranks agree on whether to stop
        self.saver = checkpoint.Saver(
            folder.checkpoints, cfg.runtime.keep, strategy.checkpoint_group, strategy.rank == 0
        )
        self.state = resume(cfg, folder, self.model, self.optimizer, self.meter)

    def _open_data(self) -> None:
        cfg, data_rank = self.cfg, self.strategy.data_rank
        self.plan = BatchPlan.of(cfg, self.strategy.data_size)
        self.tokens = tokens_of(cfg)
        self.separator = separator_of(cfg, self.tokens.tokenizer)
        own = slice(data_rank * self.plan.rank_batch, (data_rank + 1) * self.plan.rank_batch)
        self.rows = TrainingRows(self.tokens.train, cfg.data_seed, self.plan.batch_size, cfg.model.context, own)
        self.validation_set = self._validation_set()

    def _validation_set(self) -> ValidationSet:
        cfg, tokenizer, start = self.cfg, self.tokens.tokenizer, self.folder.start_record()
        version = start.validation if start else VALIDATION
        context, count, batch = cfg.model.context, cfg.trainer.val_tokens, cfg.runtime.val_batch
        kind = FormerValidationSet if version < 3 else ValidationSet
        token_bytes = tokenizer.token_bytes() if version == 1 else tokenizer.target_bytes()
        return kind(
            *(self.tokens.val, token_bytes, context, count, batch, self.separator, tokenizer.eot),
            incomplete=version > 1,
        )

    def _build_model(self) -> None:
        self.model = build(self.cfg, self.tokens.tokenizer.n_vocab)
        self.placed = self.strategy.place(self.model)
        if self.cfg.compile:
            if self.strategy.device.type == "cpu":
                use_deterministic_sums()
            self.placed = self.strategy.compile(self.placed)
        groups = decay_groups(self.model, self.cfg.optim.get("weight_decay", 0.0))
        self.optimizer: torch.optim.Optimizer = part(self.cfg.optim)(groups)
        self.schedule = part(self.cfg.schedule)

    def step(self) -> None:
        """Train on the next global batch: one update of the weights."""
        step, strategy = self.state.step, self.strategy
        if self.cfg.model.dropout:  # a function of (seed, step, rank): a resume needs no state of the generator
            torch.manual_seed(zlib.crc32(f"{self.cfg.seed} {step} {strategy.dropout_stream}".encode()))
        micro_batches = self._micro_batches()
        count = len(micro_batches)
        loss, metrics = torch.zeros((), device=strategy.device), dict[str, Tensor]()
        for i, batch in enumerate(micro_batches):
            side = SideLosses()
            with strategy.sync(last=i == count - 1):
                loss += strategy.backward(self.placed, batch, 1 / count, self.autocast, side)
            for name, value in side.means().items():
                metrics[name] = metrics.get(name, 0.0) + value / count
        grad_norm = strategy.clip(self.model, self.cfg.trainer.clip)
        learning_rate = self.cfg.optim.lr * self.schedule(step, self.cfg.trainer.max_steps)
        updated = update(self.optimizer, grad_norm, learning_rate)
        self.meter.add(loss, metrics, grad_norm, updated)
        self.state.step += 1

    def _micro_batches(self) -> list[Batch]:
        """This rank's part of the global batch."""
        rows = self.rows.of_step(self.state.step)
        self.state.batch_checksum = zlib.crc32(rows.starts.tobytes(), self.state.batch_checksum)
        own = torch.from_numpy(rows.tokens)
        if self.strategy.device.type == "cuda":
            own = own.pin_memory()
        own = own.to(self.strategy.device, non_blocking=True)
        pairs = [(chunk[:, :-1], chunk[:, 1:]) for chunk in own.split(self.plan.micro_batch)]
        return [Batch(x, y, documents(x, self.separator)) for x, y in pairs]

    def run(self, signals: list[int], bar: ProgressBar, end: int) -> None:
        """Train to step ``end``, to an early stop or to a signal; log, validate and save on the way.

        Args:
            signals: filled by a signal handler; training stops when it is not empty.

        Raises:
            Interrupted: a signal came; a checkpoint is saved.
        """
        trainer = self.cfg.trainer
        while self.state.step < end and not self._stopped_early():
            self.step()
            step = self.state.step
            last = step == trainer.max_steps
            validate = last or step % trainer.eval_every == 0
            log = validate or step % self.cfg.runtime.log_every == 0
            if log:
                self._log(bar, validate)
            agree = log or step % self.stop_interval == 0
            stop = agree and self.strategy.max(bool(signals)) > 0
            if validate or stop or step == end:
                self._save()
            if stop and not last:
                self.saver.wait()
                raise Interrupted(*signals[:1])
        self.saver.wait()

    def _stopped_early(self) -> bool:
        return bool(0 < self.cfg.trainer.patience <= self.state.best.stale)

    def _log(self, bar: ProgressBar, validate: bool) -> None:
        """Show the metrics and write them as a record, with a validation if one is due."""
        values = self._read_meter()
        if validate:
            values |= self._validate()
        bar.update(self.state.step, values, self.state.best.step == self.state.step)
        if self.journal:
            values |= self._count_other_runs(validate)
            data = self.tokens.meta
            data_hash = f"{data.corpus_hash} {data.tokenizer_hash} {data.train_tokens}"
            checksum = zlib.crc32(data_hash.encode(), self.state.batch_checksum)
            self.journal.write(MetricsRecord(step=self.state.step, values=values, batch_checksum=f"{checksum:08x}"))
        self.state.batch_checksum = 0

    def _count_other_runs(self, validate: bool) -> dict[str, float]:
        """Count the other runs on this machine now. Return their largest number since the last validation, if it is
        known and a validation is due."""
        now = other_runs(self.folder.path)
        self.other_runs = max(self.other_runs, now or 0)
        if not validate or now is None:
            return {}
        found, self.other_runs = self.other_runs, 0
        return {"perf/other_runs": float(found)}

    def _read_meter(self) -> dict[str, float]:
        reading = self.meter.read(self.state.step)
        if self.strategy.size > 1:  # the ranks wait for each other: they agree on a stop once a second
            slowest = self.strategy.max(round(1e6 * reading.seconds_per_step)) / 1e6
            self.stop_interval = max(1, int(1 / max(slowest, 1e-6)))
        self._check_skipped(reading.skipped)
        return {"train/lr": self.optimizer.param_groups[0]["lr"], **reading.values}

    def _validate(self) -> dict[str, float]:
        step = self.state.step
        validation = self.validation_set.evaluate(self.placed, self.strategy, self.autocast, step)
        values = validation.values
        if not math.isfinite(values.get("val/loss_whole", values["val/loss"])):  # before anything of this step is saved
            raise self._diverged(f"the validation loss of step {step} is not finite")
        if self.state.best.add(step, values):
            weights = self.strategy.weights(self.model)
            if self.journal:
                save_best(self.folder.checkpoints, step, weights, values)
        last = step == self.cfg.trainer.max_steps or self._stopped_early()
        if last and self.journal and validation.units:
            write_unit_losses(self.folder.path, validation.units)
        return values

    def _check_skipped(self, skipped: int) -> None:
        allowed = self.cfg.trainer.max_skips
        if skipped > allowed:
            count = f"{skipped} of {self.state.step} steps (trainer.max_skips={allowed})"
            raise self._diverged(f"the gradient was not finite in {count}")

    def _diverged(self, what: str) -> RunFailed:
        """Record that the run has diverged, and return the error. All ranks see the same values and call this."""
        if self.journal:
            self.journal.write(DivergedRecord(step=self.state.step))
        self.strategy.max(0)  # no rank ends, which would stop rank 0, before rank 0 has written the record
        self.saver.wait()  # the newest checkpoint may not be written yet
        saved = steps(self.folder.checkpoints)
        return RunFailed(
            f"{what}. The last good checkpoint is {saved[-1].name if saved else 'none yet'}; a lower optim.lr (now "
            f"{self.cfg.optim.lr}), a longer schedule.warmup or precision=fp32 usually helps"
        )

    def _save(self) -> None:
        self.state.peak_memory = max(self.state.peak_memory, self.strategy.max(peak_memory(self.strategy.device)))
        meta = checkpoint_meta(self.state, self.meter)
        self.saver.save(checkpoint.tensors(self.model, self.optimizer), meta)
        self.meter.start_clock(self.state.step)

    def close(self) -> None:
        """End the threads, after a checkpoint that is being written is complete."""
        self.rows.close()
        self.saver.close()
