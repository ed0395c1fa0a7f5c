"""A server of Apache Thrift for Python: thrift_server.py GENERATED NAME PORT TRANSPORT PROTOCOL."""

import collections
import socket
import sys
import threading
import time

generated, name, port, transport, protocol = sys.argv[1:]
sys.path.insert(0, generated)

from store import Store  # noqa: E402
from store.ttypes import NotFound  # noqa: E402
from thrift.protocol.TBinaryProtocol import TBinaryProtocolFactory  # noqa: E402
from thrift.protocol.TCompactProtocol import TCompactProtocolFactory  # noqa: E402
from thrift.server.TServer import TThreadedServer  # noqa: E402
from thrift.transport import TSocket, TTransport  # noqa: E402

counts = collections.Counter()
lock = threading.Lock()
current = threading.local()


def add(key):
    with lock:
        counts[key] += 1
        return counts[key]


class Handler:
    def who(self):
        return name

    def echo(self, entry):
        entry.key = entry.key[::-1]
        return entry

    def find(self, key):
        raise NotFound(key)

    def slow(self, name, ms):
        count = add(name)
        time.sleep(ms / 1000)
        return count

    def breakOff(self, name):
        add(name)
        current.socket.shutdown(socket.SHUT_RDWR)
        return 0

    breakOffTwice = breakOff

    def count(self, name):
        return counts[name]

    def fill(self, size):
        add("fill")
        return b"x" * size

    def note(self, name):
        add(name)


class Server(TThreadedServer):
    def handle(self, client):
        current.socket = client.handle
        super().handle(client)


transports = {
    "framed": TTransport.TFramedTransportFactory(),
    "buffered": TTransport.TBufferedTransportFactory(),
}
protocols = {
    "binary": TBinaryProtocolFactory(),
    "compact": TCompactProtocolFactory(),
}
listens = TSocket.TServerSocket("127.0.0.1", int(port))
server = Server(Store.Processor(Handler()), listens, transports[transport], protocols[protocol], daemon=True)
server.serve()
