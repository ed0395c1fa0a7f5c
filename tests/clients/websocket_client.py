"""WebSocket clients that are not ours: python3 websocket_client.py CHECK HOST ADDRESS:PORT [NUMBER]

Exits with 0 if all is as it would be without a proxy.
"""

import asyncio
import os
import sys

import websockets


def connect(host, at, **options):
    """A connection to ws://HOST/ through what listens at an address."""
    address, port = at.rsplit(":", 1)
    # ping_timeout: none of what is checked here depends on it.
    options = {"max_size": None, "ping_interval": None, "open_timeout": 60, "proxy": None, **options}
    options = {"subprotocols": ["chat.v2"], **options}
    if options["proxy"] is None:
        options |= {"host": address, "port": int(port)}
    return websockets.connect(f"ws://{host}/socket?x=1", **options)


async def talk(socket):
    assert socket.subprotocol == "chat.v2", socket.subprotocol
    for message in ["hello", "", "\u00fc" * 70_000, b"", os.urandom(125), os.urandom(1 << 20)]:
        await socket.send(message)
        assert await socket.recv() == message
    # One message in several frames, with a ping between them.
    async def parts():
        yield "one "
        await (await socket.ping(b"between"))
        yield "two"

    await socket.send(parts())
    assert await socket.recv() == "one two"
    await asyncio.gather(*(socket.send(str(n)) for n in range(1000)))
    assert sorted([int(await socket.recv()) for _ in range(1000)]) == list(range(1000))
    await socket.send("close")
    try:
        await socket.recv()
        raise AssertionError("it is still open")
    except websockets.ConnectionClosed as closed:
        assert closed.rcvd.code == 4001 and closed.rcvd.reason == "as asked", closed.rcvd


async def echo(host, at):
    async with connect(host, at, subprotocols=["chat.v1", "chat.v2"]) as socket:
        await talk(socket)


async def through_a_proxy(host, at):
    """As clients do that know a proxy: by CONNECT."""
    async with connect(host, at, subprotocols=["chat.v2"], proxy=f"http://{at}") as socket:
        await talk(socket)


async def many(host, at, number):
    """Holds many open at once, and each lives."""
    slots = asyncio.Semaphore(64)

    async def opened():
        async with slots:
            return await connect(host, at, compression=None)

    sockets = await asyncio.gather(*(opened() for _ in range(int(number))))
    print(f"{len(sockets)} are open", flush=True)

    async def used(n, socket):
        async with slots:
            await (await socket.ping())
            await socket.send(str(n))
            assert await socket.recv() == str(n)

    await asyncio.gather(*(used(n, socket) for n, socket in enumerate(sockets)))

    async def closed(socket):
        async with slots:
            await socket.close()
            assert socket.close_code == 1000, socket.close_code

    await asyncio.gather(*(closed(socket) for socket in sockets))


async def ended(host, at):
    """Says when it is open; what was said to it at its end."""
    async with connect(host, at) as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"
        print("open", flush=True)
        try:
            await socket.recv()
        except websockets.ConnectionClosed as closed:
            return closed.rcvd
        raise AssertionError("it is still open")


async def cut(host, at):
    """Nobody closes it: it breaks off."""
    closed = await ended(host, at)
    assert closed is None, closed


async def away(host, at):
    """Whoever ends it says that it goes away."""
    closed = await ended(host, at)
    assert closed and closed.code == 1001, closed


check, rest = sys.argv[1], sys.argv[2:]
checks = {"echo": echo, "proxy": through_a_proxy, "many": many, "cut": cut, "away": away}
asyncio.run(checks[check](*rest))
