"""Servers of the matrix that are Python modules: `matrix.py NAME PORT`."""
import sys

from app import LARGE, wsgi

NAME, PORT = sys.argv[1], int(sys.argv[2])


def gevent():
    from gevent.pywsgi import WSGIServer

    WSGIServer(("127.0.0.1", PORT), wsgi, log=None).serve_forever()


def eventlet():
    import eventlet
    import eventlet.wsgi

    eventlet.wsgi.server(eventlet.listen(("127.0.0.1", PORT)), wsgi, log_output=False)


def bjoern():
    import bjoern

    bjoern.run(wsgi, "127.0.0.1", PORT)


def fastwsgi():
    import fastwsgi

    fastwsgi.run(wsgi, host="127.0.0.1", port=PORT)


def robyn():
    sys.argv = sys.argv[:1]
    from robyn import Response, Robyn

    application = Robyn(__file__)

    def answer(request):
        return Response(status_code=200, headers={"content-type": "application/octet-stream"}, description=LARGE)

    application.get("/large")(answer)
    application.post("/large")(answer)
    application.start(host="127.0.0.1", port=PORT)


def websockets():
    import asyncio

    from websockets.asyncio.server import serve
    from websockets.datastructures import Headers
    from websockets.http11 import Response

    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    def answer(connection, request):
        if request.path == "/large":
            return Response(200, "OK", Headers([("Content-Length", str(len(LARGE))), ("Connection", "close")]), LARGE)

    async def main():
        async with serve(echo, "127.0.0.1", PORT, process_request=answer):
            await asyncio.Event().wait()

    asyncio.run(main())


globals()[NAME]()
