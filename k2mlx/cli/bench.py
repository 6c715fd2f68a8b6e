"""Measure k2mlx against mlx-lm: the same weights in one process, rounds in turn.

Prints JSON objects, one a line, as cases are done: `ratio` is above 1 where k2mlx is better, for
`measure` time and memory (the peak beyond the weights), beside both medians and all rounds.
`against` is mlx-lm at its best, or what mlx_lm.server does. A case that cannot be measured says why
(`skipped`). Before any clock runs, both compute the logits of random tokens: `agree`.

--case takes names, or what several begin with: decode is decode-1, decode-4 and so on; all is all.
--slice takes random weights at a model's true width instead of a model: for GPUs that hold a few
layers (4 of K2 with --rest q4: 34 GB, and 21 GB for mlx-lm, whose experts are cut otherwise).
--where instead says where the time of one decoded token goes.

Under mlx.launch the cases are ranks-...: the pipeline beside one device and beside
mlx-lm's pipeline, and `share_of_bound`, of what so many stages can reach. Each rank needs a device
of its own that holds the whole model.

Example:
  k2mlx bench
  k2mlx bench --case turns-1k,restart-1k --rounds 7
  k2mlx bench --slice kimi-k2-thinking --layers 4 --rest q4 --case all
  k2mlx bench --where --depth 512
  mlx.launch -n 2 --backend ring -- python -m k2mlx bench --slice kimi-k2-thinking --layers 8
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from k2mlx.bench.cases import Case
    from k2mlx.load import Loaded


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `k2mlx bench`."""
    add = parser.add_argument
    add("--model", metavar="PATH", help="a model's folder or name (models/k2-nano)")
    add("--slice", metavar="MODEL", help="random weights of this shape, such as kimi-k2-thinking")
    add("--layers", type=int, default=4, metavar="N", help="of the slice (%(default)s)")
    add("--rest", default="q4", metavar="FORM", help="its matrices that are not experts (q4:32)")
    add("--vocab", type=int, metavar="N", help="tokens of its head (as the model's)")
    add("--case", default="", metavar="NAME,...", help="what to measure; 'list' names all")
    add("--rounds", type=int, default=5, metavar="N", help="timed rounds of each (%(default)s)")
    add("--chunk", type=int, metavar="N", help="prompt tokens at a time, of both (2048; CPU: 512)")
    add("--where", action="store_true", help="the parts of one decoded token, without mlx-lm")
    add("--depth", type=int, default=1024, metavar="N", help="tokens before it (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Measure, print; 1 when the two do not compute the same."""
    from k2mlx.parallel.group import launched

    if launched():
        return _ranks(args)
    cases = _cases(args.case)
    if args.case == "list":
        for case in cases:
            print(f"{case.name:<18} {case.about}")
        return 0
    _check(args)
    with tempfile.TemporaryDirectory() as folder:
        loaded = _loaded(args, Path(folder))
        if args.where:
            return _where(args, loaded)
        return _compare(args, loaded, cases, Path(folder))


def _compare(args: argparse.Namespace, loaded: "Loaded", cases: list["Case"], folder: Path) -> int:
    from k2mlx.bench import contest, machine, rounds

    _say("mlx-lm's model beside ours")
    both = contest.prepare(loaded, folder, chunk=args.chunk, trained=args.slice is None)
    del loaded
    if not both.agreement.ok:
        print(
            f"k2mlx: the two engines do not compute the same logits: they differ by"
            f" {both.agreement.difference:.2g}, {both.agreement.bound:.2g} is allowed",
            file=sys.stderr,
        )
        return 1

    def on_round(case: str, number: int, contender: str) -> None:
        _say(f"{case}: round {number} of {args.rounds}: {contender}")

    for row in rounds.run(both, cases, args.rounds, machine.about(), on_round):
        _say("")
        print(json.dumps(row), flush=True)
    return 0


def _where(args: argparse.Namespace, loaded: "Loaded") -> int:
    from k2mlx.bench import machine, where
    from k2mlx.load import expand_all_but_experts

    if not machine.on_gpu():
        expand_all_but_experts(loaded.model)  # as `load` does it there
    found = where.where(loaded, args.depth, args.rounds)
    print(where.table(found), file=sys.stderr)
    print(json.dumps(found | {"model": loaded.path.name} | machine.about()))
    return 0


def _ranks(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from k2mlx.bench import machine, ranks
    from k2mlx.errors import RequestError
    from k2mlx.parallel.exit import leave
    from k2mlx.parallel.group import Group, connect

    names = args.case.split(",") if args.case not in ("", "all") else list(ranks.CASES)
    if unknown := [name for name in names if name not in ranks.CASES]:
        raise RequestError(f"--case: got {unknown}, wanted of {', '.join(ranks.CASES)}")
    found = connect()
    if found is None:
        raise RequestError("bench: mlx.launch started one rank, wanted two or more")
    ring, channel = found
    channel.on_failure = leave
    chunk = args.chunk or (2048 if machine.on_gpu() else 512)
    with tempfile.TemporaryDirectory() as folder:
        loaded = _loaded(args, Path(folder))
        context = max(ranks.CASES[name].prompt for name in names) + ranks.ANSWER
        wide = max(context, loaded.config.max_position_embeddings)
        loaded = replace(loaded, config=replace(loaded.config, max_position_embeddings=wide))
        layers = ranks.even(loaded.config.num_hidden_layers, ring.size())[ring.rank()]
        group = Group(ring, channel, layers)
        chosen = [ranks.CASES[name] for name in names]
        for row in ranks.run(loaded, group, chosen, args.rounds, chunk, _say):
            _say("")
            print(json.dumps(row), flush=True)
    channel.close()
    return 0


def _cases(names: str) -> list["Case"]:
    from importlib.util import find_spec

    from k2mlx.errors import MissingExtraError, RequestError

    if find_spec("mlx_lm") is None:
        raise MissingExtraError("mlx-lm is not installed; pip install 'mlx-lm==0.32.2'")
    from k2mlx.bench.cases import CASES, QUICK

    if names in ("all", "list"):
        return list(CASES.values())
    found = {}
    for name in names.split(",") if names else QUICK:
        family = [case for known, case in CASES.items() if known.startswith(f"{name}-")]
        chosen = [CASES[name]] if name in CASES else family
        if not chosen:
            raise RequestError(f"--case: got {name!r}, wanted all or of {', '.join(CASES)}")
        found |= {case.name: case for case in chosen}
    return list(found.values())


def _check(args: argparse.Namespace) -> None:
    from k2mlx.errors import RequestError

    if args.model and args.slice:
        raise RequestError("--model and --slice: got both, wanted one; a slice has its own weights")
    for option in ("rounds", "chunk", "layers", "depth"):
        got = getattr(args, option)
        if got is not None and got < 1:
            raise RequestError(f"--{option}: got {got}, wanted 1 or more")


def _loaded(args: argparse.Namespace, folder: Path) -> "Loaded":
    from k2mlx.cli.convert import form
    from k2mlx.config import QuantSpec
    from k2mlx.errors import RequestError
    from k2mlx.home import find_model
    from k2mlx.load import load

    if args.slice is None:
        return load(args.model or "models/k2-nano", as_stored=True)
    from k2mlx.bench.slice import random_slice

    rest = form("q4:32" if args.rest == "q4" else args.rest, "--rest")
    if not (rest is None or isinstance(rest, QuantSpec)):
        raise RequestError(f"--rest: got {args.rest!r}, wanted bf16, q8 or q4, such as q8:32")
    _say("random weights")
    config = find_model(args.slice)
    out = folder / f"{config.name}-{args.layers}-layers"
    changes = {} if args.vocab is None else {"vocab_size": args.vocab}
    return random_slice(config, out, layers=args.layers, rest=rest, **changes)


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
