"""The training loop. Every rank runs it, on its own rows of the same global batches.

The code is independent of the number of ranks and of the engine that connects them; random draws
depend on (seed, epoch, step, row).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch

from recsys_spark.batches import registry
from recsys_spark.batches.base import Batch
from recsys_spark.core import log, seeds
from recsys_spark.core.contracts import Train, TrainJob, TrainResult
from recsys_spark.models.base import CARRY
from recsys_spark.train import phases
from recsys_spark.train.assembly import assemble
from recsys_spark.train.data.rounds import COUNT_GLOBAL
from recsys_spark.train.feed import enrich, transfer
from recsys_spark.train.ranks.workers import Workers
from recsys_spark.train.saves import checkpoint, record
from recsys_spark.train.saves.checkpoint import State
from recsys_spark.train.saves.saver import Taken, point
from recsys_spark.train.updates import choice, lookups, optim, step
from recsys_spark.train.updates.step import GO_ON, SAVE, STOP, NotFinite, Stepper, blame
from recsys_spark.train.validation.base import improved

_log = log.get("train.loop")


class Loop:
    """One rank's training, resumed from the newest checkpoint of the run folder if there is one.

    chosen_for: the settings by whose batch the updates of tables are chosen; None: the job's. A
        forecast trains on smaller batches.
    The constructor raises ConfigError, ShardError or CheckpointError before the first step.
    """

    def __init__(
        self,
        job: TrainJob,
        workers: Workers,
        stop: Callable[[], bool] = lambda: False,
        chosen_for: Train | None = None,
    ) -> None:
        self.job = job
        self.settings, self.chosen_for = job.train, chosen_for or job.train
        self.workers = workers
        self.stop = stop  # returns true when this rank is asked to end
        self.run_dir = Path(job.run_dir)
        self.parts = assemble(job, workers)
        self.model = self.parts.model
        self.reader = self.parts.reader
        self.phases = self.parts.phases
        self.ctx = self.parts.ctx
        self.batches = registry.find(self.model.layout)
        self.examples_here = 0  # of all ranks, since this process started
        self.state = State()
        self._restore()

    def run(self) -> TrainResult | None:
        """Train until the epochs are done or patience ends it. Returns None when `stop` became true
        on some rank: a checkpoint was written, and the same job resumes from it. Raises NotFinite
        with step, epoch and rows.
        """
        self.model.train()
        while not self.state.ended:
            self._freeze()
            request = self._rest_of_epoch()
            if self.state.position < self.reader.steps:
                self._save()
            else:
                self._end_epoch()
            if request >= STOP and not self.state.ended:
                self.parts.saver.wait()
                return None
        self.parts.saver.wait()
        return record.result(self.job, self.state, self.workers)

    def _rest_of_epoch(self) -> int:
        """Train the remaining steps of the epoch. Returns the ranks' request of the last step,
        which is the step at which they were asked to stop, if they were.
        """
        state, steps, request = self.state, self.reader.steps, GO_ON
        clock = time.perf_counter()
        for rows, batch in transfer.onto(self.parts.device, self.parts.dtype, self._batches()):
            request = self._train_step(rows, batch)
            if request >= STOP:
                break
            if state.position < steps and (request == SAVE or self._save_by_steps()):
                state.epoch_seconds += time.perf_counter() - clock
                self._save()
                clock = time.perf_counter()
        assert request >= STOP or state.position == steps, (
            f"the reader gave {state.position} steps of {steps}"
        )
        state.epoch_seconds += time.perf_counter() - clock
        return request

    def _train_step(self, rows: int, batch: Batch) -> int:
        """One step over all ranks, which together have `rows` rows. Returns the ranks' request."""
        state = self.state
        self.ctx.step, self.ctx.epoch = state.step, state.epoch
        self._pace()
        # Draws from torch's generator are then the same after a resume.
        torch.default_generator.manual_seed(seeds.derive(self.job.seed, "torch", state.step))
        try:
            result = self.step(batch, self.ctx, self._request())
        except NotFinite as problem:
            raise self._blamed(problem, batch) from None
        for name, total, count in zip(self.step.names, result.sums, result.counts, strict=True):
            earlier = state.sums.get(name, (0.0, 0.0))
            state.sums[name] = (earlier[0] + total, earlier[1] + count)
        examples = rows * self.model.examples_per_row
        state.step += 1
        state.position += 1
        state.epoch_examples += examples
        self.examples_here += examples
        self.workers.beat.tell(
            state.epoch,
            self.parts.epochs,
            state.position,
            self.reader.steps,
            state.step,
            self.examples_here,
        )
        return result.request

    def _request(self) -> int:
        """The request that this rank sends with the next step."""
        if self.stop():
            return STOP
        return SAVE if self.parts.saver.due() else GO_ON

    def _save_by_steps(self) -> bool:
        interval = self.settings.checkpoint_steps
        return bool(interval) and self.state.step % interval == 0

    def _pace(self) -> None:
        """Set the learning rate of the next step."""
        if self.optim.paced:
            state, steps = self.state, self.reader.steps
            done = (state.epoch - state.phase_epoch) * steps + state.position
            total = phases.epochs(self.phases[state.phase], self.settings) * steps
            optim.pace(self.optimiser, self.optim, done, total, self.workers.size)

    def _batches(self) -> transfer.Batches:
        """The rest of the epoch: (rows of the step over all ranks, this rank's batch with all
        draws).
        """
        epoch, first = self.state.epoch, self.state.position
        batches = (
            (columns[COUNT_GLOBAL], self.batches.of(columns))
            for columns in self.reader.epoch(epoch, first)
        )
        yield from enrich.through(self.parts.enrich, batches, epoch, first)

    def _end_epoch(self) -> None:
        """Validate, decide whether this was the best epoch and whether another follows, save, and
        write the epoch's line.
        """
        state = self.state
        self.workers.beat.say("validating")
        self.optimiser.settle()
        metrics = self.parts.validate(self.trained)
        state.seconds += state.epoch_seconds
        state.examples += state.epoch_examples
        state.record = record.epoch(state, self.ctx.phase, metrics, self._lr())
        if self._is_best(metrics):
            state.best_value = metrics.get(self.parts.metric)
            state.best_epoch = state.epoch
            state.best = metrics
            state.best_checkpoint = checkpoint.name(state.step)
            state.stale = 0
        else:
            state.stale += 1
        state.begin_epoch(state.epoch + 1)
        self.parts.carried.clear()
        if reason := phases.end(self.phases[state.phase], state, self.job):
            self._end_phase(reason)
        self._save()
        if self.workers.rank == 0:
            record.write(self.run_dir, state)

    def _is_best(self, metrics: dict[str, float]) -> bool:
        """True for every epoch where the metric is missing (no validation), so the last epoch is
        chosen.
        """
        value = metrics.get(self.parts.metric)
        return (
            value is None
            or self.settings.choose == "last"
            or improved(value, self.state.best_value, self.parts.sign)
        )

    def _end_phase(self, reason: str) -> None:
        """The next phase starts from the best weights of this one. Its start is compared with its
        epochs, so a phase that does not improve changes nothing. No checkpoint is written between
        the two, so a run killed here repeats this.
        """
        state, phase = self.state, self.phases[self.state.phase]
        state.phase_epochs.append(state.best_epoch + 1 - state.phase_epoch)
        state.ended = state.phase + 1 == len(self.phases)
        if phase.name and self.workers.rank == 0:
            improved = state.best_epoch >= state.phase_epoch
            line = log.fields(
                event="phase",
                phase=phase.name,
                ended_by=reason,
                epochs=state.epoch - state.phase_epoch,
                improved=improved,
                best_epoch=state.best_epoch,
                **{self.parts.metric: state.best_value},
            )
            _log.log(logging.INFO if improved else logging.WARNING, line)
        if state.ended:
            return
        if state.best_checkpoint != checkpoint.name(state.step):
            self.parts.saver.wait()
            self.workers.barrier()
            checkpoint.restore_best(self.job, state, self.model, self.parts.sharding.part)
        self.workers.broadcast(self.parts.sharding.replicated(self.model))
        state.phase, state.phase_epoch, state.stale = state.phase + 1, state.epoch, 0
        self._begin()
        state.best = self.parts.validate(self.trained)
        state.best_value = state.best.get(self.parts.metric)
        state.best_epoch = state.epoch - 1
        state.best_checkpoint = checkpoint.name(state.step)
        if self.job.phase_epochs and not self.job.phase_epochs[state.phase]:
            # The phase has no epochs: its result is what `begin` makes of the phases before
            self._end_phase("epochs")

    def _begin(self) -> None:
        """Begin a new phase, from weights that are the same on all ranks."""
        self._enter()
        torch.default_generator.manual_seed(seeds.derive(self.job.seed, "phase", self.state.phase))
        self.model.begin(self.phases[self.state.phase].name)

    def _enter(self) -> None:
        """Set the trained model and the optimiser of the state's phase."""
        phase = self.phases[self.state.phase]
        self.trained = phase.model or self.model
        self.optim = phase.optim or self.settings.optim
        chosen = choice.updates(self.model, phase.groups, self.optim, self.chosen_for)
        by_rows = [update.table for update in chosen if update.by_rows]
        scaler = (
            torch.amp.GradScaler(self.parts.device.type)
            if self.settings.precision == "fp16"
            else None
        )
        self.optimiser = optim.build(
            self.optim, phase.groups, [table.weight for table in by_rows], scaler
        )
        lookups.attach(self.model, by_rows, self.optimiser)
        if self.optim.name == "auto" and chosen and self.workers.rank == 0:
            line = {"event": "updates", "phase": phase.name, **choice.described(chosen)}
            _log.info(log.fields(**line))
        self.forward = step.compiled(self.trained) if self.settings.compile else None

    def _freeze(self) -> None:
        """Called before an epoch or the rest of one: only the parameters it trains take part in the
        steps and in the exchange between ranks.
        """
        self.ctx.phase, groups = phases.moving(self.phases[self.state.phase], self.state)
        phases.freeze(self.model, groups)
        self.step = Stepper(
            self.trained,
            self.optimiser,
            self.workers,
            self.optim.clip_norm,
            carried=self.parts.carried,
            forward=self.forward,
            accumulate=self.settings.accumulate,
            precision=self.settings.precision,
            sparse_as_dense=self.job.workers.sparse_as_dense,
        )

    def _lr(self) -> float:
        """Learning rate of the parameters trained in this epoch."""
        return next(
            group["lr"] for group in self.optimiser.param_groups if group["params"][0].requires_grad
        )

    def _save(self) -> None:
        self.workers.beat.say("saving")
        carry = self.parts.carried.whole()
        with self.parts.sharding.state(self.model, self.optimiser) as (weights, moments, groups):
            if self.workers.rank == 0:
                tensors = {**moments, **{CARRY + name: table for name, table in carry.items()}}
                self.parts.saver.save(Taken(self.state, self.model, weights, tensors, groups))
        self.workers.beat.work()

    def _restore(self) -> None:
        """Restore from the newest checkpoint, which rank 0 chooses for all; without one, begin the
        training.
        """
        if self.workers.rank == 0:
            checkpoint.clean(self.run_dir)
        resumed = checkpoint.resume(self.job, self.model, self.workers, self.parts.sharding.part)
        if resumed is None:
            if self.workers.rank == 0:
                (self.run_dir / record.METRICS).unlink(missing_ok=True)
            self.workers.broadcast(self.parts.sharding.replicated(self.model))
            self._begin()
            return
        self.state = resumed.state
        self._enter()
        moments = self.parts.sharding.moments(self.optimiser, resumed.moments, resumed.groups)
        optim.unpack(self.optimiser, moments, resumed.groups)
        self.parts.carried.load(resumed.carry)
        if self.workers.rank == 0:
            state = self.state
            record.write(self.run_dir, state)
            point(self.job, state)
            _log.info(
                log.fields(
                    event="resume", step=state.step, epoch=state.epoch, position=state.position
                )
            )
        self.workers.barrier()

    def _blamed(self, problem: NotFinite, batch: Batch) -> NotFinite:
        self.ctx.carry = self.parts.carried.read(batch)
        self.optimiser.settle()
        lookups.attach(self.model, (), self.optimiser)
        with self.parts.sharding.whole():
            rows = blame(self.trained, batch, self.ctx)
        thing = f"{problem.thing} in step {self.state.position} of epoch {self.state.epoch}"
        checkpoints = checkpoint.folders(self.run_dir)
        resume = (
            f"; {checkpoints[-1].name} stays, and training resumes from it" if checkpoints else ""
        )
        return NotFinite(
            f"{thing}, {rows or 'rows of another rank'}",
            found=problem.found,
            expected=problem.expected,
            remedy="mend these rows in the source and export again, or lower train.optim.lr or set "
            f"train.optim.clip_norm{resume}",
        )
