"""The one training loop. Every rank runs it, on its own rows of the same global batches.

Nothing here depends on how many ranks there are or what connects them; what is random depends on (seed, epoch, step, row).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from recsys_spark.core import log, seeds
from recsys_spark.core.contracts import TrainJob, TrainResult
from recsys_spark.core.errors import ConfigError
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Model, Sizes
from recsys_spark.models.batches import Batch
from recsys_spark.nn.tables import tables
from recsys_spark.train import checkpoint, features, optim, phases, places, record, step, transfer, validate
from recsys_spark.train.checkpoint import State
from recsys_spark.train.collate import collate
from recsys_spark.train.negatives import Negatives, Seen
from recsys_spark.train.reader import COUNT_GLOBAL, Reader
from recsys_spark.train.saver import Saver, Taken, point
from recsys_spark.train.sharded import Sharding
from recsys_spark.train.step import GO_ON, SAVE, STOP, NotFinite, Stepper, blame
from recsys_spark.train.workers import Workers

_log = log.get("train.loop")


class Loop:
    """One rank's training, resumed from the newest checkpoint of the run folder if there is one.

    Building it raises ConfigError, ShardError or CheckpointError before the first step.
    """

    def __init__(self, job: TrainJob, workers: Workers, stop: Callable[[], bool] = lambda: False) -> None:
        self.job, self.settings, self.workers, self.stop = job, job.train, workers, stop
        self.run_dir = Path(job.run_dir)
        self.device = torch.device(f"cuda:{workers.local_rank}" if job.workers.device == "cuda" else "cpu")
        self.dtype = torch.float64 if self.settings.dtype == "float64" else torch.float32
        self.shards = places.load(job.shards, expect=job.shard_fingerprint)
        sizes = Sizes(self.shards.num_users, self.shards.num_items, self.shards.statistics, self.shards.features)
        model = registry.build(job.model, job.config, sizes, job.seed)
        features.fill(model, job.shards, self.shards)
        self.sharding = Sharding(model, job, workers)
        self.model: Model = model.to(self.device, self.dtype)
        if self.settings.accumulate > 1 and model.couples_rows:
            raise ConfigError("train.accumulate", found=self.settings.accumulate, expected=f"1: a row's loss in {job.model} depends on "
                              "the rows beside it", remedy="leave train.accumulate out, or lower train.batch_size")
        self.metric, self.sign = validate.monitor(job, self.model)
        self.validate = validate.nothing if job.phase_epochs else validate.make(job, self.shards, self.model, workers, self.sharding.whole)
        self.negatives = self._negatives()
        self.saver = Saver(job, workers.rank)
        self.reader = Reader(job.shards, "train", batch_size=self.settings.batch_size, seed=job.seed, rank=workers.rank,
                             num_ranks=workers.size, settings=self.settings.reader)
        self.phases = phases.of(self.model)
        planned = phases.planned(self.phases, self.settings)
        self.epochs = sum(job.phase_epochs) or planned
        # Schedules are of the training as planned, also where it is repeated and stops at the epoch that was best.
        self.ctx = Context(seed=job.seed, total_steps=planned * self.reader.steps, training=True)
        self.state = State()
        self._restore()
        self.examples_here = 0  # by all ranks, since this process started

    def run(self) -> TrainResult | None:
        """Train until the epochs are done or patience is out. None when `stop` became true on some rank: a checkpoint
        was written, and the same job goes on from there. Raises NotFinite with step, epoch and rows."""
        self.model.train()
        while not self.state.ended:
            self._freeze()
            wish = self._rest_of_epoch()
            if self.state.position < self.reader.steps:
                self._save()
            else:
                self._end_epoch()
            if wish >= STOP and not self.state.ended:
                self.saver.wait()
                return None
        self.saver.wait()
        return record.result(self.job, self.state, self.workers)

    def _rest_of_epoch(self) -> int:
        """What the ranks wished after its last step, or after the one at which they were asked to stop."""
        state, every, steps, wish = self.state, self.settings.checkpoint_steps, self.reader.steps, GO_ON
        clock = time.perf_counter()
        for rows, batch in transfer.onto(self.device, self.dtype, self._batches()):
            self.ctx.step, self.ctx.epoch = state.step, state.epoch
            if self.optim.paced:
                done_steps = (state.epoch - state.phase_epoch) * steps + state.position
                most = phases.epochs(self.phases[state.phase], self.settings) * steps
                optim.pace(self.optimiser, self.optim, done_steps, most, self.workers.size)
            # A model that draws from torch's generator draws the same again after a resume.
            torch.default_generator.manual_seed(seeds.derive(self.job.seed, "torch", state.step))
            try:
                done = self.step(batch, self.ctx, STOP if self.stop() else SAVE if self.saver.due() else GO_ON)
            except NotFinite as problem:
                raise self._blamed(problem, batch) from None
            for name, total, count in zip(self.step.names, done.sums, done.counts, strict=True):
                before = state.sums.get(name, (0.0, 0.0))
                state.sums[name] = (before[0] + total, before[1] + count)
            examples = rows * self.model.examples_per_row
            state.step, state.position, state.epoch_examples = state.step + 1, state.position + 1, state.epoch_examples + examples
            self.examples_here += examples
            self.workers.beat.tell(state.epoch, self.epochs, state.position, steps, state.step, self.examples_here)
            wish = done.wish
            if wish >= STOP:
                break
            if state.position < steps and (wish or (every and state.step % every == 0)):
                state.epoch_seconds += time.perf_counter() - clock
                self._save()
                clock = time.perf_counter()
        assert wish >= STOP or state.position == steps, f"the reader gave {state.position} steps of {steps}"
        state.epoch_seconds += time.perf_counter() - clock
        return wish

    def _batches(self) -> transfer.Batches:
        """The rest of the epoch: (rows of the step over all ranks, this rank's batch, with its negatives)."""
        epoch, first = self.state.epoch, self.state.position
        layout = self.model.layout
        made = ((numbers[COUNT_GLOBAL], collate(numbers, layout)) for numbers in self.reader.epoch(epoch, first))
        return self.negatives.ahead(made, epoch, first) if self.negatives else made  # type: ignore[arg-type,return-value]

    def _end_epoch(self) -> None:
        """Validate, decide whether this was the best epoch and whether there is another, save, and write the epoch's line."""
        state = self.state
        metrics = self.validate(self.trained)
        state.seconds, state.examples = state.seconds + state.epoch_seconds, state.examples + state.epoch_examples
        state.record = record.epoch(state, self.ctx.phase, metrics, self._lr())
        value = metrics.get(self.metric)  # None: nothing is validated, the last epoch counts
        if value is None or self.settings.choose == "last" or validate.improved(value, state.best_value, self.sign):
            state.best_value, state.best_epoch, state.best, state.stale = value, state.epoch, metrics, 0
            state.best_checkpoint = checkpoint.name(state.step)
        else:
            state.stale += 1
        state.epoch, state.position, state.sums, state.epoch_seconds, state.epoch_examples = state.epoch + 1, 0, {}, 0.0, 0
        if why := phases.end(self.phases[state.phase], state, self.job):
            self._end_phase(why)
        self._save()
        if self.workers.rank == 0:
            record.write(self.run_dir, state)

    def _end_phase(self, why: str) -> None:
        """The next phase starts from the best weights of this one, and its start competes with its epochs: whatever does not
        improve changes nothing. No checkpoint lies between the two, so a run that is killed here does it all again."""
        state, phase = self.state, self.phases[self.state.phase]
        state.phase_epochs.append(state.best_epoch + 1 - state.phase_epoch)
        state.ended = state.phase + 1 == len(self.phases)
        if phase.name and self.workers.rank == 0:
            improved = state.best_epoch >= state.phase_epoch
            told = log.fields(event="phase", phase=phase.name, ended_by=why, epochs=state.epoch - state.phase_epoch, improved=improved,
                              best_epoch=state.best_epoch, **{self.metric: state.best_value})
            _log.log(logging.INFO if improved else logging.WARNING, told)
        if state.ended:
            return
        if state.best_checkpoint != checkpoint.name(state.step):
            self.saver.wait()
            self.workers.barrier()
            checkpoint.restore_best(self.job, state, self.model, self.sharding.part)
        self.workers.broadcast(self.sharding.replicated(self.model))
        state.phase, state.phase_epoch, state.stale = state.phase + 1, state.epoch, 0
        self.ctx.carry.clear()
        self._begin()
        state.best = self.validate(self.trained)
        state.best_value, state.best_epoch = state.best.get(self.metric), state.epoch - 1
        state.best_checkpoint = checkpoint.name(state.step)
        if self.job.phase_epochs and not self.job.phase_epochs[state.phase]:
            self._end_phase("epochs")  # its start is all there is of it: what `begin` made of the phases before

    def _begin(self) -> None:
        """A new phase, from weights that are the same on all ranks."""
        self._enter()
        torch.default_generator.manual_seed(seeds.derive(self.job.seed, "phase", self.state.phase))
        self.model.begin(self.phases[self.state.phase].name)

    def _enter(self) -> None:
        """What the state's phase trains, and how."""
        phase = self.phases[self.state.phase]
        self.trained = phase.model or self.model
        self.optim = phase.optim or self.settings.optim
        by_rows = tables(self.model)
        for table in by_rows:
            table.sparse = self.optim.by_rows
        scaler = torch.amp.GradScaler(self.device.type) if self.settings.precision == "fp16" else None
        self.optimiser = optim.build(self.optim, phase.groups, [table.weight for table in by_rows], scaler)
        self.forward = step.compiled(self.trained) if self.settings.compile else None

    def _freeze(self) -> None:
        """Before an epoch or the rest of one: only what it trains takes part in the steps and in what the ranks exchange."""
        self.ctx.phase, groups = phases.moving(self.phases[self.state.phase], self.state)
        phases.freeze(self.model, groups)
        self.step = Stepper(self.trained, self.optimiser, self.workers, self.optim.clip_norm, forward=self.forward,
                            accumulate=self.settings.accumulate, precision=self.settings.precision,
                            sparse_as_dense=self.job.workers.sparse_as_dense)

    def _lr(self) -> float:
        """Of what moves in this epoch."""
        return next(group["lr"] for group in self.optimiser.param_groups if group["params"][0].requires_grad)

    def _save(self) -> None:
        carry = checkpoint.gathered(self.ctx.carry, self.workers)
        with self.sharding.state(self.model, self.optimiser) as (weights, moments, groups):
            if self.workers.rank == 0:
                tensors = {**moments, **{f"carry.{key}": value for key, value in carry.items()}}
                self.saver.save(Taken(self.state, self.model, weights, tensors, groups))
        self.workers.beat.work()

    def _restore(self) -> None:
        if self.workers.rank == 0:
            checkpoint.clean(self.run_dir)
        found = checkpoint.resume(self.job, self.model, self.sharding.part)
        if found is None:
            if self.workers.rank == 0:
                (self.run_dir / record.METRICS).unlink(missing_ok=True)
            self.workers.broadcast(self.sharding.replicated(self.model))
            self._begin()
            return
        self.state = found.state
        self._enter()
        optim.unpack(self.optimiser, self.sharding.moments(self.optimiser, found.moments, found.groups), found.groups)
        self.ctx.carry.update({key: checkpoint.own(key, value, self.workers) for key, value in found.carry.items()})
        if self.workers.rank == 0:
            record.write(self.run_dir, self.state)
            point(self.job, self.state)
            _log.info(log.fields(event="resume", step=self.state.step, epoch=self.state.epoch, position=self.state.position))
        self.workers.barrier()

    def _negatives(self) -> Negatives | None:
        if not self.model.num_negatives:
            return None
        indptr, indices = validate.load_csr(self.job.shards, validate.need_side(self.shards, "seen", self.job.shards))
        if not self.model.negatives_are_unmet:
            indptr, indices = np.zeros_like(indptr), indices[:0]
        return Negatives(Seen(indptr, indices, self.shards.num_items), self.model.num_negatives, self.job.seed)

    def _blamed(self, problem: NotFinite, batch: Batch) -> NotFinite:
        with self.sharding.whole():
            rows = blame(self.trained, batch, self.ctx)
        where = f"{problem.thing} in step {self.state.position} of epoch {self.state.epoch}"
        left = checkpoint.folders(self.run_dir)
        stays = f"; {left[-1].name} stays, and training resumes from it" if left else ""
        return NotFinite(f"{where}, {rows or 'rows of another rank'}", found=problem.found, expected=problem.expected, remedy="mend "
                         f"these rows in the source and export again, or lower train.optim.lr or set train.optim.clip_norm{stays}")
