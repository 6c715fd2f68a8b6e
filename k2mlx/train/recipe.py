"""What a training TOML file may say, read into frozen dataclasses; a wrong or unknown key is a
ConfigError.

model = "config.json"            # beside this file; also tokenizer = "tokenizer.model"
[optimizer]                      # fields of OptimizerConfig
[[stage]]
name = "text"
kind = "text"                    # text | chat | mixed (text and chat rows side by side)
minutes = 9                      # and / or steps, tokens: whichever ends first
length = 512
rows = 64                        # a micro-batch
accumulate = 2                   # micro-batches a step
lr = 4e-3
text = { novels = 1.0 }          # shard name = weight
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..fields import build, read_toml
from .optimizer import OptimizerConfig


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one mixture, length and schedule.

    `chat_share`: share of a mixed stage's rows that hold conversations. `decay_from` and `floor`:
    see schedule.py. `router_rate`: u of the router's balance, 0 leaves it. `qat`: train through the
    stored grid. `learn_all`: every token of a conversation counts, as in running text, not only
    what the assistant has to produce.
    """

    name: str
    kind: str
    length: int
    rows: int
    lr: float
    steps: int | None = None
    tokens: int | None = None
    minutes: float | None = None
    accumulate: int = 1
    warmup: int = 0
    decay_from: float = 1.0
    floor: float = 0.0
    router_rate: float = 0.0
    qat: bool = False
    chat_share: float = 0.0
    learn_all: bool = False
    text: dict[str, float] = field(default_factory=dict)
    chat: dict[str, float] = field(default_factory=dict)

    @property
    def tokens_a_step(self) -> int:
        return self.length * self.rows * self.accumulate

    @property
    def chat_rows(self) -> int:
        """How many of a micro-batch's rows hold conversations."""
        share = {"text": 0.0, "chat": 1.0}.get(self.kind, self.chat_share)
        return round(self.rows * share)

    @property
    def step_limit(self) -> int | None:
        """Steps by `steps` or `tokens`, whichever are fewer; None if only the clock ends it."""
        limits = [self.steps, -(-self.tokens // self.tokens_a_step) if self.tokens else None]
        return min((n for n in limits if n is not None), default=None)


@dataclass(frozen=True)
class Recipe:
    """A whole run. Paths are resolved against the TOML file's folder.

    `dtype`: of the forward pass; "auto" is bfloat16 on a GPU, float32 on the CPU. `loss_chunk`:
    rows of logits held at a time, 0 all. `max_file_mib`: exported weights are split into files of
    at most that.
    """

    model: Path
    stages: tuple[Stage, ...]
    tokenizer: Path | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    seed: int = 1
    dtype: str = "auto"
    loss_chunk: int = 0
    log_every: int = 20
    save_minutes: float = 5.0
    keep: int = 2
    max_file_mib: float = 15.0


def load_recipe(path: Path) -> Recipe:
    """Read a TOML recipe. Raises ConfigError naming the key, what it holds and what is wanted."""
    content = read_toml(path, "models/k2-nano/pretrain.toml")
    try:
        return _recipe(content, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; mend the recipe") from None


def _recipe(content: dict[str, Any], folder: Path) -> Recipe:
    content = dict(content)
    stages = content.pop("stage", [])
    if not isinstance(stages, list) or not stages:
        raise ConfigError("stage: wanted at least one [[stage]]")
    built = tuple(_stage(s, f"stage {i + 1}: ") for i, s in enumerate(stages))
    names = [stage.name for stage in built]
    if len(set(names)) < len(names):
        raise ConfigError(f"stage names: got {', '.join(names)}; each must be different")
    optimizer = build(OptimizerConfig, content.pop("optimizer", {}), "optimizer.")
    if optimizer.kind not in ("muon", "adamw"):
        raise ConfigError(f"optimizer.kind: got {optimizer.kind!r}, wanted 'muon' or 'adamw'")
    values: dict[str, Any] = content | {"stages": built, "optimizer": optimizer}
    for key in ("model", "tokenizer"):
        if isinstance(values.get(key), str):
            values[key] = folder / values[key]
            if not values[key].is_file():
                raise ConfigError(f"{key}: got {values[key]}, wanted a file that is there")
    recipe = build(Recipe, values, "")
    if recipe.model.name != "config.json":
        raise ConfigError(f"model: got {recipe.model.name!r}, wanted the path of a config.json")
    if recipe.dtype not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"dtype: got {recipe.dtype!r}, wanted 'auto', 'float32' or 'bfloat16'")
    return recipe


def _stage(content: Any, where: str) -> Stage:
    stage = build(Stage, content, where)
    if stage.kind not in ("text", "chat", "mixed"):
        raise ConfigError(f"{where}kind: got {stage.kind!r}, wanted 'text', 'chat' or 'mixed'")
    if stage.steps is None and stage.tokens is None and stage.minutes is None:
        raise ConfigError(f"{where}wanted at least one of steps, tokens and minutes")
    for key in ("length", "rows", "accumulate", "steps", "tokens", "minutes", "lr"):
        value = getattr(stage, key)
        if value is not None and value <= 0:
            raise ConfigError(f"{where}{key}: got {value}, wanted more than 0")
    for key in ("chat_share", "decay_from", "floor"):
        if not 0 <= getattr(stage, key) <= 1:
            raise ConfigError(f"{where}{key}: got {getattr(stage, key)}, wanted 0 to 1")
    for key in ("text", "chat"):
        needed = stage.rows > stage.chat_rows if key == "text" else stage.chat_rows > 0
        shards = getattr(stage, key)
        if needed and not shards:
            raise ConfigError(f"{where}{key}: wanted shard names with weights, as a table")
        for name, weight in shards.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
                raise ConfigError(
                    f"{where}{key}.{name}: got {weight!r}, wanted a weight of 0 or more"
                )
    return stage


def with_minutes(recipe: Recipe, scale: float | None, given: Iterable[str]) -> Recipe:
    """The recipe with its clock changed: all minutes times `scale`, or "STAGE=MINUTES"."""
    minutes = {}
    for item in given:
        name, _, number = item.partition("=")
        try:
            minutes[name] = float(number)
        except ValueError:
            raise ConfigError(f"--minutes {item}: wanted STAGE=MINUTES, such as text=9") from None
        if minutes[name] <= 0:
            raise ConfigError(f"--minutes {item}: wanted more than 0 minutes")
    known = [stage.name for stage in recipe.stages]
    for name in minutes:
        if name not in known:
            raise ConfigError(f"--minutes {name}: no such stage; wanted one of {', '.join(known)}")
    if scale is not None and scale <= 0:
        raise ConfigError(f"--minutes-scale {scale}: wanted more than 0")
    stages = []
    for stage in recipe.stages:
        m = stage.minutes * scale if stage.minutes and scale else stage.minutes
        stages.append(replace(stage, minutes=minutes.get(stage.name, m)))
    return replace(recipe, stages=tuple(stages))
