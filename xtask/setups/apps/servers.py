"""Servers that are Python modules: `servers.py NAME PORT`."""
import asyncio
import sys

from app import LARGE, wsgi

NAME, PORT = sys.argv[1], int(sys.argv[2])


def http_server():
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(LARGE)))
            self.end_headers()
            self.wfile.write(LARGE)

        do_POST = do_GET

    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()


def tornado():
    from tornado import web, websocket

    @web.stream_request_body
    class Handler(web.RequestHandler):
        def prepare(self):
            self.finish(LARGE)

        def data_received(self, chunk):
            pass

    class Echo(websocket.WebSocketHandler):
        def on_message(self, message):
            self.write_message(message, binary=isinstance(message, bytes))

    async def main():
        web.Application([("/ws", Echo), ("/.*", Handler)]).listen(PORT, "127.0.0.1")
        await asyncio.Event().wait()

    asyncio.run(main())


def twisted():
    from twisted.internet import protocol, reactor

    class Server(protocol.Protocol):
        received = b""

        def dataReceived(self, data):
            self.received += data
            while b"\r\n\r\n" in self.received:
                head, _, self.received = self.received.partition(b"\r\n\r\n")
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + LARGE)
                if b"\r\nConnection: close" in head:
                    self.received = b""
                    return self.transport.loseConnection()

    reactor.listenTCP(PORT, protocol.Factory.forProtocol(Server), interface="127.0.0.1")
    reactor.run()


def cheroot():
    from cheroot.wsgi import Server

    server = Server(("127.0.0.1", PORT), wsgi)
    server.safe_start()


def cherrypy():
    import cherrypy

    cherrypy.tree.graft(wsgi, "/")
    cherrypy.config.update(
        {"server.socket_host": "127.0.0.1", "server.socket_port": PORT, "log.screen": False, "engine.autoreload.on": False}
    )
    cherrypy.engine.signals.subscribe()
    cherrypy.engine.start()
    cherrypy.engine.block()


def aiohttp():
    from aiohttp import web

    async def answer(request):
        return web.Response(body=LARGE)

    async def echo(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await (socket.send_str if message.type.name == "TEXT" else socket.send_bytes)(message.data)
        return socket

    application = web.Application()
    application.router.add_get("/ws", echo)
    application.router.add_route("*", "/{path:.*}", answer)
    web.run_app(application, host="127.0.0.1", port=PORT, print=None)


def flask():
    from flask import Flask

    application = Flask("app")
    application.add_url_rule("/large", view_func=lambda: LARGE, methods=["GET", "POST"])
    application.run("127.0.0.1", PORT)


def bottle():
    from bottle import route, run

    route("/large", method=["GET", "POST"], callback=lambda: LARGE)
    run(host="127.0.0.1", port=PORT, quiet=True)


def sanic():
    from sanic import Sanic, response

    application = Sanic("app")
    application.add_route(lambda request: response.raw(LARGE), "/large", methods=["GET", "POST"], stream=True)

    async def echo(request, socket):
        async for message in socket:
            await socket.send(message)

    application.add_websocket_route(echo, "/ws")
    application.run("127.0.0.1", PORT, single_process=True, access_log=False, motd=False)


globals()[NAME]()
