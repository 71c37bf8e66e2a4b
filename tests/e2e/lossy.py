# SPDX-License-Identifier: Apache-2.0
"""Loss, doubling and reordering on an interface of a namespace, where the kernel has no netem."""
import ctypes
import os
import socket
import subprocess
import tempfile

from harness import ROOT, Skip

TCX_INGRESS, TCX_EGRESS = 46, 47


class Lossy:
    """with Lossy(ns, "eth0", loss=0.01): … both directions; all rates are shares of 1."""

    def __init__(self, ns, device, loss=0.0, double=0.0, reorder=0.0):
        self.bpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
        for name in ("bpf_object__open_file", "bpf_object__find_program_by_name",
                     "bpf_object__find_map_by_name", "bpf_map__initial_value"):
            getattr(self.bpf, name).restype = ctypes.c_void_p
        self.links, self.object = [], None
        with tempfile.NamedTemporaryFile(suffix=".o") as f:
            made = subprocess.run(
                ["clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3",
                 f"-I/usr/include/{os.uname().machine}-linux-gnu", "-c", "-o", f.name,
                 os.path.join(ROOT, "tests", "e2e", "lossy.bpf.c")],
                capture_output=True, text=True)
            if made.returncode:
                raise Skip("no clang for BPF: " + made.stderr[-300:])
            self.object = ctypes.c_void_p(self.bpf.bpf_object__open_file(f.name.encode(), None))
        rates = ctypes.c_void_p(self.bpf.bpf_object__find_map_by_name(self.object, b".rodata"))
        size = ctypes.c_size_t()
        at = self.bpf.bpf_map__initial_value(rates, ctypes.byref(size))
        words = (ctypes.c_uint32 * 3).from_address(at)
        words[:] = [int(x * 1e6) for x in (loss, double, reorder)]
        if self.bpf.bpf_object__load(self.object):
            raise Skip("the lossy network's program does not load")
        ns.call(self._attach, device)

    def _attach(self, device):
        for name, hook in ((b"on_arrival", TCX_INGRESS), (b"on_departure", TCX_EGRESS)):
            program = ctypes.c_void_p(
                self.bpf.bpf_object__find_program_by_name(self.object, name))
            fd = self.bpf.bpf_link_create(self.bpf.bpf_program__fd(program),
                                          socket.if_nametoindex(device), hook, None)
            if fd < 0:
                raise Skip(f"no tcx here: {os.strerror(-fd)}")
            self.links.append(fd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for fd in self.links:
            os.close(fd)
        self.bpf.bpf_object__close(self.object)
