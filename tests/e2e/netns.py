# SPDX-License-Identifier: Apache-2.0
"""Network namespaces for tests: made here, removed at the end whatever happened."""
import atexit
import ctypes
import os
import socket
import subprocess
import threading

from harness import Skip

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def ip(*args):
    subprocess.run(["ip", *map(str, args)], check=True, capture_output=True, text=True)


class Netns:
    """A namespace. Processes enter by self.enter, sockets of this process by self.socket()."""

    def __init__(self, name):
        if os.geteuid() != 0:
            raise Skip("network namespaces need root")
        self.name = f"sluice-{name}-{os.getpid()}"
        made = subprocess.run(["ip", "netns", "add", self.name], capture_output=True, text=True)
        if made.returncode:
            raise Skip(f"no network namespace can be made: {made.stderr.strip()}")
        atexit.register(self.remove)
        self.path = f"/run/netns/{self.name}"
        # not `ip netns exec`: that hides the mounts of bpffs and cgroups
        self.enter = ["nsenter", f"--net={self.path}"]
        self.ip("link", "set", "lo", "up")

    def ip(self, *args):
        ip("-n", self.name, *args)

    def remove(self):
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()
        atexit.unregister(self.remove)

    def call(self, function, *args):
        """function(*args) in a thread within the namespace: what it opens belongs there."""
        result, error = [], []

        def inside():
            try:
                with open(self.path, "rb") as f:
                    if libc.setns(f.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                result.append(function(*args))
            except Exception as e:  # told to the caller below
                error.append(e)
        t = threading.Thread(target=inside)
        t.start()
        t.join()
        if error:
            raise error[0]
        return result[0]

    def socket(self, family=socket.AF_INET, kind=socket.SOCK_STREAM, proto=0):
        return self.call(socket.socket, family, kind, proto)


def veth(a, b, a_name, b_name, a_addr, b_addr):
    """A cable between two namespaces; addresses with their prefix, or None."""
    ip("link", "add", a_name, "netns", a.name, "type", "veth", "peer", "name", b_name, "netns",
       b.name)
    for ns, name, addr in ((a, a_name, a_addr), (b, b_name, b_addr)):
        if addr:
            ns.ip("address", "add", addr, "dev", name)
        ns.ip("link", "set", name, "up")
