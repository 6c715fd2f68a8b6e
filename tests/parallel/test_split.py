"""Which rank holds which layers, of any K2 on any machines; as `--split` says or by itself."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from k2mlx.config import ModelConfig
from k2mlx.errors import ConfigError, PlanError
from k2mlx.home import find_model
from k2mlx.parallel.split import Member, parse_split, split_layers, this_member
from k2mlx.plan.sizes import cache_bytes_per_layer, kept_sizes
from tests.folders import folder_config


@pytest.fixture(scope="module")
def nano():
    return ModelConfig.load(find_model("k2-nano"))


@st.composite
def groups(draw):
    """A model and machines of it, which together often, and often do not, have room."""
    layers = draw(st.integers(1, 70))
    form = draw(st.sampled_from(["k2mlx", "int4", "fp8", "bf16"]))
    changes = {} if form == "k2mlx" else {"quantization": None}
    config = folder_config(
        num_hidden_layers=layers,
        first_k_dense_replace=draw(st.integers(0, 3)),
        vocab_size=draw(st.sampled_from([448, 20000])),
        checkpoint_format=form,
        **changes,
    )
    size = draw(st.integers(1, 6))
    context = draw(st.sampled_from([1, 4096, 100_000]))
    total = held(config, range(layers), context)
    shares = st.integers(0, 3 * total // size)
    bandwidth = st.sampled_from([0.0, 400e9, 819e9])
    members = [Member(f"host{rank}", draw(shares), draw(bandwidth)) for rank in range(size)]
    return config, members, context


def held(config, layers, context):
    """Bytes of these layers with what comes with the first and the last, counted apart from
    `split_layers`."""
    sizes, count = kept_sizes(config), config.num_hidden_layers
    total = sum(sizes.layer_bytes[layer] for layer in layers)
    total += len(layers) * cache_bytes_per_layer(config, context)
    total += sizes.embed_bytes if 0 in layers else 0
    return total + (sizes.head_bytes if count - 1 in layers else 0)


def check(split, config, members, context):
    assert len(split) == len(members)
    assert [layer for layers in split for layer in layers] == list(range(config.num_hidden_layers))
    for layers, member in zip(split, members, strict=True):
        assert layers
        assert held(config, layers, context) <= member.capacity


@given(groups())
def test_every_layer_lies_on_exactly_one_rank_in_order_and_nobody_is_over_its_memory(group):
    config, members, context = group
    try:
        split = split_layers(config, members, context)
    except PlanError as error:
        assert "\n" not in str(error)
        return
    check(split, config, members, context)


@given(groups(), st.integers(0, 40))
def test_with_room_for_all_everywhere_it_always_fits(group, more):
    """Nothing is refused but more machines than layers: each rank has some."""
    config, members, context = group
    room = held(config, range(config.num_hidden_layers), context) + more
    members = [replace(member, capacity=room) for member in members]
    if len(members) > config.num_hidden_layers:
        with pytest.raises(PlanError, match=r"host\d\) would hold no layers"):
            split_layers(config, members, context)
    else:
        check(split_layers(config, members, context), config, members, context)


@given(groups(), st.data())
def test_a_split_by_hand_is_taken_or_refused_by_the_same_rules(group, data):
    config, members, context = group
    layers, size = config.num_hidden_layers, len(members)
    assume(size <= layers)
    places = st.sets(st.integers(1, layers - 1), min_size=size - 1, max_size=size - 1)
    ends = [*sorted(data.draw(places) if size > 1 else ()), layers]
    counts = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    wanted = [range(end - count, end) for count, end in zip(counts, ends, strict=True)]
    fits = all(
        held(config, part, context) <= member.capacity
        for part, member in zip(wanted, members, strict=True)
    )
    if fits:
        assert split_layers(config, members, context, counts) == wanted
    else:
        with pytest.raises(PlanError, match="give it fewer layers"):
            split_layers(config, members, context, counts)


@given(groups(), st.lists(st.integers(1, 70), min_size=1, max_size=7))
def test_counts_that_are_no_split_are_refused(group, counts):
    config, members, context = group
    assume(len(counts) != len(members) or sum(counts) != config.num_hidden_layers)
    with pytest.raises(ConfigError, match=f"add up to {config.num_hidden_layers} layers"):
        split_layers(config, members, context, counts)


@given(groups())
def test_a_bandwidth_that_nobody_knows_counts_as_that_of_the_others(group):
    config, members, context = group
    one_unknown = [replace(members[0], bandwidth=0.0), *members[1:]]
    alike = [replace(member, bandwidth=1.0) for member in members]

    def outcome(members):
        try:
            return split_layers(config, members, context)
        except PlanError as error:
            return str(error)

    assert outcome(one_unknown) == outcome(alike)


def test_the_faster_machine_has_more_layers(nano):
    members = [Member("slow", 10**12, 200e9), Member("fast", 10**12, 800e9)]
    slow, fast = split_layers(nano, members, 1000)
    assert len(slow) < len(fast)


def test_two_big_macs_hold_k2(nano):
    """The issue's case: official INT4, 61 layers, two Mac Studios of 512 GB."""
    k2 = replace(
        nano, num_hidden_layers=61, first_k_dense_replace=1, hidden_size=7168, vocab_size=163840,
        intermediate_size=18432, moe_intermediate_size=2048, num_attention_heads=64,
        n_routed_experts=384, num_experts_per_tok=8, n_shared_experts=1, q_lora_rank=1536,
        kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128,
        quantization=None, checkpoint_format="int4",
    )  # fmt: skip
    members = [Member(f"mac{rank}", 480 * 10**9, 819e9) for rank in range(2)]
    split = split_layers(k2, members, 32768)
    check(split, k2, members, 32768)
    assert abs(len(split[0]) - len(split[1])) <= 3
    with pytest.raises(PlanError, match="does not fit: 61 layers"):
        split_layers(k2, members[:1], 32768)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=8))
def test_what_is_said_by_hand_is_read(counts):
    assert parse_split(",".join(map(str, counts))) == counts


@pytest.mark.parametrize(
    "text", ["", ",", "3,", ",3", "3;2", "a", "3,b", "0", "3,0", "-1,4", "1.5,2", "3 2", "1e3", "³"]
)
def test_what_is_no_split_is_refused(text):
    with pytest.raises(ConfigError, match=r"--split: got .* such as 31,30"):
        parse_split(text)


@given(st.text(max_size=12))
def test_any_other_text_is_counts_or_refused(text):
    try:
        counts = parse_split(text)
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert counts and min(counts) >= 1


def test_this_machine_says_its_name_and_memory():
    mine = this_member(12345)
    assert mine.capacity == 12345 and mine.host and mine.bandwidth >= 0
