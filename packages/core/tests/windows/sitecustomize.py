"""Makes a Python on Linux refuse what Windows refuses, to our modules alone: test_windows.py puts it on the path.

Libraries do as ever. Our modules are told that they are on Windows (`os.name`, `sys.platform`), and see `os`, `signal`
and `subprocess` without what is missing there. Every file and folder under $WINDOWS_ROOT has to have a name that
Windows takes, and none is renamed or removed while this process has it open.
"""

import builtins
import errno
import os
import re
import signal
import subprocess
import sys
import warnings
from types import ModuleType

OURS = re.compile(r"(etude|toy)(\.|$)")
ABSENT = {
    "os": """fork forkpty register_at_fork posix_spawn wait waitid WNOHANG sched_getaffinity sched_setaffinity sysconf
        confstr getloadavg nice killpg setsid setpgid getpgid getuid geteuid getgid getegid getgroups uname chown lchown
        fchown mkfifo mknod openpty statvfs sync sendfile O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_SYNC O_DSYNC""",
    "signal": """SIGKILL SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE SIGSTOP SIGCONT alarm setitimer pause
        pthread_sigmask pthread_kill sigwait siginterrupt""",
    "subprocess": "",
    "sys": "",
}
MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "posix", "syslog")
ROOT = os.path.realpath(os.environ["WINDOWS_ROOT"])
TYPICAL = r"C:\Users\A Typical Student\Documents\Deep Learning\etudes" + "\\"
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(\.|$)", re.IGNORECASE)


def refuse_options(options):
    for name in ("pass_fds", "preexec_fn", "start_new_session"):
        if options.get(name):
            raise ValueError(f"{name} is not supported on Windows platforms")
    if options.get("process_group") is not None:
        raise ValueError("process_group is not supported on Windows platforms")


class Popen(subprocess.Popen):
    def __init__(self, *args, **options):
        refuse_options(options)
        super().__init__(*args, **options)


def run(*args, **options):
    refuse_options(options)
    return subprocess.run(*args, **options)


MADE = {
    "os": {"name": "nt"},
    "sys": {"platform": "win32"},
    "signal": {"CTRL_BREAK_EVENT": signal.SIGTERM, "CTRL_C_EVENT": signal.SIGINT, "SIGBREAK": signal.SIGTERM},
    "subprocess": {"Popen": Popen, "run": run, "CREATE_NEW_PROCESS_GROUP": 0, "CREATE_NO_WINDOW": 0},
}


class OfWindows(ModuleType):
    """A module as it is on Windows."""

    def __getattr__(self, name):
        real = self.__name__
        if name in ABSENT[real].split():
            raise AttributeError(f"module {real!r} has no attribute {name!r} on Windows")
        return MADE[real][name] if name in MADE[real] else getattr(sys.modules[real], name)

    def __setattr__(self, name, value):
        setattr(sys.modules[self.__name__], name, value)


views = {name: OfWindows(name) for name in ABSENT}
real_import = builtins.__import__


def import_as_windows(name, globals=None, locals=None, fromlist=(), level=0):
    if level == 0 and globals and OURS.match(globals.get("__name__", "")):
        top = name.partition(".")[0]
        if top in MODULES:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)
        if name in views:
            return views[name]
        if top in views and not fromlist:  # import os.path
            return views[top]
    return real_import(name, globals, locals, fromlist, level)


def refuse_name(path):
    inside = os.path.relpath(os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)), ROOT)
    if inside.startswith(".."):
        return
    for part in inside.split("/"):
        if part != "." and (re.search(r'[<>:"|?*\\\x00-\x1f]', part) or part[-1] in ". " or RESERVED.match(part)):
            raise OSError(errno.EINVAL, f"Windows takes no such name: {part}", path)
    if len(TYPICAL + inside) > 259:
        raise OSError(errno.ENOENT, f"a path of {len(TYPICAL + inside)} characters is too long for Windows", path)


def refuse_open_file(path):
    real = os.path.realpath(path)
    if not real.startswith(ROOT + "/"):
        return
    for number in os.listdir("/proc/self/fd"):
        try:
            found = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if found == real:
            raise PermissionError(errno.EACCES, "Windows: the file is in use by this process", path)


def caller():
    """The module that opens a file, through whichever of Python's own."""
    frame = sys._getframe(2)
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in ("pathlib", "io", "codecs", "shutil"):
        frame = frame.f_back
    return frame.f_globals.get("__name__", "") if frame else ""


def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path, mode, flags = os.fsdecode(arguments[0]), arguments[1], arguments[2]
        if OURS.match(caller()):
            if path.startswith("/proc"):
                raise FileNotFoundError(errno.ENOENT, "there is no /proc on Windows", path)
            if os.path.isdir(path):
                raise PermissionError(errno.EACCES, "Windows opens no folder", path)
        if flags & os.O_CREAT or (mode and set(mode) & set("wax")):
            refuse_name(path)
    elif event in ("os.mkdir", "os.symlink", "os.rename", "os.link"):
        target = os.fsdecode(arguments[0 if event == "os.mkdir" else 1])
        refuse_name(target)
        if event == "os.symlink" and os.path.realpath(os.path.dirname(target)).startswith(ROOT):
            raise OSError(errno.EPERM, "a required privilege is not held by the client", target)
        if event == "os.rename":
            refuse_open_file(os.fsdecode(arguments[0]))
            refuse_open_file(target)
    elif event == "os.remove" and arguments[1] == -1:  # not relative to an open folder, as by shutil.rmtree
        refuse_open_file(os.fsdecode(arguments[0]))


builtins.__import__ = import_as_windows
sys.addaudithook(watch)
# There a text file without an encoding is not UTF-8: see PYTHONWARNDEFAULTENCODING in test_windows.py.
warnings.filterwarnings("ignore", category=EncodingWarning)
warnings.filterwarnings("error", category=EncodingWarning, module="etude|toy")
