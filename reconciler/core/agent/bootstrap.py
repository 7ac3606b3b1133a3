"""What starts the agent on a host: one line of Python that runs a checked copy of it, or asks for one.

    PYTHON -I -S -B -X utf8 -c CODE SHA256 CACHE-DIRECTORY KEEP ROOT

`-I -S`: nothing of the remote directory, environment or site-packages is imported. `-B`: no bytecode is written beside
its modules, which may lie in a store path. `-X utf8`: file names are read the same whatever locale the login has. CODE
says MAGIC on stdout, then

    R    a cached copy is there and is what SHA256 says; frames follow
    S    send it: u32 size (big-endian), then that many bytes of the archive's packed form; frames follow
    V    this Python is too old: its version, a line break, /etc/os-release; the end

A cached copy lies in CACHE-DIRECTORY, or for who is not root in ~/.local/state/reconciler/agent of the account's home
(user_host.py). It is one of two files. SHA256.zip is the archive, read whole and hashed before it runs from memory.
SHA256.MAGIC is its code compiled by a Python with that magic number (in base-16), so that a start need not compile it
again: 32 bytes of BLAKE2b, then what they are the hash of, a marshalled mapping (start.py). That file was
made on the host, so its name cannot vouch for it. It is taken when it belongs to root or to us, nobody else may write
it, and the hash is right.

The code has neither quotes of its own kind nor backslashes nor exclamation marks nor line breaks, since it must come
through any login shell (transport/quoting.py), and it is Python 2 and 3, since it must say that Python is too old.
"""

from __future__ import annotations

from reconciler.core.agent.frames import MAGIC

# "~" stands for a line break. `F` is the archive's zipimporter or the compiled file's descriptor; see start.py. 9 is
# MFD_CLOEXEC | MFD_NOEXEC_SEAL, which some newer kernels insist on and older ones lack.
_CODE = """
import gc,os,sys
gc.disable()
def say(b):
    while b: b=b[os.write(1,b):]
def get(n):
    b=[]
    while n:
        c=os.read(0,min(n,1048576))
        if not c: os._exit(0)
        b.append(c);n-=len(c)
    return b"".join(b)
M=bytes(bytearray([MAGIC]))
if sys.version_info<(3,9):
    t=open("/etc/os-release","rb").read(4096) if os.path.exists("/etc/os-release") else b""
    say(M+b"V"+sys.version.split()[0].encode()+bytes(bytearray([10]))+t)
    os._exit(0)
S,D,K,R=sys.argv[1:5]
P=[D]
if os.geteuid():
    import pwd
    try: P.append(pwd.getpwuid(os.geteuid())[5]+"/.local/state/reconciler/agent")
    except KeyError: pass
def kept(n):
    for d in P:
        try: return os.open(d+"/"+S+n,os.O_NOFOLLOW)
        except OSError: pass
    raise ValueError
def ours(f):
    s=os.fstat(f)
    return s.st_uid in (0,os.geteuid()) and s.st_mode&61458==32768
def compiled():
    import marshal
    from _blake2 import blake2b
    from _frozen_importlib_external import MAGIC_NUMBER
    f=kept("."+MAGIC_NUMBER.hex())
    if not ours(f): raise ValueError
    d=open(f,"rb").read()
    h,d=d[:32],memoryview(d)[32:]
    if not blake2b(d,digest_size=32).digest()==h: raise ValueError
    m=marshal.loads(d)
    c=marshal.loads(m["__main__"][1])
    say(M+b"R")
    return c,m,None
def packed():
    import zipimport
    from hashlib import sha256
    d=None
    try:
        d=open(kept(".zip"),"rb").read()
    except (OSError,ValueError): pass
    if d is not None and sha256(d).hexdigest()==S:
        say(M+b"R")
    else:
        import zlib
        say(M+b"S")
        d=zlib.decompress(get(int.from_bytes(get(4),"big")))
        if not sha256(d).hexdigest()==S: sys.exit("the agent arrived damaged")
    try: f=os.memfd_create("reconciler")
    except OSError: f=os.memfd_create("reconciler",9)
    m=memoryview(d)
    while m: m=m[os.write(f,m):]
    z=zipimport.zipimporter("/proc/self/fd/%d"%f)
    return z.get_code("__main__"),z,d
try: C,F,A=compiled()
except Exception: C,F,A=packed()
exec(C,{"__name__":"__main__","FORM":F,"ARCHIVE":A,"SHA":S,"CACHE":D,"KEEP":K=="keep","ROOT":R})
"""


OPTIONS = ("-I", "-S", "-B", "-X", "utf8")


def code() -> str:
    """The text for `-c`: one line, without a character that any login shell treats in its own way."""
    program = _CODE.strip().replace("[MAGIC]", str(list(MAGIC)).replace(" ", ""))
    return f'exec("""{program}""".replace("~",chr(10)))'.replace("\n", "~")
