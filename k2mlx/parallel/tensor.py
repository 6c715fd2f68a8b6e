"""Tensor-parallel mode: every rank has all layers, and of each a share of its heads and experts.

    matrix                            cut by          what a rank computes
    q_b_proj, kv_b_proj               rows            its heads
    o_proj                            columns         its heads' part of the sum over heads
    gate_proj, up_proj, gate_up_proj  rows            its part of the intermediate width
    down_proj                         columns         that part's part of the sum
    lm_head                           rows            its part of the vocabulary
    all others                        not             the same on all ranks

So a layer needs two sums over the ranks, one after attention and one after the feed-forward part,
where routed and shared experts are added first; and the logits are gathered. The latent cache is
the same on all ranks, for all heads share it: this mode saves weights and the time to read them,
not cache.

Columns are cut between groups of the quantisation only, so that a share is a matrix stored alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..config import ModelConfig, QuantSpec
from ..errors import PlanError
from ..model import Model
from ..nn.moe import MoE
from ..weights.load import load_model
from ..weights.names import module_tensors

SIZES = (2, 4)  # of groups; K2's 64 heads and 2,048 columns an expert divide by both
# Ends of module paths; gate_up_proj is an up_proj too.
ROWS = ("q_b_proj", "kv_b_proj", "gate_proj", "up_proj", "lm_head")
COLUMNS = ("o_proj", "down_proj")
STORED_GROUP = 32  # of what official INT4 and fp8 checkpoints are kept as


@dataclass(frozen=True)
class Share:
    """Cuts matrices for one rank of a group; `load_model` takes it as its `share`."""

    rank: int
    size: int

    def __call__(self, path: str, parts: dict[str, mx.array]) -> dict[str, mx.array]:
        """The parts (weight, scales, biases) of the whole matrix [..., O, I] at a module path ->
        those of this rank's share. The result does not keep the whole one alive.

        Raises PlanError for a matrix that cannot be cut so.
        """
        axis = _axis(path)
        if axis is None or self.size == 1:
            return parts
        return {kind: self._cut(path, part, axis) for kind, part in parts.items()}

    def _cut(self, path: str, part: mx.array, axis: int) -> mx.array:
        halves = _halves(path)
        if part.shape[axis] % (halves * self.size):
            raise PlanError(
                f"{path}: got a matrix stored as {list(part.shape)}, wanted one that splits into "
                f"{self.size} equal shares; use `--parallel pipeline`"
            )
        pieces = [
            mx.split(half, self.size, axis=axis)[self.rank]
            for half in mx.split(part, halves, axis=axis)
        ]
        return mx.contiguous(pieces[0] if halves == 1 else mx.concatenate(pieces, axis=axis))


def check_shares(config: ModelConfig, size: int) -> None:
    """PlanError, before anything is loaded, unless every matrix splits into `size` equal shares.

    Source: the config alone. Where an official checkpoint's tensors are stored otherwise than its
    config says, `Share` itself refuses.
    """
    advice = "use `--parallel pipeline`"
    if size not in SIZES:
        raise PlanError(f"tensor mode: got {size} machines, wanted 2 or 4; {advice}")
    heads = config.num_attention_heads
    if heads % size:
        raise PlanError(
            f"tensor mode: num_attention_heads: got {heads}, wanted a multiple of {size}, one "
            f"share for each machine; {advice}"
        )
    for path, width, group in _cuts(config):
        if width % (group * size):
            stored = f" in groups of {group}" if group > 1 else ""
            raise PlanError(
                f"tensor mode: {path}: got a width of {width}{stored}, wanted a multiple of "
                f"{group * size} for {size} machines; {advice}"
            )


def load_share(folder: Path, dtype: mx.Dtype, group: mx.distributed.Group, **options: Any) -> Model:
    """This rank's share of the model in FOLDER, which is never held whole. options: of load_model.

    Peak memory: the share and the largest matrix. Raises as `load_model`, and PlanError.
    """
    check_shares(ModelConfig.load(folder), group.size())
    model = load_model(folder, dtype, share=Share(group.rank(), group.size()), **options)
    return join(model, group)


def shard(model: Model, group: mx.distributed.Group) -> Model:
    """Turn a whole model into this rank's share, in place. Raises PlanError before it changes
    anything."""
    check_shares(model.config, group.size())
    share = Share(group.rank(), group.size())
    shares = {}
    for name, value in model.named_parameters().items():
        path, _, kind = name.rpartition(".")
        shares[name] = share(path, {kind: value})[kind]
    model.update(tree_unflatten(list(shares.items())))
    return join(model, group)


def join(model: Model, group: mx.distributed.Group) -> Model:
    """Make a model whose matrices are a rank's shares one of the group: what each rank has a part
    of is summed, its logits are gathered. In place.

    Only the count of heads differs in a rank's attention: its rope and its scale, made of the whole
    config, stay as they are, and the router has no part in this.
    """
    for layer in model.layers:
        attention = layer.self_attn
        heads = attention.config.num_attention_heads // group.size()
        attention.config = replace(attention.config, num_attention_heads=heads)
        attention.update_modules({"o_proj": Summed(attention.o_proj, group)})
        mlp = layer.mlp
        if isinstance(mlp, MoE):
            layer.update_modules({"mlp": SummedMoE(mlp, group)})
        else:
            mlp.update_modules({"down_proj": Summed(mlp.down_proj, group)})
    model.update_modules({"lm_head": Gathered(model.lm_head, group)})
    return model


class Summed(nn.Module):
    """A matrix cut by columns: x [..., I of this rank] -> the sum over all ranks [..., O]."""

    def __init__(self, matrix: nn.Module, group: mx.distributed.Group):
        super().__init__()
        self.matrix = matrix
        self._group = group

    def __call__(self, x: mx.array) -> mx.array:
        return all_sum(self.matrix(x), self._group)


class SummedMoE(MoE):
    """Experts cut by their width: routed and shared are added on each rank, then over the ranks.
    All ranks route alike, for the router and what it sees are the same bits."""

    def __init__(self, share: MoE, group: mx.distributed.Group):
        nn.Module.__init__(self)
        self.gate, self.experts = share.gate, share.experts
        self.shared_experts = share.shared_experts
        self._group = group

    def __call__(self, x: mx.array, router_load: list[mx.array] | None = None) -> mx.array:
        return all_sum(super().__call__(x, router_load), self._group)


class Gathered(nn.Module):
    """A matrix cut by rows: x [..., I] -> the outputs of all ranks side by side [..., O]."""

    def __init__(self, matrix: nn.Module, group: mx.distributed.Group):
        super().__init__()
        self.matrix = matrix
        self._group = group

    def __call__(self, x: mx.array) -> mx.array:
        shares = _gather(self.matrix(x), self._group)
        return mx.moveaxis(shares, 0, -2).flatten(-2)


def all_sum(x: mx.array, group: mx.distributed.Group) -> mx.array:
    """The sum of all ranks' x, the same bits on each: near ties would else route a token to one
    expert here and to another there, and a part of each be added.

    Of two terms every order is the same. Of more, jaccl's mesh adds them in the order in which they
    arrive, so they are gathered and added in the order of the ranks: as many bytes there, and on a
    ring of four twice as many.
    """
    if group.size() == 2:
        return mx.distributed.all_sum(x, group=group)
    first, *others = _gather(x, group)
    for other in others:
        first = first + other
    return first


def _gather(x: mx.array, group: mx.distributed.Group) -> mx.array:
    """x of every rank, [size, *x.shape]."""
    return mx.distributed.all_gather(x[None], group=group)


def _axis(path: str) -> int | None:
    """The axis by which the matrix at this module path is cut."""
    return -2 if path.endswith(ROWS) else -1 if path.endswith(COLUMNS) else None


def _halves(path: str) -> int:
    """How many matrices stand one below the other: of an expert's gate and up each is cut."""
    return 2 if path.endswith("gate_up_proj") else 1


def _cuts(config: ModelConfig) -> Iterator[tuple[str, int, int]]:
    """Of every matrix that is cut: its module path, the width that is cut, and how many of it
    cannot be parted (1: any may)."""
    for name, shape in module_tensors(config):
        path = name.removesuffix(".weight")
        axis = _axis(path)
        if axis is not None:
            group = _group_size(config, path) if axis == -1 else 1
            yield path, shape[axis] // _halves(path), group


def _group_size(config: ModelConfig, path: str) -> int:
    """Inputs that share a scale in the matrix at this module path."""
    official = config.checkpoint_format
    if official == "fp8" or (official == "int4" and ".mlp.experts." in path):
        return STORED_GROUP
    spec: QuantSpec | None = config.spec(path)
    return 1 if spec is None else spec.group_size
