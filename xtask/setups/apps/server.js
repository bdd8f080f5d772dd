// `server.js PORT MODE`: MODE is plain, cluster, destroy (the request after the end) or finish (the socket at the end).
const http = require('http');
const cluster = require('cluster');
const [port, mode] = process.argv.slice(2);
const large = Buffer.alloc(300000, 'r');
const server = http.createServer((request, response) => {
  response.writeHead(200, { 'Content-Length': 300000 });
  if (mode === 'finish') response.on('finish', () => { if (request.method === 'POST') request.socket.destroy(); });
  response.end(large);
  if (mode === 'destroy' && request.method === 'POST') request.destroy();
});
if (mode === 'cluster' && cluster.isPrimary) {
  cluster.fork();
  cluster.fork();
} else {
  server.listen(port, '127.0.0.1');
}
