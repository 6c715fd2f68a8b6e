"""Placements: every layer on exactly one rank, in order, nobody over its memory, none faster."""

from itertools import combinations_with_replacement, pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from k2mlx.errors import ConfigError, PlanError
from k2mlx.plan import Seat, check_split, fits, place

SIZES = st.integers(0, 40)


@st.composite
def tasks(draw, layers=70, machines=6):
    """Arguments of `place` that often, and often not, have an answer."""
    each = draw(st.lists(st.integers(1, 30), min_size=1, max_size=layers))
    total = sum(each)
    count = draw(st.integers(1, machines))
    seats = [
        Seat(
            draw(st.integers(0, max(1, 3 * total // count + 40))),
            draw(st.sampled_from([1.0, 2.0, 3.5])),
        )
        for _ in range(count)
    ]
    task = {
        "embed_bytes": draw(SIZES),
        "head_bytes": draw(SIZES),
        "cache_bytes_per_layer": draw(st.integers(0, 5)),
        "machines": seats,
    }
    return each, task


def held(layers, each, task, rank):
    size = sum(each[i] + task["cache_bytes_per_layer"] for i in layers)
    size += task["embed_bytes"] if rank == 0 else 0
    return size + (task["head_bytes"] if rank == len(task["machines"]) - 1 else 0)


def every_placement(layers, machines):
    """All ways to cut `layers` into consecutive ranges, one a machine."""
    for cuts in combinations_with_replacement(range(layers + 1), machines - 1):
        edges = [0, *cuts, layers]
        yield [range(a, b) for a, b in pairwise(edges)]


def times(placed, reads, task):
    """Of each stage."""
    out = []
    for rank, (layers, seat) in enumerate(zip(placed, task["machines"], strict=True)):
        read = sum(reads[i] + task["cache_bytes_per_layer"] for i in layers)
        read += task["head_bytes"] if rank == len(placed) - 1 else 0
        out.append(read / seat.bandwidth)
    return out


@given(tasks())
def test_every_layer_lies_on_exactly_one_machine_and_nobody_is_over_its_memory(task):
    each, task = task
    try:
        placed = place(each, **task)
    except PlanError:
        assert not fits(each, **task)
        return
    assert fits(each, **task)
    assert len(placed) == len(task["machines"])
    assert [layer for layers in placed for layer in layers] == list(range(len(each)))
    for rank, layers in enumerate(placed):
        assert held(layers, each, task, rank) <= task["machines"][rank].capacity


@given(tasks(layers=8, machines=4), st.data())
def test_no_placement_is_faster(task, data):
    each, task = task
    reads = [data.draw(st.integers(0, size)) for size in each]
    least = data.draw(st.integers(0, 2))
    possible = [
        placed
        for placed in every_placement(len(each), len(task["machines"]))
        if all(
            held(layers, each, task, rank) <= task["machines"][rank].capacity
            and len(layers) >= least
            for rank, layers in enumerate(placed)
        )
    ]
    if not possible:
        with pytest.raises(PlanError, match="does not fit"):
            place(each, layer_reads=reads, least=least, **task)
        return
    found = times(place(each, layer_reads=reads, least=least, **task), reads, task)
    slowest = min(max(times(placed, reads, task)) for placed in possible)
    assert max(found) == pytest.approx(slowest)
    fast = [t for t in (times(p, reads, task) for p in possible) if max(t) <= slowest * (1 + 1e-9)]
    assert sum(found) == pytest.approx(min(map(sum, fast)))


@given(tasks())
def test_a_placement_is_a_split_that_passes(task):
    each, task = task
    assume(fits(each, **task))
    placed = place(each, **task)
    assert check_split([len(layers) for layers in placed], each, **task) == placed


@given(tasks(), st.data())
def test_a_split_by_hand_is_taken_as_it_is_or_refused(task, data):
    each, task = task
    count = len(task["machines"])
    cuts = sorted(data.draw(st.integers(0, len(each))) for _ in range(count - 1))
    edges = [0, *cuts, len(each)]
    wanted = [range(a, b) for a, b in pairwise(edges)]
    over = [
        rank
        for rank, layers in enumerate(wanted)
        if held(layers, each, task, rank) > task["machines"][rank].capacity
    ]
    counts = [len(layers) for layers in wanted]
    if over:
        with pytest.raises(PlanError, match=f"machine {over[0] + 1} of {count} would hold"):
            check_split(counts, each, **task)
    else:
        assert check_split(counts, each, **task) == wanted


@pytest.mark.parametrize("counts", [[31], [31, 31], [61, -1], [20, 20, 21], [61, 1]])
def test_a_split_of_another_sum_or_count_is_refused(counts):
    seats = [Seat(10**6, 1.0)] * 2
    nothing = {"embed_bytes": 0, "head_bytes": 0, "cache_bytes_per_layer": 0}
    with pytest.raises(ConfigError, match="add up to 60 layers"):
        check_split(counts, [1] * 60, machines=seats, **nothing)


@pytest.mark.parametrize("count", range(1, 9))
def test_61_equal_layers_on_equal_machines_are_shared_evenly(count):
    """61 is prime; mlx-lm once lost layer 30 of it on two machines."""
    nothing = {"embed_bytes": 0, "head_bytes": 0, "cache_bytes_per_layer": 0}
    placed = place([1] * 61, machines=[Seat(61, 1.0)] * count, **nothing)
    assert [layer for layers in placed for layer in layers] == list(range(61))
    assert max(map(len, placed)) == -(-61 // count)


def test_machines_that_are_none_are_refused():
    nothing = {"embed_bytes": 0, "head_bytes": 0, "cache_bytes_per_layer": 0}
    with pytest.raises(ConfigError, match="got none"):
        place([1], machines=[], **nothing)
    for seat in (Seat(-1, 1.0), Seat(1, 0.0), Seat(1, float("nan")), Seat(1, float("inf"))):
        with pytest.raises(ConfigError, match="machine 1"):
            place([1], machines=[seat], **nothing)
