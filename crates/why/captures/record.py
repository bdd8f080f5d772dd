#!/usr/bin/env python3
"""Records a labelled capture of every cause, at the client, in the middle and at the server.

Real kernel TCP between three network namespaces: client - router - server. What no kernel sends by itself (forged
segments, the marks of load balancers) is written to a raw socket on the router. Run as root:

    python3 record.py OUTPUT-DIRECTORY [SCENARIO...]

Each scenario leaves NAME.{client,middle,server}.pcap.gz. What each must be called is in labels.toml.
"""

import ctypes, gzip, os, random, select, signal, socket, ssl, struct, subprocess, sys, tempfile, threading, time

LIBC = ctypes.CDLL(None, use_errno=True)
TAG = f"why{os.getpid()}"
C, M, S = (f"{TAG}-{side}" for side in "cms")
ADDRESS = {4: {"c": "10.77.1.1", "s": "10.77.2.1"}, 6: {"c": "fd77:1::1", "s": "fd77:2::1"}}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
SCENARIOS = {}
# Sockets that outlive the capture: what their end sends belongs to no scenario.
LATER = []


def sh(command, check=True, **kw):
    return subprocess.run(command, shell=True, check=check, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kw)


def inside(ns, command, check=True):
    return sh(f"ip netns exec {ns} {command}", check)


class within:
    """The calling thread, moved into a namespace for a while."""

    def __init__(self, ns):
        self.ns = ns

    def __enter__(self):
        self.back = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/var/run/netns/{self.ns}", os.O_RDONLY)
        assert LIBC.setns(there, 0x40000000) == 0, os.strerror(ctypes.get_errno())
        os.close(there)

    def __exit__(self, *_):
        assert LIBC.setns(self.back, 0x40000000) == 0
        os.close(self.back)


def build():
    for ns in (C, M, S):
        sh(f"ip netns add {ns}")
        inside(ns, "ip link set lo up")
    for side, ns, net in (("c", C, 1), ("s", S, 2)):
        sh(f"ip link add {side}0 netns {ns} type veth peer name {side}1 netns {M}")
        for inner, dev, host in ((ns, f"{side}0", 1), (M, f"{side}1", 254)):
            inside(inner, f"ip addr add 10.77.{net}.{host}/24 dev {dev}")
            inside(inner, f"ip -6 addr add fd77:{net}::{host}/64 dev {dev} nodad")
            inside(inner, f"ip link set {dev} up")
        inside(ns, f"ip route add default via 10.77.{net}.254")
        inside(ns, f"ip -6 route add default via fd77:{net}::254")
    inside(M, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    for ns in (C, S):
        inside(ns, "sysctl -qw net.ipv4.tcp_synack_retries=2 net.ipv4.tcp_no_metrics_save=1")


def demolish():
    for ns in (C, M, S):
        sh(f"ip netns del {ns}", False)


def scenario(*versions, snap=200, timestamps=True, **knobs):
    def add(function):
        for version in versions or (4,):
            name = function.__name__.replace("_", "-") + ("-v6" if version == 6 else "")
            SCENARIOS[name] = (function, version, snap, timestamps, knobs)
        return function
    return add


def record(name, out):
    function, version, snap, timestamps, knobs = SCENARIOS[name]
    settings = {"tcp_timestamps": int(timestamps), "tcp_abort_on_overflow": 0, "tcp_syncookies": 1,
                "tcp_fin_timeout": 60, "tcp_synack_retries": 2}
    for ns in (C, S):
        settled = {**settings, **(knobs if ns == S else {})}
        inside(ns, "sysctl -qw " + " ".join(f"net.ipv4.{key}={value}" for key, value in settled.items()))
        inside(ns, "nft flush ruleset")
    inside(M, "nft flush ruleset")
    # Neighbours are known before anything is recorded.
    inside(C, f"ping -qc1 -w2 {ADDRESS[version]['s']}", False)
    directory = tempfile.mkdtemp()
    dumps = []
    for place, ns, dev in (("client", C, "c0"), ("middle", M, "s1"), ("server", S, "s0")):
        path = f"{directory}/{place}"
        dump = subprocess.Popen(["ip", "netns", "exec", ns, "tcpdump", "-i", dev, "-s", str(snap), "-Z", "root", "-Uw", path,
                                 "--nano", "--immediate-mode", "tcp or icmp"], stderr=subprocess.PIPE, text=True)
        while "listening" not in dump.stderr.readline():
            pass
        dumps.append((place, path, dump))
    try:
        function(version)
    finally:
        # What is still on the way: more than any delay of these links.
        time.sleep(0.25)
        for place, path, dump in dumps:
            dump.send_signal(signal.SIGINT)
            dump.wait()
            dump.stderr.close()
            with open(path, "rb") as plain, open(f"{out}/{name}.{place}.pcap.gz", "wb") as packed:
                with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as file:
                    file.write(plain.read())
        while LATER:
            LATER.pop().close()
        inside(M, "nft flush ruleset")
        for ns in (C, S):
            inside(ns, "ss -K", False)
        # The resets of `ss -K` are over before the next capture begins.
        time.sleep(0.1)


# What the scenarios are made of.

def listen(version, port=8080, backlog=64, rcvbuf=None):
    with within(S):
        listener = socket.socket(FAMILY[version])
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if rcvbuf:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    listener.bind((ADDRESS[version]["s"], port))
    listener.listen(backlog)
    return listener


def dial(version, port=8080, source=0, rcvbuf=None, wait=3):
    with within(C):
        client = socket.socket(FAMILY[version])
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if rcvbuf:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    if source:
        client.bind((ADDRESS[version]["c"], source))
    client.settimeout(wait)
    client.connect((ADDRESS[version]["s"], port))
    return client


def pair(version, **kw):
    listener = listen(version, rcvbuf=kw.pop("server_rcvbuf", None))
    client = dial(version, **kw)
    server, _ = listener.accept()
    server.settimeout(5)
    listener.close()
    return client, server


def abort(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def drained(s, want=None):
    got = b""
    try:
        while want is None or len(got) < want:
            piece = s.recv(65536)
            if not piece:
                break
            got += piece
    except OSError:
        pass
    return got


GET = b"GET /page HTTP/1.1\r\nHost: server\r\n\r\n"


def response(length, sent=None):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % length
    return head + b"x" * (length if sent is None else sent)


def nap(seconds=0.1):
    """A pause of one side, more than a round trip: it orders packets that neither side is told of."""
    time.sleep(seconds)


def slow(rate="2mbit", burst=3000):
    """Bytes towards the client pass at a rate, so that some are on the way when the reset is sent."""
    inside(M, f"tc qdisc replace dev c1 root tbf rate {rate} burst {burst} limit 200000")


def fast():
    inside(M, "tc qdisc del dev c1 root", False)


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def craft(version, source, destination, seq, ack, flags, window=0, options=b"", payload=b"", ttl=64, ip_id=0,
          where=M):
    """Sends a segment the kernel did not write; source and destination are (address, port)."""
    tcp = struct.pack("!HHIIBBHHH", source[1], destination[1], seq & 0xFFFFFFFF, ack & 0xFFFFFFFF,
                      (20 + len(options)) // 4 << 4, flags, window, 0, 0) + options + payload
    a, b = (socket.inet_pton(FAMILY[version], end[0]) for end in (source, destination))
    if version == 4:
        pseudo = a + b + struct.pack("!BBH", 0, 6, len(tcp))
    else:
        pseudo = a + b + struct.pack("!II", len(tcp), 6)
    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
    if version == 4:
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), ip_id, 0x4000, ttl, 6, 0, a, b)
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    else:
        ip = struct.pack("!IHBB16s16s", 6 << 28, len(tcp), 6, ttl, a, b)
    with within(where):
        raw = socket.socket(FAMILY[version], socket.SOCK_RAW, socket.IPPROTO_RAW)
    raw.sendto(ip + tcp, (destination[0], 0))
    raw.close()


class Sniffer:
    """The last TCP segment seen on the router from the server, for those who forge the next one."""

    def __init__(self, version, dev="s1"):
        with within(M):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        self.socket.bind((dev, 0))
        self.version = version

    def last(self, port=8080, from_server=True):
        """(seq after it, ack, window, IP id, has timestamps options bytes)"""
        self.socket.settimeout(0.3)
        found = None
        try:
            while True:
                frame = self.socket.recv(65535)
                ip = frame[14:]
                if self.version == 4 and ip[0] >> 4 == 4 and ip[9] == 6:
                    tcp, length, ident = ip[20:], struct.unpack("!H", ip[2:4])[0] - 20, struct.unpack("!H", ip[4:6])[0]
                elif self.version == 6 and ip[0] >> 4 == 6 and ip[6] == 6:
                    tcp, length, ident = ip[40:], struct.unpack("!H", ip[4:6])[0], 0
                else:
                    continue
                sport, dport, seq, ack, offset, flags, window = struct.unpack("!HHIIBBH", tcp[:16])
                if (sport if from_server else dport) != port:
                    continue
                offset = (offset >> 4) * 4
                length -= offset
                found = (seq + length + (flags & 1) + (flags >> 1 & 1), ack, window, ident, tcp[20:offset])
        except TimeoutError:
            pass
        return found


# Closed with unread data.

@scenario(4, 6)
def unread_small_request(v):
    client, server = pair(v, server_rcvbuf=None)
    client.sendall(b"r" * 108)
    server.recv(100)
    server.sendall(b"a" * 6000)
    nap()
    server.close()
    nap()
    client.close()


@scenario(4, 6)
def unread_upload_window(v):
    client, server = pair(v, server_rcvbuf=16384)
    client.setblocking(False)
    try:
        client.sendall(b"u" * 200_000)
    except OSError:
        pass
    nap(0.3)
    server.recv(1000)
    server.sendall(b"answer")
    server.close()
    nap()
    client.close()


@scenario(4, timestamps=False)
def unread_upload_window_no_timestamps(v):
    unread_upload_window(v)


@scenario(4, 6)
def unread_after_half_close(v):
    client, server = pair(v)
    client.sendall(GET)
    drained(server, len(GET))
    server.sendall(response(300))
    server.shutdown(socket.SHUT_WR)
    nap()
    client.sendall(b"more bytes that nobody reads")
    nap()
    server.close()
    nap()
    client.close()


@scenario(4, 6)
def unread_early_413(v):
    client, server = pair(v)
    client.sendall(b"POST /up HTTP/1.1\r\nHost: server\r\nContent-Length: 100000\r\n\r\n" + b"b" * 20000)
    nap()
    server.recv(1000)
    server.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 20000\r\n\r\n" + b"n" * 20000)
    server.close()
    nap()
    client.close()


@scenario(4)
def unread_pipelined(v):
    client, server = pair(v)
    client.sendall(GET + GET)
    server.recv(len(GET))
    server.sendall(response(500))
    server.close()
    nap()
    client.close()


@scenario(4)
def unread_slow_link(v):
    slow()
    try:
        client, server = pair(v)
        client.sendall(b"POST /cgi HTTP/1.1\r\nHost: server\r\nContent-Length: 50\r\n\r\n" + b"p" * 50)
        server.recv(60)
        server.setblocking(False)
        try:
            server.sendall(response(60000))
        except OSError:
            pass
        nap(0.05)
        server.close()
        nap(0.5)
        client.close()
    finally:
        fast()


@scenario(4, snap=0)
def unread_fastcgi(v):
    client, server = pair(v)
    def fcgi(kind, content):
        return struct.pack("!BBHHBB", 1, kind, 1, len(content), 0, 0) + content
    client.sendall(fcgi(1, struct.pack("!HB5x", 1, 0)) + fcgi(4, b"") + fcgi(5, b"s" * 800) + fcgi(5, b""))
    server.recv(24)
    server.sendall(fcgi(6, b"Status: 200\r\n\r\n" + b"o" * 3000) + fcgi(6, b"") + fcgi(3, bytes(8)))
    server.close()
    nap()
    client.close()


# Data after close.

@scenario(4, 6)
def data_after_close(v):
    client, server = pair(v)
    client.sendall(b"request")
    server.recv(100)
    server.sendall(b"answer" * 50)
    server.close()
    nap()
    client.sendall(b"late data")
    nap()
    client.close()


@scenario(4, timestamps=False)
def data_after_close_no_timestamps(v):
    data_after_close(v)


@scenario(4, 6)
def keep_alive_race(v):
    client, server = pair(v)
    for _ in range(2):
        client.sendall(GET)
        server.recv(1000)
        server.sendall(response(400))
        client.recv(1000)
    nap(0.4)
    server.close()
    nap(0.02)
    client.sendall(GET)
    nap()
    client.close()


@scenario(4)
def upload_after_close(v):
    slow("20mbit")
    try:
        client, server = pair(v)
        client.settimeout(1)
        client.sendall(b"POST /up HTTP/1.1\r\nHost: server\r\nContent-Length: 1000000\r\n\r\n")
        server.recv(1000)
        server.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
        server.close()
        client.sendall(b"b" * 10000)
        nap()
        client.close()
    except OSError:
        client.close()
    finally:
        fast()


# Aborted.

@scenario(4, 6)
def aborted_server_speaks_first(v):
    client, server = pair(v)
    server.sendall(b"220 mail ready\r\n")
    nap()
    abort(server)
    nap()
    client.close()


@scenario(4, timestamps=False)
def aborted_silent(v):
    client, server = pair(v)
    nap()
    abort(server)
    nap()
    client.close()


@scenario(4, 6)
def aborted_after_whole_exchange(v):
    client, server = pair(v)
    client.sendall(GET)
    server.recv(1000)
    server.sendall(response(500))
    client.recv(1000)
    nap()
    abort(server)
    nap()
    client.close()


@scenario(4)
def aborted_killed_by_ss(v):
    client, server = pair(v)
    server.sendall(b"banner\r\n")
    nap()
    inside(S, "ss -K sport = :8080", False)
    nap()
    client.close()
    server.close()


@scenario(4)
def health_check(v):
    listener = listen(v)
    for _ in range(3):
        abort(dial(v))
        nap(0.05)
    listener.close()


# Nobody listens, or somebody is overwhelmed.

@scenario(4, 6)
def port_closed(v):
    for _ in range(3):
        try:
            dial(v, port=8099)
        except OSError:
            pass
        nap(0.05)


def overflow(v, wait, count=5):
    """Handshakes that are all under way before the first completes: the queue is full only at their last step."""
    listener = listen(v, backlog=1)
    first = dial(v)
    LATER.append(first)
    slow("8kbit", 120)
    clients = []
    for _ in range(count):
        with within(C):
            client = socket.socket(FAMILY[v])
        client.setblocking(False)
        try:
            client.connect((ADDRESS[v]["s"], 8080))
        except BlockingIOError:
            pass
        clients.append(client)
    nap(0.7)
    for client in clients:
        try:
            client.send(GET)
        except OSError:
            pass
    fast()
    nap(wait)
    LATER.extend([*clients, listener])


@scenario(4, tcp_syncookies=0)
def overflow_silent(v):
    overflow(v, 14)


@scenario(4, 6, tcp_abort_on_overflow=1, tcp_syncookies=0)
def overflow_abort(v):
    overflow(v, 0.5)


@scenario(4, tcp_syncookies=2)
def overflow_syncookies(v):
    overflow(v, 240)


# The process is gone.

def forked(v, serve):
    """Runs serve(listener) in a child; answers the child's pid."""
    listener = listen(v)
    child = os.fork()
    if child == 0:
        try:
            serve(listener)
        finally:
            os._exit(0)
    listener.close()
    return child


@scenario(4, 6)
def process_killed_unread(v):
    def serve(listener):
        held = []
        while True:
            held.append(listener.accept()[0])
    child = forked(v, serve)
    clients = [dial(v) for _ in range(6)]
    for client in clients:
        client.sendall(GET)
    nap(0.2)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    nap(0.2)
    for client in clients:
        client.close()
    for _ in range(3):
        try:
            dial(v)
        except OSError:
            pass


@scenario(4)
def process_killed_idle(v):
    def serve(listener):
        held = []
        while True:
            server = listener.accept()[0]
            server.recv(1000)
            server.sendall(response(200))
            held.append(server)
    child = forked(v, serve)
    clients = []
    for _ in range(4):
        client = dial(v)
        client.sendall(GET)
        client.recv(1000)
        clients.append(client)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    nap(0.1)
    for client in clients:
        try:
            client.sendall(GET)
        except OSError:
            pass
    nap(0.1)
    for client in clients:
        client.close()
    try:
        dial(v)
    except OSError:
        pass


@scenario(4)
def listener_closed_with_queue(v):
    listener = listen(v)
    clients = [dial(v) for _ in range(4)]
    nap()
    listener.close()
    nap()
    for client in clients:
        client.close()
    try:
        dial(v)
    except OSError:
        pass


# One side has forgotten the connection.

@scenario(4, 6)
def half_open_server_forgot(v):
    client, server = pair(v)
    client.sendall(GET)
    server.recv(1000)
    server.sendall(response(100))
    client.recv(1000)
    inside(S, "nft 'add table inet t; add chain inet t o { type filter hook output priority 0; }; "
              "add rule inet t o tcp sport 8080 drop'")
    abort(server)
    nap(0.05)
    inside(S, "nft flush ruleset")
    nap(0.2)
    client.sendall(GET)
    nap()
    client.close()


@scenario(4)
def half_open_stale_peer(v):
    """The client lost its connection silently and dials again from the same port."""
    listener = listen(v)
    client = dial(v, source=40123)
    server = listener.accept()[0]
    client.sendall(b"hello")
    server.recv(100)
    inside(C, "nft 'add table inet t; add chain inet t o { type filter hook output priority 0; }; "
              "add rule inet t o tcp dport 8080 drop'")
    abort(client)
    nap(0.05)
    inside(C, "nft flush ruleset")
    again = dial(v, source=40123)
    nap()
    LATER.extend([again, server, listener])


@scenario(4)
def syn_scan(v):
    """A SYN that no socket of the client stands behind: its kernel resets the answer."""
    listener = listen(v)
    for port in (40200, 40201):
        craft(v, (ADDRESS[v]["c"], port), (ADDRESS[v]["s"], 8080), 1000, 0, 2, 1024, b"\x02\x04\x05\xb4", where=C)
        nap(0.1)
    listener.close()


# The client gave up.

@scenario(4, 6)
def client_closes_mid_response(v):
    slow()
    try:
        client, server = pair(v)
        client.sendall(GET)
        server.recv(1000)
        server.setblocking(False)
        try:
            server.sendall(response(60000))
        except OSError:
            pass
        nap(0.08)
        client.recv(1000)
        client.close()
        nap(0.3)
        server.close()
    finally:
        fast()


@scenario(4, 6)
def client_timed_out(v):
    client, server = pair(v)
    client.sendall(GET)
    server.recv(1000)
    nap(0.5)
    client.close()
    nap(0.1)
    server.sendall(response(500))
    nap()
    server.close()


@scenario(4)
def client_aborts_waiting(v):
    client, server = pair(v)
    client.sendall(GET)
    server.recv(1000)
    nap(0.5)
    abort(client)
    nap()
    server.close()


# Nobody answers.

def blackhole():
    inside(M, "nft 'add table inet t; add chain inet t f { type filter hook forward priority 0; }; "
              "add rule inet t f drop'")


@scenario(4, 6)
def keepalive(v):
    client, server = pair(v)
    for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 3)):
        server.setsockopt(socket.IPPROTO_TCP, option, value)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    client.sendall(b"hello")
    server.recv(100)
    server.sendall(b"world")
    client.recv(100)
    nap()
    blackhole()
    nap(5.5)
    LATER.extend([server, client])


@scenario(4, 6)
def retransmissions(v):
    client, server = pair(v)
    client.sendall(GET)
    server.recv(1000)
    nap()
    blackhole()
    server.sendall(response(300))
    nap(4)
    abort(server)
    nap()
    LATER.append(client)


# FIN_WAIT2 ran out.

@scenario(4, 6, tcp_fin_timeout=2)
def finwait2_then_fin(v):
    client, server = pair(v)
    client.sendall(GET)
    server.recv(1000)
    server.sendall(response(100))
    server.close()
    drained(client)
    nap(4)
    client.close()


@scenario(4, tcp_fin_timeout=2)
def finwait2_then_data(v):
    client, server = pair(v)
    client.sendall(GET)
    server.recv(1000)
    server.sendall(response(100))
    server.close()
    drained(client)
    nap(4)
    client.sendall(GET)
    nap()
    client.close()


# Boxes in between.

@scenario(4, 6)
def firewall_rejects_syn(v):
    listener = listen(v)
    client = dial(v)
    server = listener.accept()[0]
    client.close()
    server.close()
    nap()
    inside(M, "nft 'add table inet t; add chain inet t f { type filter hook forward priority 0; }; "
              "add rule inet t f tcp dport 8080 reject with tcp reset'")
    for _ in range(3):
        try:
            dial(v)
        except OSError:
            pass
    LATER.append(listener)


@scenario(4, 6)
def firewall_rejects_data(v):
    client, server = pair(v)
    client.sendall(GET)
    server.recv(1000)
    server.sendall(response(100))
    client.recv(1000)
    inside(M, "nft 'add table inet t; add chain inet t f { type filter hook forward priority 0; }; "
              "add rule inet t f tcp dport 8080 reject with tcp reset'")
    try:
        client.sendall(GET)
        nap()
        client.sendall(GET)
    except OSError:
        pass
    nap()
    LATER.extend([client, server])


def forge(v, ttl, tell=lambda *_: {}, continues=True, flags=0x14, window=0):
    client, server = pair(v)
    sniffer = Sniffer(v)
    client.sendall(GET)
    server.recv(1000)
    server.sendall(response(2000, 700))
    client.recv(1000)
    nap()
    nxt, ack, win, ident, options = sniffer.last()
    fields = {"window": window, "ttl": ttl, "ip_id": 0x4d2, **tell(win, ident, options)}
    craft(v, (ADDRESS[v]["s"], 8080), client.getsockname()[:2], nxt, ack, flags, **fields)
    nap()
    if continues:
        try:
            server.sendall(b"x" * 1300)
        except OSError:
            pass
        nap()
    LATER.extend([client, server])


@scenario(4, 6)
def forged_foreign_ttl(v):
    forge(v, 201)


@scenario(4)
def forged_perfect(v):
    forge(v, 63, lambda win, ident, options: {"window": win, "ip_id": ident + 1, "options": options}, False)


@scenario(4)
def forged_to_both(v):
    client, server = pair(v)
    sniffer = Sniffer(v)
    client.sendall(GET)
    server.recv(1000)
    server.sendall(response(2000, 700))
    client.recv(1000)
    nap()
    nxt, ack, _, _, _ = sniffer.last()
    ends = (ADDRESS[v]["s"], 8080), client.getsockname()[:2]
    for _ in range(3):
        craft(v, *ends, nxt, ack, 0x14, 0, ttl=49, ip_id=7)
        craft(v, *reversed(ends), ack, nxt, 0x14, 0, ttl=49, ip_id=7)
    nap()
    LATER.extend([client, server])


@scenario(4)
def forged_before_the_answer(v):
    """A censor's way: the reset comes at once, the server's answer later, to a client that is gone."""
    client, server = pair(v)
    sniffer = Sniffer(v, "c1")
    client.sendall(GET)
    nap(0.02)
    nxt, ack, _, _, _ = sniffer.last()
    for extra in (0, 1460):
        craft(v, (ADDRESS[v]["s"], 8080), client.getsockname()[:2], nxt + extra, ack, 0x14, 0, ttl=120, ip_id=99)
    nap()
    server.recv(1000)
    server.sendall(response(300))
    nap()
    LATER.extend([client, server])


@scenario(4)
def box_netscaler(v):
    forge(v, 63, lambda win, ident, options: {"window": 9811}, False)


@scenario(4)
def box_bigip(v):
    forge(v, 63, lambda win, ident, options: {"payload": b"BIG-IP: [0x2409a71:1148] No pool member available"}, False)


@scenario(4, 6)
def box_diagnostic_payload(v):
    forge(v, 63, lambda win, ident, options: {"payload": struct.pack("!HHI", 0x33AA, 14, 0)}, False)


# Harmless.

def tls_pair(v):
    directory = tempfile.mkdtemp()
    sh(f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=server -keyout {directory}/k -out {directory}/c")
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(f"{directory}/c", f"{directory}/k")
    client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_side.check_hostname, client_side.verify_mode = False, ssl.CERT_NONE
    client, server = pair(v)
    result = []
    thread = threading.Thread(target=lambda: result.append(server_side.wrap_socket(server, server_side=True)))
    thread.start()
    client = client_side.wrap_socket(client)
    thread.join()
    return client, result[0]


@scenario(4, 6)
def tls_close_notify(v):
    client, server = tls_pair(v)
    client.sendall(GET)
    server.recv(1000)
    server.sendall(response(300))
    client.recv(2000)
    server.close()
    nap()
    try:
        client.settimeout(0.3)
        client.unwrap()
    except OSError:
        pass
    client.close()


@scenario(4)
def tls_unread_upload(v):
    client, server = tls_pair(v)
    client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 60000\r\n\r\n" + b"t" * 40000)
    server.recv(100)
    server.sendall(response(2000))
    server.close()
    nap()
    client.close()


# Failures without a reset.

def answered(v, request, answer):
    client, server = pair(v)
    client.sendall(request)
    server.recv(1000)
    if answer:
        server.sendall(answer)
    server.close()
    drained(client)
    client.close()


@scenario(4, 6)
def cut_short_length(v):
    answered(v, GET, response(300, 100))


@scenario(4)
def cut_short_chunks(v):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answered(v, GET, head + b"5\r\nhello\r\n" + b"a\r\nwor")


@scenario(4)
def whole_chunks(v):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answered(v, GET, head + b"5\r\nhello\r\n" + b"5\r\nworld\r\n0\r\n\r\n")


@scenario(4)
def cut_short_record(v):
    hello = b"\x16\x03\x01\x00\x04\x01\x00\x00\x00"
    answered(v, hello, b"\x17\x03\x03\x00\x64" + b"t" * 60)


@scenario(4)
def closed_mid_request(v):
    answered(v, b"POST / HTTP/1.1\r\nHost: server\r\nContent-Length: 900\r\n\r\n" + b"u" * 100, b"")


@scenario(4, 6)
def closed_unanswered(v):
    answered(v, GET, b"")


@scenario(4)
def keep_alive_race_lingering(v):
    client, server = pair(v)
    client.sendall(GET)
    server.recv(1000)
    server.sendall(response(50))
    client.recv(1000)
    nap(1.2)
    # The FIN waits behind 20 datagrams for 160 ms.
    slow("1mbit")
    with within(M):
        crowd = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(20):
        crowd.sendto(b"d" * 1000, (ADDRESS[4]["c"], 9))
    crowd.close()
    server.shutdown(socket.SHUT_WR)
    client.sendall(GET)
    drained(client)
    drained(server, len(GET))
    server.close()
    client.close()
    nap(0.2)
    fast()


@scenario(4)
def window_stuck(v):
    client, server = pair(v, rcvbuf=4000)
    server.setblocking(False)
    client.sendall(GET)
    nap()
    try:
        for _ in range(100):
            server.send(b"w" * 10000)
            nap(0.01)
    except BlockingIOError:
        pass
    nap(14)
    LATER.extend([client, server])


@scenario(4, snap=100)
def black_hole(v):
    client, server = pair(v)
    inside(M, "nft add table ip hole")
    inside(M, "nft add chain ip hole f '{ type filter hook forward priority 0; }'")
    inside(M, "nft add rule ip hole f ip length gt 1000 drop")
    client.sendall(GET)
    server.recv(1000)
    server.sendall(response(5000))
    nap(7)
    LATER.extend([client, server])


def refused_by(v, rule):
    with within(C):
        client = socket.socket(FAMILY[v])
    client.settimeout(4)
    rule()
    try:
        client.connect((ADDRESS[v]["s"], 8080))
    except OSError:
        pass
    client.close()


def forward(verdict):
    inside(M, "nft add table ip hole")
    inside(M, "nft add chain ip hole f '{ type filter hook forward priority 0; }'")
    inside(M, f"nft add rule ip hole f tcp dport 8080 {verdict}")


@scenario(4)
def unreachable_prohibited(v):
    refused_by(v, lambda: forward("reject with icmp type admin-prohibited"))


@scenario(4)
def unreachable_route(v):
    with within(C):
        client = socket.socket(FAMILY[v])
    inside(M, "ip route add unreachable 10.77.2.200/32")
    client.settimeout(2)
    try:
        client.connect(("10.77.2.200", 8080))
    except OSError:
        pass
    client.close()
    inside(M, "ip route del unreachable 10.77.2.200/32")


@scenario(4)
def syn_dropped(v):
    refused_by(v, lambda: forward("drop"))


def main():
    out, names = sys.argv[1], sys.argv[2:]
    os.makedirs(out, exist_ok=True)
    build()
    try:
        for name in names or SCENARIOS:
            print(name, file=sys.stderr, flush=True)
            record(name, out)
    finally:
        demolish()


main()
