"""Events from several threads reach the event loop, in order and in parts."""

import asyncio
import threading

from decoding.serve.streams import Relay


class Ticket:
    """Says its events in a thread of its own."""

    def __init__(self, count):
        self.count = count

    def listen(self, listener):
        def tell():
            for number in range(self.count):
                listener(number)
            listener(None)

        threading.Thread(target=tell).start()


async def read(stream, parts):
    found = []
    while items := await stream.take():
        parts.append(len(items))
        found += items
    return found


def test_events_of_many_threads_come_whole_and_in_order():
    async def read_all():
        relay, parts = Relay(), []
        streams = [relay.follow([Ticket(count) for _ in range(3)]) for count in (0, 1, 700, 3000)]
        return await asyncio.wait_for(asyncio.gather(*(read(stream, parts) for stream in streams)), 30), parts

    found, parts = asyncio.run(read_all())
    for items, count in zip(found, (0, 1, 700, 3000), strict=True):
        for number in range(3):
            assert [event for ticket, event in items if ticket == number] == [*range(count), None]
    assert max(parts) <= 512


def test_a_loop_that_has_ended_is_told_no_more():
    async def follow():
        return Relay().follow([]), Relay()

    _, relay = asyncio.run(follow())
    stream = relay.follow([])
    relay._tell(stream, 0, None)  # as an engine does whose request outlives the server
    assert list(stream.items) == [(0, None)]
