"""Reading an answer from an event loop: nothing blocks it, nothing is lost, the end comes."""

import asyncio

import pytest

from k2mlx.generate.generation import Channel, Generation, Stats
from k2mlx.generate.sampling import Sampling

GREEDY = Sampling(temperature=0, max_tokens=30)


async def collect(generation):
    return [token async for token in generation]


def test_async_for_gives_what_for_gives(make_engine):
    engine = make_engine()
    tokens = list(engine.submit([20], GREEDY))
    assert asyncio.run(collect(engine.submit([20], GREEDY))) == tokens


def test_two_answers_are_read_in_one_loop(make_engine):
    engine = make_engine()
    wanted = [list(engine.submit([i], GREEDY)) for i in (20, 21)]

    async def both():
        return await asyncio.gather(*(collect(engine.submit([i], GREEDY)) for i in (20, 21)))

    assert asyncio.run(both()) == wanted


def test_errors_are_raised_in_the_loop(make_engine, scripted):
    engine = make_engine(scripted(fail_at=5))
    with pytest.raises(RuntimeError, match="device failed"):
        asyncio.run(collect(engine.submit([20], GREEDY)))


def test_waiting_can_be_timed_out_and_taken_up_again():
    channel = Channel(Stats())
    generation = Generation(channel)

    async def read():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(generation), 0.02)
        channel.put(5)
        assert await anext(generation) == 5
        channel.finish("stop")
        with pytest.raises(StopAsyncIteration):
            await anext(generation)

    asyncio.run(read())


def test_a_closed_loop_cancels_and_does_not_break_the_writer():
    channel = Channel(Stats())
    generation = Generation(channel)

    async def give_up():
        waiter = asyncio.ensure_future(anext(generation))
        await asyncio.sleep(0.01)
        waiter.cancel()

    asyncio.run(give_up())
    channel.put(5)
    assert channel.cancelled
    assert next(generation) == 5


def test_tokens_before_an_error_are_given_first():
    channel = Channel(Stats())
    channel.put(1)
    channel.finish("error", ValueError("late"))
    generation = Generation(channel)
    assert next(generation) == 1
    with pytest.raises(ValueError, match="late"):
        next(generation)


def test_only_the_first_end_counts():
    channel = Channel(Stats())
    channel.finish("stop")
    channel.finish("error", ValueError())
    channel.cancel()
    assert list(Generation(channel)) == []
    assert channel.stats.finish_reason == "stop"


def test_rates_are_zero_before_there_is_anything_to_divide():
    stats = Stats(prompt_tokens=5)
    assert stats.prompt_tokens_per_second == 0.0
    assert stats.tokens_per_second == 0.0
