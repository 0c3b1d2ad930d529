"""The training loop. It knows no variant: what is computed is the model's business, how it is spread the strategy's.

Reading path of one step: `Trainer.step`, `gptx.model.gpt.GPT.forward`, `gptx.model.view.View`, one attention file.
"""

import math
import os
import time
import zlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from gptx.config.instantiate import part
from gptx.data.batches import train_batch
from gptx.data.from_config import separator, tokens
from gptx.errors import Interrupted, RunFailed
from gptx.geometry.visibility import documents
from gptx.hardware.device import autocast, compute_dtype, keep_freed_memory, peak_memory, return_freed_memory, threads
from gptx.model.build import build
from gptx.optim.update import decay_groups, update
from gptx.runs.checkpoint_files import steps
from gptx.runs.folder import RunFolder
from gptx.runs.journal import Journal
from gptx.runs.records import MetricsRecord
from gptx.runs.resume_source import checkpoint_of
from gptx.strategy.base import Batch, Strategy
from gptx.strategy.batch_plan import BatchPlan
from gptx.training import checkpoint
from gptx.training.best_weights import save_best
from gptx.training.evaluation import Validation
from gptx.training.progress import Bar


class Trainer:
    """One run, in one of its processes."""

    def __init__(self, cfg: DictConfig, folder: RunFolder, strategy: Strategy, book: Journal | None) -> None:
        self.cfg, self.folder, self.strategy, self.book = cfg, folder, strategy, book
        torch.set_num_threads(threads(cfg.runtime.threads, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        if strategy.device.type == "cpu":
            (return_freed_memory if strategy.shards_weights else keep_freed_memory)()
        self.plan = BatchPlan.of(cfg, strategy.data_size)
        self.tokens = tokens(cfg)
        self.model = build(cfg, self.tokens.tokenizer.n_vocab)
        self.placed = strategy.place(self.model)
        if cfg.compile:
            self.placed = strategy.compile(self.placed)
        groups = decay_groups(self.model, cfg.optim.get("weight_decay", 0.0))
        self.optim: torch.optim.Optimizer = part(cfg.optim)(groups)
        self.schedule = part(cfg.schedule)
        self.dtype = compute_dtype(cfg.precision.dtype, strategy.device)
        trainer = cfg.trainer
        token_bytes = self.tokens.tokenizer.token_bytes()
        self.separator = separator(cfg, self.tokens.tokenizer)
        self.validation = Validation(
            self.tokens.val, token_bytes, cfg.model.context, trainer.val_tokens, cfg.runtime.val_batch, self.separator
        )
        self.now = 0  # steps done
        self.tally = torch.zeros(3, device=strategy.device)  # loss summed, steps in it, steps skipped in all
        self.told: dict[str, Tensor] = {}  # what the model's parts say of the last step, for the journal
        self.best = {"step": 0, "val/loss": float("inf"), "stale": 0}
        self.peak = 0  # bytes, the largest process of any attempt
        self.before = 0, 0  # steps and tokens that this process found done
        self.seen = 0  # checksum of the global batches since the journal's last record
        self.ask_every = 1  # steps between two times that the processes agree on whether to stop
        self.saver = checkpoint.Saver(
            folder.checkpoints, cfg.runtime.keep, strategy.checkpoint_group, strategy.rank == 0
        )
        self._resume()
        self.clock = time.perf_counter(), self.now

    def step(self) -> Tensor:
        """One optimiser step on the global batch of this step; returns the gradient's norm, on the device."""
        if self.cfg.model.dropout:  # a pure function of (seed, step, rank): exact resume needs no generator's state
            torch.manual_seed(zlib.crc32(f"{self.cfg.seed} {self.now} {self.strategy.dropout_stream}".encode()))
        micro = self._batches()
        loss = torch.zeros((), device=self.strategy.device)
        told: dict[str, Any] = {}
        for i, batch in enumerate(micro):
            with self.strategy.sync(last=i == len(micro) - 1):
                loss += self.strategy.backward(self.placed, batch, 1 / len(micro), self.autocast)
            for name, value in self.model.metrics().items():
                told[name] = told.get(name, 0.0) + value.detach() / len(micro)
        norm = self.strategy.clip(self.model, self.cfg.trainer.clip)
        rate = self.schedule(self.now, self.cfg.trainer.max_steps)
        good = update(self.optim, norm, self.cfg.optim.lr * rate)
        self.told = told
        self.tally += torch.stack([torch.where(good, loss, 0.0), good.float(), 1 - good.float()])
        return norm

    def autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.strategy.device, self.dtype)

    def _batches(self) -> list[Batch]:
        """This process's share of the global batch, as micro-batches."""
        plan, data = self.plan, self.cfg
        rows = train_batch(self.tokens.train, data.data_seed, self.now, plan.batch_size, data.model.context)
        if self.book:
            self.seen = zlib.crc32(rows.tobytes(), self.seen)
        mine = torch.from_numpy(rows[self.strategy.data_rank * plan.rank_batch :][: plan.rank_batch])
        if self.strategy.device.type == "cuda":
            mine = mine.pin_memory()
        mine = mine.to(self.strategy.device, non_blocking=True)
        cut = ((m[:, :-1], m[:, 1:]) for m in torch.split(mine, plan.micro_batch))
        return [Batch(x, y, documents(x, self.separator)) for x, y in cut]

    def run(self, stop: list[int], bar: Bar, end: int) -> None:
        """Steps until the end, early stopping or a signal; logs, validates and saves on the way."""
        trainer = self.cfg.trainer
        while self.now < end and not self._stale():
            norm = self.step()
            self.now += 1
            last = self.now == trainer.max_steps
            validate = last or self.now % trainer.eval_every == 0
            log = validate or self.now % self.cfg.runtime.log_every == 0
            if log:
                values = self._log(norm, bar)
                if validate:
                    values |= self._validate(bar)
                if self.book:
                    self.book.write(MetricsRecord(step=self.now, values=values, batch_checksum=f"{self.seen:08x}"))
                    self.seen = 0
            halt = (log or self.now % self.ask_every == 0) and self.strategy.max(bool(stop)) > 0
            if validate or halt or self.now == end:
                self._save()
                self.clock = time.perf_counter(), self.now
            if halt and not last:
                self.saver.wait()
                raise Interrupted(*stop[:1])
        self.saver.wait()

    def _log(self, norm: Tensor, bar: Bar) -> dict[str, float]:
        """Read the device: all that is waited for."""
        own = torch.cat([self.tally, torch.stack(list(self.told.values()))]) if self.told else self.tally
        loss, steps, skipped, *rest = self.strategy.sum(own.clone()).tolist()
        then, since = self.clock
        seconds = (time.perf_counter() - then) / (self.now - since)
        self.clock = time.perf_counter(), self.now
        if self.strategy.size > 1:  # processes that wait for each other agree on a stop once a second
            slowest = self.strategy.max(round(1e6 * seconds)) / 1e6
            self.ask_every = max(1, int(1 / max(slowest, 1e-6)))
        speed = self.plan.batch_size * self.cfg.model.context / seconds
        loss_ranks = self.strategy.loss_ranks
        self._check_finite(round(skipped / loss_ranks))
        self.tally[:2] = 0
        values = {"train/lr": self.optim.param_groups[0]["lr"], "perf/tokens_per_s": speed}
        values |= {f"train/{name}": value / loss_ranks for name, value in zip(self.told, rest, strict=True)}
        if steps:  # else all of them were skipped
            values["train/loss"] = loss / steps
            bar.update(self.now, values["train/loss"], speed)
        if math.isfinite(size := norm.item()):
            values["train/grad_norm"] = size
        return values

    def _check_finite(self, skipped: int) -> None:
        allowed = self.cfg.trainer.max_skips
        if skipped > allowed:
            steps = f"{skipped} of {self.now} steps (trainer.max_skips={allowed})"
            raise RunFailed(f"the gradient was not finite in {steps}. {self._advice()}")

    def _advice(self) -> str:
        self.saver.wait()  # the newest may still be on its way to the disk
        good = steps(self.folder.checkpoints)
        return (
            f"The last good checkpoint is {good[-1].name if good else 'none yet'}; a lower optim.lr (now "
            f"{self.cfg.optim.lr}), a longer schedule.warmup or precision=fp32 usually helps"
        )

    def _validate(self, bar: Bar) -> dict[str, float]:
        values = self.validation.run(self.placed, self.strategy, self.autocast)
        if not math.isfinite(values["val/loss"]):  # before anything of this step is kept
            raise RunFailed(f"the validation loss of step {self.now} is not finite. {self._advice()}")
        better = values["val/loss"] < self.best["val/loss"]
        self.best["stale"] = 0 if better else self.best["stale"] + 1
        if better:
            self.best |= values | {"step": self.now}
            weights = self.strategy.weights(self.model)
            if self.book:
                save_best(self.folder.checkpoints, self.now, weights, values)
        mark = " *" if better else ""
        bar.say(f"step {self.now:>6}   val loss {values['val/loss']:.4f}   {values['val/bpb']:.4f} bits/byte{mark}")
        return values

    def _stale(self) -> bool:
        return bool(0 < self.cfg.trainer.patience <= self.best["stale"])

    def _save(self) -> None:
        self.peak = max(self.peak, self.strategy.max(peak_memory(self.strategy.device)))
        tallies = torch.zeros(self.strategy.size, 3, device=self.strategy.device)
        tallies[self.strategy.rank] = self.tally
        facts = {
            "tallies": self.strategy.sum(tallies).tolist(),
            "best": self.best,
            "peak": self.peak,
            "tokens": self.trained(),
            "batch": self.seen,
            "torch": torch.__version__,
        }
        self.saver.save(self.now, checkpoint.tensors(self.model, self.optim), facts)

    def _resume(self) -> None:
        """From the run's last checkpoint, else from the one of another run that it begins with."""
        saved = steps(self.folder.checkpoints)
        start = self.folder.start_record()
        origin = None if saved or start is None else start.resume_source
        if origin:
            saved = [checkpoint_of(self.cfg.resume_from, origin.step)]
        if saved:
            facts = checkpoint.load(saved[-1], self.model, self.optim)
            self.now, self.before, self.seen = facts["step"], (facts["step"], facts["tokens"]), facts["batch"]
            tallies, mine = torch.tensor(facts["tallies"]), self.strategy.rank
            same = len(tallies) == self.strategy.size and bool(tallies[mine].any())
            self.tally.copy_(tallies[mine] if same else tallies.sum(0) / max(1, int(tallies.any(1).sum())))
            if origin:
                self.tally[2] = 0  # like the best so far, the steps skipped are counted anew
            else:
                self.best, self.peak = facts["best"], facts["peak"]
        if self.strategy.max(self.now) != -self.strategy.max(-self.now):
            raise RunFailed(
                f"the processes found different checkpoints in {self.folder.path} (this one step {self.now}): "
                "paths.outputs has to be one folder that all machines share"
            )

    def trained(self) -> int:
        """Tokens, those of the run that this one began from included."""
        steps, tokens = self.before
        return int(tokens + (self.now - steps) * self.plan.batch_size * self.cfg.model.context)
