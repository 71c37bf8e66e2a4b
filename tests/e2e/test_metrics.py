# SPDX-License-Identifier: Apache-2.0
"""The page at /metrics after real traffic: it parses, it lints, and it has the names we promise."""
import os
import re
import shutil
import subprocess

from harness import ROOT, Gateway, Sim, Skip, chat, main, post

TEXT = "All work and no play makes Jack a dull boy. " * 40


def pages():
    """The page with and without llm-d's names, after streamed and whole answers of two models."""
    out = []
    for flags in ((), ("--no-llm-d-metrics",)):
        with Sim("--lora-modules", "ada", instances=2) as sim, \
             Gateway(sim.endpoints, *flags) as gw:
            for _ in range(2):
                for more in ({"stream": True, "stream_options": {"include_usage": True}},
                             {"model": "ada"}):
                    assert post(gw.port, "/v1/chat/completions", chat(TEXT, **more)).status == 200
            assert post(gw.port, "/v1/chat/completions", chat(model="nope")).status == 404
            out.append(gw.metrics())
    return out


PAGE, OURS = pages()


def value(page, series):
    m = re.search(rf"^{re.escape(series)} (\S+)$", page, re.M)
    assert m, f"no series {series}"
    return float(m[1])


def test_prometheus_client_parses_the_page():
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError:
        raise Skip("prometheus_client is not installed") from None
    for page in (PAGE, OURS):
        families = list(text_string_to_metric_families(page))
        names = [f.name for f in families]
        assert len(names) == len(set(names)), "a family stands twice"
        for f in families:
            assert f.documentation, f"{f.name} has no HELP"
            assert f.type in ("counter", "gauge", "histogram"), (f.name, f.type)
            seen = [(s.name, tuple(sorted(s.labels.items()))) for s in f.samples]
            assert len(seen) == len(set(seen)), f"{f.name}: a series stands twice"


def test_promtool_accepts_the_page():
    tool = shutil.which("promtool")
    if not tool:
        raise Skip("no promtool (Debian's prometheus package)")
    done = subprocess.run([tool, "check", "metrics"], input=OURS, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    # It takes the d of llm_d for days; about those names, which are others', it says nothing else.
    done = subprocess.run([tool, "check", "metrics"], input=PAGE, capture_output=True, text=True)
    rest = [line for line in done.stderr.splitlines()
            if not re.match(r"llm_d_epp_\w+ metric names should not contain abbreviated units", line)]
    assert not rest, rest


def test_every_histogram_ends_at_its_count():
    buckets = dict(re.findall(r'^(\w+)_bucket(\{.*)le="\+Inf"\} ', PAGE, re.M))
    assert len(buckets) > 10
    last = {}
    for name, labels, le, n in re.findall(r'^(\w+)_bucket\{(.*?),?le="([^"]+)"\} (\d+)$', PAGE, re.M):
        key = (name, labels)
        assert int(n) >= last.get(key, 0), f"{key} falls at {le}"
        last[key] = int(n)
    for (name, labels), n in last.items():
        assert value(PAGE, f"{name}_count" + (f"{{{labels}}}" if labels else "")) == n, name


def test_every_name_in_the_documentation_is_served_and_the_other_way_round():
    doc = open(os.path.join(ROOT, "deploy/metrics.md")).read()
    table = doc[doc.index("## llm-d's names"):doc.index("## What operators")]
    promised = set(re.findall(r"\bllm_d_epp_\w+", table))
    served = set(re.findall(r"^# TYPE (llm_d_epp_\w+)", PAGE, re.M))
    assert len(promised) > 25
    assert not promised - served, f"not served: {sorted(promised - served)}"
    assert not served - promised, f"not documented: {sorted(served - promised)}"
    ours = set(re.findall(r"^# TYPE (sluice_\w+)", PAGE, re.M))
    used = set(re.findall(r"\b(sluice_[a-z_]+)", doc))
    assert not used - ours, f"documented, not served: {sorted(used - ours)}"


def test_llm_ds_names_can_be_switched_off():
    assert "llm_d_epp_" not in OURS and "sluice_model_requests_total{" in OURS


def test_figures_by_model_are_those_of_the_traffic():
    labels = '{model_name="tiny",target_model_name="tiny"}'
    assert value(PAGE, f"llm_d_epp_request_total{labels}") == 2
    assert value(PAGE, f"llm_d_epp_request_running{labels}") == 0
    assert value(PAGE, f"llm_d_epp_request_ttft_seconds_count{labels}") == 2
    assert value(PAGE, f"llm_d_epp_request_streaming_tpot_seconds_count{labels}") == 2
    assert value(PAGE, f"llm_d_epp_request_output_tokens_sum{labels}") == 16
    # 8 tokens have 7 gaps between them; two may arrive together.
    assert 2 <= value(PAGE, f"llm_d_epp_request_streaming_itl_seconds_count{labels}") <= 14
    ada = '{model_name="ada",target_model_name="ada"}'
    assert value(PAGE, f"llm_d_epp_request_total{ada}") == 2
    assert value(PAGE, f"llm_d_epp_request_streaming_tpot_seconds_count{ada}") == 0
    assert value(PAGE, f"llm_d_epp_request_cached_tokens_sum{ada}") > 0, "the second was cached"
    assert 'model_name="nope"' not in PAGE, "what a client writes is no label"


def test_counters_named_in_the_manual_of_limits_and_in_limits_h_exist():
    manual = open(os.path.join(ROOT, "tools/man/sluice-limits.7")).read().replace("\\-", "-")
    header = open(os.path.join(ROOT, "include/sluice/limits.h")).read()
    missing = set()
    for text in (manual[manual.index(".SH HTTP"):], header):
        for name, reason in re.findall(r'\b([a-z_]+_total)(?:\{reason="([a-z0-9-]+)"\})?', text):
            want = f'sluice_{name}{{reason="{reason}"}}' if reason else f"sluice_{name}"
            if not re.search(rf"^{re.escape(want)}[ {{]", PAGE, re.M):
                missing.add(want)
        for reason in re.findall(r';? \{reason="([a-z0-9-]+)"\}', text):
            if f'reason="{reason}"' not in PAGE:
                missing.add(reason)
    assert not missing, sorted(missing)


main(globals())
