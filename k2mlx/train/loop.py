"""A run: stage after stage, step after step, until done, told to stop, or out of time.

Each step is: batches, gradients, update, and then wait for the step before (so that the device
always has work and the host is never more than a step ahead). Pre-training and fine-tuning differ
in their recipes only.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import mlx.core as mx

from ..config import ModelConfig
from ..errors import CheckpointError, ConfigError, K2Error
from ..model import Model
from ..weights.names import count_active_parameters, count_parameters
from . import checkpoint
from .batches import Ahead, StageBatches
from .canary import check_experts
from .checkpoint import State
from .evaluate import evaluate, held_out_shards
from .export import export_model, initial_weights, masters_config
from .metrics import Console, Metrics, plot_loss
from .optimizer import init_state
from .recipe import Recipe, Stage
from .schedule import learning_rate, progress
from .step import TrainStep, split_parameters


@dataclass(frozen=True)
class Result:
    """How a run ended: `finished` is False when it was told to stop and can be resumed."""

    finished: bool
    state: State
    held_out: dict[str, dict[str, float]]


class Trainer:
    """Holds the weights and the place of a run; `run` takes it to its end.

    Raises ConfigError or CheckpointError before anything is trained, where data, weights or the
    folder do not fit the recipe.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        out: Path,
        *,
        resume: bool = False,
        init: Path | None = None,
        max_steps: int | None = None,
        console: Console | None = None,
    ):
        self.recipe, self.data, self.out, self.max_steps = recipe, data, out, max_steps
        self.console = console or Console()
        self.config = ModelConfig.load(recipe.model.parent)
        self._check_lengths()
        # All stages' data now: what is missing must not be found out after the first stage.
        self._batches = {s.name: StageBatches(s, data, recipe.seed) for s in recipe.stages}
        self.model = Model(replace(self.config, quantization=None))
        self.step = TrainStep(
            self.model, recipe.optimizer, compute_dtype(recipe), self.config, recipe.loss_chunk
        )
        largest = max(stage.rows * stage.length for stage in recipe.stages)
        if self.config.num_hidden_layers > self.config.first_k_dense_replace:
            check_experts(self.config, self.step.dtype, largest)
        self.state = State(seed=recipe.seed)
        self._start(resume, init)
        mx.eval(self.params, self.biases, self.optimizer)
        self._stop: str | None = None
        self._saved_at = self._logged_at = time.monotonic()
        self._logged_tokens = self.state.tokens
        self._pending: list[tuple[mx.array, float]] = []

    def _start(self, resume: bool, init: Path | None) -> None:
        """Fresh weights, those of `init`, or everything of the newest checkpoint."""
        newest = checkpoint.latest(self.out)
        if newest is not None and not resume:
            raise CheckpointError(
                f"{self.out}: holds a run ({newest.name}); give --resume to go on with it,"
                " or another --out"
            )
        self.model.reset(self.recipe.seed)
        if newest is not None:
            weights, self.optimizer, self.state = checkpoint.load(newest)
            self.model.load_weights(list(weights.items()))
        elif init is not None:
            self.model.load_weights(list(initial_weights(init, self.config).items()))
        self.params, self.biases = split_parameters(self.model)
        if newest is None:
            self.optimizer = init_state(self.recipe.optimizer, self.params)

    def _check_lengths(self) -> None:
        longest = max(stage.length for stage in self.recipe.stages)
        if longest > self.config.max_position_embeddings:
            raise ConfigError(
                f"length: got {longest}, wanted at most the model's"
                f" {self.config.max_position_embeddings}"
            )

    def plan(self) -> str:
        """What is about to happen, in a few lines."""
        total, active = count_parameters(self.config), count_active_parameters(self.config)
        states = sum(v.nbytes for v in (self.params | self.optimizer).values())
        lines = [
            f"{total / 1e6:.1f} M parameters, {active / 1e6:.1f} M active for a token;"
            f" {str(self.step.dtype).removeprefix('mlx.core.')} over float32 masters,"
            f" {self.recipe.optimizer.kind}, {states / 1e9:.2f} GB of weights and state",
        ]
        for stage in self.recipe.stages:
            limit = " or ".join(
                text
                for text in (
                    f"{stage.step_limit} steps" if stage.step_limit else "",
                    f"{stage.minutes:g} minutes" if stage.minutes else "",
                )
                if text
            )
            lines.append(
                f"  {stage.name}: {limit} of {stage.tokens_a_step / 1e3:.1f}k tokens"
                f" ({stage.accumulate} x {stage.rows} rows of {stage.length},"
                f" {stage.chat_rows} of them conversations), lr {stage.lr:g}"
                f"{', INT4 in the forward pass' if stage.qat else ''}"
            )
        if self.state.step:
            lines.append(
                f"  going on after step {self.state.step}, in stage {self.state.stage!r}"
                if not self.state.done
                else f"  all {self.state.step} steps are done"
            )
        return "\n".join(lines)

    def run(self) -> Result:
        """Train to the end of the recipe, save, export and measure; if told to stop, only save."""
        self.out.mkdir(parents=True, exist_ok=True)
        checkpoint.write_whole(
            self.out / "config.json", (self.recipe.model).read_text(encoding="utf-8")
        )
        self.metrics = Metrics(self.out, self.state.step)
        self.console.say(self.plan())
        try:
            with self._signals():
                self._stages()
            if self._stop is not None:
                self.console.say(
                    f"{self._stop}: saved at step {self.state.step}; go on with --resume"
                )
                return Result(False, self.state, {})
            return Result(True, self.state, self._finish())
        finally:
            self.metrics.close()

    def _stages(self) -> None:
        names = [stage.name for stage in self.recipe.stages]
        if self.state.stage and self.state.stage not in names:
            raise ConfigError(
                f"stage {self.state.stage!r} of the run in {self.out} is not in the recipe; wanted"
                f" one of {', '.join(names)}"
            )
        first = names.index(self.state.stage) if self.state.stage else 0
        for i in range(first, len(names) if not self.state.done else 0):
            stage = self.recipe.stages[i]
            if self.state.stage != stage.name:
                self.state.stage, self.state.stage_step, self.state.stage_seconds = (
                    stage.name,
                    0,
                    0.0,
                )
                mx.clear_cache()
            self._stage(stage)
            if self._stop is not None:
                return
            self.state.done = i == len(names) - 1 and not self._steps_spent()
            self._save()
            self._export_masters()
            if self._steps_spent():
                return

    def _stage(self, stage: Stage) -> None:
        """Train one stage from where the state says, until it is over or `_stop` is set."""
        begun, before = time.monotonic(), (self.state.stage_seconds, self.state.seconds)
        first = True
        ahead = Ahead(
            self._batches[stage.name],
            self.state.stage_step * stage.accumulate,
        )
        batches = iter(ahead)
        try:
            while self._stop is None:
                spent = time.monotonic() - begun
                self.state.stage_seconds, self.state.seconds = before[0] + spent, before[1] + spent
                done = self._progress(stage)
                if done >= 1:
                    break
                if self._steps_spent():
                    break
                lr = learning_rate(
                    self.state.stage_step,
                    done,
                    peak=stage.lr,
                    warmup=stage.warmup,
                    decay_from=stage.decay_from,
                    floor=stage.floor,
                )
                self._one_step(stage, batches, lr, done)
                if first:  # compiling is no part of the time that a stage may train
                    mx.eval(self.params)
                    begun, first = time.monotonic(), False
                if time.monotonic() - self._saved_at > 60 * self.recipe.save_minutes:
                    self._save()
        finally:
            ahead.close()
        if self._stop is not None:
            self._save()

    def _progress(self, stage: Stage) -> float:
        s = self.state
        return progress(s.stage_step, s.stage_seconds, stage.step_limit, stage.minutes)

    def _one_step(
        self,
        stage: Stage,
        batches: Iterator[tuple[dict[str, mx.array], float]],
        lr: float,
        done: float,
    ) -> None:
        loss, loads, grads, weight = mx.array(0.0), mx.array(0.0), {}, 0.0
        for _ in range(stage.accumulate):
            batch, count = next(batches)
            part, load, more = self.step.gradients(self.params, self.biases, batch, stage.qat)
            loss, loads, weight = loss + part, loads + load, weight + count
            grads = {n: grads[n] + g for n, g in more.items()} if grads else more
            mx.async_eval(loss, loads, grads)  # so that micro-batches do not wait for each other
        self.params, self.biases, self.optimizer, norm = self.step.update(
            self.params,
            self.biases,
            self.optimizer,
            grads,
            loads,
            mx.array(max(weight, 1e-9)),
            mx.array(lr),
            mx.array(stage.router_rate),
        )
        mx.async_eval(self.params, self.biases, self.optimizer, norm)
        if self._pending:
            mx.eval(self._pending[-1][0])
        self._pending.append((loss, weight))
        self.state.step += 1
        self.state.stage_step += 1
        self.state.tokens += stage.tokens_a_step
        if self.state.step % self.recipe.log_every == 0 or self.state.step == 1:
            self._log(stage, lr, done, norm, loads)

    def _log(self, stage: Stage, lr: float, done: float, norm: mx.array, loads: mx.array) -> None:
        """The only place that waits for the step itself."""
        weight = sum(w for _, w in self._pending)
        loss = sum(_number(part) for part, _ in self._pending) / max(weight, 1e-9)
        self._pending.clear()
        now = time.monotonic()
        per_second = (self.state.tokens - self._logged_tokens) / max(now - self._logged_at, 1e-9)
        self._logged_at, self._logged_tokens = now, self.state.tokens
        busiest = [_number(layer.max() / layer.mean()) for layer in loads] or [1.0]
        row: dict[str, Any] = {
            "step": self.state.step,
            "stage": stage.name,
            "tokens": self.state.tokens,
            "loss": round(loss, 5),
            "lr": round(lr, 8),
            "tokens_per_second": round(per_second),
            "grad_norm": round(_number(norm), 5),
            "load_max": round(max(busiest), 3),
            "load_max_by_layer": [round(p, 2) for p in busiest],
            "idle_experts": int(_number((loads == 0).sum())),
            "memory_gb": round(mx.get_peak_memory() / 1e9, 2),
            "seconds": round(self.state.seconds, 1),
        }
        self.metrics.add(row)
        eta = self.state.stage_seconds * (1 / done - 1) if done > 0.001 else None
        self.console.live(row, eta)
        if not math.isfinite(loss):
            raise K2Error(
                f"the loss is {loss} at step {self.state.step}; nothing was saved since the"
                f" checkpoint named in {self.out / 'latest'}. Lower the learning rate and --resume"
            )

    def _steps_spent(self) -> bool:
        return self.max_steps is not None and self.state.step >= self.max_steps

    def _save(self) -> None:
        checkpoint.save(
            self.out, self.params | self.biases, self.optimizer, self.state, self.recipe.keep
        )
        self._saved_at = time.monotonic()

    def _export_masters(self) -> None:
        """A convenience between stages, so it may not end a run whose checkpoint is saved."""
        try:
            self._export("masters", masters_config(self.config))
        except (RuntimeError, ValueError, OSError) as error:
            self.console.say(f"masters were not exported: {error}")

    def _export(self, name: str, config: ModelConfig) -> None:
        weights, recipe = self.params | self.biases, self.recipe
        export_model(self.out / name, weights, config, recipe.tokenizer, recipe.max_file_mib)

    def _finish(self) -> dict[str, dict[str, float]]:
        """The quantised model, its bits per byte on held-out text, and the picture of the loss."""
        self._export("model", self.config)
        self.console.say(f"exported {self.out / 'model'} and {self.out / 'masters'}")
        self.step.set_weights(self.params, self.biases, qat=self.config.quantization is not None)
        mx.eval(self.model.parameters())
        held_out = evaluate(self.model, held_out_shards(self.data))
        for name, values in held_out.items():
            self.console.say(f"  held-out {name}: {values['bpb']:.4f} bits per byte")
        self.metrics.add({"step": self.state.step, "stage": "end", "held_out": held_out})
        plot_loss(self.out)
        return held_out

    @contextmanager
    def _signals(self) -> Generator[None, None, None]:
        """SIGINT and SIGTERM end the run after the step in hand, with everything saved."""

        def stop(number: int, frame: FrameType | None) -> None:
            self._stop = signal.Signals(number).name

        old = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def _number(scalar: mx.array) -> float:
    value = scalar.item()
    assert isinstance(value, int | float)
    return value


def compute_dtype(recipe: Recipe) -> mx.Dtype:
    """The forward pass's type: as the recipe says, or bfloat16 on a GPU and float32 on the CPU."""
    if recipe.dtype == "auto":
        return mx.float32 if mx.default_device() == mx.cpu else mx.bfloat16
    return {"float32": mx.float32, "bfloat16": mx.bfloat16}[recipe.dtype]
