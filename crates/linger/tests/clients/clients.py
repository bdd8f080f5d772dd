"""clients.py CLIENT URL VERSION ROUNDS BYTES PAUSE PATIENCE: a client of Python's, with the pool that it has by itself. Each round is
an upload that is refused early, and at once the next request. The body goes out in 8 pieces with PAUSE seconds after
each; the answer is read when all is written, unless the client reads it by itself."""
import asyncio, ssl, sys, time, warnings

name, url, version = sys.argv[1:4]
rounds, size, pause = int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6])
warnings.simplefilter("ignore")
anybody = ssl.create_default_context()
anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
# A client that has lost the connection without noticing would wait for ever.
PATIENCE = float(sys.argv[7])

def pieces():
    for _ in range(8):
        yield b"u" * (size // 8)
        if pause:
            time.sleep(pause)

async def async_pieces():
    for piece in [b"u" * (size // 8)] * 8:
        yield piece
        if pause:
            await asyncio.sleep(pause)

def said(what, ask):
    try:
        status, length = ask()
        print(what, status, length)
    except Exception as error:
        print(what, type(error).__name__)

async def said_later(what, ask):
    try:
        status, length = await ask()
        print(what, status, length)
    except Exception as error:
        print(what, type(error).__name__)

length = {"content-length": str(size // 8 * 8)}

def http_client():
    import http.client
    host = url.split("//")[1]
    def connect():
        if url.startswith("https"):
            return http.client.HTTPSConnection(host, timeout=PATIENCE, context=anybody)
        return http.client.HTTPConnection(host, timeout=PATIENCE)
    connection = connect()
    def ask(*request, **more):
        try:
            connection.request(*request, **more)
            response = connection.getresponse()
            return response.status, len(response.read())
        except Exception:
            connection.close()
            raise
    for _ in range(rounds):
        said("upload", lambda: ask("POST", "/refused", body=pieces(), headers=length))
        said("next", lambda: ask("GET", "/hello"))

class Pieces:
    """Without a length requests would add `transfer-encoding: chunked`."""
    def __len__(self):
        return size // 8 * 8
    def __iter__(self):
        return pieces()

def requests():
    import requests
    with requests.Session() as session:
        session.verify = False
        def ask(method, path, **more):
            response = session.request(method, url + path, timeout=PATIENCE, **more)
            return response.status_code, len(response.content)
        for _ in range(rounds):
            said("upload", lambda: ask("POST", "/refused", data=Pieces()))
            said("next", lambda: ask("GET", "/hello"))

def urllib3():
    import urllib3
    pool = urllib3.PoolManager(cert_reqs="CERT_NONE", retries=False, timeout=PATIENCE)
    def ask(method, path, **more):
        response = pool.request(method, url + path, **more)
        return response.status, len(response.data)
    for _ in range(rounds):
        said("upload", lambda: ask("POST", "/refused", body=pieces(), headers=length))
        said("next", lambda: ask("GET", "/hello"))

def httpx():
    import httpx
    with httpx.Client(verify=anybody, http2=version == "2", timeout=PATIENCE) as client:
        def ask(method, path, **more):
            response = client.request(method, url + path, **more)
            return response.status_code, len(response.content)
        for _ in range(rounds):
            said("upload", lambda: ask("POST", "/refused", content=pieces(), headers=length))
            said("next", lambda: ask("GET", "/hello"))

async def aiohttp():
    import aiohttp
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False), timeout=timeout) as session:
        async def ask(method, path, **more):
            async with session.request(method, url + path, **more) as response:
                return response.status, len(await response.read())
        for _ in range(rounds):
            await said_later("upload", lambda: ask("POST", "/refused", data=async_pieces(), headers=length))
            await said_later("next", lambda: ask("GET", "/hello"))

clients = {"http.client": http_client, "requests": requests, "urllib3": urllib3, "httpx": httpx}
if name == "aiohttp":
    asyncio.run(aiohttp())
else:
    clients[name]()
