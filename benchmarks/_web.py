"""Web servers on the loopback address: nginx with files and faults, and one whose bodies never end."""

import asyncio
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"

_CONFIG = """\
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; keepalive_requests 1000000; default_type image/jpeg;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ root {files}; }}
    location /forbidden/ {{ return 403; }}
    location /busy/ {{ add_header Retry-After 1 always; return 429; }}
    location /loop/a/ {{ rewrite ^/loop/a/(.*)$ /loop/b/$1 redirect; }}
    location /loop/b/ {{ rewrite ^/loop/b/(.*)$ /loop/a/$1 redirect; }}
    location /page/ {{ types {{ }} default_type text/html; return 200 "<html>Sorry, moved.</html>"; }}
  }}
}}
"""


@contextmanager
def nginx(folder: Path, files: Path, port: int) -> Iterator[str]:
    """Serve `files` until the block ends; yield the address."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(folder=folder, files=files, port=port), encoding="utf-8")
    server = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not (folder / "pid").is_file():
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"nginx does not start: {(folder / 'error.log').read_text()}")
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


@contextmanager
def troubled(port: int) -> Iterator[str]:
    """Serve bodies that never end (/endless/, 20 kB/s) or nearly stand still (/slow/, 10 bytes/s)."""
    loop = asyncio.new_event_loop()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            request = await reader.readuntil(b"\r\n\r\n")
            endless = b"/endless/" in request.split(b"\r\n", 1)[0]
            head = b"" if endless else b"Content-Length: 60000\r\n"
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nConnection: close\r\n" + head + b"\r\n"
            )
            while True:
                writer.write(bytes(4096) if endless else bytes(2))
                await writer.drain()
                await asyncio.sleep(0.2)
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", port, backlog=4096)
        started.set()
        async with server:
            await server.serve_forever()

    def run() -> None:
        asyncio.set_event_loop(loop)
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    started = threading.Event()
    task = loop.create_task(serve())
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
