"""What a run tells: metrics.jsonl for programs, loss.png for people, a live line to watch."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO


class Metrics:
    """Appends one JSON object a logged step to OUT/metrics.jsonl."""

    def __init__(self, out: Path, step: int):
        """Lines after `step` are dropped: a resumed run does those steps again."""
        self.path = out / "metrics.jsonl"
        kept = [row for row in read(self.path) if row.get("step", 0) <= step]
        self.path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        self._file: TextIO = self.path.open("a", encoding="utf-8")

    def add(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a metrics file; a last line that a kill cut short is passed over."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def plot_loss(out: Path) -> Path | None:
    """Draw OUT/loss.png from the metrics, where matplotlib is installed (the extra `train`)."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in read(out / "metrics.jsonl") if "loss" in row]
    figure, (top, bottom) = pyplot.subplots(2, 1, figsize=(9, 7), sharex=True)
    for stage in dict.fromkeys(row["stage"] for row in rows):
        part = [row for row in rows if row["stage"] == stage]
        top.plot([r["tokens"] / 1e6 for r in part], [r["loss"] for r in part], label=stage)
        bottom.plot([r["tokens"] / 1e6 for r in part], [r["load_max"] for r in part])
    top.set_ylabel("loss (nats a token)")
    bottom.set_ylabel("busiest expert / mean")
    bottom.set_xlabel("million tokens")
    if rows:
        top.legend()
    figure.tight_layout()
    figure.savefig(out / "loss.png", dpi=120)
    pyplot.close(figure)
    return out / "loss.png"


class Console:
    """The live line on standard error: rewritten on a terminal, one line each elsewhere."""

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._open = False

    def say(self, text: str) -> None:
        """A line that stays."""
        self._stream.write(("\n" if self._open else "") + text + "\n")
        self._stream.flush()
        self._open = False

    def live(self, row: dict[str, Any], eta: float | None) -> None:
        left = "" if eta is None else f"  {_clock(eta)} left"
        text = (
            f"{row['stage']} {row['step']}  loss {row['loss']:.4f}  lr {row['lr']:.2e}"
            f"  {row['tokens_per_second'] / 1e3:.1f}k tok/s  norm {row['grad_norm']:.2f}"
            f"  load {row['load_max']:.1f}  {row['memory_gb']:.1f} GB{left}"
        )
        if self._live:
            self._stream.write(f"\r\x1b[2K{text}")
            self._stream.flush()
            self._open = True
        else:
            self.say(f"{time.strftime('%H:%M:%S')} {text}")


def _clock(seconds: float) -> str:
    seconds = max(0, int(seconds))
    return f"{seconds // 60}:{seconds % 60:02d}"
