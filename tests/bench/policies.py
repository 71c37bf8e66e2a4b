#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every policy of sluice-fleet over traces, loads and seeds, as tables: median and spread.

    tests/bench/policies.py DIR         DIR holds the Mooncake and Azure traces

The second half of each trace is reported; weights were tuned on the first half of one of them.
Load 1 is the knee of round robin. Arrivals are spread over the 3 s that the conversation trace
rounds to, by the seed.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FLEET = os.path.join(ROOT, "build/bin/sluice-fleet")
LOADS = "0.5,0.75,1,1.25,1.5"
COLUMNS = (("hit_share", "hit", ".3f"), ("prefill_cv", "CV", ".2f"), ("ttft_p50_ms", "TTFT p50", ".0f"),
           ("ttft_p90_ms", "TTFT p90", ".0f"), ("itl_p90_ms", "ITL p90", ".1f"),
           ("goodput_rps", "good/s", ".2f"))


def fleet(trace, *flags):
    out = subprocess.run([FLEET, "--trace", trace, "--json", *flags], capture_output=True, text=True,
                         check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def runs(trace, policies, seeds, *flags):
    """{(load, policy): [result of each seed]}"""
    all_of = {}
    for seed in range(1, seeds + 1):
        for r in fleet(trace, "--policy", policies, "--seed", str(seed), "--half", "2",
                       "--jitter-ms", "3000", *flags):
            all_of.setdefault((r["load"], r["policy"]), []).append(r)
    return all_of


def cell(results, name, form):
    values = sorted(r[name] for r in results)
    middle, half = statistics.median(values), (values[-1] - values[0]) / 2
    return f"{middle:{form}}" + (f" ±{half:{form}}" if name in ("ttft_p90_ms", "goodput_rps") else "")


def table(title, all_of):
    print(f"\n### {title}\n\n| load | policy | " + " | ".join(c[1] for c in COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    for (load, policy), results in sorted(all_of.items(), key=lambda x: x[0][0]):
        print(f"| {load:g} | {policy} | " + " | ".join(cell(results, n, f) for n, _, f in COLUMNS) + " |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dir")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", help="the results, for those who compute on")
    args = parser.parse_args()
    kept = {}
    for name in ("conversation_trace.jsonl", "synthetic_trace.jsonl",
                 "AzureLLMInferenceTrace_conv.csv", "AzureLLMInferenceTrace_code.csv"):
        path = os.path.join(args.dir, name)
        if not os.path.exists(path):
            sys.exit(f"{path} is missing")
        kept[name] = runs(path, "all", args.seeds, "--loads", LOADS)
        table(f"{name}, one gateway", kept[name])
    path = os.path.join(args.dir, "conversation_trace.jsonl")
    for title, flags in (("8 gateways that share nothing", ("--gateways", "8")),
                         ("metrics 1 s late", ("--delay-ms", "1000")),
                         ("engines of unlike speed", ("--speeds", "1.5,1,1,0.5")),
                         ("one engine gone for 10 minutes", ("--fail-at", "1900", "--fail-for", "600"))):
        got = runs(path, "llm-d,dynamo,lmetric,preble,sluice,sluice-many", args.seeds, "--loads", "0.75,1",
                   *flags)
        kept[title] = got
        table(f"conversation, {title}", got)
    if args.json:
        with open(args.json, "w") as f:
            json.dump({t: [r for rs in k.values() for r in rs] for t, k in kept.items()}, f)


main()
