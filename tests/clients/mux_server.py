"""A server of Thrift by Mux: mux_server.py GENERATED NAME PORT. Says on its output what it is told beside calls.

Nothing of Finagle runs without a JVM, so the few messages of Mux that a server needs are written here; what they hold is
served by Apache Thrift's library.
"""

import io
import socketserver
import struct
import sys
import threading

generated, name, port = sys.argv[1:]
sys.path.insert(0, generated)

from store import Store  # noqa: E402
from store_handler import Handler, add, current  # noqa: E402
from thrift.protocol.TBinaryProtocol import TBinaryProtocol  # noqa: E402
from thrift.transport.TTransport import TMemoryBuffer  # noqa: E402

REQUEST, DISPATCH, PING, DISCARD, OLD_DISCARD, OLD_ERROR = 1, 2, 65, 66, -62, 127
OK, ERROR, NACK = 0, 1, 2


def held(call):
    """What a call holds behind its contexts, its destination and its delegations."""

    def number():
        return int.from_bytes(call.read(2), "big")

    for _ in range(2 * number() + 1):
        call.read(number())
    for _ in range(2 * number()):
        call.read(number())
    return call.read()


class Connection(socketserver.BaseRequestHandler):
    def exactly(self, size):
        read = b""
        while len(read) < size:
            more = self.request.recv(size - len(read))
            if not more:
                raise EOFError
            read += more
        return read

    def setup(self):
        self.writing = threading.Lock()

    def say(self, kind, tag, body=b""):
        head = struct.pack("!ib", len(body) + 4, kind) + tag.to_bytes(3, "big")
        with self.writing:
            try:
                self.request.sendall(head + body)
            except OSError:
                pass

    def handle(self):
        try:
            while True:
                (size,) = struct.unpack("!i", self.exactly(4))
                message = self.exactly(size)
                (kind,), tag = struct.unpack("!b", message[:1]), int.from_bytes(message[1:4], "big")
                body = message[4:]
                if kind in (REQUEST, DISPATCH):
                    threading.Thread(target=self.serve, args=(kind, tag, body), daemon=True).start()
                elif kind == PING:
                    self.say(-PING, tag)
                elif kind in (DISCARD, OLD_DISCARD):
                    print("discarded", body[3:].decode(), flush=True)
                else:
                    print("unexpected", kind, flush=True)
                    self.say(OLD_ERROR, tag, b"not known here")
        except (EOFError, OSError):
            pass

    def serve(self, kind, tag, body):
        current.socket = self.request
        contexts, body = (b"\0\0", held(io.BytesIO(body))) if kind == DISPATCH else (b"", body[1:])
        said = TMemoryBuffer()
        if name == "busy":
            add("nacked")
            return self.say(-kind, tag, bytes([NACK]) + contexts)
        try:
            Store.Processor(Handler(name)).process(TBinaryProtocol(TMemoryBuffer(body)), TBinaryProtocol(said))
        except Exception as error:
            return self.say(-kind, tag, bytes([ERROR]) + contexts + repr(error).encode())
        self.say(-kind, tag, bytes([OK]) + contexts + said.getvalue())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 128


Server(("127.0.0.1", int(port)), Connection).serve_forever()
