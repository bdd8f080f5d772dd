#!/usr/bin/env python3
"""Records HTTP/2 in clear between servers and clients that people use, on the loopback of a namespace.

    unshare -n python3 record_http2.py OUTPUT-DIRECTORY [SCENARIO...]

As root. Needs tcpdump, curl, nginx, node and nghttp2's nghttp, nghttpd and nghttpx. Each scenario leaves NAME.pcap.gz; what each must be
called is in tests/http2.rs.
"""

import gzip, os, signal, socket, subprocess, sys, tempfile, threading, time

SCENARIOS = {}
WORK = tempfile.mkdtemp()
# nginx reads as another user.
os.chmod(WORK, 0o755)
PORT = 8080
URL = f"http://127.0.0.1:{PORT}"


def scenario(function):
    SCENARIOS[function.__name__.replace("_", "-")] = function


def until(what, condition):
    end = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"waited for {what} in vain")
        time.sleep(0.02)


def listens(port):
    with socket.socket() as probe:
        # Bound already means that somebody listens; no connection, which the capture would show.
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return False
        except OSError:
            return True


class Process:
    def __init__(self, *command, port=None):
        self.output = open(os.path.join(WORK, f"{os.path.basename(command[0])}.log"), "wb")
        self.process = subprocess.Popen(command, stdout=self.output, stderr=self.output)
        if port:
            until(f"{command[0]} on {port}", lambda: listens(port))

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def node(script):
    path = os.path.join(WORK, "script.js")
    with open(path, "w") as file:
        file.write(script)
    return path


def server(body):
    return Process(
        "node",
        node("const h2 = require('http2');\nconst server = h2.createServer();\n"
             "server.on('sessionError', () => {});\nlet count = 0;\n"
             f"server.on('stream', (stream) => {{\nstream.on('error', () => {{}});\ncount += 1;\n{body}\n}});\n"
             f"server.listen({PORT}, '127.0.0.1');\n"),
        port=PORT,
    )


def curl(*urls, options=()):
    # Both requests on one connection.
    command = ["curl", "-s", "--http2-prior-knowledge", "--max-time", "10", *options]
    if len(urls) > 1:
        command += ["--parallel"]
    for url in urls:
        command += ["-o", "/dev/null", url]
    subprocess.run(command, timeout=20, stderr=subprocess.DEVNULL)


def client(body):
    """A node client that opens streams as fast as the script says."""
    path = os.path.join(WORK, "client.js")
    with open(path, "w") as file:
        file.write("const h2 = require('http2');\n"
                   f"const session = h2.connect('{URL}');\nsession.on('error', () => {{}});\n"
                   "function ask(path, options) { const stream = session.request({':path': path}, options);\n"
                   "stream.on('error', () => {}); stream.resume(); return stream; }\n" + body)
    subprocess.run(["node", path], timeout=20)


def nginx(extra, upstream=None):
    path = os.path.join(WORK, "nginx.conf")
    with open(path, "w") as file:
        file.write(f"""
daemon off; master_process off; error_log {WORK}/error.log; pid {WORK}/nginx.pid;
events {{}}
http {{
    access_log off; client_body_temp_path {WORK}/body; proxy_temp_path {WORK}/proxy; fastcgi_temp_path {WORK}/f;
    uwsgi_temp_path {WORK}/u; scgi_temp_path {WORK}/s;
    server {{ listen 127.0.0.1:{PORT} http2; root {WORK}; {extra} }}
}}
""")
    return Process("nginx", "-c", path, port=PORT)


@scenario
def whole_curl_nginx():
    """Two requests, two answers, and the client goes."""
    with open(os.path.join(WORK, "file"), "w") as file:
        file.write("x" * 400)
    with nginx(""):
        curl(f"{URL}/file", f"{URL}/file")


@scenario
def goaway_nginx():
    """nginx ends a connection after two requests. GOAWAY names the last one, and all were answered."""
    with nginx("keepalive_requests 2; location / { return 200 whole; }"):
        subprocess.run(["nghttp", "-n", f"{URL}/a", f"{URL}/b"], timeout=20)


@scenario
def upstream_dies_nginx():
    """nginx's upstream ends in the middle of a response: nginx ends the stream, and the connection lives."""
    listener = socket.create_server(("127.0.0.1", 8081))

    def serve():
        one, _ = listener.accept()
        one.recv(65536)
        one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + b"x" * 300)
        one.close()

    threading.Thread(target=serve, daemon=True).start()
    with nginx("location / { proxy_http_version 1.1; proxy_pass http://127.0.0.1:8081; }"):
        curl(f"{URL}/a")
    listener.close()


@scenario
def refused_node():
    """The second stream is refused, the first one answered."""
    with server("if (count === 2) stream.close(h2.constants.NGHTTP2_REFUSED_STREAM);\n"
                "else { stream.respond({':status': 200}); stream.end('whole'); }"):
        client("const a = ask('/a'), b = ask('/b'); let open = 2;\n"
               "for (const one of [a, b]) one.on('close', () => { open -= 1; if (open === 0) session.destroy(); });\n")


@scenario
def killed_node():
    """The server is killed: one response has begun, one request has none, one is whole."""
    with server("if (count === 1) { stream.respond({':status': 200}); stream.end('whole'); }\n"
                "else if (count === 2) { stream.respond({':status': 200}); stream.write('part'); }\n"
                "else setTimeout(() => process.kill(process.pid, 'SIGKILL'), 200);"):
        client("ask('/a'); ask('/b'); ask('/c');\n")


@scenario
def calm_node():
    """The server answers one stream, ends the connection with ENHANCE_YOUR_CALM, and names that stream as the last one."""
    with server("if (count === 1) { stream.respond({':status': 200}); stream.end('whole'); }\n"
                "else if (count === 3) { stream.session.goaway(h2.constants.NGHTTP2_ENHANCE_YOUR_CALM, 1, "
                "Buffer.from('too_many_requests')); setTimeout(() => stream.session.socket.end(), 200); }"):
        client("ask('/a'); ask('/b'); ask('/c');\n")


@scenario
def cancelled_node():
    """The client cancels a stream, and has the answer of the other one."""
    with server("if (count === 2) { stream.respond({':status': 200}); stream.end('whole'); }"):
        client("const a = ask('/a'); const b = ask('/b');\n"
               "b.on('close', () => { a.close(h2.constants.NGHTTP2_CANCEL); a.on('close', () => session.close()); });\n")


@scenario
def upgrade_nghttp():
    """nghttp asks nghttpx for an upgrade (h2c), and has its answer."""
    with open(os.path.join(WORK, "index.html"), "w") as file:
        file.write("x" * 300)
    with Process("nghttpd", "--no-tls", "-d", WORK, "8082", port=8082):
        with Process("nghttpx", f"-f127.0.0.1,{PORT};no-tls", "-b127.0.0.1,8082;;proto=h2;no-tls", "--workers=1", port=PORT):
            subprocess.run(["nghttp", "-n", "-u", f"{URL}/index.html"], timeout=20)


@scenario
def upgrade_curl_killed():
    """curl upgrades at nghttpx, which is killed while its backend is silent: stream 1 has no answer."""
    listener = socket.create_server(("127.0.0.1", 8081))
    with Process("nghttpx", f"-f127.0.0.1,{PORT};no-tls", "-b127.0.0.1,8081", "--single-process", "--workers=1", port=PORT) as proxy:
        def serve():
            one, _ = listener.accept()
            one.recv(65536)
            time.sleep(0.2)
            proxy.kill()

        threading.Thread(target=serve, daemon=True).start()
        subprocess.run(["curl", "-s", "--http2", "--max-time", "10", "-o", "/dev/null", f"{URL}/a"], timeout=20)
    listener.close()


def record(name, output):
    path = os.path.join(WORK, f"{name}.pcap")
    log = open(os.path.join(WORK, "tcpdump.log"), "wb+")
    command = ["tcpdump", "-i", "lo", "-U", "--immediate-mode", "-Z", "root", "-w", path, f"tcp port {PORT}"]
    capture = subprocess.Popen(command, stderr=log)
    until("tcpdump", lambda: b"listening on" in open(log.name, "rb").read())
    try:
        SCENARIOS[name]()
    except BaseException:
        capture.kill()
        raise
    # Until everything that was sent stands in the file.
    size = -1

    def quiet():
        nonlocal size
        time.sleep(0.4)
        before, size = size, os.path.getsize(path)
        return before == size

    until("the end of the packets", quiet)
    capture.terminate()
    capture.wait()
    with open(path, "rb") as source, gzip.GzipFile(os.path.join(output, f"{name}.pcap.gz"), "wb", mtime=0) as target:
        target.write(source.read())
    print(name, os.path.getsize(path))


def main():
    output, names = sys.argv[1], sys.argv[2:] or list(SCENARIOS)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.makedirs(output, exist_ok=True)
    for name in names:
        record(name, output)


main()
