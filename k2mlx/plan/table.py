"""A plan in words: aligned text of at most 100 columns, with the formulas and their numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from ..weights.names import count_parameters
from .advice import advice, remarks
from .machines import GIB, WORKSPACE, Machine, known_macs
from .planner import Option, Plan, example_machines, held_bytes, machines_needed
from .sizes import CACHE_BYTES, PARTS
from .speed import CHUNK, decode_limit, prefill_flops, prefill_limit, touched

WIDTH = 100
FORMATS = {"int4": "INT4 experts and bfloat16", "fp8": "FP8", "bf16": "bfloat16"}


def text(plan: Plan) -> str:
    """The whole plan."""
    sections = [_head(plan), _parts(plan), _cache(plan)]
    sections += [_options(plan), _machines(plan.machines)] if plan.machines else [_needs(plan)]
    if plan.chosen is not None:
        sections += [_layers(plan, plan.chosen), _speed(plan, plan.chosen)]
        sections += [_commands(plan, plan.chosen)]
    sections += [_section("what would fit", _bullets(advice(plan)))]
    sections += [_section("remarks", _bullets(remarks(plan)))]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _head(plan: Plan) -> list[str]:
    model, config = plan.model, plan.model.config
    form = FORMATS.get(config.checkpoint_format, "k2mlx's or MLX's layout")
    source = "the headers of its files" if model.from_files else "the shapes that its config gives"
    return _wrapped(
        f"{model.name}: {config.num_hidden_layers} layers ({config.first_k_dense_replace} dense), "
        f"{config.n_routed_experts} experts of which a token uses {config.num_experts_per_tok}, "
        f"{count_parameters(config) / 1e9:,.1f} B parameters; on disk {form}, by {source}.",
        "Everything below is computed; nothing was measured on a Mac. GB = 10^9 bytes, but a Mac "
        "sold as 512GB has 512 x 2^30 bytes = 549.8 GB.",
    )


def _parts(plan: Plan) -> list[str]:
    stored, config = plan.model.stored, plan.model.config
    rows = [("bytes by part, as stored", "GB", "share", "read for a token, GB")]
    used = config.num_experts_per_tok / config.n_routed_experts
    for part in PARTS:
        if size := stored.part(part):
            reads = {"embedding": 0, "other": 0, "routed experts": size * used}.get(part, size)
            rows.append((f"  {part}", _gb(size), f"{100 * size / stored.total:.2f} %", _gb(reads)))
    rows.append(("  in all", _gb(stored.total), "", _gb(stored.token_reads(config))))
    sizes = stored.layer_bytes
    smallest, largest = min(sizes), max(sizes)
    per_layer = (
        f"a layer: {_gb(smallest)} GB (layer {sizes.index(smallest)}) to {_gb(largest)} GB "
        f"(layer {sizes.index(largest)}); of the embedding a token reads one row"
    )
    return [*_aligned(rows), *_wrapped(per_layer, indent="  ")]


def _cache(plan: Plan) -> list[str]:
    config = plan.model.config
    width, layers = config.kv_lora_rank + config.qk_rope_head_dim, config.num_hidden_layers
    size = plan.cache_per_layer * layers
    return [
        f"cache at {plan.context:,} tokens",
        f"  {width} values x {CACHE_BYTES} bytes x {layers} layers x {plan.context:,} tokens"
        f" = {_gb(size)} GB",
    ]


def _options(plan: Plan) -> list[str]:
    rows = [
        ("in memory: experts + rest", "GB", "read/token, GB", "fits", "context up to", "decode <=")
    ]
    for option in plan.options:
        speed = f"{decode_limit(option.stages):.1f} tok/s" if option.stages else "-"
        fits = ("limit raised" if option.raised else "yes") if option.layers else "no"
        longest = f"{option.longest:,}" if option.longest else "-"
        reads = _gb(option.sizes.token_reads(plan.model.config))
        mark = " <" if option is plan.chosen else ""
        rows.append(
            (f"  {option.name}{mark}", _gb(option.sizes.total), reads, fits, longest, speed)
        )
    return _aligned(rows)


def _needs(plan: Plan) -> list[str]:
    """Without machines: how many of each kind it takes."""
    macs = example_machines()
    chips = (mac.chip.name if mac.chip else "" for mac in macs)
    rows = [
        ("in memory: experts + rest", "GB", *chips),
        ("", "", *(f"{mac.memory / GIB:g}GB" for mac in macs)),
    ]
    for option in plan.options:
        needed = [
            machines_needed(option.sizes, mac, plan.model.config, plan.context) for mac in macs
        ]
        counts = (str(count) if count else "-" for count in needed)
        rows.append((f"  {option.name}", _gb(option.sizes.total), *counts))
    return [
        *_aligned(rows),
        "  how many it takes of each Mac, its GPU limit raised, the cache counted",
    ]


def _machines(machines: Sequence[Machine]) -> list[str]:
    rows = [("machines", "memory, GB", "GPU by default", "raised", "bandwidth, GB/s")]
    for machine in machines:
        limits = (machine.memory, machine.default_limit, machine.raised_limit)
        speed = f"{machine.chip.bandwidth:g}" if machine.chip else "unknown"
        mark = "*" if machine.chip and not machine.chip.checked else " "
        rows.append((f"  {machine.name}", *(f"{n / 1e9:.1f}" for n in limits), speed + mark))
    lines = _aligned(rows)
    if any(machine.chip and not machine.chip.checked for machine in machines):
        lines.append("  * from general knowledge, not checked against Apple's pages")
    return lines


def _layers(plan: Plan, option: Option) -> list[str]:
    assert option.layers is not None
    header = ("machine", "layers", "weights", "cache", "work", "in all", "of", "read/token", "ms")
    rows = [header]
    for rank, (machine, held) in enumerate(zip(plan.machines, option.layers, strict=True)):
        weights, cache = held_bytes(plan, option, rank)
        limit = machine.raised_limit if option.raised else machine.default_limit
        stage = option.stages[rank] if option.stages else None
        speed = (_gb(stage.token), f"{1e3 * stage.seconds:.2f}") if stage else ("-", "-")
        span = f"{held.start}-{held.stop - 1} ({len(held)})" if held else "none"
        figures = (weights, cache, WORKSPACE, weights + cache + WORKSPACE, limit)
        row = (f"  {rank + 1} {machine.name}", span, *(f"{n / 1e9:.1f}" for n in figures), *speed)
        rows.append(row)
    title = f"layers ({option.name}), GB; the first machine also holds the embedding, the last"
    return [f"{title} the head", *_aligned(rows)]


def _speed(plan: Plan, option: Option) -> list[str]:
    title = f"limits by memory bandwidth ({option.name}), one stream"
    if option.stages is None:
        return [title, "  unknown: a machine's chip is not given (see remarks)"]
    work, config = option.stages, plan.model.config
    busy = [stage for stage in work if stage.token]
    empty = _sum(f"{_gb(s.token)} / {s.bandwidth / 1e9:g}" for s in busy)
    full = _sum(f"({_gb(s.token)} + {_gb(s.cache)}) / {s.bandwidth / 1e9:g}" for s in busy)
    at_full = decode_limit(work, full=True)
    slowest = max(work, key=lambda stage: stage.seconds_chunk)
    rate, flops = prefill_limit(work), prefill_flops(config)
    used, experts = config.num_experts_per_tok, config.n_routed_experts
    low, high = (round(100 * share) for share in known_macs()[0].reached)
    return [
        title,
        *_wrapped(
            "decode <= 1 / sum over machines of (weights + cache read for a token) / bandwidth",
            f"= 1 / ({empty}) = {decode_limit(work):.1f} tok/s with an empty cache",
            f"= 1 / ({full}) = {at_full:.1f} tok/s at {plan.context:,} tokens",
            "prefill <= chunk / the slowest machine's (weights read for a chunk) / bandwidth; "
            "each expert is read once a chunk, "
            f"1 - (1 - {used}/{experts})^{CHUNK} = {100 * touched(config, CHUNK):.1f} % of them",
            f"= {CHUNK} / ({_gb(slowest.chunk)} / {slowest.bandwidth / 1e9:g}) = {rate:,.0f} "
            f"tok/s, from bandwidth only. That takes {rate * flops / 1e12:,.1f} TFLOP/s beside "
            f"attention ({flops / 1e9:.1f} GFLOP a token); what the chips can do is not known "
            "here, so prefill may well be slower",
            f"Real work reaches {low} to {high} % of the bandwidth; network and arithmetic are "
            "left out.",
            indent="  ",
        ),
    ]


def _commands(plan: Plan, option: Option) -> list[str]:
    """What raises the limit where a machine holds more than the default."""
    lines = []
    for rank, machine in enumerate(plan.machines):
        used = sum(held_bytes(plan, option, rank)) + WORKSPACE
        if used > machine.default_limit:
            lines.append(f"  {machine.name}: {machine.raise_command}")
    if not lines:
        return []
    title = "to run yourself: lets the GPU hold more than macOS's default, until the next start"
    return [title, *lines]


def _section(title: str, lines: list[str]) -> list[str]:
    return [title, *lines] if lines else []


def _bullets(lines: Iterable[str]) -> list[str]:
    return [
        wrapped
        for line in lines
        for wrapped in textwrap.wrap(
            line, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False
        )
    ]


def _wrapped(*paragraphs: str, indent: str = "") -> list[str]:
    return [
        line
        for paragraph in paragraphs
        for line in textwrap.wrap(
            paragraph,
            WIDTH,
            initial_indent=indent,
            subsequent_indent=f"{indent}  ",
            break_on_hyphens=False,
        )
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of their own width: the first to the left, others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    spare = WIDTH - sum(widths) - 2 * (len(widths) - 1)
    widths[0] += min(0, spare)  # a long name is cut, not a figure
    lines = []
    for first, *others in rows:
        name = first if len(first) <= widths[0] else f"{first[: widths[0] - 1]}…"
        cells = [name.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _sum(terms: Iterable[str]) -> str:
    """Equal terms once, with their number."""
    counted: dict[str, int] = {}
    for term in terms:
        counted[term] = counted.get(term, 0) + 1
    return " + ".join(f"{n} x {term}" if n > 1 else term for term, n in counted.items())


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f}" if size >= 1e8 or size == 0 else f"{size / 1e9:.5f}"
