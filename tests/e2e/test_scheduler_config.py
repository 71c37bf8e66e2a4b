# SPDX-License-Identifier: Apache-2.0
"""An EndpointPickerConfig in front of engines: what it says is what happens."""
import glob
import os
import subprocess
import tempfile

from harness import ROOT, SLUICED, Gateway, Sim, chat, main, post

PATH = "/v1/chat/completions"
DATA = os.path.join(ROOT, "tests/data/epp")


def check(path, *flags):
    return subprocess.run([SLUICED, "--check-config", "--scheduler-config", path, *flags],
                          capture_output=True, text=True, timeout=60)


def test_check_config_explains_every_sample():
    for path in sorted(glob.glob(f"{DATA}/*.yaml")):
        got = check(path)
        assert got.returncode == 0 and not got.stderr, (path, got.stderr)
        assert "# How requests are scheduled" in got.stdout and "#   picker: " in got.stdout
    every = check(f"{DATA}/every-type.yaml").stdout
    assert "cannot run here: " in every and "has no effect here: " in every
    assert "# alpha: starts with --allow-experimental-plugins only" in every


def test_what_is_wrong_is_told_with_its_place_and_exit_2():
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
        f.write("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: nope\n")
        f.flush()
        got = check(f.name)
        assert got.returncode == 2 and f'{f.name}:4:3: unknown plugin type "nope"' in got.stderr
        assert "queue-scorer" in got.stderr
        run = subprocess.run([SLUICED, "--scheduler-config", f.name, "--endpoint", "127.0.0.1:9",
                              "--no-bpf", "--admin", "", "--listen", "127.0.0.1:0"],
                             capture_output=True, text=True, timeout=60)
        assert run.returncode != 0 and "unknown plugin type" in run.stderr, run.stderr


def test_the_file_may_name_the_endpoints():
    with Sim() as sim, tempfile.TemporaryDirectory() as d:
        port = sim.ports[0]
        with open(f"{d}/pods.yaml", "w") as f:
            f.write(f'endpoints:\n- {{name: one, address: 127.0.0.1, port: "{port}"}}\n')
        with open(f"{d}/epp.yaml", "w") as f:
            f.write("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n"
                    f"- {{type: file-discovery, parameters: {{path: {d}/pods.yaml}}}}\n"
                    "- type: random-picker\n"
                    "dataLayer: {discovery: {pluginRef: file-discovery}}\n")
        with Gateway([], "--scheduler-config", f"{d}/epp.yaml") as gw:
            assert post(gw.port, PATH, chat()).status == 200


def test_prefill_and_decode_go_by_the_files_decider():
    text = ("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n"
            "- type: prefill-filter\n- type: decode-filter\n- type: active-request-scorer\n"
            "- type: disagg-profile-handler\n  parameters: {deciders: {prefill: when}}\n"
            "- {name: when, type: prefix-based-pd-decider, parameters: {nonCachedTokens: 100}}\n"
            "schedulingProfiles:\n"
            "- {name: prefill, plugins: [{pluginRef: prefill-filter}]}\n"
            "- {name: decode, plugins: [{pluginRef: decode-filter}, "
            "{pluginRef: active-request-scorer}]}\n")
    with Sim("--kv-connector", "nixlv2", instances=2) as sim, \
            tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
        f.write(text)
        f.flush()
        ends = [f"{sim.endpoints[0]},role=prefill", f"{sim.endpoints[1]},role=decode"]
        with Gateway(ends, "--scheduler-config", f.name) as gw:
            def legs():
                return tuple(gw.metric("sluice_disagg_decision_total", reason=r)
                             for r in ("cached", "uncached"))

            assert post(gw.port, PATH, chat("short")).status == 200
            assert legs() == (1, 0), gw.metrics()
            assert post(gw.port, PATH, chat("long " * 400)).status == 200
            assert legs() == (1, 1), gw.metrics()


def test_a_session_token_brings_the_client_back():
    text = ("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n"
            "- {type: session-affinity-filter}\n- {type: random-picker}\n")
    own = ("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n"
           "- {type: session-affinity-scorer, parameters: {strategy: session_id, "
           "sessionIdConfig: {sources: [{header: x-chat}]}}}\n")
    with Sim(instances=4) as sim, tempfile.NamedTemporaryFile("w", suffix=".yaml") as f, \
            tempfile.NamedTemporaryFile("w", suffix=".yaml") as g:
        f.write(text)
        f.flush()
        g.write(own)
        g.flush()
        served = "x-gateway-destination-endpoint-served"
        with Gateway(sim.endpoints, "--scheduler-config", f.name,
                     "--allow-experimental-plugins") as gw:
            first = post(gw.port, PATH, chat())
            token = first.headers["x-session-token"]
            for _ in range(12):
                got = post(gw.port, PATH, chat(), headers={"x-session-token": token})
                assert got.headers[served] == first.headers[served]
                assert got.headers["x-session-token"] == token
        with Gateway(sim.endpoints, "--scheduler-config", g.name,
                     "--allow-experimental-plugins") as gw:
            for client in range(6):
                seen = {post(gw.port, PATH, chat(f"{client} {i}"), headers={"x-chat": f"c{client}"})
                        .headers[served] for i in range(6)}
                assert len(seen) == 1, seen
            assert not post(gw.port, PATH, chat()).headers["x-session-token"]


main(globals())
