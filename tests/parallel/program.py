"""What mlx.launch starts in these tests: a rank that runs a small random model with the others.

python -m tests.parallel.program JOB LAYERS,LAYERS,...    prints one JSON object a rank
"""

import json
import sys
import time

from k2mlx.generate.engine import Engine
from k2mlx.generate.sampling import Sampling
from k2mlx.load import Loaded
from k2mlx.parallel.group import Group, connect
from tests.parallel.company import cut, part
from tests.parallel.test_pipeline import load

STEP = 0.5  # seconds that a stage takes for a chunk where time is watched
CHUNK = 16


def answers(engine):
    """Several streams at once, prompts shorter and longer than a chunk; then a longer turn."""
    streams = []
    for i, length in enumerate((1, 5, CHUNK, CHUNK + 1, 60, 150)):
        sampling = Sampling(temperature=0.7 if i % 2 else 0, max_tokens=12, seed=i)
        prompt = [20 + (7 * i + j) % 200 for j in range(length)]
        streams.append((prompt, engine.submit(prompt, sampling, stop_ids=())))
    said = [list(stream) for _, stream in streams]
    again = [*streams[-1][0], *said[-1], 30, 31]
    stream = engine.submit(again, Sampling(temperature=0, max_tokens=5), stop_ids=())
    return {"said": [*said, list(stream)], "cached": stream.stats.cached_tokens}


def watched(model):
    """When each chunk began and ended on this rank; computing takes STEP, without a processor."""
    run, spans = model.run, []

    def timed(x, cache):
        began = time.time()
        time.sleep(STEP)
        out = run(x, cache)
        spans.append((began, time.time()))
        return out

    model.run = timed
    return spans


def main(job, counts):
    ring, channel = connect()
    loaded = load()
    layers = cut(loaded.config.num_hidden_layers, counts)[ring.rank()]
    model = part(loaded.model, layers)
    mine = Loaded(model, loaded.tokenizer, loaded.config, loaded.path, loaded.bytes)
    spans = watched(model) if job == "schedule" else []
    found = {}
    with Engine(lambda: mine, chunk=CHUNK, group=Group(ring, channel, layers)) as engine:
        if ring.rank():
            engine.follow()
        elif job == "answers":
            found = answers(engine)
        else:
            greedy = Sampling(temperature=0, max_tokens=1)
            list(engine.submit([40] * (8 * CHUNK + 1), greedy, stop_ids=()))
    channel.close()
    print(json.dumps({"rank": ring.rank(), "spans": spans[:8], **found}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], [int(count) for count in sys.argv[2].split(",")])
