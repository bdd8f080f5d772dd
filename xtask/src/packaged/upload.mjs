// Uploads SIZE bytes to URL so often, by fetch or http; prints how many answers were whole.
import http from 'node:http';

const [kind, url, times, size, whole] = process.argv.slice(2);
// A reset may reach a socket that no request listens to any more.
process.on('uncaughtException', () => {});
const body = Buffer.alloc(Number(size), 'u');

const byHttp = () => new Promise((resolve, reject) => {
  const request = http.request(url, { method: 'POST', headers: { 'content-length': body.length } }, (answer) => {
    let got = 0;
    answer.on('data', (part) => { got += part.length; });
    answer.on('end', () => resolve([answer.statusCode, got]));
    answer.on('error', reject);
  });
  request.on('error', reject);
  request.on('close', () => resolve([0, 0]));
  request.end(body);
});
const byFetch = async () => {
  const answer = await fetch(url, { method: 'POST', body });
  return [answer.status, (await answer.arrayBuffer()).byteLength];
};

let right = 0;
for (let round = 0; round < Number(times); round += 1) {
  try {
    const [status, got] = await (kind === 'fetch' ? byFetch() : byHttp());
    right += status === 413 && got === Number(whole);
  } catch { /* lost */ }
}
console.log(right);
process.exit(0);
