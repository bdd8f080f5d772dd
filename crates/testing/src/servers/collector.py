"""An OpenTelemetry collector made of Google's protobuf and gRPC: prints what it gets as lines of JSON.

collector.py http|grpc ANSWER...

Logs get these answers, one after the other, and then "ok"; metrics are always taken.
  ok            takes the request
  part:N        takes it but for N records
  503, 503:7    an HTTP status, with Retry-After: 7
  UNAVAILABLE, RESOURCE_EXHAUSTED:7    a gRPC status, with RetryInfo of 7 seconds
  hang          never answers
  cut           closes the connection without an answer
  flood         answers 200 and a body without end
"""
import json
import os
import ssl
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics

kind, answers = sys.argv[1], sys.argv[2:]
lock = threading.Lock()


def tell(**line):
    with lock:
        print(json.dumps({"at": time.monotonic(), **line}), flush=True)


def answer(signal):
    with lock:
        return answers.pop(0) if signal == "logs" and answers else "ok"


def received(signal, request, headers):
    tell(signal=signal, headers=headers, request=MessageToDict(request, preserving_proto_field_name=True))


def taken(signal, rejected):
    if signal == "logs":
        response = logs.ExportLogsServiceResponse()
        if rejected:
            response.partial_success.rejected_log_records = rejected
            response.partial_success.error_message = "too\x1b[31m old"
    else:
        response = metrics.ExportMetricsServiceResponse()
    return response


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        signal = {"/v1/logs": "logs", "/v1/metrics": "metrics"}[self.path]
        request = logs.ExportLogsServiceRequest() if signal == "logs" else metrics.ExportMetricsServiceRequest()
        request.ParseFromString(body)
        received(signal, request, {name.lower(): value for name, value in self.headers.items()})
        what, _, more = answer(signal).partition(":")
        if what == "hang":
            time.sleep(1000)
        if what == "cut":
            self.close_connection = True
            return
        status = int(what) if what.isdigit() else 200
        content = taken(signal, int(more) if what == "part" else 0).SerializeToString() if status == 200 else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        if status != 200 and more:
            self.send_header("Retry-After", more)
        if what == "flood":
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"x" * 65536)
            except OSError:
                self.close_connection = True
                return
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def serve_http():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Http)
    server.daemon_threads = True
    if certificate := os.environ.get("COLLECTOR_CERTIFICATE"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, os.environ["COLLECTOR_KEY"])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    tell(port=server.server_address[1])
    server.serve_forever()


def serve_grpc():
    import grpc
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_grpc
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc

    def export(signal, request, context):
        received(signal, request, dict(context.invocation_metadata()))
        what, _, more = answer(signal).partition(":")
        if what == "hang":
            time.sleep(1000)
        if what in ("ok", "part"):
            return taken(signal, int(more) if what == "part" else 0)
        if more:
            info = duration_pb2.Duration(seconds=int(more)).SerializeToString()
            detail = any_pb2.Any(
                type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\x0a" + bytes([len(info)]) + info
            ).SerializeToString()
            # google.rpc.Status has its details in field 3.
            context.set_trailing_metadata([("grpc-status-details-bin", b"\x1a" + bytes([len(detail)]) + detail)])
        context.abort(grpc.StatusCode[what], "no room")

    class Logs(logs_grpc.LogsServiceServicer):
        def Export(self, request, context):
            return export("logs", request, context)

    class Metrics(metrics_grpc.MetricsServiceServicer):
        def Export(self, request, context):
            return export("metrics", request, context)

    server = grpc.server(futures.ThreadPoolExecutor(4))
    logs_grpc.add_LogsServiceServicer_to_server(Logs(), server)
    metrics_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)
    tell(port=server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()


serve_http() if kind == "http" else serve_grpc()
