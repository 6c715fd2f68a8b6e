"""Check that this machine computes what it should, and print what a report about a fault needs.

Prints versions, chip and memory; computes the golden logits stored with the model again on this
device; and compares the quantised gather, on which every expert runs, with NumPy at the sizes where
MLX's kernels have been wrong on some chips. Exits 1 when something is wrong.

Example:
  k2mlx doctor                       all of it with k2-nano
  k2mlx doctor --json > report.json  the same to attach to an issue
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from k2mlx.doctor import Check


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="models/k2-nano", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--write-golden",
        action="store_true",
        help="for whoever trained the model: store this device's float32 logits beside it",
    )


def run(args: argparse.Namespace) -> int:
    import mlx.core as mx

    from k2mlx import doctor
    from k2mlx.load import load

    say = sys.stderr if args.json else sys.stdout
    if args.write_golden:
        path = doctor.write_golden(load(args.model, mx.float32))
        print(json.dumps({"written": str(path)}) if args.json else f"wrote {path}")
        return 0
    machine = doctor.machine()
    print("\n".join(f"{key:14} {_words(value)}" for key, value in machine.items()), file=say)
    checks = _report(doctor.check_kernels(), say)
    for dtype in [mx.float32] if doctor.device() == "cpu" else [mx.float32, mx.bfloat16]:
        checks += _report(doctor.check_golden(load(args.model, dtype)), say)
    wrong = sum(not check.ok for check in checks)
    verdict = f"{wrong} of {len(checks)} checks failed" if wrong else "this machine computes right"
    print(verdict, file=say)
    if args.json:
        found = [asdict(check) for check in checks]
        print(json.dumps({"ok": not wrong, "machine": machine, "checks": found}))
    return 1 if wrong else 0


def _report(checks: "Iterable[Check]", say: TextIO) -> "list[Check]":
    checks = list(checks)
    for check in checks:
        figure = "" if check.error is None else f"error {check.error:.1e}, limit {check.limit:.0e}"
        print(f"{'ok   ' if check.ok else 'WRONG'} {check.name:40} {figure}{check.note}", file=say)
    return checks


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(number)}" for key, number in value.items()) or "not told"
    return f"{value / 2**30:.1f} GiB" if isinstance(value, int) and value > 2**20 else str(value)
