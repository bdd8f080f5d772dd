"""A client of the transfer protocol in plain Python, written from docs/transfer-protocol.md alone.

    client.py vectors FILE | sessions FILE
    client.py HOST PORT put FILE NAME | get NAME FILE | put-cut FILE NAME | ask ID

Exit status 0 if both ends agree on the account of the session. `put-cut` leaves before it has the receipt, comes back with
the same id, and wants to hear that the content is there already. Loopback, not encrypted.
"""

import hashlib
import hmac
import os
import socket
import struct
import sys
import time

# BLAKE3, from its specification: chunks of 1,024 bytes, a binary tree above them.
IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
MASK = 0xFFFFFFFF
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED, CONTEXT, MATERIAL = 1, 2, 4, 8, 16, 32, 64
MIX = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15), (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))


def unrolled():
    """The compression function as one long expression: several times as fast as loops."""
    lines = ["def compress(chaining, block, counter, length, flags):"]
    lines.append(' %s = unpack("<16I", block.ljust(64, b"\\0"))' % ", ".join("m%d" % at for at in range(16)))
    lines.append(" %s = chaining" % ", ".join("v%d" % at for at in range(8)))
    lines.append(" v8, v9, v10, v11 = %d, %d, %d, %d" % IV[:4])
    lines.append(" v12, v13, v14, v15 = counter & M, counter >> 32, length, flags")
    words = list(range(16))
    for _ in range(7):
        for step, (a, b, c, d) in enumerate(MIX):
            for word, (first, second) in ((words[2 * step], (16, 12)), (words[2 * step + 1], (8, 7))):
                lines.append(f" v{a} = v{a} + v{b} + m{word} & M; x = v{d} ^ v{a}; v{d} = (x >> {first} | x << {32 - first}) & M")
                lines.append(f" v{c} = v{c} + v{d} & M; x = v{b} ^ v{c}; v{b} = (x >> {second} | x << {32 - second}) & M")
        words = [words[at] for at in PERMUTATION]
    lines.append(" return (%s)" % ", ".join("v%d ^ v%d" % (at, at + 8) for at in range(8)))
    names = {"unpack": struct.unpack, "M": MASK}
    exec("\n".join(lines), names)
    return names["compress"]


compress = unrolled()


def subtree(data, chunk, flags, root, key):
    if len(data) > 1024:
        left = 1024
        while left * 2 < len(data):
            left *= 2
        pair = subtree(data[:left], chunk, flags, 0, key) + subtree(data[left:], chunk + left // 1024, flags, 0, key)
        return compress(key, struct.pack("<16I", *pair), 0, 64, PARENT | flags | root)
    value = key
    blocks = [data[at : at + 64] for at in range(0, len(data), 64)] or [b""]
    for at, block in enumerate(blocks):
        begins = CHUNK_START if at == 0 else 0
        ends = CHUNK_END | root if at == len(blocks) - 1 else 0
        value = compress(value, block, chunk, len(block), flags | begins | ends)
    return value


def pack(value):
    return struct.pack("<8I", *value)


def blake3(data):
    return pack(subtree(data, 0, 0, ROOT, IV))


def derive_key(context, material):
    key = subtree(context.encode(), 0, CONTEXT, ROOT, IV)
    return pack(subtree(material, 0, MATERIAL, ROOT, key))


def keyed_hash(key, data):
    return pack(subtree(data, 0, KEYED, ROOT, struct.unpack("<8I", key)))


def merge(left, right, root=0):
    return pack(compress(IV, left + right, 0, 64, PARENT | root))


BLOCK = 1 << 20


def chaining_value(block, number):
    return pack(subtree(block, number * 1024, 0, 0, IV))


# Frames.
OPEN, MESSAGE, DATA, FINISH, CANCEL, CREDIT, PING, PONG, BYE, WORK = range(1, 11)
PREFACE = b"LNGRTX\x03\x01"


def parity(data):
    value = 0
    for byte in data:
        value ^= byte
    return value


def frame(kind, stream, payload=b""):
    head = bytes([0 if kind == DATA else parity(payload)]) + len(payload).to_bytes(3, "big") + bytes([kind])
    tail = stream.to_bytes(2, "big")
    return head + bytes([parity(head + tail)]) + tail + payload


def text(data):
    return struct.pack(">H", len(data)) + data


def number(value):
    return struct.pack(">Q", value)


def option(value):
    return b"\0" if value is None else b"\1" + value


def instant(seconds, nanos):
    return struct.pack(">qI", seconds, nanos)


OPTIONS = bytes([0, 1, 0, 1])  # do not replace, verify, no dry run, disk


def put_request(path, into, name, transfer, again, sent, sink=None, wishes=b""):
    fields = text(path) + bytes([into]) + text(name) + option(sink and text(sink))
    return b"\1" + fields + transfer + bytes([again]) + option(sent) + OPTIONS + wishes


def get_request(path, patterns, rate):
    return b"\2" + text(path) + option(None) + number(len(patterns)) + b"".join(map(text, patterns)) + number(rate) + OPTIONS


def entry(index, path, mode, time, size, token, sparse=0, by_blocks=0):
    fields = number(index) + b"\0" + text(path) + number(mode) + option(time) + option(number(size)) + token
    return b"\3" + fields + option(None) + bytes([sparse]) + text(b"") + bytes([by_blocks])


class Account:
    """What came of the entries of a session; the sums are of four words."""

    def __init__(self):
        self.counts, self.sums = [0, 0], [[0] * 4, [0] * 4]

    def add(self, which, value):
        self.counts[which] += 1
        words = struct.unpack(">4Q", value)
        self.sums[which] = [(sum + word) % 2**64 for sum, word in zip(self.sums[which], words)]

    def confirm(self, path, target, kind, durability, present, size, content, mode=None):
        fields = b"".join(number(len(part)) + part for part in (path, target))
        fields += bytes([kind, durability, present]) + number(size) + (content or b"")
        fields += b"" if mode is None else number(mode)
        self.add(0, derive_key("linger-transfer 2026 confirmed entry", fields))

    def fail(self, what, value):
        self.add(1, derive_key("linger-transfer 2026 failed entry", what + value))

    def digest(self):
        fields = b"".join(number(self.counts[i]) + struct.pack(">4Q", *self.sums[i]) for i in (0, 1))
        return derive_key("linger-transfer 2026 account", fields)


class Reader:
    def __init__(self, data):
        self.data = data

    def take(self, length):
        assert length <= len(self.data), "a message is too short"
        taken, self.data = self.data[:length], self.data[length:]
        return taken

    def byte(self):
        return self.take(1)[0]

    def number(self):
        return struct.unpack(">Q", self.take(8))[0]

    def text(self):
        return self.take(struct.unpack(">H", self.take(2))[0])

    def option(self, read):
        return read() if self.byte() else None

    def hash(self):
        return self.take(32)

    def time(self):
        return struct.unpack(">qI", self.take(12))


class Session:
    def __init__(self, host, port):
        self.socket = socket.create_connection((host, port))
        self.input = b""
        self.send_raw(PREFACE)
        peer = self.exactly(8)
        assert peer[:6] == PREFACE[:6] and peer[7] <= 3 <= peer[6], peer
        self.credit = 2 << 20

    def send_raw(self, data):
        self.socket.sendall(data)

    def exactly(self, length):
        while len(self.input) < length:
            data = self.socket.recv(1 << 16)
            assert data, "the connection ended"
            self.input += data
        taken, self.input = self.input[:length], self.input[length:]
        return taken

    def send(self, kind, stream=1, payload=b""):
        if kind in (MESSAGE, DATA):
            while self.credit < len(payload):
                kind_, _, data = self.frame()
                assert kind_ == CREDIT, (kind_, data)
            self.credit -= len(payload)
        self.send_raw(frame(kind, stream, payload))

    def frame(self):
        """The next frame, but for those that answer themselves. Credit is given back at once."""
        while True:
            head = self.exactly(8)
            assert parity(head) == 0, "a damaged header"
            payload = self.exactly(int.from_bytes(head[1:4], "big"))
            kind, stream = head[4], int.from_bytes(head[6:], "big")
            assert kind == DATA or head[0] == parity(payload), "a damaged payload"
            if kind == PING:
                self.send(PONG, 0, payload)
            elif kind == CREDIT:
                self.credit += int.from_bytes(payload, "big")
                return kind, stream, payload
            elif kind not in (PONG, WORK):
                if kind in (MESSAGE, DATA) and payload:
                    self.send(CREDIT, stream, number(len(payload)))
                return kind, stream, payload

    def message(self):
        """The next message: its first byte, and a reader of the rest."""
        while True:
            kind, _, payload = self.frame()
            if kind == BYE:
                sys.exit("the server said goodbye: %r" % payload)
            if kind == MESSAGE:
                reader = Reader(payload)
                tag = reader.byte()
                if tag == 17:
                    sys.exit("refused, reason %d: %s" % (reader.byte(), reader.text().decode()))
                return tag, reader

    def finish(self):
        while self.frame()[0] != FINISH:
            pass

    def goodbye(self, told):
        """Says goodbye, and waits until the server has answered it."""
        self.send(BYE, 0, b"\0\0" + told)
        while True:
            kind, _, payload = self.frame()
            if kind == BYE:
                assert payload[:2] == b"\0\0", payload
                return


def content_hash(content):
    return blake3(content)


def put(session, content, name, transfer, again=0, sent=None, leave=False):
    """Sends one file. Returns the memory of the receiver, and whether the content was there already."""
    stat_time = (1_700_000_000, 5)
    token = transfer
    session.send(OPEN, 1, put_request(name, 0, b"", transfer, again, sent))
    tag, reader = session.message()
    assert tag == 2, tag
    ask, memory = reader.byte(), reader.take(16)
    session.send(MESSAGE, 1, entry(0, b"", 0o644, instant(*stat_time), len(content), token))
    whole, answer, first = content_hash(content), 0, 0
    if ask:
        tag, reader = session.message()
        assert (tag, reader.number()) == (4, 0)
        answer = reader.byte()
        if answer == 1:
            first = reader.number()
        elif answer == 2:
            assert reader.hash() == whole, "another content is there"
    if answer == 2:
        session.send(MESSAGE, 1, b"\x08" + number(0))
    else:
        for at in range(first * BLOCK, len(content), BLOCK):
            block = content[at : at + BLOCK]
            session.send(DATA, 1, block)
            if len(block) == BLOCK:
                session.send(MESSAGE, 1, b"\x06" + chaining_value(block, at // BLOCK))
        session.send(MESSAGE, 1, b"\x07" + number(0) + number(len(content)) + option(whole))
    account = Account()
    total = b"\x0e" + number(1) + number(0)
    session.send(MESSAGE, 1, total)
    session.send(FINISH, 1)
    present = 0
    while True:
        tag, reader = session.message()
        if tag == 11:
            continue
        if tag == 12:
            index, size, found, durability = reader.number(), reader.number(), reader.option(reader.hash), reader.byte()
            reader.time(), reader.text()
            present, mode = reader.byte(), reader.option(reader.number)
            assert (index, size, found, durability) == (0, len(content), whole, 1), "another receipt"
            if leave:
                session.socket.close()
                return memory, present
            account.confirm(b"", b"", 0, durability, present, size, found, mode)
        elif tag == 13:
            sys.exit("failed: %d %s" % (reader.number() + reader.byte(), reader.text().decode()))
        elif tag == 15:
            counts = [reader.number(), reader.number()]
            assert counts == account.counts, counts
            assert reader.hash() == account.digest(), "another account"
            session.finish()
            session.goodbye(b"all receipts are here")
            return memory, present


def print_twice(session, content, sink):
    """Puts the same to a sink twice in one session, and never says that it has heard anything. Prints each answer."""
    for stream in (1, 3):
        whole, transfer = content_hash(content), os.urandom(16)
        session.send(OPEN, stream, put_request(b"", 1, b"x", transfer, 0, None, sink))
        session.send(MESSAGE, stream, entry(0, b"", 0o644, instant(1, 0), len(content), transfer))
        session.send(DATA, stream, content)
        session.send(MESSAGE, stream, b"\x07" + number(0) + number(len(content)) + option(whole))
        session.send(MESSAGE, stream, b"\x0e" + number(1) + number(0))
        session.send(FINISH, stream)
        tag = None
        while tag not in (15, 17):
            kind, _, payload = session.frame()
            reader = Reader(payload)
            tag = reader.byte() if kind == MESSAGE else tag
            if tag in (12, 17):
                print("receipt" if tag == 12 else "error %d" % reader.byte(), flush=True)


def hole(session, name, size, by_blocks, verify):
    """Announces a file that is one hole, and tells it in one message. Prints what the server says, until it has left."""
    transfer = os.urandom(16)
    request = put_request(name, 0, b"", transfer, 0, None)
    session.send(OPEN, 1, request[: -len(OPTIONS)] + bytes([0, verify, 0, 1]))
    tag, _ = session.message()
    assert tag == 2, tag
    session.send(MESSAGE, 1, entry(0, b"", 0o644, instant(1, 0), size, transfer, 1, by_blocks))
    try:
        session.send(MESSAGE, 1, b"\x05" + number(size))
        # Another hash than the file's: what is verified may not get the name.
        session.send(MESSAGE, 1, b"\x07" + number(0) + number(size) + option(bytes(32) if verify else None))
        session.send(MESSAGE, 1, b"\x0e" + number(1) + number(0))
        session.send(FINISH)
        while True:
            kind, _, payload = session.frame()
            if kind == MESSAGE and payload[0] == 12:
                print("receipt")
                return
            if kind == BYE:
                print("bye: %s" % payload[2:].decode())
                return
    except (AssertionError, OSError) as error:
        print("gone: %s" % error)


def get(session, name):
    """Fetches one file, verifies it, and returns its content."""
    session.send(OPEN, 1, get_request(name, [], 0))
    tag, reader = session.message()
    assert tag == 1, tag
    reader.text()
    assert reader.byte() == 0, "a directory"
    session.send(MESSAGE, 1, b"\2\0" + bytes(16))
    content, account, size = b"", Account(), None
    while True:
        kind, _, payload = session.frame()
        if kind == DATA:
            content += payload
            continue
        if kind != MESSAGE:
            continue
        reader = Reader(payload)
        tag = reader.byte()
        if tag == 3:
            index = reader.number()
            assert reader.byte() == 0
            path = reader.text()
        elif tag == 5:
            content += bytes(reader.number())
        elif tag == 6:
            block = len(content) // BLOCK - 1
            assert reader.hash() == chaining_value(content[block * BLOCK :], block), "damaged"
        elif tag == 7:
            assert reader.number() == index
            size, whole = reader.number(), reader.option(reader.hash)
            assert size == len(content) and whole == content_hash(content), "damaged"
            receipt = number(index) + number(size) + option(whole) + b"\1" + instant(int(time.time()), 0)
            account.confirm(path, b"", 0, 1, 0, size, whole)
            session.send(MESSAGE, 1, b"\x0c" + receipt + text(b"here") + b"\0")
        elif tag == 14:
            done = number(account.counts[0]) + number(account.counts[1]) + account.digest() + option(None)
            session.send(MESSAGE, 1, b"\x0f" + done)
            session.send(FINISH, 1)
        elif tag in (17, 18):
            sys.exit("refused: %r" % payload)
        if tag == 14:
            while True:
                kind, _, payload = session.frame()
                if kind == BYE:
                    assert payload[:2] == b"\0\0", payload
                    return content


def check_vectors(path):
    known = dict(line.split() for line in open(path))
    time = instant(1_700_000_000, 5)
    hundred = blake3(b"abc")
    one, more = Account(), Account()
    for account in (one, more):
        account.confirm(b"x", b"", 0, 1, 0, 3, hundred, 0o640)
    more.fail(b"index", number(7))
    more.fail(b"path", b"fifo")
    zeros = bytes(BLOCK)
    first, second = chaining_value(zeros, 0), chaining_value(zeros, 1)
    ones = chaining_value(b"\1" * BLOCK, 0)
    tail = chaining_value(b"abc", 0)
    # 1 + 5 + the last: ((ones 0) (0 0)) ((0 0) abc), a tree of 7 leaves.
    pair = merge(first, first)
    top = merge(merge(merge(ones, first), pair), merge(pair, tail))
    expected = {
        "preface": PREFACE,
        "open-put": frame(OPEN, 1, put_request(b"a/b", 1, b"file", b"\x11" * 16, 1, b"\x22" * 16)),
        "open-put-wishes": frame(
            OPEN, 1, put_request(b"a/b", 1, b"file", b"\x11" * 16, 1, b"\x22" * 16, b"print", b"\3")
        ),
        "open-get": frame(OPEN, 1, get_request(b"a", [b"*.o"], 5)),
        "open-list": frame(OPEN, 3, b"\3" + text(b"a")),
        "open-ask": frame(OPEN, 1, b"\4" + b"\x11" * 16),
        "accept": frame(MESSAGE, 1, b"\2\0" + b"\x22" * 16),
        "entry": frame(MESSAGE, 1, entry(1, b"x", 0o644, time, 3, b"\x33" * 16)),
        "entry-by-blocks": frame(MESSAGE, 1, entry(1, b"x", 0o644, time, 3, b"\x33" * 16, 1, 1)),
        "data": frame(DATA, 1, b"abc"),
        "end": frame(MESSAGE, 1, b"\7" + number(1) + number(3) + option(hundred)),
        "total": frame(MESSAGE, 1, b"\x0e" + number(2) + number(0)),
        "done": frame(MESSAGE, 1, b"\x0f" + number(1) + number(0) + one.digest() + option(None)),
        "answer-partial": frame(MESSAGE, 1, b"\4" + number(1) + b"\1" + number(2) + b"\2" + first + second + option(None)),
        "finish": frame(FINISH, 1),
        "bye": frame(BYE, 0, b"\0\0all receipts are here"),
        "credit": frame(CREDIT, 1, number(1 << 20)),
        "work-verify-1-of-3": frame(WORK, 0, b"\1" + number(1) + number(3)),
        "chaining-value-of-zeros-at-block-1": second,
        "hash-of-two-blocks-of-zeros-and-abc": merge(merge(first, second), chaining_value(b"abc", 2), ROOT),
        "hash-by-blocks-of-ones-five-of-zeros-and-abc": derive_key("linger-transfer 2026 file of blocks", number(7) + top),
        "digest-one-confirmed": one.digest(),
        "digest-one-confirmed-two-failed": more.digest(),
        "what-is-signed": b"linger-transfer 2026 signed account\0" + b"\x11" * 16 + one.digest(),
        "receipt": frame(
            MESSAGE,
            1,
            b"\x0c" + number(1) + number(3) + option(hundred) + b"\1" + instant(1_700_000_001, 6) + text(b"x") + b"\0"
            + option(number(0o640)),
        ),
        "proof-of-the-same-user": keyed_hash(
            derive_key("linger-transfer 2026 proof of the same user", b"a key pair"), b"\x99" * 32 + b"\xaa" * 32
        ),
    }
    expected.update(pairing(b"12345678", b"\x44" * 64, b"\x55" * 64, b"\x66" * 32, b"\x77" * 32, b"\x88" * 32))
    wrong = [name for name in known.keys() | expected.keys() if known.get(name) != expected.get(name, b"?").hex()]
    return "not as documented: %s" % ", ".join(sorted(wrong)) if wrong else 0


# Pairing: SPAKE2 over Ed25519.
PRIME, ORDER = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
CURVE = -121665 * pow(121666, -1, PRIME) % PRIME


def point(data):
    """A point from its 32 bytes (RFC 8032, 5.1.3)."""
    value = int.from_bytes(data, "little")
    sign, y = value >> 255, value & (1 << 255) - 1
    square = (y * y - 1) * pow(CURVE * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if (x * x - square) % PRIME:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    assert (x * x - square) % PRIME == 0, "no point"
    return (PRIME - x if x & 1 != sign else x), y


def add(one, other):
    (a, b), (c, d) = one, other
    mixed = CURVE * a * b * c * d % PRIME
    x = (a * d + b * c) * pow(1 + mixed, -1, PRIME) % PRIME
    return x, (b * d + a * c) * pow(1 - mixed, -1, PRIME) % PRIME


def times(scalar, base):
    result = (0, 1)
    while scalar:
        result = add(result, base) if scalar & 1 else result
        base, scalar = add(base, base), scalar >> 1
    return result


def compressed(at):
    return (at[1] | (at[0] & 1) << 255).to_bytes(32, "little")


def pairing(code, client_random, server_random, exporter, client_key, server_key):
    """What both ends say in a pairing, and what they have to show."""
    base = point((4 * pow(5, -1, PRIME) % PRIME).to_bytes(32, "little"))
    blind_client = point(bytes.fromhex("15cfd18e385952982b6a8f8c7854963b58e34388c8e6dae891db756481a02312"))
    blind_server = point(bytes.fromhex("f04f2e7eb734b2a8f8b472eaf9c3c632576ac64aea650b496a8a20ff00e583c3"))
    # HKDF (RFC 5869) with SHA-256, 48 bytes.
    secret, stretched, last = hmac.digest(bytes(32), code, "sha256"), b"", b""
    for count in (1, 2):
        last = hmac.digest(secret, last + b"SPAKE2 pw" + bytes([count]), "sha256")
        stretched += last
    word = int.from_bytes(stretched[:48], "big") % ORDER
    x, y = (int.from_bytes(random, "little") % ORDER for random in (client_random, server_random))
    to_server = compressed(add(times(x, base), times(word, blind_client)))
    to_client = compressed(add(times(y, base), times(word, blind_server)))
    by_client = times(x, add(point(to_client), times(ORDER - word, blind_server)))
    by_server = times(y, add(point(to_server), times(ORDER - word, blind_client)))
    assert by_client == by_server
    names = (code, b"linger-transfer client", b"linger-transfer server")
    said = b"".join(hashlib.sha256(name).digest() for name in names) + to_server + to_client + compressed(by_client)
    shared = hashlib.sha256(said).digest()
    key = derive_key("linger-transfer 2026 proof of a pairing code", shared)
    proofs = [keyed_hash(key, who + exporter + client_key + server_key) for who in (b"client", b"server")]
    return {
        "pairing-message-of-client": b"A" + to_server,
        "pairing-message-of-server": b"B" + to_client,
        "pairing-key": shared,
        "pairing-proof-of-client": proofs[0],
        "pairing-proof-of-server": proofs[1],
    }


def read_request(reader):
    kind = reader.byte()
    if kind == 1:
        reader.text(), reader.byte(), reader.text(), reader.option(reader.text), reader.take(16)
        reader.byte(), reader.option(lambda: reader.take(16)), reader.take(4)
        assert not reader.data or reader.byte() < 4
    elif kind == 2:
        reader.text(), reader.option(reader.text)
        for _ in range(reader.number()):
            reader.text()
        reader.number(), reader.take(4)
        assert not reader.data or reader.byte() < 32
    elif kind == 3:
        reader.text()
    else:
        assert kind == 4
        reader.take(16)
    assert not reader.data, "a request is longer than its fields"
    return kind


class Heard:
    """Reads a recorded session, and keeps the account that its messages amount to."""

    def __init__(self):
        self.account, self.entries, self.ends = Account(), {}, 0

    def message(self, payload):
        reader = Reader(payload)
        kind = reader.byte()
        if kind == 1:
            reader.text(), reader.byte()
        elif kind == 2:
            reader.byte(), reader.take(16)
        elif kind == 3:
            index, what, path = reader.number(), reader.byte(), reader.text()
            reader.number(), reader.option(reader.time), reader.option(reader.number), reader.take(16)
            reader.option(reader.hash), reader.byte()
            self.entries[index] = (path, reader.text(), what)
            assert not reader.data or reader.byte() < 2
        elif kind == 4:
            index, answer = reader.number(), reader.byte()
            assert answer in (2, 3), "partial and fresh answers are in no record"
            if answer == 2:
                reader.hash()
            else:
                reader.byte(), reader.text()
                self.account.fail(b"index", number(index))
        elif kind in (5, 6, 8):
            reader.take({5: 8, 6: 32, 8: 8}[kind])
        elif kind == 7:
            reader.number(), reader.number(), reader.option(reader.hash)
        elif kind == 10:
            reader.number(), reader.number(), reader.time()
        elif kind == 12:
            index, size, content, durability = reader.number(), reader.number(), reader.option(reader.hash), reader.byte()
            reader.time(), reader.text()
            present, mode = reader.byte(), reader.option(reader.number) if reader.data else None
            # An answer to a question is a receipt for no entry.
            if index in self.entries:
                path, target, what = self.entries[index]
                self.account.confirm(path, target, what, durability, present, size, content, mode)
        elif kind == 14:
            assert reader.number() == len(self.entries)
            reader.number()
        elif kind == 15:
            assert [reader.number(), reader.number()] == self.account.counts
            assert reader.hash() == self.account.digest(), "another account"
            reader.option(lambda: reader.take(96))
            self.ends += 1
        elif kind == 16:
            reader.text(), reader.byte(), reader.number(), reader.number(), reader.time()
        else:
            assert kind == 18, kind
            path = reader.text()
            reader.byte(), reader.text()
            self.account.fail(b"path", path)
        assert not reader.data, "message %d is longer than its fields" % kind


def check_sessions(path):
    """Reads every frame of the recorded sessions as the text has it."""
    sessions = []
    for line in open(path):
        if line.startswith("session "):
            sessions.append((Heard(), {">": 0, "<": 0}, []))
        elif not line.startswith("#"):
            heard, frames, requests = sessions[-1]
            whose, data = line[0], bytes.fromhex(line[2:].translate({ord(c): None for c in "[]\n"}))
            frames[whose] += 1
            if frames[whose] == 1:
                assert data == PREFACE, data
                continue
            assert parity(data[:8]) == 0 and len(data) == 8 + int.from_bytes(data[1:4], "big"), line
            kind, payload = data[4], data[8:]
            assert kind == DATA or parity(payload) == data[0], line
            if kind == OPEN:
                requests.append(read_request(Reader(payload)))
            elif kind == MESSAGE:
                heard.message(payload)
            elif kind == BYE:
                assert payload[:2] == b"\0\0", line
            else:
                assert kind == DATA or (kind == FINISH and not payload), line
    for heard, _, requests in sessions:
        assert len(requests) == 1 and heard.ends == (requests[0] < 3), requests
    assert {requests[0] for _, _, requests in sessions} == {1, 2, 3, 4}, "a request is in no record"
    return 0


def main(arguments):
    if arguments[0] == "vectors":
        return check_vectors(arguments[1])
    if arguments[0] == "sessions":
        return check_sessions(arguments[1])
    host, port, verb, *rest = arguments
    session = Session(host, int(port))
    if verb == "get":
        open(rest[1], "wb").write(get(session, rest[0].encode()))
    elif verb == "print-twice":
        print_twice(session, open(rest[0], "rb").read(), rest[1].encode())
    elif verb == "hole":
        hole(session, rest[0].encode(), *map(int, rest[1:]))
    elif verb == "ask":
        session.send(OPEN, 1, b"\4" + bytes.fromhex(rest[0]))
        tag, _ = session.message()
        session.finish()
        session.goodbye(b"")
        return 0 if tag == 12 else tag
    else:
        content, transfer = open(rest[0], "rb").read(), os.urandom(16)
        memory, present = put(session, content, rest[1].encode(), transfer, leave=verb == "put-cut")
        if verb == "put-cut":
            again = Session(host, int(port))
            memory, present = put(again, content, rest[1].encode(), transfer, 1, memory)
            assert present, "it was sent twice"
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
