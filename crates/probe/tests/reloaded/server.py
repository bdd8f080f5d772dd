"""A server that is told to reload by SIGHUP or to stop by SIGTERM, and obeys in one of several ways.

    server.py PORT WAY [FD OF A LISTENING SOCKET]
"""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

port, way = int(sys.argv[1]), sys.argv[2]
BODY = b"r" * 300_000
connections = set()
state = {"leaving": False, "listener": None}


def listen():
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # So little that most of a response that nobody reads waits in the program.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    return listener


def request(connection):
    """Reads a head. Returns nothing if the client has left, or if a server that is leaving sees no request for a while."""
    head = b""
    while b"\r\n\r\n" not in head:
        try:
            piece = connection.recv(65_536)
        except TimeoutError:
            if state["leaving"]:
                return None
            continue
        if not piece:
            return None
        head += piece
    return head


def serve(connection):
    connections.add(connection)
    try:
        connection.settimeout(0.5)
        while head := request(connection):
            last = state["leaving"] or b"connection: close" in head.lower()
            word = "close" if last else "keep-alive"
            answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\nConnection: {word}\r\n\r\n"
            connection.settimeout(None)
            connection.sendall(answer.encode() + BODY)
            connection.settimeout(0.5)
            if last:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass
                return
    except OSError:
        pass
    finally:
        connections.discard(connection)
        connection.close()


def accept(listener):
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()


def finish(listener):
    """Takes what waits in the queue, listens no more, and ends when all are answered."""
    state["leaving"] = True
    listener.setblocking(False)
    try:
        while True:
            accept(listener)
    except BlockingIOError:
        listener.close()
    while connections:
        time.sleep(0.01)
    os._exit(0)


def cut():
    for connection in list(connections):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os._exit(0)


def replace(listener):
    """Starts another of its kind, which has the listening socket."""
    fd = listener.fileno()
    subprocess.Popen([sys.executable, __file__, str(port), way, str(fd)], pass_fds=[fd])


def obey(*_):
    listener = state["listener"]
    if way == "stops-gracefully":
        threading.Thread(target=finish, args=(listener,)).start()
    elif way == "stops-at-once":
        os._exit(0)
    elif way == "hands-over":
        replace(listener)
        threading.Thread(target=finish, args=(listener,)).start()
    elif way == "cuts":
        replace(listener)
        cut()
    elif way == "listens-anew":
        state["listener"] = None
        listener.close()
        time.sleep(0.3)
        state["listener"] = listen()


for number in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN if way == "ignores" else obey)
state["listener"] = socket.socket(fileno=int(sys.argv[3])) if len(sys.argv) > 3 else listen()
while True:
    listener = state["listener"]
    if listener is None or state["leaving"]:
        time.sleep(0.005)
        continue
    listener.settimeout(0.05)
    try:
        accept(listener)
    except TimeoutError:
        pass
    except OSError:
        # It was closed meanwhile.
        time.sleep(0.005)
