// Bun and Deno: `fetch.js PORT`.
const large = new Uint8Array(300000).fill(114);
const asks = (request) => request.headers.get('upgrade') === 'websocket';
const answer = () => new Response(large);
if (globalThis.Bun) {
  Bun.serve({ port: Number(process.argv[2]), hostname: '127.0.0.1', fetch: (request, server) => asks(request) && server.upgrade(request) ? undefined : answer(),
    websocket: { message: (socket, message) => socket.send(message) } });
} else {
  Deno.serve({ port: Number(Deno.args[0]), hostname: '127.0.0.1', onListen() {} }, (request) => {
    if (!asks(request)) return answer();
    const { socket, response } = Deno.upgradeWebSocket(request);
    socket.onmessage = (event) => socket.send(event.data);
    socket.onerror = () => {};
    return response;
  });
}
