"""pool.py PORT N: a connection of http.client, used again: an upload that is refused early, and at once the next request,
which is not sent twice."""
import http.client, sys

port, n = int(sys.argv[1]), int(sys.argv[2])
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

def one(method, path, body=None):
    try:
        connection.request(method, path, body=body)
        response = connection.getresponse()
        return f"{response.status} {len(response.read())}"
    except Exception as error:
        connection.close()
        return type(error).__name__

for _ in range(n):
    print("upload", one("POST", "/limit", b"u" * 300_000))
    print("next", one("GET", "/hello"))
