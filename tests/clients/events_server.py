"""A server of server-sent events, of Python's own library: events_server.py PORT. Counts on from Last-Event-ID, 50 a second."""

import http.server
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")
        self.end_headers()
        number = int(self.headers.get("Last-Event-ID", "0"))
        try:
            while True:
                number += 1
                self.wfile.write(f"id: {number}\ndata: event {number}\n\n".encode())
                time.sleep(0.02)
        except OSError:
            pass

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
