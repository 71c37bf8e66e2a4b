#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The style check: what can be decided by a program about how the tree reads.

Formatting, function and file length, who includes whom, every limit named in its manual page,
an SPDX line and a header comment in each C file.
"""
import glob
import os
import re
import shutil
import subprocess
import sys

os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 800

# Which of our directories a directory may include from (besides itself).
MAY_INCLUDE = {
    "include": set(),
    "bpf": {"sluice"},
    "user/base": {"sluice", "base"},
    "user/kv": {"sluice", "base", "kv"},
    "user/scheduler": {"sluice", "base", "kv", "scheduler"},
    "user/controlplane": {"sluice", "base", "kv", "controlplane"},
    "user/dataplane": {"sluice", "base", "kv", "scheduler", "dataplane"},
}
# The read side of the endpoint store is in base/; these are the exceptions that were agreed.
OURS = {"sluice", "base", "kv", "scheduler", "controlplane", "dataplane"}


def sources():
    files = []
    for top in ("bpf", "include", "user", "tools", "tests"):
        for ext in ("c", "h"):
            files += glob.glob(f"{top}/**/*.{ext}", recursive=True)
    return sorted(files)


def formatting(files):
    tool = shutil.which("clang-format-19") or shutil.which("clang-format")
    if not tool:
        return None, "no clang-format here"
    out = subprocess.run([tool, "--dry-run", "-Werror", *files], capture_output=True, text=True)
    bad = re.findall(r"^([^:\s]+:\d+):\d+: error", out.stderr, re.M)
    return [f"{at}: not as clang-format would write it" for at in dict.fromkeys(bad)], ""


def code_only(text):
    """The text with comments and literals blanked, line structure kept."""
    def blank(m):
        return re.sub(r"[^\n]", " ", m[0])
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', blank, text,
                  flags=re.S)


def functions(files):
    """A function opens with a brace in the first column and closes with one (Linux braces)."""
    bad = []
    for path in files:
        if path.startswith("tests/"):
            continue
        start = None
        for number, line in enumerate(code_only(open(path).read()).splitlines(), 1):
            if line.startswith("{"):
                start = number
            elif line.startswith("}") and start:
                if number - start + 1 > FUNCTION_LINES_MAX:
                    bad.append(f"{path}:{start}: function of {number - start + 1} lines")
                start = None
    return bad, ""


def lengths(files):
    bad = []
    for path in files:
        count = open(path).read().count("\n")
        if count > FILE_LINES_MAX:
            bad.append(f"{path}: {count} lines")
    return bad, ""


def includes(files):
    bad = []
    for path in files:
        area = next((a for a in MAY_INCLUDE if path.startswith(a + "/")), None)
        if not area:
            continue
        for number, line in enumerate(open(path), 1):
            m = re.match(r'\s*#\s*include\s+"([^"/]+)/', line)
            if m and m[1] in OURS and m[1] not in MAY_INCLUDE[area]:
                bad.append(f"{path}:{number}: {area}/ includes {m[1]}/")
    return bad, ""


def limits(_):
    text = open("include/sluice/limits.h").read()
    names = [n for n in re.findall(r"^#define (\w+)[ \t]+\S", text, re.M)]
    page = "tools/man/sluice-limits.7"
    if not os.path.exists(page):
        return [f"{page} is missing"], ""
    manual = open(page).read()
    return [f"limits.h: {n} is not in {page}" for n in names if n not in manual], ""


def heads(files):
    bad = []
    for path in files:
        text = open(path).read(400)
        if not text.startswith("/* SPDX-License-Identifier:"):
            bad.append(f"{path}: no SPDX line")
        elif "/*" not in text[30:]:
            bad.append(f"{path}: no comment that says what it does")
    return bad, ""


CHECKS = (
    ("formatting", formatting),
    (f"functions have at most {FUNCTION_LINES_MAX} lines", functions),
    (f"files have at most {FILE_LINES_MAX} lines", lengths),
    ("directories include only what they may", includes),
    ("every limit is documented", limits),
    ("every file says its licence and its purpose", heads),
)


def main():
    as_tap = "--tap" in sys.argv
    files = sources()
    failed = 0
    for number, (name, check) in enumerate(CHECKS, 1):
        bad, why = check(files)
        if bad is None:
            print(f"ok {number} - {name} # SKIP {why}")
            continue
        failed += bool(bad)
        if as_tap:
            print(f"{'not ok' if bad else 'ok'} {number} - {name}")
        for line in bad:
            print(line)
    sys.exit(1 if failed else 0)


main()
