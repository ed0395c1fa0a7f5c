"""A WebSocket server that is not ours: python3 websocket_server.py PORT

Sends back what it gets; closes with 4001 on the text "close".
"""

import asyncio
import sys

import websockets


async def serve(connection):
    try:
        async for message in connection:
            if message == "close":
                await connection.close(4001, "as asked")
                return
            await connection.send(message)
    except websockets.ConnectionClosed:
        pass
    finally:
        await connection.wait_closed()
        print("closed", connection.close_code, flush=True)


async def main(port):
    options = {"subprotocols": ["chat.v2"], "max_size": None, "ping_interval": None}
    async with websockets.serve(serve, "127.0.0.1", port, backlog=4096, **options):
        await asyncio.Future()


asyncio.run(main(int(sys.argv[1])))
