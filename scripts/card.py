"""Measures a model and writes what was measured into its card.

models/k2-nano/figures.json holds the measurements, README.md quotes them between markers, loss.png
is drawn from them. Only what is asked for is measured again; the card is always written.

Example:
  .venv/bin/python scripts/card.py --measure tools chat
  .venv/bin/python scripts/card.py --measure text overlap sources --data runs/shards
  .venv/bin/python scripts/card.py --runs runs/nano runs/nano-sft
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

from k2mlx.eval.chat import transcript
from k2mlx.eval.overlap import question_texts
from k2mlx.eval.questions import read_questions

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "k2-nano"
RECIPES = ("pretrain.toml", "sft.toml")
COMMANDS = {
    "tools": "k2mlx eval tools --model models/k2-nano --seed 0",
    "text": "k2mlx eval text --model models/k2-nano --data runs/shards --max-tokens 70000",
    "chat": "k2mlx eval chat --model models/k2-nano --seed 1 --count 20",
    "overlap": "k2mlx eval overlap --data runs/shards",
}
WANTED = {"calls_accuracy": 0.90, "answer_accuracy": 0.85, "false_call_rate": 0.05}
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--measure", nargs="+", default=[], choices=[*COMMANDS, "sources"], help="what to measure")
    add("--data", nargs="+", type=Path, default=[], help="folders of shards; text is in the first")
    add("--take", nargs="+", default=[], metavar="WHAT=FILE", help="what a command printed before")
    add("--runs", nargs="+", type=Path, help="run folders in their order, with metrics.jsonl")
    args = parser.parse_args()
    if set(args.measure) & {"text", "overlap", "sources"} and not args.data:
        parser.error("--data: missing; text, overlap and sources need the shards")
    file = MODEL / "figures.json"
    figures = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if args.runs:
        figures["training"] = read_training(args.runs)
    for taken in args.take:
        what, _, printed = taken.partition("=")
        figures[what] = {**weights(), **json.loads(Path(printed).read_text(encoding="utf-8"))}
    for what in args.measure:
        measured = read_sources(args.data, figures) if what == "sources" else ask(what, args.data)
        figures[what] = measured
        write_figures(file, figures)
    write_figures(file, figures)
    if "training" in figures:
        draw_loss(figures["training"]["curve"], MODEL / "loss.png")
    card = MODEL / "README.md"
    card.write_text(written(card.read_text(encoding="utf-8"), figures), encoding="utf-8")


def write_figures(file: Path, figures: Figures) -> None:
    """One line for each thing measured, so that a difference shows what changed."""
    rows = [f" {json.dumps(name)}: {json.dumps(figures[name])}" for name in sorted(figures)]
    file.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


# --- Measuring -----------------------------------------------------------------------------------


def ask(what: str, data: list[Path]) -> Figures:
    """What the command prints, with the weights that it is true of."""
    command = COMMANDS[what].split()[1:]
    folders = [str(path.resolve()) for path in data[: 1 if what == "text" else None]]
    if "runs/shards" in command:
        place = command.index("runs/shards")
        command[place : place + 1] = folders
    done = subprocess.run(
        [sys.executable, "-m", "k2mlx", *command, "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    figures = json.loads(done.stdout)
    return figures if what == "overlap" else {**weights(), **figures}


def weights() -> Figures:
    content = (MODEL / "model.safetensors").read_bytes()
    return {"weights_sha256": hashlib.sha256(content).hexdigest()}


def read_training(runs: Iterable[Path]) -> Figures:
    """Figures of each stage from the metrics of the runs, and the points of the curve: million
    tokens since the beginning, loss, load of the busiest expert over the mean."""
    stages, curve, before = [], [], 0
    for run in runs:
        text = (run / "metrics.jsonl").read_text(encoding="utf-8")
        rows = [row for row in map(json.loads, text.splitlines()) if "loss" in row]
        end = {"tokens": 0, "step": 0, "seconds": rows[0]["seconds"]}
        for stage in dict.fromkeys(row["stage"] for row in rows):
            part = [row for row in rows if row["stage"] == stage]
            last = part[-1]
            stages.append(
                {
                    "stage": stage,
                    "steps": last["step"] - end["step"],
                    "tokens": last["tokens"] - end["tokens"],
                    "minutes": round((last["seconds"] - end["seconds"]) / 60, 1),
                    "tokens_per_second": int(median(row["tokens_per_second"] for row in part)),
                    "loss": round(median(row["loss"] for row in part[-5:]), 3),
                    "load_max": round(median(row["load_max"] for row in part[-5:]), 1),
                }
            )
            points = [
                [round((before + r["tokens"]) / 1e6, 3), round(r["loss"], 3), r["load_max"]]
                for r in part
            ]
            curve.append({"stage": stage, "points": points})
            end = last
        before += end["tokens"]
    return {"stages": stages, "curve": curve}


def read_sources(data: list[Path], figures: Figures) -> Figures:
    """Size of each training shard, and about how many of its tokens were seen: the shares of the
    recipes times the tokens of the stages."""
    shards: Figures = {}
    for folder in data:
        for row in json.loads((folder / "SHARDS.json").read_text(encoding="utf-8")):
            shards[row["name"]] = row
    seen: dict[str, float] = {}
    tokens: dict[str, int] = {}
    for row in figures["training"]["stages"]:
        tokens[row["stage"]] = tokens.get(row["stage"], 0) + row["tokens"]
    stages = [
        stage
        for recipe in RECIPES
        if (MODEL / recipe).is_file()
        for stage in tomllib.loads((MODEL / recipe).read_text(encoding="utf-8"))["stage"]
    ]
    for stage in stages:
        chat = stage.get("chat_share", float("chat" in stage))
        copies = {
            name: weight * shards[name]["tokens"] for name, weight in stage.get("chat", {}).items()
        }
        for weights, share in ((stage.get("text", {}), 1 - chat), (copies, chat)):
            for name, weight in weights.items():
                part = share * weight / sum(weights.values())
                seen[name] = seen.get(name, 0) + part * tokens[stage["name"]]
    return {
        name: {
            "texts": shards[name].get("documents", shards[name].get("conversations")),
            "tokens": shards[name]["tokens"],
            "seen": round(seen[name]),
            "licence": shards[name]["licence"],
        }
        for name in sorted(seen)
    }


# --- Showing -------------------------------------------------------------------------------------


def written(card: str, figures: Figures) -> str:
    """The card with what stands between its markers replaced."""
    for name, show in SECTIONS.items():
        if name in figures:
            pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
            assert pattern.search(card), f"the card has no place for {name}"
            shown = show(figures[name])
            card = pattern.sub(lambda found, shown=shown: f"{found[1]}{shown}\n{found[2]}", card)
    return card


def show_tools(row: Figures) -> str:
    verdicts = [
        ("right function and arguments", "calls_accuracy", row["n_questions"], ">="),
        ("right final answer", "answer_accuracy", row["n_questions"], ">="),
        ("called a tool where none is needed", "false_call_rate", row["n_no_tool"], "<="),
    ]
    lines = ["| | turns | k2-nano | wanted |", "|---|---|---|---|"]
    for name, key, count, sign in verdicts:
        sign = sign.replace(">=", "at least").replace("<=", "at most")
        lines.append(f"| {name} | {count} | {row[key]:.1%} | {sign} {WANTED[key]:.0%} |")
    lines += ["", "| tool | questions | right call | right answer |", "|---|---|---|---|"]
    lines += [
        f"| `{kind}` | {part['n']} | {part['calls_accuracy']:.1%} | {part['answer_accuracy']:.1%} |"
        for kind, part in row["by_kind"].items()
    ]
    after = (
        f"Of the turns whose call was right, {row['answer_accuracy_after_right_call']:.1%} ended"
    )
    lines += [
        "",
        f"{after} in the right answer. Greedy,",
        f"seed {row['seed']}, questions `{row['questions_sha256'][:12]}`, weights "
        f"`{row['weights_sha256'][:12]}`.",
    ]
    return block(COMMANDS["tools"]) + "\n".join(lines)


def show_text(row: Figures) -> str:
    lines = [
        "| source | bits per byte | 95 % interval | documents | bytes read |",
        "|---|---|---|---|---|",
    ]
    for name, one in row["sources"].items():
        if one["bpb"] is None:
            lines.append(f"| {name} | not measured: none of it is held out | | 0 | 0 |")
            continue
        between = (
            "too few" if one["interval"] is None else "{:.2f} to {:.2f}".format(*one["interval"])
        )
        part = "" if one["tokens"] == one["of_tokens"] else ", their beginnings"
        lines.append(
            f"| {name} | {one['bpb']:.3f} | {between} | {one['documents']}{part} "
            f"| {one['bytes']:,} |"
        )
    return block(COMMANDS["text"]) + "\n".join(lines)


def show_overlap(rows: Figures) -> str:
    questions = rows["tool questions"]
    long = questions["texts"] - questions["short_texts"]
    texts = question_texts(read_questions())
    found = [f'"{texts[number]}"' for number in questions["overlapping"]]
    lines = [
        f"Of the {questions['texts']} texts that users say in the tool questions, {long} have 12 "
        f"words or more and {questions['short_texts']} fewer;",
        f"{len(found)} of them stand in the training data{':' if found else '.'}",
        *([f"{'; '.join(found)}."] if found else []),
        "Held-out text:",
        "",
        "| source | shingles | of them in the training data |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['shingles']:,} | {row['share']:.2%} |"
        for name, row in rows.items()
        if name != "tool questions" and row["shingles"]
    ]
    return block(COMMANDS["overlap"]) + "\n".join(lines)


def show_training(rows: Figures) -> str:
    lines = [
        "| stage | steps | tokens | minutes | tokens a second | loss at its end | busiest expert |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['stage']} | {row['steps']:,} | {row['tokens'] / 1e6:.1f} M | {row['minutes']} | "
        f"{row['tokens_per_second']:,} | {row['loss']:.3f} | {row['load_max']} x mean |"
        for row in rows["stages"]
    ]
    tokens = sum(row["tokens"] for row in rows["stages"]) / 1e6
    lines.append(f"| in all | | {tokens:.1f} M | | | | |")
    return "\n".join(lines)


def show_sources(rows: Figures) -> str:
    lines = [
        "| shard | documents or conversations | tokens | seen in training | passes | licence |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['texts']:,} | {row['tokens'] / 1e6:.1f} M | {row['seen'] / 1e6:.1f} M | "
        f"{row['seen'] / row['tokens']:.1f} | {row['licence']} |"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


def show_chat(row: Figures) -> str:
    setting = f"Temperature {row['temperature']}, seed {row['seed']}, at most {row['max_tokens']} "
    first = f"{setting}tokens an answer, weights `{row['weights_sha256'][:12]}`."
    shown = transcript(row["chats"])
    fold = "<details><summary>All of them</summary>"
    return f"{block(COMMANDS['chat'])}{first}\n\n{fold}\n\n```text\n{shown}\n```\n\n</details>"


def block(command: str) -> str:
    return f"```console\n$ {command}\n```\n\n"


SECTIONS: dict[str, Callable[[Figures], str]] = {
    "tools": show_tools,
    "text": show_text,
    "overlap": show_overlap,
    "training": show_training,
    "sources": show_sources,
    "chat": show_chat,
}


def draw_loss(curve: list[Figures], path: Path) -> None:
    """The loss over the tokens seen, stages marked; below it the load of the busiest expert."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure, (top, bottom) = pyplot.subplots(
        2, 1, figsize=(8, 5), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    whole = curve[-1]["points"][-1][0]
    for number, part in enumerate(curve):
        tokens, loss, load = zip(*part["points"], strict=True)
        colour = f"C{number}"
        top.plot(tokens, loss, color=colour, linewidth=1)
        bottom.semilogy(tokens, load, color=colour, linewidth=1)
        for axes in (top, bottom):
            axes.axvspan(tokens[0], tokens[-1], color=colour, alpha=0.08, linewidth=0)
        if tokens[-1] - tokens[0] > whole / 20:  # a shorter stage has no room for its name
            top.text(tokens[0], 9.3, f" {part['stage']}", color=colour, fontsize=9)
    top.set(ylim=(0, 10), ylabel="loss (nats a token)")
    bottom.set(xlabel="million tokens seen", ylabel="busiest expert\n/ mean", ylim=(1, 60))
    bottom.set_yticks([1, 2, 5, 10, 20, 50])
    bottom.yaxis.set_major_formatter(ScalarFormatter())
    bottom.yaxis.set_minor_formatter(NullFormatter())
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
        axes.margins(x=0)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
