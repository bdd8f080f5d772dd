"""Small programs in one, as acts.c: `acts.py NAME`, and `acts.py` lists the names."""
import os, select, signal, socket, sys, threading

ACTS = {}
PAGE = b'HTTP/1.0 200 OK\r\n\r\n' + b'x' * 200000 + b'END'
HERE = ('127.0.0.1', 8000)


def act(function):
    ACTS[function.__name__] = function


def say(*words):
    os.write(1, (' '.join(map(str, words)) + '\n').encode())


class Lazy:
    """A module that few of the programs use."""

    def __getattr__(self, name):
        import subprocess
        return getattr(subprocess, name)


subprocess = Lazy()


def fds():
    for fd in sorted(int(name) for name in os.listdir('/proc/self/fd')):
        try:
            say('fd', fd, os.readlink(f'/proc/self/fd/{fd}').split(':')[0].split('/')[-1]) if fd < 900 else None
        except OSError:
            pass


def client():
    with socket.create_server(HERE, backlog=8) as listener:
        return listener.accept()[0]


def early(c):
    say('read', len(c.recv(10)))
    c.sendall(PAGE)


def full(c):
    got = 0
    while got < 8192:
        more = c.recv(8192 - got)
        if not more:
            break
        got += len(more)
    say('saw', got)
    c.sendall(b'saw %d of 8192' % got)


@act
def exit_status(): sys.exit(41)
@act
def exit_text(): sys.exit('a word on stderr')
@act
def exit_exception(): raise RuntimeError('told on stderr')
@act
def exit_interrupted(): os.kill(os.getpid(), signal.SIGINT)
@act
def exit_at_once(): os._exit(42)
@act
def exit_signal(): os.kill(os.getpid(), signal.SIGUSR2); signal.pause()
@act
def signal_handled(): signal.signal(signal.SIGTERM, lambda *_: say('term')); os.kill(os.getpid(), signal.SIGTERM); sys.exit(3)
@act
def signal_ignored(): say([s.name for s in signal.Signals if signal.getsignal(s) == signal.SIG_IGN])
@act
def signal_blocked(): say(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
@act
def signal_timer():
    import time
    told = []
    signal.signal(signal.SIGALRM, lambda *_: told.append(say('alarm')))
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    # It may come before any call that waits for it.
    while not told: time.sleep(0.001)
@act
def fds_open(): fds()
@act
def fds_inherited():
    r, w = os.pipe()
    os.set_inheritable(w, True)
    subprocess.run(['sh', '-c', f'echo told >&{w}'], close_fds=False)
    say(os.read(r, 9))
@act
def fork_status():
    if os.fork() == 0: os._exit(5)
    say(os.wait()[1])
@act
def fork_killed():
    pid = os.fork()
    if pid == 0: signal.pause()
    os.kill(pid, 9)
    say(os.waitpid(pid, 0)[1])
@act
def fork_spawn(): say(os.waitpid(os.posix_spawn('/bin/sh', ['sh', '-c', 'exit 6'], os.environ), 0)[1])
@act
def fork_run(): say(subprocess.run(['sh', '-c', 'echo out; echo err >&2; exit 7'], capture_output=True))
@act
def fork_pass_fds():
    r, w = os.pipe()
    say(subprocess.run(['sh', '-c', f'echo told >&{w}'], pass_fds=[w]).returncode, os.read(r, 9))
@act
def fork_pipeline():
    with subprocess.Popen(['echo', 'a'], stdout=subprocess.PIPE) as one, subprocess.Popen(['cat'], stdin=one.stdout, stdout=subprocess.PIPE) as two:
        say(two.communicate())
@act
def fork_session(): say(subprocess.run(['sh', '-c', 'echo $(($$ == $(cut -d" " -f6 /proc/$$/stat)))'], start_new_session=True, capture_output=True).stdout)
@act
def fork_pool():
    import multiprocessing
    with multiprocessing.get_context('fork').Pool(2) as pool: say(pool.map(abs, [-1, -2]))
@act
def fork_spawned_pool():
    pid = os.spawnvp(os.P_NOWAIT, 'sh', ['sh', '-c', 'kill -9 $$'])
    say(os.waitpid(pid, 0)[1])
@act
def exec_again(): os.execv(sys.executable, [sys.executable, sys.argv[0], 'exit_at_once'])
@act
def exec_missing():
    try: os.execvp('no-such-program', ['x'])
    except OSError as error: say(error.errno)
@act
def same_environment(): say(sorted(k for k in os.environ if k not in ('LD_PRELOAD', 'LINGER_RUN', 'OLDPWD', 'SHLVL', '_')))
@act
def same_modules(): say(os.getcwd() == os.path.realpath('.'), sys.stdin.isatty(), os.nice(0))
@act
def files_written():
    import tempfile
    with tempfile.NamedTemporaryFile(dir='.', delete=False, prefix='kept') as f: f.write(b'x')
    os.rename(f.name, 'kept')
@act
def outgoing_pair():
    with socket.create_server(HERE) as listener:
        a = socket.create_connection(HERE)
        b, _ = listener.accept()
        a.sendall(b'unread'); b.sendall(b'answer')
        say(a.recv(9)); a.close()
        say(b.recv(9), b.recv(9)); b.close()
@act
def threads_many():
    import concurrent.futures
    with concurrent.futures.ThreadPoolExecutor(8) as pool: say(sum(pool.map(len, ['a'] * 100)))


@act
def early_close(): c = client(); early(c); c.close(); fds()
@act
def early_with():
    with client() as c: early(c)
@act
def early_detach(): c = client(); early(c); os.close(c.detach())
@act
def early_exit(): c = client(); early(c); sys.exit(9)
@act
def early_exit_at_once(): c = client(); early(c); os._exit(10)
@act
def early_shutdown(): c = client(); early(c); c.shutdown(socket.SHUT_RDWR); c.close()
@act
def early_file(): c = client(); f = c.makefile('rwb'); c.close(); say(f.read(10)); f.write(PAGE); f.close()
@act
def early_thread(): c = client(); t = threading.Thread(target=lambda: (early(c), c.close())); t.start(); t.join()
@act
def early_fork():
    c = client()
    if os.fork() == 0: early(c); os._exit(0)
    c.close(); say(os.wait()[1])
@act
def early_helper(): c = client(); early(c); say(subprocess.run(['true']).returncode); c.close()
@act
def early_select():
    listener = socket.create_server(HERE)
    select.select([listener], [], [])
    c, _ = listener.accept(); c.setblocking(False)
    select.select([c], [], []); say(len(c.recv(10)))
    c.setblocking(True); c.sendall(PAGE); c.close()
@act
def early_http():
    from http.server import BaseHTTPRequestHandler, HTTPServer
    class Early(BaseHTTPRequestHandler):
        def do_POST(self): self.wfile.write(PAGE); say(self.command)
        def log_message(self, *_): pass
    with HTTPServer(HERE, Early) as server: server.handle_request()
@act
def early_asyncio():
    import asyncio
    async def main():
        done = asyncio.Event()
        async def serve(reader, writer):
            say(len(await reader.readexactly(10))); writer.write(PAGE); await writer.drain(); writer.close(); done.set()
        async with await asyncio.start_server(serve, *HERE): await done.wait()
    asyncio.run(main())
@act
def full_read(): c = client(); full(c); c.close()
@act
def full_fork():
    c = client()
    if os.fork() == 0: full(c); os._exit(0)
    c.close(); say(os.wait()[1])
@act
def full_pass_fds():
    c = client()
    helper = subprocess.Popen([sys.executable, sys.argv[0], 'inherited', str(c.fileno())], pass_fds=[c.fileno()])
    c.close(); say(helper.wait())
@act
def full_stdin():
    c = client()
    helper = subprocess.Popen([sys.executable, sys.argv[0], 'inherited', '0'], stdin=c)
    c.close(); say(helper.wait())
@act
def full_pass():
    a, b = socket.socketpair()
    if os.fork() == 0:
        _, got, _, _ = socket.recv_fds(b, 1, 1); full(socket.socket(fileno=got[0])); os._exit(0)
    c = client(); socket.send_fds(a, [b'x'], [c.fileno()]); c.close(); say(os.wait()[1])


match sys.argv[1:]:
    case []: print(*ACTS, sep='\n')
    case ['inherited', fd]: full(socket.socket(fileno=int(fd)))
    case [name]: ACTS[name]()
