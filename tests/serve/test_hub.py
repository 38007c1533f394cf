"""Outputs to clients: nobody waits for a slow one, and what it loses is counted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.fake_fleet import FakeFleet
from videoeff.serve.hub import Hub
from videoeff.serve.problems import Problem


def run(test: Callable[[Hub, FakeFleet], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run a test in an event loop, with a hub and a fleet of two cameras that publishes to it."""

    async def inside() -> None:
        with ThreadPoolExecutor(1) as pool:
            encode = options.pop("encode", lambda output: f"{output.camera} {output.number}")
            hub = Hub(encode, pool, **({"most": 3, "queue": 4} | options))
            hub.attach()
            fleet = FakeFleet()
            for name in ("front", "yard"):
                fleet.add(name, name, on_output=hub.publish)
            await test(hub, fleet)
            hub.close()

    asyncio.run(inside())


def test_every_client_of_a_camera_gets_every_output() -> None:
    async def test(hub: Hub, fleet: FakeFleet) -> None:
        clients = [hub.open("front"), hub.open("front"), hub.open("yard")]
        for _ in range(3):
            await asyncio.to_thread(fleet.give, "front")
        for client in clients[:2]:
            items = [await client.get(30) for _ in range(3)]
            assert [(i.number, i.text) for i in items if i] == [(n, f"front {n}") for n in range(3)]
        assert await clients[2].get(0.01) is None
        assert hub.lost == 0

    run(test)


def test_a_slow_client_loses_the_oldest_and_the_others_nothing() -> None:
    async def test(hub: Hub, fleet: FakeFleet) -> None:
        slow, quick = hub.open("front"), hub.open("front")
        got = []
        for _ in range(10):
            await asyncio.to_thread(fleet.give, "front")
            item = await quick.get(30)
            assert item is not None
            got.append(item.number)
        assert got == list(range(10))
        assert (quick.lost, slow.lost) == (0, 6)
        waiting = [await slow.get(30) for _ in range(4)]
        assert [i.number for i in waiting if i] == [6, 7, 8, 9]
        assert hub.lost == 6
        hub.leave("front", slow)
        assert hub.lost == 6

    run(test)


def test_the_fleet_does_not_wait_for_a_slow_service() -> None:
    go = threading.Event()

    def encode(output: Any) -> str:
        assert go.wait(30)
        return str(output.number)

    async def test(hub: Hub, fleet: FakeFleet) -> None:
        client = hub.open("front")
        await asyncio.to_thread(fleet.give, "front")  # is being encoded
        await asyncio.to_thread(lambda: [fleet.give("front") for _ in range(100)])
        go.set()
        last = -1
        while last < 100:
            item = await client.get(30)
            assert item is not None
            assert item.number > last
            last = item.number
        assert client.lost > 0

    run(test, encode=encode, queue=200)


def test_nothing_is_encoded_while_nobody_listens() -> None:
    def encode(output: Any) -> str:
        raise AssertionError(f"encoded {output.number}")

    async def test(hub: Hub, fleet: FakeFleet) -> None:
        fleet.give("front")
        client = hub.open("front")
        hub.leave("front", client)
        fleet.give("front")
        await asyncio.sleep(0.01)

    run(test, encode=encode)


def test_too_many_clients() -> None:
    async def test(hub: Hub, fleet: FakeFleet) -> None:
        clients = [hub.open("front"), hub.open("yard")]
        hub.previews += 1
        with pytest.raises(Problem, match="no more are allowed") as caught:
            hub.open("yard")
        assert caught.value.status == 503
        hub.leave("front", clients[0])
        hub.leave("front", clients[0])  # twice is once
        assert hub.clients == 2
        hub.open("yard")

    run(test)


def test_the_end_comes_after_what_waits() -> None:
    async def test(hub: Hub, fleet: FakeFleet) -> None:
        client = hub.open("front")
        await asyncio.to_thread(fleet.give, "front")
        while not client.queue:
            await asyncio.sleep(0.001)
        hub.end("front", "the camera was removed")
        while not client.ended:
            await asyncio.sleep(0.001)
        item = await client.get(30)
        assert item is not None
        assert await client.get(30) is None
        assert client.ended == "the camera was removed"

    run(test)


def test_after_the_end_nothing_is_published() -> None:
    async def test(hub: Hub, fleet: FakeFleet) -> None:
        client = hub.open("front")
        hub.close()
        fleet.give("front")
        assert await client.get(30) is None
        assert client.ended == "the service ends"

    run(test)
