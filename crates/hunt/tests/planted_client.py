"""Clients with planted faults, and one without any: python3 planted_client.py RULE. It sends $LINGER_UPLOAD to http://server/."""
import os, select, socket, sys

rule = sys.argv[1]
body = open(os.environ["LINGER_UPLOAD"], "rb").read()
s = socket.create_connection((os.environ["LINGER_SERVER"], int(os.environ["LINGER_PORT"])))
request = b"POST / HTTP/1.1\r\nHost: server\r\nContent-Length: %d\r\n\r\n" % len(body) + body
came, ended = b"", False


def whole():
    head, found, rest = came.partition(b"\r\n\r\n")
    if not found:
        return None
    return rest if len(rest) >= int(head.lower().split(b"content-length:")[1].split()[0]) else None


def read():
    global came, ended
    try:
        more = s.recv(65536)
    except OSError:
        more = b""
    came += more
    ended = not more


s.setblocking(rule not in ("patient", "trusts", "leaves"))
try:
    if s.getblocking():
        s.sendall(request)
    else:
        # Sends and reads at the same time.
        left = memoryview(request)
        while left:
            reads = [] if ended else [s]
            readable, writable, _ = select.select(reads, [s], [])
            if readable:
                read()
                if rule == "leaves" and whole() is not None:
                    break
            if writable:
                left = left[s.send(left[:65536]):]
except OSError as error:
    # The response may lie there all the same.
    if rule == "stops":
        sys.exit("cannot send: %s" % error)
s.setblocking(True)
while whole() is None and not ended:
    read()
response = whole()
if response is None and rule == "trusts" and b"\r\n\r\n" in came:
    response = came.partition(b"\r\n\r\n")[2]
if response is None:
    sys.exit("%d bytes, and no whole response" % len(came))
sys.stdout.buffer.write(response)
