"""The only training loop. It knows the task contract and nothing of any system, task or dataset."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

import diptych
from diptych.config.layers import Resolved
from diptych.data.augment import augment
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.errors import DataError, DiptychError, RunError
from diptych.systems.task import Loss, StepContext
from diptych.train.assemble import assemble
from diptych.train.build import check_config
from diptych.train.checkpoint import Checkpoints, Snapshot
from diptych.train.config import RunConfig
from diptych.train.diagnose import describe, shorten
from diptych.train.export import (
    averaged,
    exported_settings,
    read_facts,
    write_export,
)
from diptych.train.figures import Figures
from diptych.train.files import out_of_room
from diptych.train.log import RunLog, duration
from diptych.train.optim import (
    optimizer_tensors,
    set_lr,
    total_norm,
)
from diptych.train.precision import autocast, choose_device, computing, derived_seed
from diptych.train.profile import StepProfiler
from diptych.train.rundir import RunDirectory
from diptych.train.schedule import Extent, lr_factor
from diptych.train.signals import Signals, StoppedError
from diptych.train.trackers import open_trackers


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    run_dir: Path
    export: Path
    step: int
    """Steps of the whole run."""
    trained: bool
    """False: the run was finished before, and nothing was done."""


def train(
    resolved: Resolved[RunConfig],
    run_dir: str | Path,
    *,
    resume: Literal["auto", "never"] = "auto",
    progress: bool = True,
) -> RunResult:
    """Start a run, or go on with it, until training has ended and the model is exported.

    Args:
        resolved: the configuration with its sources (`resolve_run`).
        run_dir: the run directory. One that holds the same recipe is continued from its newest checkpoint.
        resume: "never" refuses a directory that holds a run already.
        progress: show a bar (on a terminal) or lines on stderr.

    Raises:
        ConfigError: sections that do not fit each other; nothing was started.
        RunError: the directory holds another run; a loss or gradient that is not finite; a full disk.
        `StoppedError`
            after SIGINT or SIGTERM.
        CheckpointError: a checkpoint that cannot be written or read, weights that do not fit.
        DataError: a dataset or sample that cannot be read.
    """
    config, path = resolved.config, Path(run_dir)
    device = choose_device(config.train.device)
    check_config(config)
    try:
        with (
            RunDirectory.opened(path, resolved, resume=resume == "auto") as run,
            RunLog(path, show=progress, trackers=open_trackers(path, config)) as log,
        ):
            if run.finished:
                step = int(read_facts(run.export).get("step", 0))
                log.say(
                    f"{path}: finished at step {step}; nothing to do (delete the directory to train again)"
                )
                return RunResult(path, run.export, step, trained=False)
            try:
                with computing(device, config.train.threads), Signals() as signals:
                    return _Trainer(run, log, signals, device).run()
            except DiptychError as error:
                log.record(f"stopped: {error}")
                raise
    except OSError as error:
        if not out_of_room(error):
            raise
        raise RunError(
            f"{path}: the disk is full or a file size limit is reached ({error}); finished checkpoints "
            f"are intact; "
            f"make room and give the same command again to go on"
        ) from error


class _Trainer:
    """The state of a run in memory, and the loop that moves it on."""

    def __init__(self, run: RunDirectory, log: RunLog, signals: Signals, device: torch.device) -> None:
        self.run_dir, self.log, self.signals, self.device = run, log, signals, device
        self.config = run.config
        self.extent = Extent.of(run.config.train)
        self.checkpoints = Checkpoints(run.path / "checkpoints")
        self.parts = parts = assemble(run, self.checkpoints, log, device)
        self.task, self.optimizer, self.average, self.loader = (
            parts.task,
            parts.optimizer,
            parts.average,
            parts.loader,
        )
        self.step = parts.step
        self.progress = self._progress()
        run.cut_metrics(self.step)
        run.record_environment(self.step)
        self.figures = Figures(
            self.task, device, self.config.train.precision, count_flops=self.config.train.count_flops
        )
        self.profiler = StepProfiler(
            run.path / "profile" / "rank0", self.config.train.profile, device, log.say
        )
        self._announce()

    def _announce(self) -> None:
        count = sum(p.numel() for p in self.task.parameters())
        budget = f"{self.extent.cpu_seconds:g} CPU seconds"
        self.log.say(
            f"{self.run_dir.path}: {self.config.task.name} with {self.config.system.name} "
            f"({count:,} parameters) on {self.parts.samples:,} samples, "
            f"{budget if self.extent.steps is None else f'{self.extent.steps} steps'}, {self.device.type}, "
            f"{self.config.train.precision}, {torch.get_num_threads()} threads, diptych {diptych.__version__}"
        )
        if self.step:
            self.log.say(f"going on from step_{self.step:08d}")

    # The loop

    def run(self) -> RunResult:
        """Train to the end, export, and return how it went."""
        with closing(self.loader), self.profiler:
            batches = iter(self.loader)
            written = self.step
            while self.progress < 1:
                before = self.progress
                try:
                    self._train_step(batches)
                except (DataError, RuntimeError):
                    # A signal to the whole process group may end the workers too, which torch reports from
                    # wherever the loop is: the weights may be half way through a step.
                    if not self.signals.received:
                        raise
                    self._stop(written=self.step)
                self.profiler.step()
                self._log(before)
                if self.signals.received and self.progress < 1:
                    self._stop(written)
                every = self.config.train.checkpoint_every
                if every and self.step % every == 0 and self.progress < 1:
                    self._checkpoint()
                    written = self.step
            if written < self.step:
                self._checkpoint()
        self._export()
        return RunResult(self.run_dir.path, self.run_dir.export, self.step, trained=True)

    def _progress(self) -> float:
        """Measure how far the run is; done once a step, so that everything about the step agrees."""
        return self.extent.progress(self.step, self._cpu_seconds())

    def _cpu_seconds(self) -> float:
        return self.parts.clock.seconds(self.loader.worker_cpu_seconds)

    def _train_step(self, batches: Iterator[Batch]) -> None:
        """Do one step: the weights change only if everything before that went well."""
        started = time.monotonic()
        group = [next(batches) for _ in range(self.config.train.accumulate)]
        self.figures.waited(time.monotonic() - started)
        samples = sum(len(batch) for batch in group)
        self.optimizer.zero_grad(set_to_none=True)
        with self.figures.counting():
            losses = self._backward(group, samples)
        norm = total_norm(self.task.parameters(), self.config.train.clip, self.figures.gradients)
        if not torch.isfinite(sum((loss.total.detach() for loss in losses), norm.float())):
            raise self._not_finite(losses, norm, [key for batch in group for key in batch.keys])
        set_lr(self.optimizer, self._lr())
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.step)
        self.figures.step(norm)
        self.step += 1
        self.progress = self._progress()

    def _backward(self, group: list[Batch], samples: int) -> list[Loss]:
        """Add up the gradients of the batches of a step, each by its share of the samples."""
        seed, step = self.config.seed, self.step
        # Dropout and its like draw from the global generator; what task and pictures draw is a sample's own.
        torch.manual_seed(derived_seed(seed, step, "model"))
        losses = []
        for batch in group:
            share = len(batch) / samples
            self.figures.batch(batch)
            ready = self._on_device(batch, Draws(derived_seed(seed, 0, "augment"), batch.positions))
            draws = Draws(derived_seed(seed, 0, "task"), batch.positions)
            context = StepContext(step, self.progress, draws)
            with autocast(self.device, self.config.train.precision):
                loss: Loss = self.task(ready, context)
            (loss.total if share == 1 else loss.total * share).backward()  # type: ignore[no-untyped-call]
            self.figures.loss(loss, share)
            losses.append(loss)
        return losses

    def _on_device(self, batch: Batch, draws: Draws) -> Batch:
        lacking = [name for name in self.task.batch_fields if getattr(batch, name) is None]
        if lacking:
            raise RunError(
                f"task.name = {self.config.task.name} needs {', '.join(sorted(lacking))}, which the "
                f"samples of "
                f"data.path = {self.config.data.path} do not have"
            )
        moved = batch.to(self.device, non_blocking=True)
        if moved.images is None:
            return moved
        data = self.config.data
        return replace(moved, images=augment(moved.images, data.augment, draws, data.image.background))

    def _lr(self) -> float:
        return self.config.optim.lr * lr_factor(self.config.schedule, self.extent, self.step, self.progress)

    def _not_finite(self, losses: list[Loss], norm: Tensor, keys: list[str]) -> RunError:
        self.log.record(f"samples of step {self.step + 1}: {' '.join(keys)}")
        newest = self.checkpoints.newest()
        return RunError(
            f"step {self.step + 1}: {describe(self.task, losses, norm)}; the weights were not changed; "
            f"samples: {shorten(keys)} (all in log.txt); newest checkpoint: "
            f"{newest.name if newest else 'none'}; lower optim.lr, raise schedule.warmup, set train.clip or "
            f"train.precision=fp32"
        )

    # What is left behind

    def _log(self, before: float) -> None:
        """Move the bar; write a row at the first and the last step and every `log_every` in between."""
        progress = self.progress
        due = self.step == 1 or progress >= 1 or self.step % self.config.train.log_every == 0
        if not due:
            self.log.moved(progress, self.step, "")
            return
        figures = self.figures.row()
        row = {
            "step": self.step,
            "epoch": self.loader.next_batch / self.loader.batches_per_epoch,
            "time": time.time(),
            "cpu_seconds": self._cpu_seconds(),
            "progress": progress,
            "lr": self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0]["lr_scale"],
            **figures,
            "skipped": dict(self.loader.skipped),
        }
        left = (1 - progress) / max(progress - before, 1e-9) / max(figures["steps_per_second"], 1e-9)
        summary = (
            f"step {self.step}{f'/{self.extent.steps}' if self.extent.steps else ''}  loss "
            f"{row['loss']:.4f}  "
            f"lr {row['lr']:.2e}  {row['samples_per_second']:.0f} samples/s  {duration(left)} left"
        )
        self.log.row(row, summary)
        self.log.moved(progress, self.step, f"loss {row['loss']:.4f}")

    def _snapshot(self) -> Snapshot:
        tensors = {f"task/{k}": v for k, v in self.task.state_dict().items()}
        tensors |= {f"optim/{k}": v for k, v in optimizer_tensors(self.optimizer).items()}
        if self.average is not None:
            tensors |= {f"ema/{k}": v for k, v in self.average.tensors.items()}
        trainer = {
            "cpu_seconds": self._cpu_seconds(),
            "progress": self.progress,
            "fresh": self.parts.fresh,
            "diptych": diptych.__version__,
            "torch": torch.__version__,
        }
        # By step, not by what the loader has handed out: a step that failed half way is done again in full.
        loader = {**self.loader.state_dict(), "next_batch": self.step * self.config.train.accumulate}
        return Snapshot(self.step, tensors, trainer, loader)

    def _checkpoint(self) -> None:
        path = self.checkpoints.save(self._snapshot(), self.config.train.keep)
        self.log.record(f"checkpoint {path.name}")

    def _stop(self, written: int) -> None:
        self.loader.close()  # first: the end of a worker would interrupt the write of the checkpoint
        if written < self.step:
            self._checkpoint()
        newest = self.checkpoints.newest()
        raise StoppedError(
            f"{self.run_dir.path}: stopped on request after step {self.step}; give the same command again "
            f"to go on from {newest.name if newest else 'the start'}",
            self.signals.received,
        )

    def _export(self) -> None:
        state = averaged(self._snapshot())
        write_export(
            self.run_dir.export, state, self.parts.tokenizer, exported_settings(self.config), self.step
        )
        self.log.say(f"{self.run_dir.path}: finished at step {self.step}, model in {self.run_dir.export}")
