"""HTTP/3 that is not ours, by aioquic: python3 http3.py serve PORT CERT KEY, or python3 http3.py ask PORT CERT

The server sends back the body of a request; the client exits with 0 if ten of a MiB come back whole.
"""

import asyncio
import os
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration


class Server(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)

    def quic_event_received(self, event):
        for event in self.http.handle_event(event):
            if isinstance(event, HeadersReceived):
                self.http.send_headers(event.stream_id, [(b":status", b"200")])
            elif isinstance(event, DataReceived):
                self.http.send_data(event.stream_id, event.data, event.stream_ended)
        self.transmit()


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.answers = {}

    def quic_event_received(self, event):
        for event in self.http.handle_event(event):
            body, done = self.answers[event.stream_id]
            if isinstance(event, DataReceived):
                body.extend(event.data)
            if event.stream_ended and not done.done():
                done.set_result(bytes(body))

    async def echo(self, body):
        stream = self._quic.get_next_available_stream_id()
        done = asyncio.get_running_loop().create_future()
        self.answers[stream] = (bytearray(), done)
        head = {":method": "POST", ":scheme": "https", ":authority": "cart.example", ":path": "/"}
        self.http.send_headers(stream, [(name.encode(), value.encode()) for name, value in head.items()])
        self.http.send_data(stream, body, True)
        self.transmit()
        return await done


async def main(what, port, cert, *rest):
    configuration = QuicConfiguration(is_client=what == "ask", alpn_protocols=H3_ALPN)
    if what == "serve":
        configuration.load_cert_chain(cert, rest[0])
        await serve("127.0.0.1", int(port), configuration=configuration, create_protocol=Server)
        await asyncio.Future()
    configuration.load_verify_locations(cert)
    configuration.server_name = "cart.example"
    async with connect("127.0.0.1", int(port), configuration=configuration, create_protocol=Client) as client:
        bodies = [os.urandom(1 << 20) for _ in range(10)]
        answers = await asyncio.wait_for(asyncio.gather(*map(client.echo, bodies)), 60)
        assert answers == bodies, "other bytes than were sent"


asyncio.run(main(*sys.argv[1:]))
