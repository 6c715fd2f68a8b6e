"""What ranks are told: what was said is what is heard, and nothing else is taken for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.errors import ClusterError
from k2mlx.generate.generation import Channel, Stats
from k2mlx.generate.job import Job
from k2mlx.generate.sampling import Sampling
from k2mlx.generate.script import END, decode_step, encode_step

ids = st.integers(0, 2**32 - 1)
samplings = st.builds(
    Sampling,
    temperature=st.floats(0, 5),
    top_p=st.floats(0.01, 1),
    top_k=st.integers(0, 200_000),
    min_p=st.floats(0, 1),
    seed=st.integers(0, 2**64 - 1),
    max_tokens=st.integers(1, 2**40),
)
jobs = st.builds(
    Job,
    prompt=st.lists(ids, min_size=1, max_size=40),
    sampling=samplings,
    limit=st.integers(1, 2**40),
    ends=st.frozensets(ids, max_size=4),
    on_progress=st.none(),
    channel=st.builds(Channel, st.builds(Stats)),
    number=st.integers(0, 2**64 - 1),
)
steps = st.tuples(st.lists(jobs, max_size=4), st.lists(st.integers(0, 2**64 - 1), max_size=5))


@given(steps)
def test_what_is_told_is_heard(step):
    wanted, dropped = step
    heard = decode_step(encode_step(wanted, dropped))
    assert heard is not None
    assert heard[1] == dropped
    assert len(heard[0]) == len(wanted)
    for job, other in zip(wanted, heard[0], strict=True):
        for field in ("prompt", "sampling", "limit", "ends", "number"):
            assert getattr(job, field) == getattr(other, field)
        assert other.channel.stats.prompt_tokens == len(job.prompt)
    assert decode_step(END) is None


@given(steps, st.data())
def test_what_is_cut_or_longer_is_refused(step, data):
    content = encode_step(*step)
    cut = data.draw(st.integers(0, len(content) - 1))
    for wrong in (content[:cut], content + b"\0", b"T" + content[1:]):
        with pytest.raises(ClusterError, match="out of step"):
            decode_step(wrong)
