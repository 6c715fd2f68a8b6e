"""Train a model on text, as a TOML recipe says.

The run folder gets checkpoints, metrics.jsonl, loss.png, and at the end `model` (quantised, ready
to use) and `masters` (8 bits, to go on from). Ctrl-C saves; --resume goes on, with the same
batches.

Example:
  k2mlx pretrain models/k2-nano/pretrain.toml --data runs/shards --out runs/nano
"""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", type=Path, metavar="CONFIG.toml", help="the recipe")
    add("--data", type=Path, required=True, help="folder of shards, from 'k2mlx data build'")
    add("--out", type=Path, required=True, help="folder of the run")
    add("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    add("--init", type=Path, help="start from the weights of this run or model folder")
    add("--steps", type=int, help="end after this many optimiser steps in all")
    add("--minutes-scale", type=float, metavar="X", help="multiply all stages' minutes by X")
    add(
        "--minutes",
        action="append",
        default=[],
        metavar="STAGE=N",
        help="minutes of one stage (may be given again)",
    )
    add("--json", action="store_true", help="print one JSON object at the end")


def run(args: argparse.Namespace) -> int:
    from k2mlx.train.loop import Trainer
    from k2mlx.train.recipe import load_recipe, with_minutes

    recipe = with_minutes(load_recipe(args.config), args.minutes_scale, args.minutes)
    trainer = Trainer(
        recipe, args.data, args.out, resume=args.resume, init=args.init, max_steps=args.steps
    )
    result = trainer.run()
    if args.json:
        import json
        from dataclasses import asdict

        print(json.dumps(asdict(result)))
    return 0 if result.finished else 130
