"""Train a model on conversations, as a TOML recipe says; start from another run or model with
--init.

Works as 'k2mlx pretrain' does: checkpoints, --resume, metrics, `model` and `masters` at the end.

Example:
  k2mlx sft models/k2-nano/sft.toml --init runs/nano --data runs/shards --out runs/nano-sft
"""

from k2mlx.cli.pretrain import arguments, run

__all__ = ["arguments", "run"]
