"""Sessions with servers that are not asked by HTTP: `sessions.py NAME PORT`. What they print must be the same each time."""
import hashlib
import io
import socket
import sys

NAME, PORT = sys.argv[1], int(sys.argv[2])
DATA = bytes(range(256)) * 4096


def digest(data):
    return f"{len(data)} {hashlib.sha256(data).hexdigest()[:12]}"


def ftp():
    import ftplib

    user, password = (sys.argv[3:] + ["anonymous", "a@b"])[:2]
    client = ftplib.FTP()
    print(client.connect("127.0.0.1", PORT, timeout=20)[:3], client.login(user, password)[:3])
    for round in range(3):
        got = io.BytesIO()
        print(client.retrbinary("RETR pub/big", got.write)[:3], digest(got.getvalue()))
        print(client.storbinary(f"STOR pub/up{round}", io.BytesIO(DATA))[:3])
        lines = []
        print(client.retrlines("LIST pub", lines.append)[:3], len(lines))
        again = io.BytesIO()
        print(client.retrbinary(f"RETR pub/up{round}", again.write)[:3], digest(again.getvalue()))
        print(client.delete(f"pub/up{round}")[:3])
    print(client.quit()[:3])


def imap():
    import imaplib

    client = imaplib.IMAP4("127.0.0.1", PORT, timeout=20)
    print(client.login("someone", "secret")[0])
    print(client.select()[0], client.append("INBOX", None, None, b"Subject: x\r\n\r\n" + DATA.hex().encode())[0])
    print(client.select()[0])
    got = client.fetch("1", "(BODY.PEEK[TEXT])")[1][0][1]
    print(digest(got.strip()))
    client.store("1:*", "+FLAGS", "\\Deleted")
    print(client.expunge()[0], client.logout()[0])


def smtp():
    import smtplib

    client = smtplib.SMTP("127.0.0.1", PORT, timeout=20)
    print(client.ehlo()[0], client.noop()[0], client.mail("a@localhost")[0], client.rcpt("root@localhost")[0])
    print(client.rset()[0], client.quit()[0])


def speak(*lines):
    with socket.create_connection(("127.0.0.1", PORT), timeout=20) as connection:
        with connection.makefile("rwb") as stream:
            for sent, answers in lines:
                stream.write(sent)
                stream.flush()
                for _ in range(answers):
                    print(stream.readline())
            if lines[-1][0].lower().startswith(b"quit"):
                print(stream.read())


def redis():
    speak((b"SET k v\r\n", 1), (b"GET k\r\n", 2), (b"CONFIG GET port\r\n", 1))
    speak((b"PING\r\n", 1), (b"QUIT\r\n", 1))


def memcached():
    speak((b"set k 0 0 1\r\nv\r\n", 1), (b"get k\r\n", 3), (b"quit\r\n", 0))


def dns():
    name = b"".join(bytes([len(part)]) + part for part in (b"host", b"example")) + b"\0"
    query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + name + b"\x00\x01\x00\x01"
    with socket.create_connection(("127.0.0.1", PORT), timeout=20) as connection:
        for _ in range(3):
            connection.sendall(len(query).to_bytes(2, "big") + query)
            length = int.from_bytes(connection.recv(2), "big")
            answer = b""
            while len(answer) < length:
                answer += connection.recv(length - len(answer))
            print(answer[:2].hex(), answer[3] & 15, socket.inet_ntoa(answer[-4:]))


def mqtt():
    with socket.create_connection(("127.0.0.1", PORT), timeout=20) as connection:
        connection.sendall(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a")
        print(connection.recv(4))
        connection.sendall(b"\x82\x06\x00\x01\x00\x01t\x00")
        print(connection.recv(5))
        connection.sendall(b"\x30\x04\x00\x01tx")
        print(connection.recv(6))
        connection.sendall(b"\xe0\x00")
        print(connection.recv(1))


globals()[NAME]()
