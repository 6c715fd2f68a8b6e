"""Copy a model with its routed experts' output matrices zero: what it is without them.

    .venv/bin/python scripts/silence_experts.py SRC DST

For weights that were trained where the routed experts were not computed (k2mlx/train/canary.py):
k2-nano, version 0.1; see "What failed" in models/k2-nano/README.md.
"""

import argparse
from pathlib import Path

import mlx.core as mx

from k2mlx.config import ModelConfig
from k2mlx.train.export import export_model, initial_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    config = ModelConfig.load(args.source)
    weights = initial_weights(args.source, config)
    for name, value in weights.items():
        if name.endswith(".mlp.experts.down_proj.weight"):
            weights[name] = mx.zeros_like(value)
    args.out.mkdir(parents=True)
    export_model(args.out, weights, config, args.source / "tokenizer.model")


if __name__ == "__main__":
    main()
