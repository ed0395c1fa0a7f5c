"""A server of Apache Thrift for Python: thrift_server.py GENERATED NAME PORT TRANSPORT PROTOCOL."""

import sys

generated, name, port, transport, protocol = sys.argv[1:]
sys.path.insert(0, generated)

from store import Store  # noqa: E402
from store_handler import Handler, current  # noqa: E402
from thrift.protocol.TBinaryProtocol import TBinaryProtocolFactory  # noqa: E402
from thrift.protocol.TCompactProtocol import TCompactProtocolFactory  # noqa: E402
from thrift.server.TServer import TThreadedServer  # noqa: E402
from thrift.transport import TSocket, TTransport  # noqa: E402


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
server = Server(Store.Processor(Handler(name)), listens, transports[transport], protocols[protocol], daemon=True)
server.serve()
