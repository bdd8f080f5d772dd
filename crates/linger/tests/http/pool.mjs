// pool.mjs PORT N: a keep-alive agent of Node's: an upload that is refused early, and at once the next request.
import http from 'node:http';
const [,, port, n] = process.argv;
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const one = (method, path, body) => new Promise(done => {
  const request = http.request({ port, path, method, agent }, response => {
    let bytes = 0;
    response.on('data', data => bytes += data.length);
    response.on('end', () => done(`${response.statusCode} ${bytes}`));
    response.on('error', error => done(error.code));
  });
  request.on('error', error => done(error.code));
  request.end(body);
});
for (let i = 0; i < +n; i++) {
  console.log('upload', await one('POST', '/limit', Buffer.alloc(300000)));
  console.log('next', await one('GET', '/hello'));
}
process.exit(0);
