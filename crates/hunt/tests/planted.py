"""Servers with planted faults, and odd ones without any: python3 planted.py RULE [PORT]. Each connection has a thread."""
import os, socket, sys, threading, time


def head(s, buffered):
    while b"\r\n\r\n" not in buffered:
        more = s.recv(65536)
        if not more:
            return None, buffered
        buffered += more
    one, rest = buffered.split(b"\r\n\r\n", 1)
    return one.lower(), rest


def body(s, one, rest):
    left = int(one.split(b"content-length:")[1].split()[0]) if b"content-length:" in one else 0
    while len(rest) < left:
        more = s.recv(65536)
        if not more:
            break
        rest += more
    return rest[left:]


def answer(s, close=True):
    end = b"Connection: close\r\n" if close else b""
    s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n" + end + b"\r\n" + b"r" * 200000)


def drain(s, most):
    s.shutdown(socket.SHUT_WR)
    s.settimeout(60)
    while most > 0:
        got = len(s.recv(min(most, 65536)))
        if got == 0:
            break
        most -= got


def drains_64_kib(s):
    """Answers each request at its head, and drains 64 KiB of what still comes before it closes."""
    one, rest = head(s, b"")
    if one is not None:
        answer(s)
        drain(s, 65536)


def third_is_late(s):
    """Takes everything and loses nothing, except where three requests came on one connection and the last came late."""
    buffered, count, last = b"", 0, time.monotonic()
    while True:
        one, buffered = head(s, buffered)
        if one is None:
            return
        count, waited = count + 1, time.monotonic() - last
        buffered = body(s, one, buffered)
        if count == 3 and waited > 0.3:
            s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"r" * 1000)
            return
        answer(s, b"connection: close" in one)
        last = time.monotonic()
        if b"connection: close" in one:
            return drain(s, 1 << 40)


def errors(s):
    """Errors without a length, and answers of another length each time: nothing is lost."""
    one, rest = head(s, b"")
    if one is None:
        return
    if one.startswith(b"post"):
        s.sendall(b"HTTP/1.0 400 Bad\r\n\r\n" + b"e" * len(rest))
    else:
        length = 150000 + len(rest) * 7 + int(time.monotonic() * 1e6) % 90000
        s.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + b"r" * length)
    drain(s, 1 << 40)


def waits(s):
    """Silent until a body is whole: nothing is lost."""
    one, rest = head(s, b"")
    if one is not None:
        body(s, one, rest)
        answer(s)
        drain(s, 1 << 40)


begun = 0


def dies(s):
    """Serves forty connections, then ends."""
    global begun
    one, rest = head(s, b"")
    if one is None:
        return
    begun += 1
    if begun > 40:
        print("that was enough", flush=True)
        os._exit(9)
    answer(s)
    drain(s, 1 << 40)


RULES = {
    "drains-64-kib": drains_64_kib,
    "third-is-late": third_is_late,
    "errors": errors,
    "waits": waits,
    "dies": dies,
}


def serve(s):
    try:
        RULES[sys.argv[1]](s)
    except OSError:
        pass
    finally:
        s.close()


if len(sys.argv) < 2 or sys.argv[1] not in RULES:
    sys.exit(f"name a rule: {', '.join(RULES)}")
listener = socket.create_server(("", int(sys.argv[2]) if len(sys.argv) > 2 else 8000), backlog=1000)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
