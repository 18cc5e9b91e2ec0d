"""Several hosts on one machine: each has its own network, processes, home, Ray session folder and SSH server.

They are network namespaces on one bridge, which reaches nothing else. Files outside the home are shared. Needs root,
iproute2, util-linux, rsync and OpenSSH's server.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

NETWORK = "10.213.77"
BOOT = """
set -e
mount -t tmpfs tmpfs {folder}
mkdir {folder}/upper {folder}/work {folder}/ray
mount -t overlay overlay -o lowerdir={home},upperdir={folder}/upper,workdir={folder}/work {home}
rm -rf {home}/.ray
mkdir -p {home}/.ssh /tmp/ray /run/sshd
mount --bind {folder}/ray /tmp/ray
cp {key}.pub {home}/.ssh/authorized_keys
chmod 700 {home}/.ssh
hostname {name}
exec $(command -v sshd) -D -e -f /dev/null -h {key} -o PidFile=none -o StrictModes=no -o PermitRootLogin=yes
"""


def lacking() -> str | None:
    """Why this machine cannot have such hosts; None where it can."""
    if os.geteuid() != 0:
        return "needs root to make network namespaces"
    needed = ("ip", "unshare", "nsenter", "ssh-keygen", "sshd", "rsync")
    missing = [name for name in needed if not shutil.which(name)]
    return f"needs {', '.join(missing)} (packages iproute2, util-linux, openssh-server and rsync)" if missing else None


@dataclass
class Host:
    """A host that runs.

    Attributes:
        name: its hostname.
        address: IPv4.
        init: its first process, as this machine numbers it.
    """

    name: str
    address: str
    init: subprocess.Popen

    def command(self, arguments: Sequence[str | Path]) -> list[str]:
        """The arguments as a command that runs on the host."""
        pid = subprocess.run(["pgrep", "-P", str(self.init.pid)], capture_output=True, text=True, check=True).stdout
        return ["nsenter", "--all", "--target", pid.strip(), f"--wdns={Path.cwd()}", *map(str, arguments)]

    def run(self, *arguments: str | Path, timeout: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the host, with environment variables of its own."""
        return subprocess.run(
            self.command(arguments), env=environment(variables), capture_output=True, text=True, timeout=timeout
        )

    def start(
        self, *arguments: str | Path, output: int | IO[str] = subprocess.PIPE, **variables: str
    ) -> subprocess.Popen[str]:
        """The same, without waiting for its end."""
        return subprocess.Popen(
            self.command(arguments), env=environment(variables), stdout=output, stderr=output, text=True
        )

    def kill(self) -> None:
        """Kill all processes of the host at once, by killing the first."""
        self.init.send_signal(signal.SIGKILL)
        self.init.wait()


@contextlib.contextmanager
def running(names: Sequence[str], folder: Path) -> Iterator[list[Host]]:
    """Hosts with these names, reachable from each other, until the context ends."""
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    switch = f"metaprune-{os.getpid()}-switch"
    ip("netns", "add", switch)
    hosts: list[Host] = []
    try:
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        for number, name in enumerate(names, start=1):
            hosts.append(boot(name, number, switch, key, folder))
        yield hosts
    finally:
        for host in hosts:
            host.kill()
            ip("netns", "delete", namespace(host.name))
        ip("netns", "delete", switch)


def boot(name: str, number: int, switch: str, key: Path, folder: Path) -> Host:
    """Start a host whose network card is on the switch."""
    address, space = f"{NETWORK}.{number}", namespace(name)
    ip("netns", "add", space)
    ip("-n", switch, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", space)
    ip("-n", switch, "link", "set", name, "master", "bridge", "up")
    ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
    ip("-n", space, "link", "set", "lo", "up")
    ip("-n", space, "link", "set", "eth0", "up")
    ip("-n", space, "route", "add", "default", "via", f"{NETWORK}.254")
    disk = folder / name
    disk.mkdir()
    script = BOOT.format(folder=disk, home=Path.home(), key=key, name=name)
    command = ["ip", "netns", "exec", space, "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
    with (folder / f"{name}.log").open("w") as log:
        init = subprocess.Popen([*command, "--mount-proc", "bash", "-c", script], stdout=log, stderr=log)
    deadline = time.monotonic() + 30
    while "Server listening" not in (folder / f"{name}.log").read_text():
        if init.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"host {name} does not start: {(folder / f'{name}.log').read_text()}")
        time.sleep(0.05)
    return Host(name, address, init)


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, with this interpreter's programs first on the path and no word on where Ray is."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name != "TMPDIR"}
    return {**inherited, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}


def namespace(name: str) -> str:
    """The network namespace of a host of this process."""
    return f"metaprune-{os.getpid()}-{name}"


def ip(*arguments: str) -> None:
    """Run iproute2's `ip`."""
    subprocess.run(["ip", *arguments], check=True, stdout=sys.stderr)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what must happen soon; TimeoutError where it does not."""
    deadline = time.monotonic() + 180
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.5)
