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
# # Comparing offline RL algorithms
#
# When to stop drafting is a small offline reinforcement learning problem with a rare property: its **truth is known**.
# A trace says what every choice would have brought, so any policy can be replayed exactly, and the best one in
# hindsight, the clairvoyant oracle, can be computed. No estimates of estimates: what is compared here are the
# algorithms.
#
# The question: **does it matter which algorithm learns to stop?** We train five on the same small sample, with the same
# observation, and look at how they learn, what they bring on prompts they have never seen, where they decide
# differently, and what changes when the machine does. The sample ships with radar-rl and is *small*: intervals will be
# wide.

# %%
import tempfile
import warnings
from importlib.resources import files
from pathlib import Path

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm misses ipywidgets; nothing here needs them

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
import polars.selectors as cs
from matplotlib.ticker import MultipleLocator, PercentFormatter

from radar_rl.cli import run
from radar_rl.evaluation.style import INK, notebook_style
from radar_rl.offline.run import load_run
from radar_rl.offline.walk import Outcomes, choices, walk_policy
from radar_rl.policies import ConfidenceThreshold, StaticDepth, oracle_depths
from radar_rl.rollouts import held_out, load_trace
from radar_rl.speculative import HardwareProfile

traces = Path(str(files("radar_rl"))) / "datasets" / "sample" / "traces"
work = Path(tempfile.mkdtemp(prefix="radar-rl-"))  # everything is written here

notebook_style()
GREY = "#999999"
COLOURS = {"cql": "#0072b2", "iql": "#56b4e9", "bc": "#009e73", "fitted": "#d55e00", "direct": "#e69f00"}

# %% [markdown]
# ## Five ways to learn
#
# | name | learns | from |
# |---|---|---|
# | `cql` | action values, low for actions that the data lack (conservative Q-learning) | both actions at every state |
# | `iql` | a policy weighted by advantage over expectile values (implicit Q-learning) | both actions at every state |
# | `bc` | to do what was done (behaviour cloning) | the decisions of the clairvoyant oracle |
# | `fitted` | how much more continuing brings than stopping, by regression (optimal stopping) | every depth's outcome |
# | `direct` | to raise the exact expected return by gradient ascent | every depth's outcome |
#
# The first three are offline RL as d3rlpy has it (IQL for discrete actions is ours). The last two use what a trace has
# and a log has not, the return of *every* stopping depth, and need no value function.
#
# `run` is the command line as a function: the arguments are those of `radar-rl train …`, it returns what the verb
# found, and raises its errors. All five see the default observation (the confidences of the newest level, and the
# depth) and learn from the training prompts; three in ten prompts are held out by a hash of their name, the same for
# all.

# %%
settings = [f"traces={traces}", "steps=300", "batch_size=512", "seed=0"]
here = "hardware=pocket_cpu"  # the seconds of the embedded pair on two CPU cores; shipped, so that nothing is measured

for algo in COLOURS:
    run("train", f"algo={algo}", here, *settings, f"out={work}/here/{algo}")

# %% [markdown]
# ## How they learn
#
# After every twentieth of the updates, the policy so far is replayed on the training texts: the curve is its true
# throughput, not a loss. The dotted line is the best fixed depth there.

# %%
records = {algo: load_run(work / "here" / algo).about for algo in COLOURS}
static = records["cql"]["best_static_tokens_per_second"]

figure, axis = plt.subplots(figsize=(9, 3.2))
for algo, colour in COLOURS.items():
    curve = pl.read_parquet(work / "here" / algo / "curve.parquet")
    axis.plot(curve["step"], curve["tokens_per_second"] / static - 1, "o-", ms=3, color=colour, label=algo)
axis.axhline(0, color=INK, ls=":", lw=1.2)
axis.annotate("best fixed depth", (300, 0), xytext=(0, 4), textcoords="offset points", ha="right", color=INK)
axis.set(title="Throughput on the training texts while learning", xlabel="updates", xlim=(0, 304),
         ylabel="against the best fixed depth")  # fmt: skip
axis.yaxis.set_major_locator(MultipleLocator(0.05))
axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# After two hundred updates, a few seconds, all five have found most of what there is, and end close together. On the
# way they stumble, some below the best fixed depth: what a network is trained on is not throughput, and a small
# change of its values can flip the decision that matters most, the one after the first call. `direct` starts as
# `fitted` does and changes its objective after a quarter of the updates; there it loses two thirds of its gain before
# it rises again.

# %% [markdown]
# ## What they bring on prompts they have never seen
#
# `evaluate` replays every policy on the held-out prompts: each fixed depth, the rules that others stop by (each with
# the setting that was fastest on the training prompts), the trained runs, and the oracle. Gains are over the *tuned*
# fixed depth, with a 95 % interval from a paired bootstrap over prompts.

# %%
# %%capture
rows = pl.DataFrame(run("evaluate", f"traces={traces}", f"runs=[{work}/here]", here, f"out={work}/evaluation"))

# %%
shown = (
    rows.filter(pl.col("task") == "all")
    .filter(~pl.col("kind").is_in(["static"]) | pl.col("policy").is_in([rows["baseline"][0], "static-8"]))
    .with_columns(pl.col("speedup_static", "speedup_static_low", "speedup_static_high") - 1)
    .sort("speedup_static")
)
shades = {"static": GREY, "rule": "#cc79a7", "oracle": INK}
tints = [COLOURS.get(name, shades.get(kind)) for name, kind in shown.select("policy", "kind").iter_rows()]

figure, axis = plt.subplots(figsize=(9, 4.4))
y = np.arange(shown.height)
axis.hlines(y, shown["speedup_static_low"], shown["speedup_static_high"], color=tints, lw=3, alpha=0.45)
axis.scatter(shown["speedup_static"], y, color=tints, s=34, zorder=3)
axis.axvline(0, color=INK, ls=":", lw=1.2)
axis.set_yticks(y, [f"{name} (tuned)" if name == rows["baseline"][0] else name for name in shown["policy"]])
axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
axis.set(title=f"Tokens per second against the tuned fixed depth, {rows['prompts'][0]} held-out prompts",
         xlabel="gain, with 95 % interval")  # fmt: skip
for label, colour in (("learned", COLOURS["cql"]), ("rules", shades["rule"]), ("fixed", GREY), ("oracle", INK)):
    axis.plot([], [], "o", color=colour, label=label)
axis.legend(loc="lower right")
plt.show()

# %% [markdown]
# On these prompts all five are faster than the best fixed depth (the interval of `direct` reaches zero), and none is
# clearly faster than another: their points differ by less than their intervals reach. What they have in common, and
# most of the rules below them lack, is that the choice after the first call is another one than later ones (the next
# figure shows it). And a surprise that should be said aloud: `gain`, a rule with **one** tuned number, which goes on
# where a call's chances are worth its cost, is as good here as anything learned. It knows the cost of each call. The
# plain threshold does not, and gains about half as much.
#
# The oracle gains four to five times as much as any of them. It knows the text, so part of that gap cannot be had.
#
# And one thing about the baseline: the fixed depth is tuned over depth, not over `tree_size`. All of the above verify
# trees of up to 60 nodes, as collected. Where nodes cost, as on this machine, fewer of them bring as much as learning
# to stop does: *export_and_decode* finds a fixed setting, three calls and 12 nodes, that is as fast as `cql` is here,
# and `cql` trained for trees of 12 to be faster than both.

# %%
(
    rows.filter((pl.col("task") == "all") & (pl.col("kind") == "learned"))
    .select(
        "policy",
        training=pl.col("policy").replace_strict(
            {algo: about["training_tokens_per_second"] / static - 1 for algo, about in records.items()}
        ),
        held_out=pl.col("speedup_static") - 1,
        oracle_gap_closed="oracle_gap_closed",
        tau="acceptance_length",
        draft_calls="draft_calls",
        training_seconds=pl.col("training_seconds").round(0),
    )
    .sort("held_out", descending=True)
    .with_columns(cs.float().round(3))
)

# %% [markdown]
# ## Where they decide differently
#
# The same throughput need not mean the same decisions. Below, every state of the held-out texts: after ℓ draft calls
# (rows), by the probability of the head's best path (columns). The shade is how often a policy goes on there. The first
# panel is what the oracle does, averaged over texts it knows; the second a plain confidence threshold.

# %%
profile = HardwareProfile.from_mapping(records["cql"]["hardware"], "run")
trace = load_trace(traces, keep=lambda texts: held_out(texts.prompt_id, 0.3))
outcomes = Outcomes.of(trace, profile)
ideal = oracle_depths(outcomes.seconds, outcomes.next_row, trace.sequence)  # [N]
calls = np.arange(1, trace.settings.max_depth)  # decisions are made after call 1 … L − 1
best = np.exp(trace.confidences[:, :-1, 0].astype(np.float64))  # [N, L − 1] probability of the best path

threshold = ConfidenceThreshold(0.2)
going = {"oracle": ideal[:, None] > calls, "threshold 0.2": choices(threshold, trace)}  # [N, L − 1] bool each
going |= {algo: choices(load_run(work / "here" / algo).policy, trace) for algo in COLOURS}
reached = {name: (~trace.censored)[:, None] & (ideal[:, None] >= calls if name == "oracle" else True) for name in going}

edges = np.array([0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0001])
figure, axes = plt.subplots(1, len(going), figsize=(11, 2.6), sharey=True)
for axis, (name, goes) in zip(axes, going.items(), strict=True):
    bins = [np.digitize(best[:, i], edges) - 1 for i in range(len(calls))]
    usable = np.broadcast_to(reached[name], goes.shape)
    seen = np.array([np.bincount(bins[i][usable[:, i]], minlength=8) for i in range(len(calls))])
    went = np.array([np.bincount(bins[i][usable[:, i] & goes[:, i]], minlength=8) for i in range(len(calls))])
    image = axis.imshow(np.where(seen < 5, np.nan, went / seen.clip(1)), origin="lower", aspect="auto", cmap="BuPu",
                        vmin=0, vmax=1)  # fmt: skip
    axis.set(title=name, xticks=[-0.5, 2.5, 4.5, 7.5], xticklabels=["0", ".1", ".4", "1"])
    axis.set_yticks(range(len(calls)), calls)
axes[0].set_ylabel("draft calls made")
figure.supxlabel("probability of the head's best path", fontsize=9)
figure.colorbar(image, ax=axes, pad=0.01, label="share that goes on")
plt.show()

# %% [markdown]
# * After **one** call every learned policy stops unless the head is rather sure; from the second call on they go on in
#   much less certain states. No single threshold does both, and that is where the plain one loses. The reason is this
#   machine: the second call makes the tree five times as large, so that a longer verification is paid for beside the
#   call itself; the third costs only itself.
# * The **oracle** is no step function of confidence: knowing the text, it goes on with poor confidences and stops with
#   good ones. A policy that sees confidences can only do what is right on average, and all of these draw a fairly sharp
#   line.
# * `bc`, which imitates it, is sharper than its teacher: it learns what the oracle does *more often than not*, though
#   some mistakes cost more than others. It drafts deeper than the value-based ones, and is about as fast.
# * `direct` goes on in the deep corner where it should stop. Few rounds come there: what is never visited is not
#   learned.
#
# How often two policies agree, over all these states:

# %%
names = list(going)[1:]
agree = [[(going[one] == going[other])[~trace.censored].mean() for other in names] for one in names]
pl.DataFrame({"agrees with": names, **dict(zip(names, agree, strict=True))}).with_columns(cs.float().round(2))

# %% [markdown]
# ## Another machine
#
# There are no seconds in a trace, so nothing need be collected again for other hardware: another profile, another
# reward. `share_06` is a machine where a further draft call costs 6 % of the rest of a round whatever the tree's size,
# about what 8B models on data-centre GPUs have. We train two of the algorithms for it, from the same texts, and run
# every policy on both machines.

# %%
# %%capture
there, pair = "hardware=share_06", ("cql", "fitted")
for algo in pair:
    run("train", f"algo={algo}", there, *settings, f"out={work}/there/{algo}")
runs = ",".join(f"{work}/{machine}/{algo}" for machine in ("here", "there") for algo in pair)
both = "hardware=[pocket_cpu,share_06]"
rows = pl.DataFrame(run("evaluate", f"traces={traces}", f"runs=[{runs}]", both, f"out={work}/evaluation-both"))

# %%
machines = rows["hardware"].unique(maintain_order=True).to_list()
overall = rows.filter(pl.col("task") == "all").with_columns(pl.col("^speedup_static.*$") - 1)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
for axis, machine in zip(axes, machines, strict=True):
    on = overall.filter(hardware=machine)
    for place, algo in enumerate(pair):
        for trained, offset in zip(machines, (-0.19, 0.19), strict=True):
            own = on.filter((pl.col("algorithm") == algo) & (pl.col("trained_for") == trained)).row(0, named=True)
            alpha = 1 if trained == machine else 0.3
            axis.bar(place + offset, own["speedup_static"], 0.36, color=COLOURS[algo], alpha=alpha)
            axis.plot([place + offset] * 2, [own["speedup_static_low"], own["speedup_static_high"]], color=INK, lw=1)
    axis.axhline(0, color=INK, lw=0.8)
    axis.axhline(on.filter(kind="rule")["speedup_static"].max(), color="#cc79a7", ls="--", lw=1.2)
    axis.set(title=f"on {machine}\nagainst {on['baseline'][0]}, tuned for it", xticks=[0, 1], xticklabels=pair)
axes[0].yaxis.set_major_locator(MultipleLocator(0.05))
axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
axes[0].set_ylabel("gain on held-out prompts")
axes[0].bar([0], [0], color=GREY, label="trained for this machine")
axes[0].bar([0], [0], color=GREY, alpha=0.3, label="trained for the other")
axes[0].plot([], [], color="#cc79a7", ls="--", lw=1.2, label="best tuned rule")
figure.legend(loc="outside lower center", ncols=3)
plt.show()

# %% [markdown]
# A policy is made for a machine. Taken to the other one it loses what it gained and more: against a fixed depth tuned
# there it is slower, `cql` on the second machine beyond doubt. What is right after the first call is opposite there:
# where trees of all sizes cost the same, the second call is nearly always worth it. Retraining took seconds and no
# collection, and repairs it: at home both gain, if less on the second machine. The best tuned rule is level with them
# or a little ahead, by less than the intervals reach.

# %% [markdown]
# ## Small data, small networks
#
# The default network has 8 units and sees the newest call. What would a larger one bring, and more to see? We train
# `fitted` for the second machine three ways, longer and longer: the default, two layers of 64 units that see the same,
# and two layers of 64 that see the confidences of every call, 81 numbers. On one's own data no held-out prompt should
# have a say in such a choice, so `validation=0.2` keeps two in ten of the other prompts from learning, and the run's
# record says what the policy brings on those. A replay is a line: `walk_policy`.

# %%
# %%capture
large = ["algo.hidden=[64,64]", "algo.learning_rate=2e-3"]
networks = {"8, newest call": [], "64 × 64, newest call": large, "64 × 64, all calls": [*large, "newest=null"]}
lengths = (60, 200, 600, 2000)
for place, network in enumerate(networks.values()):
    for steps in lengths:
        own = [*network, *settings, f"steps={steps}", f"out={work}/sizes/{place}-{steps}"]
        run("train", "algo=fitted", there, "validation=0.2", *own)

# %%
gpu = HardwareProfile.from_mapping(load_run(work / "there" / "fitted").about["hardware"], "run")
unseen = Outcomes.of(trace, gpu)  # the held-out texts, priced for the second machine
figure, axes = plt.subplots(1, 3, figsize=(9, 2.9), sharey=True)
for place, (axis, name) in enumerate(zip(axes, networks, strict=True)):
    fitted = [load_run(work / "sizes" / f"{place}-{steps}") for steps in lengths]
    static = StaticDepth(fitted[0].about["best_static_depth"])
    base = fitted[0].about["best_static_tokens_per_second"], walk_policy(unseen, static).tokens_per_second
    learned = [each.about["training_tokens_per_second"] / base[0] - 1 for each in fitted]
    kept = [walk_policy(unseen, each.policy).tokens_per_second / base[1] - 1 for each in fitted]
    axis.plot(lengths, learned, "o--", ms=4, color=GREY, label="learned from")
    axis.plot(lengths, [each.about["validation_gain"] for each in fitted], "s-", ms=4, color=INK, label="validation")
    axis.plot(lengths, kept, "o-", ms=4, color=COLOURS["fitted"], label="held out")
    axis.axhline(0, color=INK, ls=":", lw=1.2)
    axis.set(title=name, xlabel="updates", xscale="log")
    axis.set_xticks(lengths, [str(steps) for steps in lengths])
    axis.minorticks_off()
axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
axes[0].set_ylabel("against the tuned fixed depth")
axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), title="prompts")
plt.show()

# %% [markdown]
# The default has found what it finds after 200 updates. The larger network that sees the same brings a point more in
# the end, which twenty prompts cannot tell from nothing; the one that sees every call needs ten times the updates to
# come as far. A level's confidences are sums along its paths: the newest ones hold most of what the older ones say,
# and the rest is, on so few texts, mostly something to be misled by. The small one also decides in a fraction of the
# time (docs/benchmarks.md). On seven times the positions the three are level: docs/results.md, "Network sizes".
#
# Would `validation=` have told? That seeing every call costs updates, yes: it puts that network last but for the
# longest training. Between the other two it sees nothing, as there is hardly anything to see. Its level is another
# matter, it comes from seven prompts: look at differences between settings, not at the size of a gain.

# %% [markdown]
# ## What a log alone would have told
#
# Elsewhere nobody can replay: there is a log of what some policy did, and the value of another one has to be
# *estimated* from it. Fitted Q evaluation is the usual way. `ope` fits it to decisions taken at random on the training
# texts and sets the estimates beside the exact values: of a round, in tokens, its seconds taken off.

# %%
# %%capture
judged = f"runs=[{work}/here/cql,static:8]"
quick = ["episode=round", "fqe.steps=600", "fqe.batch_size=512"]  # so few updates do for rounds, not for whole texts
estimates = run("ope", f"traces={traces}", judged, here, *quick, f"out={work}/ope")

# %%
pl.DataFrame(estimates).select("policy", "texts", "exact", "estimate", "error").with_columns(cs.float().round(2))

# %% [markdown]
# The estimates put the two in the right order, and that is what they are good for. Their size is another matter: it
# can be off by more than algorithms differ here, and on new texts the learned policy looks better than it is.
# Choosing between the five by such estimates would be a lottery; it is the replay that can tell them apart.
#
# ## So, does it matter?
#
# Less than what surrounds it. Which algorithm learns moves the gain by a few points of a hundred, within the intervals
# of twenty prompts. That a policy was made for *this* machine is worth ten and more; what a network sees decides how
# long it has to learn; a smaller tree can bring as much as a policy; and a rule that knows what a call costs comes out
# level with all of them. With more texts (`radar-rl collect`) and more to see (`features=[…]`) the differences can be
# measured: docs/results.md has those tables.
