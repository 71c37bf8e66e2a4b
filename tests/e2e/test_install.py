# SPDX-License-Identifier: Apache-2.0
"""What an operator gets: make install and uninstall, manual pages, the unit, every tool's manners."""
import glob
import os
import re
import shutil
import subprocess
import tempfile

from harness import BIN, ROOT, Skip, main

TOOLS = ("sluiced", "sluicectl", "sluice-sim", "sluice-load", "sluice-fleet")


def run(*argv, **kw):
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=600, **kw)


def make(*args):
    # A make that runs this test must not hand its own flags down.
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    done = run("make", "--no-print-directory", *args, env=env)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def files_below(top):
    return sorted(os.path.relpath(os.path.join(at, n), top)
                  for at, _, names in os.walk(top) for n in names)


def test_make_install_puts_everything_below_destdir_and_uninstall_takes_it_away():
    with tempfile.TemporaryDirectory() as top:
        args = (f"DESTDIR={top}", "PREFIX=/usr")
        make("install", *args)
        have = files_below(top)
        for want in ([f"usr/bin/{t}" for t in TOOLS] +
                     ["usr/share/man/man8/sluiced.8", "usr/share/man/man7/sluice-limits.7",
                      "usr/lib/systemd/system/sluiced.service", "etc/sluice/sluiced.yaml",
                      "etc/logrotate.d/sluiced", "usr/share/doc/sluice/README.md"] +
                     [f"usr/share/man/man1/{t}.1" for t in TOOLS[1:]]):
            assert want in have, (want, have)
        done = run(f"{top}/usr/bin/sluiced", "--version")
        assert done.returncode == 0 and re.fullmatch(r"sluiced \d+\.\d+\.\d+\n", done.stdout), done
        config = f"{top}/etc/sluice/sluiced.yaml"
        done = run(f"{top}/usr/bin/sluiced", "--config", config, "--check-config")
        assert done.returncode == 0, done.stderr
        unit = open(f"{top}/usr/lib/systemd/system/sluiced.service").read()
        assert "@PREFIX" not in unit and "@SYSCONF" not in unit, unit
        assert "ExecStart=/usr/bin/sluiced --config /etc/sluice/sluiced.yaml" in unit, unit
        # A changed configuration stays, both at a second install and at an uninstall.
        with open(config, "a") as f:
            f.write("workers: 1\n")
        make("install", *args)
        assert open(config).read().endswith("workers: 1\n")
        make("uninstall", *args)
        assert files_below(top) == ["etc/sluice/sluiced.yaml"], files_below(top)
        os.unlink(config)


def test_the_second_make_does_nothing():
    make("all", "man")
    out = make("all", "man")
    assert not re.search(r"\b(CC|LINK|BPF|SKEL|MAN)\b", out), out


def test_the_systemd_unit_is_understood_by_systemd():
    if not shutil.which("systemd-analyze"):
        raise Skip("no systemd-analyze here")
    with tempfile.TemporaryDirectory() as top:
        make("install", f"DESTDIR={top}", "PREFIX=/usr")
        unit = f"{top}/usr/lib/systemd/system/sluiced.service"
        text = open(unit).read()
        with open(unit, "w") as f:  # programs are looked for where the unit says
            f.write(text.replace("/usr/bin/sluiced", f"{top}/usr/bin/sluiced"))
        done = run("systemd-analyze", "verify", "--man=no", unit)
        mine = [line for line in (done.stdout + done.stderr).splitlines() if "sluiced" in line]
        assert not mine, mine


def man_pages():
    make("man")
    pages = sorted(glob.glob(os.path.join(ROOT, "build/man/*.[1-8]")))
    assert len(pages) >= 6, pages
    return pages


def test_every_manual_page_is_well_formed():
    tools = [argv for argv in (["mandoc", "-Tlint", "-Wwarning"],
                               ["man", "--warnings", "-E", "UTF-8", "-l"]) if shutil.which(argv[0])]
    if not tools:
        raise Skip("neither mandoc nor man-db is installed")
    for page in man_pages():
        for argv in tools:
            done = run(*argv, page, env={**os.environ, "LC_ALL": "C.UTF-8"})
            said = done.stderr + (done.stdout if argv[0] == "mandoc" else "")
            assert done.returncode == 0 and not said.strip(), (argv[0], page, said)


def test_every_option_of_every_tool_is_in_its_manual_page():
    man_pages()
    for tool in TOOLS:
        text = run(os.path.join(BIN, tool), "--help").stdout
        flags = re.findall(r"^  --(?:\[no-\])?([a-z0-9-]+)", text, re.M)
        assert len(flags) >= 4, (tool, text)
        page = open(glob.glob(os.path.join(ROOT, f"build/man/{tool}.[18]"))[0]).read()
        plain = page.replace("\\-", "-")
        missing = [f for f in flags if not re.search(rf"^\.BI? --(\[no-\])?{re.escape(f)}\b", plain,
                                                     re.M)]
        assert not missing, (tool, missing)


def test_help_and_version_answer_and_a_wrong_usage_exits_2():
    for tool in TOOLS:
        path = os.path.join(BIN, tool)
        done = run(path, "--help")
        assert done.returncode == 0 and "Usage:" in done.stdout and not done.stderr, (tool, done)
        done = run(path, "--version")
        assert done.returncode == 0 and done.stdout.startswith(tool + " "), (tool, done)
        for wrong in (["--no-such-flag"], ["--seed" if tool != "sluiced" else "--workers"],
                      ["stray", "words", "here"]):
            done = run(path, *wrong)
            assert done.returncode == 2 and tool in done.stderr and not done.stdout, (tool, done)


def test_the_readme_names_what_exists():
    text = open(os.path.join(ROOT, "README.md")).read()
    for path in re.findall(r"\]\(([^)#]+)\)", text):
        assert os.path.exists(os.path.join(ROOT, path)), path
    for target in set(re.findall(r"`make ([a-z]+)", text)):
        done = run("make", "-n", target, "SECONDS=1")
        assert "No rule to make target" not in done.stderr, target
    known = {tool: run(os.path.join(BIN, tool), "--help").stdout for tool in TOOLS}
    everything = "".join(known.values())
    for flag in set(re.findall(r"[ `(](--[a-z][a-z0-9-]+)", text)):
        if flag in ("--enable-prefix-caching", "--enable-prompt-tokens-details"):  # vLLM's
            continue
        assert re.search(rf"--(\[no-\])?{flag.removeprefix('--').removeprefix('no-')}\b",
                         everything), flag
    for command in re.search(r"`sluicectl (endpoints [^`]*)`", text)[1].split("|"):
        name = command.split()[0]
        assert f"\n  {name}" in known["sluicectl"], name


main(globals())
