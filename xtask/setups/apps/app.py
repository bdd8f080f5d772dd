"""Applications for WSGI, ASGI and frameworks: 300,000 bytes, which are sent without a look at the request's body."""
LARGE = b"r" * 300000


def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", "300000")])
    return [LARGE]


async def asgi(scope, receive, send):
    if scope["type"] == "websocket":
        return await echo(receive, send)
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"300000")]})
    await send({"type": "http.response.body", "body": LARGE})


async def echo(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})
