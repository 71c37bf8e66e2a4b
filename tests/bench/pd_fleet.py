#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prefill and decode apart against unified pods, in virtual time: eight engines of the published
model, one trace, three loads. Arguments: traces (Mooncake JSON lines, or Azure CSV)."""
import csv
import datetime
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
WAYS = {"unified": [], "apart, always (5 + 3)": ["--pd-decider", "always", "--prefill", "5"],
        "apart, sluice (5 + 3)": ["--pd-decider", "sluice", "--prefill", "5"],
        "both roles, sluice": ["--pd-decider", "sluice"]}
ROWS = 4000  # of an Azure trace


def seconds(text):
    whole, part = text.split(".")
    return datetime.datetime.fromisoformat(whole).timestamp() + float("0." + part[:6])


def mooncake(path, to):
    """An Azure trace has no prefixes: every block is one of its own."""
    rows, used = list(csv.DictReader(open(path)))[:ROWS], 0
    for row in rows:
        n = max(1, int(row["ContextTokens"]))
        ids = list(range(used, used + (n + 511) // 512))
        used += len(ids)
        to.write(json.dumps({
            "timestamp": int((seconds(row["TIMESTAMP"]) - seconds(rows[0]["TIMESTAMP"])) * 1000),
            "input_length": n, "output_length": max(1, int(row["GeneratedTokens"])),
            "hash_ids": ids}) + "\n")
    to.flush()


def main():
    traces = sys.argv[1:] or [str(ROOT / "tests/data/mooncake_conversation_800.jsonl")]
    print("\n| trace | load | way | good/s | of | TTFT p50, p90 ms | ITL p90 ms | apart |")
    print("|---|---|---|---|---|---|---|---|")
    for trace in traces:
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as made:
            if trace.endswith(".csv"):
                mooncake(trace, made)
            for way, flags in WAYS.items():
                out = subprocess.run([ROOT / "build/bin/sluice-fleet", "--trace",
                                      made.name if trace.endswith(".csv") else trace, "--policy",
                                      "sluice", "--loads", "0.5,1,1.5", "--json", *flags],
                                     capture_output=True, text=True, check=True).stdout
                for r in map(json.loads, out.splitlines()):
                    print(f"| {pathlib.Path(trace).stem} | {r['load']:g} | {way} | "
                          f"{r['goodput_rps']:.2f} | {r['offered_rps']:.2f} | "
                          f"{r['ttft_p50_ms']:.0f}, {r['ttft_p90_ms']:.0f} | "
                          f"{r['itl_p90_ms']:.1f} | {r['apart_share'] * 100:.0f} % |")


main()
