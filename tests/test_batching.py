"""Merging of requests: what is computed together, what is refused, who gets which rows."""

import asyncio
import threading

import numpy as np
import pytest
import tensorflow as tf

from serving import protocol
from serving.server.batching import Scheduler
from serving.server.parameters import Parameters
from serving.server.status import Code, StatusError
from tf_avae.errors import InputError


class Doubling:
    """A graph that doubles rows, refuses those that are not numbers, and can be held up."""

    def __init__(self):
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, arrays):
        self.gate.wait(10)
        (x,) = arrays
        self.batches.append(x.copy())
        if np.isnan(x).any():
            raise tf.errors.InvalidArgumentError(None, None, "not a number")
        return [2 * x]


def rows(*values):
    return [np.array(values, np.float32)[:, None]]


def queue_of(graph, **options):
    scheduler = Scheduler(Parameters(**{"threads": 1, "max_batch_size": 8} | options), 2)
    return scheduler.queue(graph)


async def held(graph, queue, *requests):
    """Submits requests while the first of them is being computed."""
    graph.gate.clear()
    tasks = []
    for request in requests:
        tasks.append(asyncio.create_task(queue.submit(request)))
        await asyncio.sleep(0.01)
    graph.gate.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_what_waits_is_computed_together_and_goes_back_to_its_owner():
    graph = Doubling()
    queue = queue_of(graph)
    found = asyncio.run(held(graph, queue, rows(1), rows(2, 3), rows(4), rows(5, 6, 7)))
    assert [len(batch) for batch in graph.batches] == [1, 6]
    for got, sent in zip(found, (rows(1), rows(2, 3), rows(4), rows(5, 6, 7)), strict=True):
        np.testing.assert_array_equal(got[0], 2 * sent[0])


def test_a_batch_is_padded_with_a_row_of_its_last_request():
    graph = Doubling()
    queue = queue_of(graph, allowed=(1, 4, 8))
    found = asyncio.run(held(graph, queue, rows(1), rows(2, 3), rows(4), rows(9, 8)))
    np.testing.assert_array_equal(graph.batches[1][:, 0], [2, 3, 4, 9, 8, 9, 9, 9])
    assert [len(got[0]) for got in found] == [1, 2, 1, 2]


def test_no_rows_are_answered_with_none():
    graph = Doubling()
    queue = queue_of(graph, allowed=(1, 4, 8))
    assert asyncio.run(queue.submit(rows()))[0].shape == (0, 1)
    found = asyncio.run(held(graph, queue_of(graph, allowed=(1, 4, 8)), rows(1), rows(), rows(2)))
    assert [len(got[0]) for got in found] == [1, 0, 1]


def test_a_batch_that_would_overflow_is_closed():
    graph = Doubling()
    queue = queue_of(graph)
    asyncio.run(held(graph, queue, rows(0), rows(1, 2, 3, 4, 5), rows(6, 7, 8, 9), rows(10)))
    assert [list(batch[:, 0]) for batch in graph.batches] == [
        [0], [1, 2, 3, 4, 5], [6, 7, 8, 9, 10],
    ]  # fmt: skip


def test_a_full_queue_refuses_and_goes_on():
    graph = Doubling()
    queue = queue_of(graph, max_enqueued_batches=2)
    eight = rows(*range(8))

    async def run():
        # One is computed, one more was taken out of the queue to be, two wait.
        found = await held(graph, queue, *[eight] * 6)
        return found, await queue.submit(rows(1))

    found, after = asyncio.run(run())
    refused = [error for error in found if isinstance(error, StatusError)]
    assert refused and len(refused) < 6
    for error in refused:
        assert error.code == Code.UNAVAILABLE
        assert error.message == (
            "The batch scheduling queue to which this task was submitted is full"
        )
    np.testing.assert_array_equal(after[0], [[2]])


def test_too_large_is_refused_or_split():
    graph = Doubling()
    nine = rows(*range(9))
    for options in ({}, {"largest": 4}):
        with pytest.raises(
            StatusError, match="Task size 9 is larger than maximum input batch size 8"
        ):
            asyncio.run(queue_of(graph, **options).submit(nine))
    found = asyncio.run(queue_of(graph, largest=4).submit(rows(*range(7))))
    np.testing.assert_array_equal(found[0], 2 * rows(*range(7))[0])
    assert [len(batch) for batch in graph.batches] == [4, 3]


def test_a_bad_request_costs_the_others_nothing():
    graph = Doubling()
    queue = queue_of(graph)
    found = asyncio.run(held(graph, queue, rows(0), rows(1), rows(2, np.nan), rows(3)))
    assert isinstance(found[2], StatusError)
    assert found[2].code == Code.INVALID_ARGUMENT and found[2].message == "not a number"
    for got, value in ((found[1], 2), (found[3], 6)):
        np.testing.assert_array_equal(got[0], [[value]])


def test_a_bad_request_among_many_is_found_by_halves():
    graph = Doubling()
    queue = queue_of(graph, max_batch_size=64)
    requests = [rows(0)] + [rows(n) for n in range(63)] + [rows(np.nan)]
    found = asyncio.run(held(graph, queue, *requests))
    assert [isinstance(got, StatusError) for got in found] == [False] * 64 + [True]
    assert len(graph.batches) <= 2 + 2 * 6


def test_what_nobody_waits_for_any_more_is_not_computed():
    graph = Doubling()
    queue = queue_of(graph)

    async def run():
        graph.gate.clear()
        first = asyncio.create_task(queue.submit(rows(1)))
        late = asyncio.create_task(asyncio.wait_for(queue.submit(rows(2)), 0.02))
        third = asyncio.create_task(queue.submit(rows(3)))
        await asyncio.sleep(0.1)
        graph.gate.set()
        return await asyncio.gather(first, late, third, return_exceptions=True)

    found = asyncio.run(run())
    assert isinstance(found[1], TimeoutError)
    assert 2 not in np.concatenate(graph.batches)
    np.testing.assert_array_equal(found[2][0], [[6]])


def test_a_timeout_gathers_what_comes_one_after_the_other():
    graph = Doubling()
    queue = queue_of(graph, timeout=0.2, max_batch_size=3)

    async def run():
        first = asyncio.create_task(queue.submit(rows(1)))
        await asyncio.sleep(0.05)
        rest = [queue.submit(rows(2)), queue.submit(rows(3))]
        await asyncio.wait_for(asyncio.gather(first, *rest), 5)

    asyncio.run(run())
    # The one after it is that of the first request alone: do outputs have as many rows as inputs?
    assert [len(batch) for batch in graph.batches] == [3, 1]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ([np.float32(1)], "at least one dimension"),
        ([np.zeros(2), np.zeros(3)], "equal 0th-dimension size"),
    ],
)
def test_inputs_need_rows(arrays, words):
    with pytest.raises(StatusError, match=words):
        asyncio.run(queue_of(Doubling()).submit(arrays))


def test_parameters_come_from_a_file_or_are_the_servers():
    assert Parameters.of_proto(protocol.BatchingParameters(), 3) == Parameters(threads=3)
    proto = protocol.BatchingParameters(allowed_batch_sizes=[2, 6])
    proto.max_batch_size.value = 6
    proto.batch_timeout_micros.value = 1500
    proto.max_execution_batch_size.value = 3  # without splitting it says nothing
    found = Parameters.of_proto(proto, 1)
    assert found == Parameters(6, 0.0015, 10, 1, (2, 6))
    proto.enable_large_batch_splitting.value = True
    proto.max_batch_size.value = 12
    proto.max_execution_batch_size.value = 6
    assert Parameters.of_proto(proto, 1) == Parameters(12, 0.0015, 10, 1, (2, 6), 6)
    assert [found.padded(n) for n in (1, 2, 3, 6)] == [2, 2, 6, 6]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch_size": 0}, "max_batch_size is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"timeout": -1}, "below 0"),
        ({"max_batch_size": 4, "allowed": (4, 2)}, "monotonically increasing"),
        ({"max_batch_size": 8, "allowed": (2, 4)}, "last entry was 4; expected 8"),
        ({"max_batch_size": 8, "largest": 9}, "at most max_batch_size, 8"),
    ],
)
def test_parameters_that_do_not_fit(options, words):
    with pytest.raises(InputError, match=words):
        Parameters(**options)
