"""An endpoint that speaks gRPC: `server.py PORT NAME [unavailable]`. Messages are bytes as they are, without protobuf.

With `unavailable` every call but Stats ends with that status before anything was answered. SIGTERM ends it gracefully.
"""

import json
import signal
import sys
import threading
import time
from concurrent import futures

import grpc

NAME = sys.argv[2]
counts = {"calls": 0, "cancelled": 0}
lock = threading.Lock()


def count(what):
    with lock:
        counts[what] += 1


def unary(request, context):
    """Echoes message and metadata."""
    count("calls")
    given = [(k, v) for k, v in context.invocation_metadata() if k.startswith("x-")]
    context.send_initial_metadata([("served-by", NAME)] + given)
    context.set_trailing_metadata([("trail", "last"), ("trail-bin", b"\x00\xff\n")])
    return request


def fail(request, context):
    """Ends with the status and the message that are asked for."""
    count("calls")
    code, details = json.loads(request)
    context.set_trailing_metadata([("trail", "failed")])
    context.abort(getattr(grpc.StatusCode, code), details)


def late_fail(request, context):
    """The same, after a first message."""
    count("calls")
    yield b"first"
    context.abort(grpc.StatusCode.ABORTED, "late")


def down(request, context):
    """As many messages as are asked for, as long as are asked for."""
    count("calls")
    messages, length = json.loads(request)
    for index in range(messages):
        yield index.to_bytes(4, "big").ljust(length, b".")


def up(requests, context):
    """How many messages came, and how many bytes."""
    count("calls")
    lengths = [len(request) for request in requests]
    return json.dumps([len(lengths), sum(lengths)]).encode()


def both(requests, context):
    """Echoes each message when it comes."""
    count("calls")
    yield from requests


def hang(request, context):
    """Answers never, and notices when nobody waits any more."""
    count("calls")
    gone = threading.Event()
    context.add_callback(gone.set)
    gone.wait(30)
    count("cancelled")
    return b""


def stats(request, context):
    return json.dumps(counts).encode()


def refuse(request, context):
    count("calls")
    context.abort(grpc.StatusCode.UNAVAILABLE, f"{NAME} is unavailable")


methods = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "LateFail": grpc.unary_stream_rpc_method_handler(late_fail),
    "Down": grpc.unary_stream_rpc_method_handler(down),
    "Up": grpc.stream_unary_rpc_method_handler(up),
    "Both": grpc.stream_stream_rpc_method_handler(both),
    "Hang": grpc.unary_unary_rpc_method_handler(hang),
}
if sys.argv[3:] == ["unavailable"]:
    methods = {name: grpc.unary_unary_rpc_method_handler(refuse) for name in methods}
methods["Stats"] = grpc.unary_unary_rpc_method_handler(stats)

# Blocked in every thread that starts from here on, and taken by `sigwait` below: a handler runs in the main thread only,
# and nothing wakes that while another thread has been given the signal.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

server = grpc.server(futures.ThreadPoolExecutor(300), options=[("grpc.so_reuseport", 0)])
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", methods)])
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
signal.sigwait([signal.SIGTERM])
server.stop(grace=10).wait()
