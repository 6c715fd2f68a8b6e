"""What rank 0 tells the others before each step of the scheduler: who came and who goes.

Every rank runs the same scheduler on the same requests, so this, the tokens and the time (see
parallel/) are all that they have to be told. Fixed binary layout, little endian:

    end       "E": nothing will come any more
    step      "S", jobs u32, dropped u32, then numbers u64 of the dropped, then the jobs
    a job     number u64, temperature top_p min_p f64, top_k seed max_tokens limit u64, ends u32,
              prompt u32, then the ends and the prompt, u32 each
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from k2mlx.errors import ClusterError
from k2mlx.generate.generation import Channel, Stats
from k2mlx.generate.job import Job
from k2mlx.generate.sampling import Sampling

_STEP = struct.Struct("<cII")
_JOB = struct.Struct("<QdddQQQQII")
_NUMBER, _ID = np.dtype("<u8"), np.dtype("<u4")


END = b"E"


def encode_step(jobs: Sequence[Job], dropped: Sequence[int]) -> bytes:
    """Of requests that have a seed."""
    parts = [_STEP.pack(b"S", len(jobs), len(dropped)), np.asarray(dropped, _NUMBER).tobytes()]
    for job in jobs:
        s = job.sampling
        assert s.seed is not None
        ends = np.asarray(sorted(job.ends), _ID)
        prompt = np.asarray(job.prompt, _ID)
        numbers = (s.top_k, s.seed, s.max_tokens, job.limit, len(ends), len(prompt))
        parts.append(_JOB.pack(job.number, s.temperature, s.top_p, s.min_p, *numbers))
        parts += [ends.tobytes(), prompt.tobytes()]
    return b"".join(parts)


def decode_step(content: bytes) -> tuple[list[Job], list[int]] | None:
    """The jobs, as a follower runs them (nobody reads their answers there), and who is dropped;
    None at the end.

    Raises: ClusterError for anything that `encode_step` does not write.
    """
    if content == END:
        return None
    try:
        kind, count, going = _STEP.unpack_from(content)
        if kind != b"S":
            raise ValueError(f"kind {kind!r}")
        place = _STEP.size
        dropped = np.frombuffer(content, _NUMBER, going, place).tolist()
        place += going * _NUMBER.itemsize
        jobs = []
        for _ in range(count):
            number, temperature, top_p, min_p, top_k, seed, most, limit, ends, length = (
                _JOB.unpack_from(content, place)
            )
            place += _JOB.size
            ids = np.frombuffer(content, _ID, ends + length, place).tolist()
            place += (ends + length) * _ID.itemsize
            sampling = Sampling(temperature, top_p, top_k, min_p, seed, most)
            prompt = ids[ends:]
            channel = Channel(Stats(prompt_tokens=len(prompt)))
            jobs.append(Job(prompt, sampling, limit, frozenset(ids[:ends]), None, channel, number))
        if place != len(content):
            raise ValueError(f"{len(content) - place} bytes too many")
    except (struct.error, ValueError) as error:
        raise ClusterError(
            f"rank 0's message: got one that is no step ({error}), wanted one; the ranks are out"
            " of step, start them again and report this"
        ) from error
    return jobs, dropped
