"""The only training loop. It knows the task contract and nothing of any system, task or dataset."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

import diptych
from diptych.blocks.collective import ALONE, World, set_world
from diptych.config.layers import Resolved
from diptych.data.augment import augment
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.prefetch import DevicePrefetcher
from diptych.errors import DataError, DiptychError, RunError
from diptych.systems.task import Loss, StepContext
from diptych.train.assemble import assemble
from diptych.train.balance import task_norms
from diptych.train.build import check_config
from diptych.train.checkpoint import Checkpoints, Snapshot
from diptych.train.config import RunConfig
from diptych.train.diagnose import describe, shorten
from diptych.train.export import (
    averaged,
    exported_settings,
    find_weights,
    read_facts,
    write_export,
)
from diptych.train.export_base import changed
from diptych.train.figures import Figures
from diptych.train.files import out_of_room
from diptych.train.log import RunLog, duration
from diptych.train.optim import set_lr, total_norm
from diptych.train.precision import autocast, choose_device, computing, derived_seed
from diptych.train.profile import StepProfiler
from diptych.train.ranks import AgreedError, SilentLog, exchange, joined, on_main, rank_device
from diptych.train.rundir import RunDirectory
from diptych.train.schedule import Extent, lr_factor
from diptych.train.signals import Signals, StoppedError
from diptych.train.together import Together
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

    Under `torchrun` every rank calls it, and they train together.

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
    device = rank_device(choose_device(config.train.device))
    check_config(config)
    try:
        with joined(config.train, device) as world, ExitStack() as stack:
            run = _opened(stack, world, path, resolved, resume == "auto")
            log: RunLog = SilentLog()
            if world.is_main:
                log = RunLog(path, show=progress, trackers=open_trackers(path, config))
            stack.enter_context(log)
            if on_main(world, lambda: run.finished):
                step = int(read_facts(run.export).get("step", 0))
                log.say(
                    f"{path}: finished at step {step}; nothing to do (delete the directory to train again)"
                )
                return RunResult(path, run.export, step, trained=False)
            try:
                with computing(device, config.train.threads), Signals() as signals:
                    return _Trainer(run, log, signals, device, world).run()
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


def _opened(
    stack: ExitStack, world: World, path: Path, resolved: Resolved[RunConfig], resume: bool
) -> RunDirectory:
    """Open the run directory on rank 0, which locks and writes it, before any other rank goes on."""
    opened: list[RunDirectory] = []

    def open_it() -> None:
        opened.append(stack.enter_context(RunDirectory.opened(path, resolved, resume=resume)))

    on_main(world, open_it)
    return opened[0] if opened else RunDirectory(path, resolved.config)


class _Trainer:
    """The state of a run in memory, and the loop that moves it on."""

    def __init__(
        self, run: RunDirectory, log: RunLog, signals: Signals, device: torch.device, world: World
    ) -> None:
        self.run_dir, self.log, self.signals, self.device, self.world = run, log, signals, device, world
        self.config = run.config
        self.extent = Extent.of(run.config.train)
        self.checkpoints = Checkpoints(run.path / "checkpoints", world)
        self.parts = parts = assemble(run, self.checkpoints, log, device, world)
        self.task, self.optimizer, self.average, self.loader = (
            parts.task,
            parts.optimizer,
            parts.average,
            parts.loader,
        )
        if self.config.data.mixture.draw == "rank_batches":
            set_world(self.task, ALONE)  # what a rank draws is its own
        self.step = parts.step
        self.stop_signal = 0
        """Number of the signal after which all ranks stop, or 0."""
        self.cpu_seconds = sum(own for (own,) in exchange(world, [self._own_cpu_seconds()]))
        """Used by the run, all ranks together."""
        self.progress = self._progress()
        if world.is_main:
            run.cut_metrics(self.step)
            run.record_environment(self.step)
        self.figures = Figures(
            self.task, device, self.config.train.precision, world, count_flops=self.config.train.count_flops
        )
        self.profiler = StepProfiler(
            run.path / "profile" / f"rank{world.rank}", self.config.train.profile, device, log.say
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
        with closing(self.loader), closing(self.checkpoints), self.profiler:
            batches = iter(DevicePrefetcher(self.loader, self.device))
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
                    self.stop_signal = self.signals.received
                    self._stop(written=self.step)
                self.profiler.step()
                self._log(before)
                if self.stop_signal and self.progress < 1:
                    self._stop(written)
                every = self.config.train.checkpoint_every
                if every and self.step % every == 0 and self.progress < 1:
                    self._checkpoint(background=self.config.train.checkpoint_async)
                    written = self.step
            if written < self.step:
                self._checkpoint()
            self.checkpoints.wait()
        self._export()
        return RunResult(self.run_dir.path, self.run_dir.export, self.step, trained=True)

    def _progress(self) -> float:
        """Measure how far the run is; done once a step, so that everything about the step agrees."""
        return self.extent.progress(self.step, self.cpu_seconds)

    def _own_cpu_seconds(self) -> float:
        return self.parts.clock.seconds(self.loader.worker_cpu_seconds)

    def _train_step(self, batches: Iterator[Batch]) -> None:
        """Do one step: the weights change only if everything before that went well."""
        started = time.monotonic()
        group = [next(batches) for _ in range(self._batches_per_step)]
        self.figures.waited(time.monotonic() - started)
        shares = self._shares(group)
        self.optimizer.zero_grad(set_to_none=True)
        with self.figures.counting():
            losses = self._backward(group, shares)
        norm = total_norm(
            self.task.parameters(),
            self.config.train.clip,
            self.figures.gradients,
            self.parts.parallel.gradients,
        )
        bad = self._agree(losses, norm)
        if bad is not None:
            raise self._not_finite(losses, norm, [key for batch in group for key in batch.keys], bad)
        set_lr(self.optimizer, self._lr())
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.step)
        self.figures.step(norm)
        self.step += 1
        if self.world.size == 1:
            self.cpu_seconds, self.stop_signal = self._own_cpu_seconds(), self.signals.received
        self.progress = self._progress()

    def _shares(self, group: list[Batch]) -> list[float]:
        """Return the share that each batch has of the samples of a step, all ranks together."""
        if len(group) == 1:
            return [1.0]
        if self.loader.drawn:
            return [1 / len(group)] * len(group)
        counts = exchange(self.world, [len(batch) for batch in group])
        sums = [sum(of_ranks) for of_ranks in zip(*counts, strict=True)]
        return [total / sum(sums) for total in sums]

    def _agree(self, losses: list[Loss], norm: Tensor) -> int | None:
        """Tell the ranks each other how the step went; return the rank whose loss is not finite, if one is.

        CPU seconds and signals that come after it count in the next step, on every rank alike.
        """
        total = sum((loss.total.detach().float() for loss in losses), torch.zeros_like(norm))
        loss_is_fine, norm_is_fine = torch.stack([total, norm]).isfinite().tolist()
        # One bad loss spoils the gradients of all ranks: the rank to name is the one where it is the loss.
        wrong = 2 if not loss_is_fine else int(not norm_is_fine)
        own = [wrong, self.checkpoints.failed, self.signals.received, self._own_cpu_seconds()]
        wrongs, unwritten, signals, seconds = zip(*exchange(self.world, own), strict=True)
        if any(unwritten):
            self.checkpoints.wait()  # raises on every rank what went wrong in the background
        self.stop_signal, self.cpu_seconds = int(max(signals)), sum(seconds)
        return wrongs.index(max(wrongs)) if any(wrongs) else None

    def _backward(self, group: list[Batch], shares: list[float]) -> list[Loss]:
        """Add up the gradients of the batches of a step, each by its share of the samples."""
        seed, step = self.config.seed, self.step
        # Dropout and its like draw from the global generator; what task and pictures draw is a sample's own.
        own = f"model/{self.world.rank}" if self.world.rank else "model"
        torch.manual_seed(derived_seed(seed, step, own))
        losses = []
        for number, (batch, share) in enumerate(zip(group, shares, strict=True), 1):
            self.figures.batch(batch)
            world = self.world
            if batch.draw is not None:  # it is what it is whichever rank has drawn it
                torch.manual_seed(derived_seed(seed, step, f"draw/{batch.draw}"))
                world = ALONE
            ready = self._on_device(batch, Draws(derived_seed(seed, 0, "augment"), batch.positions))
            draws = Draws(derived_seed(seed, 0, "task"), batch.positions)
            context = StepContext(step, self.progress, draws, world)
            with self.parts.parallel.accumulating(last=number == len(group)):
                with autocast(self.device, self.config.train.precision):
                    loss = self.parts.parallel(ready, context)
                self._balance(loss, alone=batch.draw is not None)
                (loss.total if share == 1 else loss.total * share).backward()  # type: ignore[no-untyped-call]
            self.figures.loss(loss, share)
            losses.append(loss)
        self.parts.parallel.finish_gradients()
        return losses

    def _balance(self, loss: Loss, *, alone: bool) -> None:
        """Measure the gradient of each task of a batch, where it is time to."""
        every = self.config.train.task_gradients
        if every and loss.pieces and self.step % every == 0:
            world = ALONE if alone else self.world
            labels = list(self.config.task.entries())
            norms = task_norms(loss.pieces, labels, self.task.parameters(), world)
            self.figures.task_gradients(norms)

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
        data = self.loader.config_of(batch)
        clips, background = data.video.frames > 0, data.image.background
        images = augment(moved.images, data.augment, draws, background, clips=clips)
        return replace(moved, images=images)

    def _lr(self) -> float:
        config = self.config
        return config.optim.lr * lr_factor(
            config.schedule, self.extent, self.step, self.progress, config.train.accumulate
        )

    def _not_finite(self, losses: list[Loss], norm: Tensor, keys: list[str], rank: int) -> RunError:
        """Return the error for a loss that is not finite on `rank`, in its words on every rank."""
        words = f"{describe(self.task, losses, norm)}; the weights were not changed; samples: {shorten(keys)}"
        words, keys = Together(self.world).all(lambda: (words, keys), lambda told: told[rank])
        self.log.record(f"samples of step {self.step + 1}: {' '.join(keys)}")
        newest = self.checkpoints.newest()
        of = f"rank {rank} of {self.world.size}: " if self.world.size > 1 else ""
        return AgreedError(
            f"{of}step {self.step + 1}: {words} (all in log.txt); newest checkpoint: "
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
            "epoch": self._next_batch / self.loader.batches_per_epoch,
            "time": time.time(),
            "cpu_seconds": self.cpu_seconds,
            "progress": progress,
            "lr": self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0]["lr_scale"],
            **figures,
            "skipped": self._skipped(),
        }
        left = (1 - progress) / max(progress - before, 1e-9) / max(figures["steps_per_second"], 1e-9)
        summary = (
            f"step {self.step}{f'/{self.extent.steps}' if self.extent.steps else ''}  loss "
            f"{row['loss']:.4f}  "
            f"lr {row['lr']:.2e}  {row['samples_per_second']:.0f} samples/s  {duration(left)} left"
        )
        self.log.row(row, summary)
        self.log.moved(progress, self.step, f"loss {row['loss']:.4f}")

    @property
    def _next_batch(self) -> int:
        """The batch that comes after the steps that are done.

        Not what the loader has handed out: it is ahead, and a step that failed half way is done again.
        """
        return self.step * self._batches_per_step

    @property
    def _batches_per_step(self) -> int:
        return self.config.train.accumulate * self.loader.batches_per_step

    def _skipped(self) -> dict[str, int]:
        """Return the samples left out so far on all ranks, by cause; all ranks call it."""
        own = self.loader.state_at(self._next_batch)["skipped"]
        told = Together(self.world).all(lambda: own, list)
        return dict(sum(map(Counter, told), Counter()))

    def _snapshot(self) -> Snapshot:
        trainer = {
            "cpu_seconds": self.cpu_seconds,
            "progress": self.progress,
            "fresh": self.parts.fresh,
            "diptych": diptych.__version__,
            "torch": torch.__version__,
        }
        loader = {**self.loader.state_at(self._next_batch), "skipped": self._skipped()}
        return Snapshot(self.step, self.parts.tensors(), trainer, loader)

    def _checkpoint(self, *, background: bool = False) -> None:
        path = self.checkpoints.save(self._snapshot(), self.config.train.keep, background=background)
        self.log.record(f"checkpoint {path.name}{' is being written' if background else ''}")

    def _stop(self, written: int) -> None:
        self.loader.close()  # first: the end of a worker would interrupt the write of the checkpoint
        if written < self.step:
            self._checkpoint()
        newest = self.checkpoints.newest()
        raise StoppedError(
            f"{self.run_dir.path}: stopped on request after step {self.step}; give the same command again "
            f"to go on from {newest.name if newest else 'the start'}",
            self.stop_signal,
        )

    def _export(self) -> None:
        state = self.parts.parallel.gathered(averaged(self._snapshot()))
        settings = exported_settings(self.config)
        folder, tokenizer, assets = self.run_dir.export, self.parts.tokenizer, self.task.assets()

        def write() -> None:
            own, base = state, None
            if self.config.train.export == "changes":
                source = find_weights(self.config.init_from.path, "init_from.path")
                own, base = changed(state, source)
            write_export(folder, own, tokenizer, settings, self.step, assets, base)

        on_main(self.world, write)
        self.log.say(f"{self.run_dir.path}: finished at step {self.step}, model in {folder}")
