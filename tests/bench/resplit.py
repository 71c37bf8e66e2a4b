#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How often do two token sequences cover the same bytes? An engine caches an answer by the tokens
that it made, and tokenizes the same text anew when it comes back within a prompt. The index, which
goes by bytes, cannot tell the two apart; blocks from the first difference on are not found.

Needs `pip install tokenizers`. Tokenizers: the two of tests/data, and three of 32,000 pieces that are
trained here on this machine's documentation (byte-level BPE, SentencePiece-style BPE with byte
fallback, Unigram); texts are paragraphs that they were not trained on, without white space around.
What a model would generate is taken to be the tokens of the whole text, from the seam on:
  chat      the answer comes back whole, behind what the template ends a prompt with
            ("assistant", line break; for SentencePiece's kind "[/INST]", space)
  cut       the same, but max_tokens ended it somewhere
  mid-text  a completion: the prompt ends at any character, and comes back with the answer appended
  mid-word  the same, but the prompt ends within a word
"""
import glob
import gzip
import os
import random
import sys

try:
    import tokenizers as tk
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
except ImportError:
    sys.exit("resplit: needs the Python package tokenizers (pip install tokenizers)")

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TURNS = int(os.environ.get("TURNS", 2000))
BLOCK = 16


def paragraphs():
    """Of text files of this machine, in an order that does not change."""
    seen = set()
    files = glob.glob("/usr/share/doc/**/*", recursive=True) + \
        glob.glob("/usr/share/perl/**/*.pod", recursive=True) + \
        glob.glob("/usr/lib/python3*/**/*.py", recursive=True)
    for path in sorted(files):
        if not os.path.isfile(path) or os.path.getsize(path) < 2000:
            continue
        try:
            with (gzip.open if path.endswith(".gz") else open)(path, "rb") as f:
                text = f.read(200000).decode("utf-8")
        except (UnicodeDecodeError, OSError, EOFError):
            continue
        for part in text.replace("\r", "").split("\n\n"):
            if 200 < len(part) < 3000 and part not in seen:
                seen.add(part)
                yield part


def trained(kind, texts):
    if kind == "byte-level BPE":
        t = tk.Tokenizer(models.BPE())
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        t.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=32000, show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    elif kind == "SentencePiece BPE":
        t = tk.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"),
                                             normalizers.Replace(" ", "▁")])
        t.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        trainer = trainers.BpeTrainer(vocab_size=32000, show_progress=False, special_tokens=[
            "<unk>"] + [f"<0x{b:02X}>" for b in range(256)])
    else:
        t = tk.Tokenizer(models.Unigram())
        t.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=32000, show_progress=False,
                                          unk_token="<unk>", special_tokens=["<unk>"])
    t.train_from_iterator(texts, trainer)
    return t


def first_difference(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def turn(t, kind, text, rng):
    """Tokens that the engine holds, and those of the same text when it is read again."""
    whole = t.encode(text, add_special_tokens=False)
    if kind in ("chat", "cut"):
        # SentencePiece's kind puts a space before a text: its templates end so
        spaced = t.decode(t.encode("a", add_special_tokens=False).ids[:1]) != "a" or \
            t.encode("a", add_special_tokens=False).tokens[0].startswith("▁")
        seam = "[/INST]" if spaced else "assistant\n"
        n = len(whole.ids) if kind == "chat" else rng.randrange(1, len(whole.ids))
        end = len(text) if kind == "chat" else whole.offsets[n][0]
        again = seam + (" " if spaced else "") + text[:end]
        return (t.encode(seam, add_special_tokens=False).ids + whole.ids[:n],
                t.encode(again, add_special_tokens=False).ids)
    if kind == "mid-word":
        places = [i for i in range(1, len(text)) if text[i].isalpha() and text[i - 1].isalpha()]
        at = rng.choice(places or [len(text) // 2])
    else:
        at = rng.randrange(1, len(text))
    head = t.encode(text[:at], add_special_tokens=False).ids
    tail = t.encode("\n" + text[at:], add_special_tokens=False)
    skip = next(i for i, (b, e) in enumerate(tail.offsets) if e > 1)  # the tokens of the seam's "\n"
    if tail.offsets[skip][0] < 1:
        return None  # the break and the text are one piece: nothing can be said of this one
    return head + tail.ids[skip:], whole.ids


def main():
    parts = list(paragraphs())
    rng = random.Random(1)
    rng.shuffle(parts)
    tests, training = [p.strip() for p in parts[:4000]], parts[4000:24000]
    print(f"{len(training)} paragraphs to train, {len(tests)} to test, {TURNS} turns each; "
          f"of differing turns, the share of the tokens that lie behind the first difference")
    rows = [(name, tk.Tokenizer.from_file(os.path.join(ROOT, "tests/data/tokenizer", name + ".json")))
            for name in ("tiny2000", "tiny4000")]
    rows += [(f"{kind}, 32,000", trained(kind, training)) for kind in
             ("byte-level BPE", "SentencePiece BPE", "Unigram")]
    kinds = ("chat", "cut", "mid-text", "mid-word")
    print(f"{'differing turns':28}" + "".join(f"{k:>20}" for k in kinds))
    for name, t in rows:
        cells = []
        for kind in kinds:
            rng = random.Random(2)
            differ = turns = 0
            lost = []
            while turns < TURNS:
                pair = turn(t, kind, rng.choice(tests), rng)
                if not pair or len(pair[0]) < 2:
                    continue
                turns += 1
                if pair[0] != pair[1]:
                    differ += 1
                    at = first_difference(*pair) // BLOCK * BLOCK
                    lost.append((len(pair[0]) - at) / len(pair[0]))
            share = sum(lost) / len(lost) if lost else 0
            cells.append(f"{100 * differ / turns:5.1f} % ({100 * share:3.0f} %)")
        print(f"{name:28}" + "".join(f"{c:>20}" for c in cells), flush=True)


main()
