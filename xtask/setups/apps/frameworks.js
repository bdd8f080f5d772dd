// `frameworks.js PORT NAME NODE`: NAME is express, fastify or ws, NODE the folder of the packages.
const [port, name, node] = process.argv.slice(2);
const load = (module) => require(`${node}/${module}`);
const large = Buffer.alloc(300000, 'r');
if (name === 'express') {
  load('express')().all('/large', (request, response) => response.end(large)).listen(port, '127.0.0.1');
} else if (name === 'fastify') {
  const server = load('fastify')();
  // The body is not read before the answer.
  server.addContentTypeParser('*', (request, payload, done) => done(null));
  server.all('/large', async () => large);
  server.listen({ port: Number(port), host: '127.0.0.1' });
} else {
  const server = require('http').createServer((request, response) => response.end(large));
  new (load('ws').WebSocketServer)({ server }).on('connection', (socket) => {
    socket.on('error', () => {});
    socket.on('message', (data) => socket.send(data));
  });
  server.listen(port, '127.0.0.1');
}
