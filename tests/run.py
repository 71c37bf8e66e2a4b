#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the tests and sums them: `check` everything in order, `e2e`, `units DIR`, `fuzz SECONDS`.

Unit binaries speak TAP (cmocka), the e2e files print TAP too; a test counts once. Output is shown
only of what failed. The last line is `N passed, N failed, N skipped`; the exit is 1 on failure.
"""
import glob
import os
import re
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TAP = re.compile(r"^(ok|not ok) \d+(?: -)?\s*(.*)$")
E2E_SANITIZED = ("curl", "http", "faults", "forward", "abuse")
STEP_SECONDS_MAX = 900  # a hung step is a failed step


class Sums:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.skips = []
        self.failures = []

    def ok(self, count=1):
        self.passed += count

    def fail(self, name, output=""):
        self.failed += 1
        self.failures.append(name)
        print(f"FAILED {name}")
        if output:
            print("\n".join("    " + line for line in output.splitlines()[-60:]))

    def skip(self, name, reason):
        self.skipped += 1
        self.skips.append(f"{name}: {reason}")

    def end(self):
        for line in self.skips:
            print(f"skipped {line}")
        for name in self.failures:
            print(f"failed  {name}")
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped")
        return 1 if self.failed else 0


def run(argv, env=None, timeout=STEP_SECONDS_MAX):
    try:
        done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env={**os.environ, **(env or {})}, timeout=timeout,
                              stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as err:
        out = (err.stdout or b"").decode("utf-8", "replace")
        return 124, out + f"\nended after {timeout} s"
    return done.returncode, done.stdout.decode("utf-8", "replace")


def tap(sums, label, argv, env=None):
    """One program whose TAP lines are counted; a crash without one is a failure of its own."""
    status, out = run(argv, env)
    seen = bad = 0
    for line in out.splitlines():
        if line.startswith("# ") and "SLUICE_SOAK" in os.environ:
            print(line, flush=True)
        m = TAP.match(line)
        if not m:
            continue
        seen += 1
        name = m[2]
        if "# SKIP" in name:
            what, _, why = name.partition("# SKIP")
            what, why = what.strip(" -"), why.strip()
            sums.skip(f"{label} {what}".strip(), why or "no reason given")
        elif m[1] == "ok":
            sums.ok()
        else:
            bad += 1
            sums.fail(f"{label}: {name}", out if bad == 1 else "")
    if status and not bad:
        sums.fail(f"{label} (exit {status})", out)
    elif not seen and not bad:
        sums.ok()


def make(sums, label, *args):
    status, out = run(["make", "--no-print-directory", "-j", str(os.cpu_count() or 2), *args])
    if status:
        sums.fail(label, out)
    else:
        sums.ok()
    return status == 0


SANITIZERS = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0",
              "UBSAN_OPTIONS": "print_stacktrace=1",
              "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"}


def units(sums, variant, threaded=False):
    env = {"CMOCKA_MESSAGE_OUTPUT": "TAP", **SANITIZERS}
    sources = sorted(glob.glob(os.path.join(ROOT, "tests/unit/test_*.c")))
    for source in sources:
        if threaded and not re.search(r"\bpthread_create\b", open(source).read()):
            continue
        name = os.path.basename(source)[:-2]
        tap(sums, f"{variant} {name}", [os.path.join(ROOT, "build", variant, "unit", name)], env)


def unit_bins(variant, threaded=False):
    bins = []
    for source in sorted(glob.glob(os.path.join(ROOT, "tests/unit/test_*.c"))):
        if not threaded or re.search(r"\bpthread_create\b", open(source).read()):
            bins.append(f"build/{variant}/unit/{os.path.basename(source)[:-2]}")
    return bins


def e2e(sums, variant=os.environ.get("SLUICE_VARIANT", "release"), only=None):
    env = {"SLUICE_VARIANT": variant, **SANITIZERS}
    venv = os.path.join(ROOT, "build/venv/bin/python")
    python = venv if os.path.exists(os.path.join(ROOT, "build/venv/.done")) else sys.executable
    for path in sorted(glob.glob(os.path.join(ROOT, "tests/e2e/test_*.py"))):
        name = os.path.basename(path)[5:-3]
        if only is None or name in only:
            label = f"e2e {name}" + ("" if variant == "release" else f" ({variant})")
            tap(sums, label, [python, path], env)


def corpus_of(name):
    for at in (f"tests/fuzz/corpus/{name}", f"tests/fuzz/corpus/{name[5:]}",
               f"tests/fuzz/{name}.corpus", f"tests/fuzz/corpora/{name[5:]}"):
        if os.path.isdir(os.path.join(ROOT, at)):
            return at
    return None


def fuzz(sums, limits):
    """Each fuzzer over its corpus, and on from there; new finds stay in build/fuzz."""
    total = 0
    for source in sorted(glob.glob(os.path.join(ROOT, "tests/fuzz/fuzz_*.c"))):
        name = os.path.basename(source)[:-2]
        work = os.path.join(ROOT, "build/fuzz", name + ".found")
        os.makedirs(work, exist_ok=True)
        argv = [os.path.join(ROOT, "build/fuzz", name), *limits, "-print_final_stats=1",
                "-rss_limit_mb=4096", f"-artifact_prefix={work}-crash-", work]
        corpus = corpus_of(name)
        argv += [corpus] if corpus else []
        status, out = run(argv, timeout=86400)
        m = re.search(r"stat::number_of_executed_units:\s*(\d+)", out)
        count = int(m[1]) if m else 0
        total += count
        if status:
            sums.fail(f"fuzz {name} after {count} executions", out)
        else:
            sums.ok()
        if limits[0].startswith("-max_total_time"):
            print(f"fuzz {name}: {count:,} executions")
    print(f"fuzz: {total:,} executions")


class Step:
    """Prints one line per step of `check`: what, how many, how long."""

    def __init__(self, sums, what):
        self.sums, self.what = sums, what

    def __enter__(self):
        self.began = time.monotonic()
        self.before = (self.sums.passed, self.sums.failed, self.sums.skipped)

    def __exit__(self, kind, value, trace):
        p, f, s = (b - a for a, b in zip(self.before, (self.sums.passed, self.sums.failed,
                                                       self.sums.skipped)))
        took = time.monotonic() - self.began
        print(f"{self.what:<34} {p:>5} passed {f:>3} failed {s:>3} skipped {took:>6.0f} s",
              flush=True)


def check(sums):
    with Step(sums, "build (gcc)"):
        built = make(sums, "build (gcc)", "all", "unit-bins", "bench-bins")
    with Step(sums, "style"):
        tap(sums, "style", [sys.executable, "tests/style.py", "--tap"])
    if built:
        with Step(sums, "unit tests"):
            units(sums, "release")
    with Step(sums, "unit tests, ASan and UBSan"):
        if make(sums, "build (asan)", "VARIANT=asan", *unit_bins("asan")):
            units(sums, "asan")
    with Step(sums, "threaded unit tests, TSan"):
        bins = unit_bins("tsan", threaded=True)
        if bins and make(sums, "build (tsan)", "VARIANT=tsan", *bins):
            units(sums, "tsan", threaded=True)
    with Step(sums, "build (clang)"):
        make(sums, "build (clang)", "VARIANT=clang", "all")
    with Step(sums, "objects for aarch64"):
        make(sums, "objects for aarch64", "cross")
    with Step(sums, "fuzzers, on their corpora"):
        if make(sums, "build (fuzzers)", "fuzzers"):
            fuzz(sums, ["-runs=20000", "-max_total_time=10"])
    if built:
        with Step(sums, "end to end"):
            e2e(sums)
        with Step(sums, "end to end, ASan and UBSan"):
            if make(sums, "build (asan)", "VARIANT=asan", "all"):
                e2e(sums, "asan", E2E_SANITIZED)


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else "check"
    sums = Sums()
    if what == "check":
        check(sums)
    elif what == "e2e":
        e2e(sums)
    elif what == "soak":
        e2e(sums, only=("abuse", "upgrade"))
    elif what == "units":
        units(sums, sys.argv[2] if len(sys.argv) > 2 else "release")
    elif what == "fuzz":
        fuzz(sums, [f"-max_total_time={int(sys.argv[2])}"])
    else:
        sys.exit("usage: tests/run.py check | e2e | soak | units [VARIANT] | fuzz SECONDS")
    sys.exit(sums.end())


main()
