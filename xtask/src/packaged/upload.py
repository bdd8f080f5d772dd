"""Uploads BYTES to URL so often, by http.client or urllib; prints how many answers were whole."""
import http.client, sys, urllib.error, urllib.parse, urllib.request

_, kind, url, times, size, whole = sys.argv
parts, body = urllib.parse.urlsplit(url), b"u" * int(size)
right = 0
for _ in range(int(times)):
    try:
        if kind == "http.client":
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
            connection.request("POST", parts.path, body)
            answer = connection.getresponse()
            status, got = answer.status, answer.read()
        else:
            try:
                answer = urllib.request.urlopen(urllib.request.Request(url, body), timeout=60)
                status, got = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                status, got = error.code, error.read()
        right += (status, len(got)) == (413, int(whole))
    except (OSError, http.client.HTTPException):
        pass
print(right)
