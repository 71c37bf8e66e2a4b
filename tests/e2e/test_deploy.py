# SPDX-License-Identifier: Apache-2.0
"""deploy/: every file parses, and says nothing of sluiced that sluiced does not know."""
import json
import os
import re
import shutil
import subprocess
import tempfile

from harness import BIN, ROOT, Gateway, Sim, Skip, chat, main, post

DEPLOY = os.path.join(ROOT, "deploy")


def read(*path):
    with open(os.path.join(DEPLOY, *path)) as f:
        return f.read()


def yaml_load(text):
    """All documents, through the system's Python, which has a YAML parser."""
    done = subprocess.run(["/usr/bin/python3", "-c", "import sys,json\ntry:\n import yaml\n"
                           "except ImportError: sys.exit(77)\n"
                           "json.dump(list(yaml.safe_load_all(sys.stdin)),sys.stdout)"],
                          input=text, capture_output=True, text=True)
    if done.returncode == 77:
        raise Skip("no python3-yaml")
    assert done.returncode == 0, done.stderr[-500:]
    return json.loads(done.stdout)


def exported():
    """Names of all series that a gateway serves after some traffic."""
    with Sim(instances=2) as sim, Gateway(sim.endpoints) as gw:
        assert post(gw.port, "/v1/chat/completions", chat()).status == 200
        page = gw.metrics()
    return set(re.findall(r"^([a-z_][a-z0-9_]*)[ {]", page, re.M))


def used_in(expressions):
    return set(re.findall(r"\b((?:sluice|llm_d_epp|process)_[a-z0-9_]+)", " ".join(expressions)))


def test_alert_rules_parse_and_use_what_is_exported():
    groups = yaml_load(read("alerts.yaml"))[0]["groups"]
    rules = [r for g in groups for r in g["rules"]]
    assert len(rules) >= 10
    for r in rules:
        assert r["annotations"]["summary"] and r["labels"]["severity"], r
    unknown = used_in(r["expr"] for r in rules) - exported()
    assert not unknown, unknown


def test_promtool_accepts_the_alert_rules():
    if not shutil.which("promtool"):
        raise Skip("no promtool (Debian's prometheus package)")
    done = subprocess.run(["promtool", "check", "rules", os.path.join(DEPLOY, "alerts.yaml")],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_parses_and_uses_what_is_exported():
    board = json.loads(read("grafana.json"))
    targets = [t["expr"] for p in board["panels"] for t in p.get("targets", [])]
    assert len(targets) > 20
    ids = [p["id"] for p in board["panels"]]
    assert len(ids) == len(set(ids))
    unknown = used_in(targets) - exported()
    assert not unknown, unknown


def test_promtool_accepts_every_expression_of_the_dashboard():
    if not shutil.which("promtool"):
        raise Skip("no promtool (Debian's prometheus package)")
    board = json.loads(read("grafana.json"))
    rules = [{"record": f"panel:{p['id']}:{t['refId']}",
              "expr": t["expr"].replace("$__rate_interval", "1m").replace("$instance", "a")}
             for p in board["panels"] for t in p.get("targets", [])]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:  # JSON is YAML
        json.dump({"groups": [{"name": "panels", "rules": rules}]}, f)
        f.flush()
        done = subprocess.run(["promtool", "check", "rules", "--lint=none", f.name],
                              capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configurations_are_what_sluiced_reads():
    for path in ("sluiced.yaml", "kustomize/base/sluiced.yaml"):
        done = subprocess.run([os.path.join(BIN, "sluiced"), "--config",
                               os.path.join(DEPLOY, path), "--check-config"],
                              capture_output=True, text=True)
        assert done.returncode == 0, (path, done.stderr)


def kustomize(path):
    tool = next(([t, *more] for t, *more in (("kustomize", "build"), ("kubectl", "kustomize"))
                 if shutil.which(t)), None)
    if not tool:
        raise Skip("neither kustomize nor kubectl is installed")
    done = subprocess.run([*tool, os.path.join(DEPLOY, "kustomize", path)], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    return {d["kind"]: d for d in yaml_load(done.stdout)}


def test_kustomize_builds_the_base_and_the_daemonset_hangs_together():
    kinds = kustomize("base")
    assert set(kinds) == {"Namespace", "ConfigMap", "Service", "DaemonSet"}, kinds.keys()
    spec = kinds["DaemonSet"]["spec"]["template"]["spec"]
    sluiced = spec["containers"][0]
    assert spec["hostNetwork"] is True
    assert spec["volumes"][0]["configMap"]["name"] == kinds["ConfigMap"]["metadata"]["name"]
    volumes = {v["name"] for v in spec["volumes"]}
    for c in spec["containers"] + spec["initContainers"]:
        assert {m["name"] for m in c["volumeMounts"]} <= volumes
    config = yaml_load(kinds["ConfigMap"]["data"]["sluiced.yaml"])[0]
    ports = {p["name"]: p["containerPort"] for p in sluiced["ports"]}
    assert config["listen"][0].endswith(f":{ports['http']}")
    assert config["admin"].endswith(f":{ports['admin']}")
    assert int(config["drain-timeout"].rstrip("s")) < spec["terminationGracePeriodSeconds"]
    assert {"BPF", "PERFMON", "NET_ADMIN"} <= set(sluiced["securityContext"]["capabilities"]["add"])


def test_kustomize_builds_the_overlay_for_the_prometheus_operator():
    kinds = kustomize("prometheus-operator")
    monitor = kinds["PodMonitor"]["spec"]
    labels = kinds["DaemonSet"]["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["podMetricsEndpoints"][0]["port"] == "admin"


def test_the_manifests_parse_also_without_kustomize():
    for at, _, names in os.walk(os.path.join(DEPLOY, "kustomize")):
        for name in names:
            assert yaml_load(read(os.path.relpath(os.path.join(at, name), DEPLOY))), name


def test_the_unit_and_the_daemonset_grant_the_same_capabilities():
    unit = re.search(r"^CapabilityBoundingSet=(.*)$", read("sluiced.service"), re.M)[1].split()
    pod = re.search(r"add: \[(.*)\]", read("kustomize/base/daemonset.yaml"))[1]
    assert sorted(unit) == sorted("CAP_" + c.strip(' "') for c in pod.split(","))


def test_the_maps_are_pinned_with_the_granted_capabilities_only():
    unit = re.search(r"^CapabilityBoundingSet=(.*)$", read("sluiced.service"), re.M)[1].split()
    if os.getuid() != 0 or " /sys/fs/bpf bpf " not in open("/proc/mounts").read():
        raise Skip("needs root and bpffs")
    if not shutil.which("setpriv"):
        raise Skip("no setpriv")
    pins = f"/sys/fs/bpf/sluice-deploy-{os.getpid()}"
    keep = ",".join(f"+{c[4:].lower()}" for c in unit)
    wrapper = tempfile.NamedTemporaryFile("w", suffix=".sh", delete=False)
    with wrapper as f:
        f.write(f"#!/bin/sh\nexec setpriv --bounding-set=-all,{keep} --inh-caps=-all "
                f"{BIN}/sluiced \"$@\"\n")
    os.chmod(wrapper.name, 0o755)
    try:
        with Sim() as sim, Gateway(
                sim.endpoints, "--bpf", "--bpffs-dir", pins, exe=wrapper.name) as gw:
            effective = int(re.search(r"CapEff:\s+(\w+)", open(f"/proc/{gw.pid}/status").read())[1],
                            16)
            assert not effective >> 21 & 1, "CAP_SYS_ADMIN is still there"
            if not os.path.isdir(pins):
                raise Skip("no BPF here: " + gw.output()[:200])
            assert {"endpoints", "endpoint_load", "kv_affinity", "show"} <= set(os.listdir(pins))
            assert post(gw.port, "/v1/chat/completions", chat()).status == 200
    finally:
        subprocess.run([os.path.join(BIN, "sluiced"), "--uninstall", "--bpffs-dir", pins])
        os.unlink(wrapper.name)
    assert not os.path.exists(pins)


def test_the_dockerfile_uses_what_exists():
    text = read("Dockerfile")
    for word in re.findall(r"^COPY (?!--from)(\S+) ", text, re.M):
        assert os.path.exists(os.path.join(ROOT, word)), word
    group = re.search(r"RUN tools/setup.sh (\w+)", text)[1]
    assert f"\n{group}) want=" in open(os.path.join(ROOT, "tools/setup.sh")).read()
    assert re.search(r"^FROM debian:12\b.*AS build", text, re.M)


def test_logrotate_understands_its_file():
    if not shutil.which("logrotate"):
        raise Skip("no logrotate")
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as f:
        f.write(read("logrotate"))
        f.flush()
        os.chmod(f.name, 0o644)
        done = subprocess.run(["logrotate", "--debug", "--state", "/dev/null", f.name],
                              capture_output=True, text=True)
    assert done.returncode == 0 and "error:" not in done.stderr, done.stderr


main(globals())
