"""An echo on a WebSocket at /ws, and a page at /."""

import sys

from aiohttp import WSMsgType, web


async def page(request):
    return web.Response(body=b"r" * 300_000)


async def echo(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type == WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


app = web.Application()
app.add_routes([web.get("/", page), web.get("/ws", echo)])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
