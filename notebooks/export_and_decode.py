# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exporting a policy, and decoding with it
#
# A trained policy is worth something once somebody decodes with it: on another machine, without the training packages,
# next year. This notebook takes one from a training run to decoded text, and asks at every step **what could go wrong,
# and who would notice?** The text must be the target's own whatever the policy does; a damaged file must be named, and
# a policy in the wrong place must step aside rather than do harm.
#
# Everything runs on `pocket`, the embedded target and draft head, and the sample trace, both shipped with radar-rl.
# With another pair the cells are the same: `load_pair("meta-llama/Llama-3.1-8B-Instruct",
# "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B")`.

# %%
import json
import shutil
import tempfile
import time
import warnings
from importlib.resources import files
from pathlib import Path

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm misses ipywidgets; nothing here needs them

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
import polars.selectors as cs
from rich.console import Console
from rich.text import Text
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from radar_rl.cli import run
from radar_rl.errors import ArtifactError, TraceError
from radar_rl.evaluation.style import INK, notebook_style
from radar_rl.policies import ConfidenceThreshold, StaticDepth
from radar_rl.runtime import SpeculativeDecoder, autoregressive, load_artifact, radar_generate
from radar_rl.runtime.show import explained
from radar_rl.speculative import load_pair
from radar_rl.speculative.pair import target_checkpoint

traces = Path(str(files("radar_rl"))) / "datasets" / "sample" / "traces"
work = Path(tempfile.mkdtemp(prefix="radar-rl-"))  # everything is written here

notebook_style()
KEPT, WASTED = "#009e73", "#d9d9d9"

# %% [markdown]
# ## A policy, and its artifact
#
# `run` is the command line as a function: these two calls are `radar-rl train …` and `radar-rl export …`. Some seconds
# of conservative Q-learning are enough for a policy that does something sensible.

# %%
settings = ["algo=cql", f"traces={traces}", "hardware=pocket_cpu", "steps=300", "batch_size=512"]
run("train", *settings, f"out={work}/run")
run("export", f"run={work}/run", f"out={work}/policy")

# %% [markdown]
# The artifact is a folder of two files. The weights are safetensors: numbers and names, nothing that could run. A
# network this small is a few matrices.

# %%
weights = load_file(work / "policy" / "policy.safetensors")
print({path.name: f"{path.stat().st_size / 1024:.1f} KiB" for path in sorted((work / "policy").iterdir())})
pl.DataFrame([{"tensor": name, "shape": str(w.shape), "numbers": w.size} for name, w in weights.items()])

# %% [markdown]
# `config.json` is for reading. It says what the policy is and what it **sees** (`observation`: which numbers, in which
# order, with a hash of that layout), what it was **made for** (the pair by hash, the shape of its drafts, the machine),
# **from what** (settings, data hash, code), and how it did.

# %%
config = json.loads((work / "policy" / "config.json").read_text())
kept = ("kind", "observation", "target", "draft", "max_depth", "top_k", "tree_size", "best_static_depth", "evaluation")
for key in kept:
    print(f"{key:18} {config[key]}")
print(f"{'and':18} {', '.join(key for key in config if key not in kept)}")

# %% [markdown]
# Loading checks all of it. The artifact also remembers which fixed depth was best for the same texts and machine, which
# is what a decoder uses if the policy cannot decide.

# %%
artifact = load_artifact(work / "policy")
policy = artifact.policy
print(f"{policy.name}: asked from draft call {policy.asks_from} on, sees {policy.spec.size} numbers")

# %% [markdown]
# ## The same text, in fewer forwards
#
# Now decode. `autoregressive` is the target alone, a token per forward. With the draft head and the policy, the same
# tokens come in rounds: draft some levels of a tree, verify them in one forward, keep what the target agrees with.

# %%
pair = load_pair("pocket")
decoder = SpeculativeDecoder.from_artifact(pair, artifact)
prompt = pair.encode_prompt("Write a Python function that returns the largest number of a list.")

alone = list(autoregressive(pair, prompt, max_new_tokens=64))
out = decoder.generate(prompt, max_new_tokens=64)
print(pair.tokenizer.decode(out.token_ids))
print(
    f"\nthe target's own text: {out.token_ids == alone}; {len(out.token_ids)} tokens in {len(out.rounds)} verifications"
)

# %% [markdown]
# (`pocket` is a toy; it is the text's *identity* that matters, not its wit.) That the text does not depend on the
# policy is no accident of this prompt or of greedy decoding. Below, four policies decode four prompts at temperature
# 0.8 with a seed for each: the noise belongs to the position in the text, not to the round, so even sampled texts are
# equal token for token.

# %%
asked = [
    "Name three colours and say what they remind you of.",
    "A train has 12 cars with 40 seats each. How many seats?",
    "Explain why the sky is blue.",
    "Write a Python function that reverses a string.",
]
prompts = [pair.encode_prompt(text) for text in asked]
sampled = [list(autoregressive(pair, ids, max_new_tokens=48, temperature=0.8, seed=i)) for i, ids in enumerate(prompts)]

table = []
for rule in (StaticDepth(1), StaticDepth(8), ConfidenceThreshold(0.2), policy):
    decodes = SpeculativeDecoder(pair, rule)
    decodes.generate(prompts[0], max_new_tokens=8)  # warm
    began = time.perf_counter()
    texts = [decodes.generate(ids, max_new_tokens=48, temperature=0.8, seed=i) for i, ids in enumerate(prompts)]
    seconds, rounds = time.perf_counter() - began, [each for text in texts for each in text.rounds]
    table.append({"policy": rule.name, "same texts": [text.token_ids for text in texts] == sampled,
                  "verifications": len(rounds), "draft calls": sum(each.draft_calls for each in rounds),
                  "tokens each": np.mean([len(each.emitted) for each in rounds]),
                  "tokens/s": sum(map(len, sampled)) / seconds})  # fmt: skip
pl.DataFrame(table).with_columns(cs.float().round(2))

# %% [markdown]
# The texts are the same; what differs is the work. One call at a time verifies most often; eight calls need the fewest
# verifications and by far the most drafting; the policies lie in between. The last column is this machine, now, prefill
# included: four short texts measure nothing, and any other process shifts it. For a figure to rely on there is
# `radar-rl evaluate` (exact) and `radar-rl decode --compare` (measured, taking turns).

# %% [markdown]
# ## What happened in each round
#
# `explained` is what `radar-rl decode --explain` prints: draft calls, who stopped the round, the accepted tokens in
# green and the target's own in yellow, the token that ends every round.

# %%
rounds = explained(out.rounds, pair, policy.name, decoder.max_depth)
Console(width=110, highlight=False).print(Text("\n").join(rounds))

# %% [markdown]
# The whole text as a picture. Every block is a round, as wide as the tokens it brought; grey is how deep it was
# drafted, green how deep the draft was right.

# %%
figure, axis = plt.subplots(figsize=(9, 2.4))
widths = np.array([len(each.emitted) for each in out.rounds])
left = np.cumsum([1, *widths[:-1]])
axis.bar(
    left, [each.draft_calls for each in out.rounds], widths, align="edge", color=WASTED, ec="white", label="drafted"
)
axis.bar(left, [each.accepted for each in out.rounds], widths, align="edge", color=KEPT, ec="white", label="accepted")
axis.set(title=f"Rounds of one text, {policy.name}", xlabel="tokens of the text", ylabel="draft levels",
         xlim=(0, len(out.token_ids)), yticks=range(9))  # fmt: skip
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# And one round from within: the verified draft tree of the round that brought most. Each column is a level, the
# likeliest nodes on top; green is the path that the target took, and where it leaves the top row a single chain of
# likeliest tokens would have ended. Everything grey was verified in the same forward, and thrown away: that is how one
# forward brings several tokens, and why drafting deeper than the target follows is work for nothing.

# %%
richest = max(out.rounds, key=lambda each: each.accepted)
tree = richest.tree
taken = tree.path(richest.emitted[: richest.accepted])
order = np.lexsort((-tree.log_prob_array, tree.depth_array))  # by level, the likeliest first
rank = np.empty(len(order), dtype=int)
rank[order] = np.arange(len(order)) - np.searchsorted(tree.depth_array[order], tree.depth_array[order])

figure, axis = plt.subplots(figsize=(9, 4))
for i, parent in enumerate(tree.parents[1:], start=1):
    line = {"color": KEPT, "lw": 2, "zorder": 2} if taken[i] else {"color": WASTED, "lw": 0.8, "zorder": 1}
    axis.plot([tree.depths[parent], tree.depths[i]], [-rank[parent], -rank[i]], **line)
for i, token in enumerate(tree.tokens):
    piece = repr(pair.tokenizer.decode([token]))[1:-1].replace("$", r"\$")
    axis.text(tree.depths[i], -rank[i], piece, ha="center", va="center", fontsize=8, color="white" if taken[i] else INK,
              bbox={"boxstyle": "round,pad=0.2", "fc": KEPT if taken[i] else "#f4f4f4", "ec": "none"})  # fmt: skip
axis.set(title=f"The tree of one round: {richest.nodes} nodes verified, {richest.accepted} accepted",
         xlabel="draft call", xticks=range(richest.draft_calls + 1), yticks=[],
         xlim=(-0.5, richest.draft_calls + 0.5), ylim=(-rank.max() - 1, 1))  # fmt: skip
axis.set_xticklabels(["root", *range(1, richest.draft_calls + 1)])
axis.spines["left"].set_visible(False)
plt.show()

# %% [markdown]
# ## As a stream, and inside transformers
#
# `stream` yields token ids as rounds end, so text comes in bursts. Stop reading whenever you like.

# %%
for token in decoder.stream(prompts[0], max_new_tokens=32):
    print(pair.tokenizer.decode([token]), end="", flush=True)

# %% [markdown]
# Code that calls `model.generate` keeps calling it: `radar_generate` is what `custom_generate=` takes. The head is
# given by name, the policy by its folder.

# %%
folder = target_checkpoint("pocket")  # or a model of your own
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
inputs = tokenizer("The best thing about the sea is", return_tensors="pt", return_token_type_ids=False)
options = {"max_new_tokens": 32, "do_sample": False}

plain = model.generate(**inputs, **options)
fast = model.generate(**inputs, **options, custom_generate=radar_generate("pocket", work / "policy"))
print(tokenizer.decode(fast[0]))
print(f"\nas without it: {plain.tolist() == fast.tolist()}")

# %% [markdown]
# ## In the wrong place
#
# The policy was trained on the confidences of one draft head. The same target with its *other* embedded head, an
# EAGLE-2 one, is another pair: the policy would read numbers that mean something else. It is not asked at all. Rounds
# go to the fixed depth that was best in training, which is said once and counted, and the text is right all the same.

# %%
other = load_pair("pocket", "pocket-eagle2")
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    elsewhere = SpeculativeDecoder.from_artifact(other, artifact)
    text = elsewhere.generate(prompt, max_new_tokens=64)
print(f"{said[0].category.__name__}: {said[0].message}\n")
print(f"the target's own text: {text.token_ids == alone}; {text.fallbacks} of {len(text.rounds)} rounds fell back")

# %% [markdown]
# Whoever would rather not decode at all than decode slower than planned asks for an error:

# %%
try:
    SpeculativeDecoder.from_artifact(other, artifact, strict=True)
except ArtifactError as error:
    print(f"ArtifactError: {error}")

# %% [markdown]
# ## Tampered with
#
# Files get cut off, mixed up and edited. One flipped bit in the weights, and the weights are refused; a number changed
# in what the policy sees, and the layout's hash no longer fits; a key that nobody knows is not ignored. Without these
# checks all three would decode, at a speed that no evaluation has seen.


# %%
def refused(file, change):
    """What loading says of a copy of the artifact in which one file's bytes were changed."""
    damaged = Path(shutil.copytree(work / "policy", tempfile.mkdtemp(dir=work), dirs_exist_ok=True))
    (damaged / file).write_bytes(change((damaged / file).read_bytes()))
    try:
        load_artifact(damaged)
    except ArtifactError as error:
        return str(error).replace(str(damaged), "…")


print(refused("policy.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1])), "\n")
print(refused("config.json", lambda content: content.replace(b'"floor": -10.0', b'"floor": -20.0')), "\n")
print(refused("config.json", lambda content: content.replace(b'"top_k"', b'"topk"', 1)))

# %% [markdown]
# ## Where no policy of ours runs
#
# A serving engine has settings of its own. `export format=sglang` replays every setting that it takes on the training
# prompts, at a profile's seconds (which should have been measured *on that server*; here it is this CPU's), and prints
# the fastest as the line to paste, beside what the learned policy brings on the same held-out texts.

# %%
run("export", "format=sglang", f"traces={traces}", "hardware=pocket_cpu", f"run={work}/run", f"out={work}/sglang")

# %% [markdown]
# A surprise, and a lesson about baselines: the best fixed setting is **as fast as the learned policy**. It was free to
# verify fewer nodes, a dozen where the policy was trained for trees of 60, and on a CPU, where verifying 60 takes some
# 60 % longer than verifying 12, that is worth as much as choosing the depth. (The second table asks the same of several
# texts at once. A verification of many nodes in all is dear on two cores: with four texts the target alone is faster.)
# Can both be had? A policy for the smaller tree comes from the same trace.

# %%
# %%capture
server = json.loads((work / "sglang" / "server.json").read_text())
nodes = server["setting"]["draft-tokens"]
run("train", *settings, f"tree_size={nodes}", f"out={work}/small")
run("export", "format=sglang", f"traces={traces}", "hardware=pocket_cpu", f"run={work}/small", f"out={work}/again")

# %%
again = json.loads((work / "again" / "server.json").read_text())
told = {"best fixed setting": server, "cql, trees of 60": server["learned"], f"cql, trees of {nodes}": again["learned"]}
kept = ("tokens_per_second", "acceptance_length", "draft_calls")
pl.DataFrame([{"decoding": name} | {key: one[key] for key in kept} for name, one in told.items()]).with_columns(
    cs.float().round(2)
)

# %% [markdown]
# They can: the policy for small trees is eight to ten per cent faster than either, on the same held-out texts. Whoever
# compares a policy with *the default* setting, or tunes one number and leaves the other, measures something else.
#
# vLLM, llama.cpp and transformers draft chains rather than trees. A trace of trees does not say which accepted tokens
# lie on one chain, so nothing is guessed: the error says how to trace the very same texts again as chains, decoding
# nothing.

# %%
try:
    run("export", "format=vllm", f"traces={traces}", "hardware=pocket_cpu")
except TraceError as error:
    print(f"TraceError: {error}".replace(str(traces), "TRACES"))
