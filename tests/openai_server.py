"""A small server that answers like an OpenAI endpoint, at a pace that is known: for other tools' benchmarks to measure.

``python openai_server.py FIRST_S NEXT_S`` prints its port, streams ``max_tokens`` tokens, one per chunk, and ends when
its stdin does.
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FIRST_S, NEXT_S = float(sys.argv[1]), float(sys.argv[2])
MODEL = "small"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._whole({"object": "list", "data": [{"id": MODEL, "object": "model"}], "status": "ok"})

    def _whole(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat = "messages" in asked
        n = int(asked.get("max_completion_tokens") or asked.get("max_tokens") or 8)
        text = json.dumps(asked.get("messages") or asked.get("prompt"))
        usage = {
            "prompt_tokens": len(text.split()),
            "completion_tokens": n,
            "total_tokens": len(text.split()) + n,
        }
        common = {"id": "x", "object": "chat.completion.chunk" if chat else "text_completion", "model": MODEL}
        common["created"] = int(time.time())
        if not asked.get("stream"):
            time.sleep(FIRST_S + NEXT_S * (n - 1))
            choice = {"index": 0, "finish_reason": "length"}
            choice |= {"message": {"role": "assistant", "content": "a " * n}} if chat else {"text": "a " * n}
            self._whole({**common, "choices": [choice], "usage": usage})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        began = time.perf_counter()
        for i in range(n):
            time.sleep(max(0.0, began + FIRST_S + NEXT_S * i - time.perf_counter()))
            choice = {"index": 0, "finish_reason": "length" if i == n - 1 else None}
            choice |= {"delta": {"role": "assistant", "content": "a "}} if chat else {"text": "a "}
            self._event({**common, "choices": [choice]})
        if (asked.get("stream_options") or {}).get("include_usage"):
            self._event({**common, "choices": [], "usage": usage})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, value):
        self._chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def _chunk(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
