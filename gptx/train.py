"""The training loop. It knows no variant: what is computed is the model's business, how it is spread the strategy's.

Reading path of one step: `Trainer.step` -> `gptx.model.GPT.forward` -> `gptx.view.View` -> one attention file.
"""

import contextlib
import math
import os
import statistics
import time
import zlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from gptx import checkpoint, journal, sampling
from gptx.assembly import build
from gptx.data.batches import train_batch
from gptx.device import autocast, compute_dtype, cores, keep_freed_memory, peak_memory
from gptx.errors import RunFailed
from gptx.evaluate import Validation
from gptx.journal import Journal
from gptx.optim import decay_groups, update
from gptx.parts import part, separator, tokens
from gptx.plan import Plan
from gptx.processes import noted_signals
from gptx.progress import Bar
from gptx.runfolder import RunFolder
from gptx.strategy.base import Strategy
from gptx.where import documents


class Interrupted(Exception):
    """A signal (its number is the argument, if known) asked the run to stop; it stands on the disk, ready to go on."""


def fit(cfg: DictConfig, run_dir: str) -> None:
    """Train one run in this process, which may be one of several, from its last checkpoint to its end."""
    strategy: Strategy = part(cfg.strategy)
    with strategy.open(cfg.device.type), contextlib.ExitStack() as stack:
        first = strategy.rank == 0
        book = stack.enter_context(Journal(Path(run_dir))) if first else None
        stop = stack.enter_context(noted_signals())
        trainer = Trainer(cfg, RunFolder(Path(run_dir)), strategy, book)
        with Bar(f"{cfg.variant.model} {Path(run_dir).name}", cfg.trainer.max_steps, trainer.now, first) as bar:
            trainer.run(stop, bar)
        if first:
            trainer.finish()


class Trainer:
    """One run, in one of its processes."""

    def __init__(self, cfg: DictConfig, folder: RunFolder, strategy: Strategy, book: Journal | None) -> None:
        self.cfg, self.folder, self.strategy, self.book = cfg, folder, strategy, book
        torch.set_num_threads(threads(cfg, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        if strategy.device.type == "cpu":
            keep_freed_memory()
        self.plan = Plan.of(cfg, strategy.size)
        self.tokens = tokens(cfg)
        self.model = build(cfg, self.tokens.tokenizer.n_vocab)
        self.placed = strategy.place(self.model)
        if cfg.compile:
            self.placed = torch.compile(self.placed)  # type: ignore[assignment]
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
        self._resume()
        self.clock = time.perf_counter(), self.now

    def step(self) -> Tensor:
        """One optimiser step on the global batch of this step; returns the gradient's norm, on the device."""
        if self.cfg.model.dropout:  # a pure function of (seed, step, rank): exact resume needs no generator's state
            torch.manual_seed(zlib.crc32(f"{self.cfg.seed} {self.now} {self.strategy.rank}".encode()))
        micro = self._batch()
        loss = torch.zeros((), device=self.strategy.device)
        told: dict[str, Any] = {}
        for i, (x, y) in enumerate(micro):
            with self.strategy.sync(last=i == len(micro) - 1):
                with self.autocast():
                    part_loss = self.placed(x, y, documents=documents(x, self.separator)) / len(micro)
                part_loss.backward()
            loss += part_loss.detach()
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

    def _batch(self) -> list[tuple[Tensor, Tensor]]:
        """This process's share of the global batch, as micro-batches of (x, y), each (B, T)."""
        plan, data = self.plan, self.cfg
        rows = train_batch(self.tokens.train, data.data_seed, self.now, plan.batch_size, data.model.context)
        mine = torch.from_numpy(rows[self.strategy.rank * plan.share :][: plan.share])
        if self.strategy.device.type == "cuda":
            mine = mine.pin_memory()
        mine = mine.to(self.strategy.device, non_blocking=True)
        return [(m[:, :-1], m[:, 1:]) for m in torch.split(mine, plan.micro_batch)]

    def run(self, stop: list[int], bar: Bar) -> None:
        """Steps until the end, early stopping or a signal; logs, validates and saves on the way."""
        trainer = self.cfg.trainer
        while self.now < trainer.max_steps and not self._stale():
            norm = self.step()
            self.now += 1
            last = self.now == trainer.max_steps
            validate = last or self.now % trainer.eval_every == 0
            halt = bool(stop) and self.strategy.size == 1
            if validate or self.now % self.cfg.runtime.log_every == 0:
                values, agreed = self._log(norm, bool(stop), bar)
                if validate:
                    values |= self._validate(bar)
                if self.book:
                    self.book.write("metrics", step=self.now, values=values)
                halt = halt or agreed
            if validate or halt:
                self._save()
                self.clock = time.perf_counter(), self.now
            if halt and not last:
                raise Interrupted(*stop[:1])

    def _log(self, norm: Tensor, stop: bool, bar: Bar) -> tuple[dict[str, float], bool]:
        """Read the device (all that is waited for), and let all processes agree on whether to stop."""
        own = [torch.tensor(float(stop), device=self.tally.device), *self.told.values()]
        loss, steps, skipped, stops, *rest = self.strategy.sum(torch.cat([self.tally, torch.stack(own)])).tolist()
        then, since = self.clock
        done = self.now - since
        speed = done * self.plan.batch_size * self.cfg.model.context / (time.perf_counter() - then)
        self.clock = time.perf_counter(), self.now
        self._check_finite(int(skipped / self.strategy.size))
        self.tally[:2] = 0
        values = {"train/lr": self.optim.param_groups[0]["lr"], "perf/tokens_per_s": speed}
        values |= {f"train/{name}": value / self.strategy.size for name, value in zip(self.told, rest, strict=True)}
        if steps:  # else all of them were skipped
            values["train/loss"] = loss / steps
            bar.update(self.now, values["train/loss"], speed)
        if math.isfinite(size := norm.item()):
            values["train/grad_norm"] = size
        return values, stops > 0

    def _check_finite(self, skipped: int) -> None:
        allowed = self.cfg.trainer.max_skips
        if skipped > allowed:
            steps = f"{skipped} of {self.now} steps (trainer.max_skips={allowed})"
            raise RunFailed(f"the gradient was not finite in {steps}. {self._advice()}")

    def _advice(self) -> str:
        good = checkpoint.steps(self.folder.checkpoints)
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
            if self.book:
                checkpoint.save_best(self.folder.checkpoints, self.now, self.model.state_dict(), values)
        mark = " *" if better else ""
        bar.say(f"step {self.now:>6}   val loss {values['val/loss']:.4f}   {values['val/bpb']:.4f} bits/byte{mark}")
        return values

    def _stale(self) -> bool:
        return bool(0 < self.cfg.trainer.patience <= self.best["stale"])

    def _save(self) -> None:
        state = self.strategy.state(self.model, self.optim)
        self.peak = max(self.peak, self.strategy.largest(peak_memory(self.strategy.device)))
        state |= {"step": self.now, "tally": self.tally.cpu(), "best": self.best, "peak": self.peak}
        if self.book:
            checkpoint.save_step(self.folder.checkpoints, self.now, state, self.cfg.runtime.keep)

    def _resume(self) -> None:
        state = checkpoint.latest(self.folder.checkpoints)
        if state is not None:
            self.strategy.load(state, self.model, self.optim)
            self.now, self.best, self.peak = state["step"], state["best"], state["peak"]
            self.tally.copy_(state["tally"])
        if self.strategy.largest(self.now) != -self.strategy.largest(-self.now):
            raise RunFailed(
                f"the processes found different checkpoints in {self.folder.path} (this one step {self.now}): "
                "paths.outputs has to be one folder that all machines share"
            )

    def finish(self) -> None:
        """Sample, sum up, and write the result."""
        assert self.book is not None
        sample = self._sample()
        rows = [r["values"] for r in journal.read(self.folder.path) if r["kind"] == "metrics"]
        speeds = [values["perf/tokens_per_s"] for values in rows if "perf/tokens_per_s" in values]
        train = [values["train/loss"] for values in rows if "train/loss" in values]
        self.folder.end(
            "finished",
            {
                **{f"val_{k}": self.best[f"val/{k}"] for k in ("loss", "bpb", "accuracy", "perplexity")},
                "best_step": self.best["step"],
                "train_loss": train[-1] if train else None,
                "tokens_per_s": statistics.median(speeds),
                "peak_memory_bytes": self.peak,
                "steps": self.now,
                "tokens": self.now * self.plan.batch_size * self.cfg.model.context,
                "sample": sample,
            },
        )

    def _sample(self) -> str:
        count = self.cfg.runtime.sample_tokens
        if not count:
            return ""
        text = "".join(
            sampling.text(self.model, self.tokens.tokenizer, "", count, seed=self.cfg.seed, autocast=self.autocast)
        )
        samples = self.folder.path / "samples"
        samples.mkdir(exist_ok=True)
        (samples / f"step-{self.now:08d}.txt").write_text(text)
        assert self.book is not None
        self.book.write("sample", step=self.now, text=text)
        return text


def threads(cfg: DictConfig, processes: int) -> int:
    """CPU threads of one of ``processes`` on this machine."""
    return int(cfg.runtime.threads) or max(1, cores() // processes)


def worker(cfg: dict[str, Any], run_dir: str) -> None:
    """`fit` as a process of its own runs it: the config comes plain, and an interruption is no error."""
    with contextlib.suppress(Interrupted):
        fit(OmegaConf.create(cfg), run_dir)
