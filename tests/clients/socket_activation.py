"""Starts a program as systemd does a unit with sockets: activation.py [tcp:HOST:PORT | udp:HOST:PORT]... -- PROGRAM ARGS.

They are bound here, passed as descriptors from 3 on, and named by LISTEN_FDS and LISTEN_PID (sd_listen_fds(3)).
"""

import os
import socket
import sys

FIRST = 3

split = sys.argv.index("--")
sockets, program = [], sys.argv[split + 1 :]
for kind, host, port in (spec.split(":") for spec in sys.argv[1:split]):
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, int(port)))
    if kind == "tcp":
        bound.listen(64)
    # Out of the way of what they become.
    sockets.append(os.dup2(bound.fileno(), 100 + len(sockets)))
for place, descriptor in enumerate(sockets):
    os.dup2(descriptor, FIRST + place)
    os.set_inheritable(FIRST + place, True)
    os.close(descriptor)
os.environ["LISTEN_FDS"] = str(len(sockets))
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(program[0], program)
