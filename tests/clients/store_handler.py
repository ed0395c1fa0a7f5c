"""What the servers of the tests of Thrift do, whatever carries the calls."""

import collections
import socket
import threading
import time

from store.ttypes import NotFound

counts = collections.Counter()
lock = threading.Lock()
# The socket of the call that a thread serves.
current = threading.local()


def add(key):
    with lock:
        counts[key] += 1
        return counts[key]


class Handler:
    def __init__(self, name):
        self.name = name

    def who(self):
        return self.name

    def echo(self, entry):
        entry.key = entry.key[::-1]
        return entry

    def find(self, key):
        raise NotFound(key)

    def slow(self, key, ms):
        count = add(key)
        time.sleep(ms / 1000)
        return count

    def breakOff(self, key):
        add(key)
        current.socket.shutdown(socket.SHUT_RDWR)
        return 0

    breakOffTwice = breakOff

    def count(self, key):
        return counts[key]

    def fill(self, size):
        add("fill")
        return b"x" * size

    def note(self, key):
        add(key)
