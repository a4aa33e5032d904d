"""What the bench scripts share: processes that are pinned, measured, and stopped by their own handle; a small origin."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
START_MAX_S = 10.0
STOP_MAX_S = 5.0


class Process:
    """A child process, pinned unless `core` is None, with its output in a file."""

    def __init__(self, name, command, core, directory, environment=None):
        self.name = name
        self.output = directory / f"{name}.out"
        with open(self.output, "wb") as output:
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**os.environ, **(environment or {})},
                preexec_fn=lambda: core is None or os.sched_setaffinity(0, {core}),
            )

    def await_port(self, port, max_s=START_MAX_S):
        end = time.monotonic() + max_s
        while time.monotonic() < end:
            if self.child.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return self
            time.sleep(0.02)
        tail = self.output.read_text(errors="replace")[-2000:]
        raise SystemExit(f"{self.name} does not listen on port {port}:\n{tail}")

    def cpu_s(self):
        """User + system time of this process and of its living descendants, threads included."""
        return sum(cpu_ticks(pid) for pid in family(self.child.pid)) * TICK_S

    def stop(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(STOP_MAX_S)
            except subprocess.TimeoutExpired:
                # What forks is killed leaf by leaf, each by its own id.
                for pid in reversed(family(self.child.pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.child.wait()


def stat_fields(pid):
    # The command's name stands in brackets and may hold anything; the fields that are wanted come after it.
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_ticks(pid):
    try:
        fields = stat_fields(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(fields[11]) + int(fields[12])


def family(root):
    """This process and all its descendants, parents first."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                children.setdefault(int(stat_fields(entry)[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def nginx(directory, name, body, core):
    home = directory / name
    home.mkdir()
    configuration = home / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""
    configuration.write_text(
        f"{user}daemon off;\nworker_processes 1;\npid {home}/pid;\nerror_log {home}/error.log warn;\n{body}"
    )
    return Process(name, ["nginx", "-e", str(home / "error.log"), "-p", str(home), "-c", str(configuration)], core, home)


def nginx_http(home_name, servers):
    temporary = "".join(
        f"{kind}_temp_path {home_name}/{kind};\n" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    )
    return (
        "events { worker_connections 4096; }\nhttp {\n"
        f"{temporary}keepalive_requests 1000000000;\nkeepalive_timeout 600s;\ntcp_nodelay on;\n{servers}}}\n"
    )
