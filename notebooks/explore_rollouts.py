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
# # Exploring traces and rollouts
#
# EAGLE-3 drafts a tree of tokens, one level per **draft call**, and then the target verifies the tree in one forward.
# How many calls to make is usually a preset number. This notebook looks at the data behind a better answer:
#
# * a **trace** says, for every position of a text and every stopping depth, how many tokens *would* be accepted;
# * a **rollout** is the log of what one stop policy *did*.
#
# The question throughout: **what do the draft head's confidences look like where drafting should have stopped?**
# Everything runs on the small sample that ships with radar-rl; point `traces` and `rollouts` at folders of your own
# (`radar-rl collect out=DIR`, `radar-rl rollout out=DIR`) to read them the same way.

# %%
import warnings
from importlib.resources import files
from pathlib import Path

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm misses ipywidgets; nothing here needs them

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
import polars.selectors as cs

from radar_rl.evaluation.style import INK, notebook_style
from radar_rl.offline.walk import Outcomes, walk
from radar_rl.policies import oracle_depths
from radar_rl.rollouts import load_rollouts, load_trace, read_traces, rollout_settings
from radar_rl.speculative import HardwareProfile

sample = Path(str(files("radar_rl"))) / "datasets" / "sample"
traces, rollouts = sample / "traces", sample / "rollouts"

notebook_style()
STOP, GO = "#d55e00", "#0072b2"
PALETTE = ["#cc79a7", "#e69f00", "#56b4e9", "#009e73", "#9467bd", "#8c564b"]

# %% [markdown]
# ## The trace
#
# `read_traces` is a lazy polars frame over the Parquet files: one row per root position. `accepted[ℓ − 1]` is the
# number of draft tokens accepted when drafting stops after call ℓ. `censored` marks positions so close to the end of a
# text that was cut by length that what follows is unknown; they stay out of every statistic below.

# %%
frame = read_traces(traces)
frame.select("task", "prompt_id", "position", "accepted", "censored").head(5).collect()

# %%
(
    frame.group_by("task")
    .agg(
        texts=pl.col("sequence_id").n_unique(),
        positions=pl.len(),
        censored=pl.col("censored").sum(),
        accepted_at_full_depth=pl.col("accepted").list.last().mean().round(2),
    )
    .sort("accepted_at_full_depth")
    .collect()
)

# %% [markdown]
# The same data as arrays, which the rest of the notebook uses. Seconds are not in a trace: they come from a hardware
# profile, so one collection can be priced for any machine. Here that is the profile the shipped rollout was made under.

# %%
trace = load_trace(traces)
settings = rollout_settings(rollouts)
hardware = HardwareProfile.from_mapping(settings["hardware"], str(rollouts))
outcomes = Outcomes.of(trace, hardware)  # accepted, emitted, next_row [N, max_depth]; seconds [max_depth]
accepted = outcomes.accepted
ideal = oracle_depths(outcomes.seconds, outcomes.next_row, trace.sequence)  # [N] the clairvoyant depth

levels = np.arange(1, trace.settings.max_depth + 1)
usable = ~trace.censored
text_task = np.asarray(trace.sequences.task)
task = text_task[trace.sequence]
colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(dict.fromkeys(trace.sequences.task))}
probability = np.exp(trace.confidences.astype(np.float64))  # [N, max_depth, top_k] of the path from the root
best, mass = (
    probability[:, :, 0],
    probability.sum(axis=2).clip(max=1),
)  # the likeliest node of each level; the whole beam

print(f"{len(trace):,} positions of {len(trace.sequences)} texts by {trace.settings.target.split('@')[0]}")
print(f"hardware: {hardware.name}; one more draft call costs {hardware.marginal_draft_share:.0%} of a round's rest")

# %% [markdown]
# ## One text
#
# Every column is a position at which a round could start, every row a draft level; the shade is the draft head's
# probability for its best path down to that level. The black steps show how far the text really stayed inside the tree.
# Drafting below them is wasted, stopping above them gives tokens away. The orange dots are the rounds of the
# **clairvoyant oracle**, which knows the text and therefore takes the fastest walk through it.

# %%
texts = frame.group_by("sequence_id").agg(positions=pl.len(), spread=pl.col("accepted").list.last().std())
texts = texts.filter(pl.col("positions") >= pl.col("positions").median()).sort("spread", "sequence_id", descending=True)
example = texts.first().collect()["sequence_id"].item()  # of the longer texts, the one with the most varied acceptance
rows = np.flatnonzero(trace.sequence == trace.sequences.sequence_id.index(example))[:90]
starts, row = [], rows[0]
while 0 <= row <= rows[-1]:
    starts.append(row)
    row = outcomes.next_row[row, ideal[row] - 1]

figure, axis = plt.subplots(figsize=(9, 2.8))
image = axis.imshow(best[rows].T, aspect="auto", origin="lower", cmap="Blues", vmin=0, vmax=1,
                    extent=(-0.5, len(rows) - 0.5, 0.5, levels[-1] + 0.5))  # fmt: skip
axis.step(
    np.arange(len(rows)), accepted[rows, -1] + 0.5, where="mid", color=INK, lw=1.2, label="accepted at full depth"
)
axis.scatter(starts - rows[0], ideal[starts], color=STOP, s=22, zorder=3, label="where the oracle stops")
axis.set(xlabel="position after the prompt (tokens)", ylabel="draft level", yticks=levels,
         title=f"{example}: the head's best path, and how long it was right")  # fmt: skip
axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
figure.colorbar(image, label="probability of the best path", pad=0.01)
plt.show()

# %% [markdown]
# ## Acceptance by level
#
# Left: how often the text is still inside the tree at level ℓ. Right: what one more call brings on average, in accepted
# tokens, against what it costs at the best fixed depth's throughput. A fixed depth can stop where the curve crosses the
# price *on average*; everything a learned policy gains comes from the spread around that average.

# %%
static = [walk(outcomes, np.full(len(trace), depth), pays_decisions=False) for depth in levels]
throughput = max(run.tokens_per_second for run in static)
price = np.diff(outcomes.seconds) * throughput  # a call's seconds (and those of verifying a larger tree) in tokens

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
for name, colour in colours.items():
    at = usable & (task == name)
    left.plot(levels, (accepted[at] >= levels).mean(axis=0), "o-", ms=3.5, color=colour, label=name)
    right.plot(levels[1:], np.diff(accepted[at].mean(axis=0)), "o-", ms=3.5, color=colour)
right.plot(levels[1:], price, "--", color=INK, lw=1.2, label="its price")
left.set(title="Share of rounds accepted down to level ℓ", xlabel="level ℓ", ylim=(0, 1), xticks=levels)
right.set(title="Tokens gained by draft call ℓ", xlabel="call ℓ", ylim=(0, None), xticks=levels[1:])
left.legend()
right.legend()
plt.show()

# %% [markdown]
# ## Are the confidences calibrated?
#
# The probabilities of a level's beam sum to the chance, in the draft head's own opinion, that the text passes through
# the beam. If the opinion were right, bins of equal opinion would lie on the diagonal; below it the head is too sure of
# itself, above it too modest. The probability of the best node alone is a lower bound by construction: the text may
# well follow another node. A policy need not care about a fixed bend (it learns the map), but it does care whether the
# curves of different levels agree: where they do not, the depth has to be part of the observation.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
shades = plt.get_cmap("viridis")(np.linspace(0.85, 0.1, len(levels)))
for axis, opinion, label in ((left, mass, "mass of the beam"), (right, best, "probability of the best node")):
    axis.plot([0, 1], [0, 1], color="#bbbbbb", lw=1)
    for level in levels[[0, 1, 3, -1]]:
        x, y = opinion[usable, level - 1], accepted[usable, level - 1] >= level
        bins = np.array_split(np.argsort(x), 10)  # ten bins of equally many positions
        axis.plot([x[b].mean() for b in bins], [y[b].mean() for b in bins], "o-", ms=3.5, color=shades[level - 1],
                  label=f"level {level}", clip_on=False)  # fmt: skip
    axis.set(title=f"By {label}", xlabel=label, ylabel="accepted down to that level", xlim=(0, 1), ylim=(0, 1))
right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## Where drafting should have stopped
#
# Now the question of the title. Take every position as a round that has made ℓ calls and that the oracle has not
# stopped before. At some of these states the oracle stops (orange), at the others it goes on (blue). If the best path's
# probability told the two apart, their distributions would not overlap.

# %%
figure, axis = plt.subplots(figsize=(9, 3))
for side, colour, offset in (("stop", STOP, -0.18), ("continue", GO, 0.18)):
    shown = []
    for level in levels[:-1]:
        group = best[usable & (ideal == level if side == "stop" else ideal > level), level - 1]
        if len(group) >= 10:
            shown.append((level, group))
    parts = axis.violinplot([group for _, group in shown], [level + offset for level, _ in shown], widths=0.34,
                            showextrema=False, showmedians=True)  # fmt: skip
    for body in parts["bodies"]:
        body.set(facecolor=colour, alpha=0.55)
    parts["cmedians"].set(color=colour, lw=2)
    axis.plot([], [], color=colour, lw=6, alpha=0.55, label=f"the oracle would {side}")
axis.set(title="Probability of the best path after call ℓ", xlabel="draft calls made ℓ", ylim=(0, 1),
         xlim=(0.5, levels[-1] - 0.5), xticks=levels[:-1])  # fmt: skip
axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
plt.show()

# %% [markdown]
# They do overlap, at every depth. Where drafting should have stopped, confidences are mostly low, but a low one is no
# sign to stop: at the deeper levels more than half of the states that are worth continuing have a best path of less
# than one in three. The head is modest (see above), and the tree has many other paths.
#
# The same as one curve a depth: of the states with about this confidence, at how many should drafting have stopped?

# %%
figure, axis = plt.subplots(figsize=(9, 3))
for level in levels[:-1]:
    at = usable & (ideal >= level)
    x, y = best[at, level - 1], ideal[at] == level
    bins = np.array_split(np.argsort(x), 8)  # eight bins of equally many states
    axis.plot([x[b].mean() for b in bins], [y[b].mean() for b in bins], "o-", ms=3.5, color=shades[level - 1],
              label=f"after call {level}")  # fmt: skip
axis.axhline(0.5, color="#bbbbbb", lw=1)
axis.set(title="How often the oracle stops, by confidence", xlabel="probability of the best path",
         ylabel="share that stops", xlim=(0, 1), ylim=(0, 1))  # fmt: skip
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# Three rules rather than one. After the **first** call the share falls steadily, from four in five to one in five: this
# machine's second call is the dear one (the tree grows fivefold, see the price above), so it wants some confidence.
# After calls **2 to 6** the curves lie on one another, and stopping is wrong more often than right unless the head is
# very unsure. After the **last** decision one level is left, and it is about even. One threshold for all depths is a
# compromise.
#
# A surprise is on the right: even where the head is certain after one call, and right, the oracle stops at one in five.
# It knows where the next rounds start, and cuts one short so that another begins well. No policy can see that, so part
# of the oracle's lead cannot be had.
#
# How well would one number tell the two apart? The table gives, per depth, the probability that a random *continue*
# state ranks above a random *stop* state (area under the ROC curve; 0.5 is guessing): for the best path's cumulative
# probability (what the threshold rule uses), for the last step of that probability alone, and for the mass of the beam.
# Far from 1 at some depth, or a different winner from row to row: both leave room for a policy that reads the whole
# beam of every level, and the depth.


# %%
def area_under_curve(score, positive):
    """Mann–Whitney: the share of (positive, negative) pairs ordered rightly, ties counted half."""
    ranks = pl.Series(score).rank("average").to_numpy()
    pairs = positive.sum() * (~positive).sum()
    return (ranks[positive].sum() - positive.sum() * (positive.sum() + 1) / 2) / pairs


last_step = best / np.concatenate([np.ones((len(trace), 1)), best[:, :-1]], axis=1).clip(1e-9)
table = []
for level in levels[:-1]:
    at = usable & (ideal >= level)
    going = ideal[at] > level
    if min(going.sum(), (~going).sum()) < 10:
        continue  # too few states of one kind to say anything
    scores = {"best path": best, "last step": last_step, "beam mass": mass}
    areas = {name: area_under_curve(values[at, level - 1], going) for name, values in scores.items()}
    table.append({"calls made": int(level), "states": int(at.sum()), "oracle stops": (~going).mean()} | areas)
pl.DataFrame(table).with_columns(cs.float().round(2))

# %% [markdown]
# ## What a stopping depth is worth
#
# Because the text does not depend on the policy, a trace replays any rule exactly: a run is a walk from row to row, and
# throughput is all tokens over all seconds. The oracle, which pays for no decisions, bounds every policy; its distance
# from the best fixed depth is what there is to learn. It grows with the price of a draft call (printed above).

# %%
oracle = walk(outcomes, ideal, pays_decisions=False)
figure, axis = plt.subplots(figsize=(9, 3.2))
summary = []
for name in [*colours, "all"]:
    chosen = np.full(len(trace.sequences), True) if name == "all" else text_task == name
    colour = colours.get(name, INK)
    speeds = np.array([run.of_sequences(chosen).tokens_per_second for run in static])
    bound = oracle.of_sequences(chosen).tokens_per_second
    top = int(speeds.argmax())
    axis.plot(levels, speeds, "o-", ms=3.5, color=colour, lw=2.2 if name == "all" else 1.4, label=name)
    axis.plot(levels[top], speeds[top], "o", ms=9, mfc="none", mec=colour)
    axis.plot([levels[-1] + 0.5, levels[-1] + 0.9], [bound, bound], color=colour, lw=2.5)
    summary.append({"task": name, "best static depth": int(levels[top]), "static tokens/s": speeds[top],
                    f"depth {levels[-1]} tokens/s": speeds[-1], "oracle tokens/s": bound,
                    "oracle over static": bound / speeds[top]})  # fmt: skip
axis.set(title="Tokens per second by fixed depth (ring: the best one; bar: the oracle)", xlabel="draft calls per round",
         ylim=(0, None), xticks=[*levels, levels[-1] + 0.7], xticklabels=[*levels, "oracle"])  # fmt: skip
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %%
pl.DataFrame(summary).with_columns(cs.float().round(2))

# %% [markdown]
# ## What one policy did
#
# A rollout logs every transition of one policy: what it saw (`observation`), what it did, what that brought and what it
# cost. Here is one round: rows that continue (action 1) pay for a draft call, the row that stops (action 0) for call 1
# and the verification, and receives the tokens.

# %%
log = load_rollouts(rollouts)
policy = log["policy"][0]
deepest = log.filter(~pl.col("censored")).sort("depth", descending=True, maintain_order=True).row(0, named=True)
(
    log.filter(episode=deepest["episode"], round=deepest["round"])
    .select("position", "depth", "action", "reward", "draft_seconds", "verify_seconds", "decide_seconds", "emitted")
    .with_columns(cs.float().round(5))
)

# %% [markdown]
# Only the rows that stop end a round, so they are the table of its rounds. A draft call is *wasted* if the text was not
# accepted down to its level; a round is *cut short* if it was accepted all the way down and one more call might have
# brought more.

# %%
rounds = log.filter(pl.col("action") == 0)
calls = pl.col("depth").cast(pl.Int64)
wasted = calls - pl.min_horizontal(calls, "accepted")
(
    rounds.group_by("task", maintain_order=True)
    .agg(
        rounds=pl.len(),
        tau=pl.col("emitted").mean(),
        draft_calls=calls.mean(),
        wasted_calls=wasted.mean(),
        cut_short=((wasted == 0) & (calls < settings["max_depth"])).mean(),
    )
    .with_columns(cs.float().round(2))
)

# %% [markdown]
# Left: how deep the policy drafts. Middle: drafted against accepted; the diagonal is where drafting stopped exactly
# where acceptance did, above it calls were wasted. Right: where a token's time goes.

# %%
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9, 3), width_ratios=[1, 1.1, 1.1])
present = [name for name in colours if name in rounds["task"].unique()]
for name in present:
    depths = rounds.filter(task=name)["depth"].to_numpy()
    left.plot(levels, [(depths == level).mean() for level in levels], "o-", ms=3.5, color=colours[name], label=name)
left.set(title="Draft calls per round", xlabel="draft calls", ylabel="share of rounds", xticks=levels, ylim=(0, None))
left.legend(fontsize=8)

drafted = rounds["depth"].to_numpy()
kept = np.minimum(rounds["accepted"].to_numpy(), drafted)
counts, _, _ = np.histogram2d(kept, drafted, bins=[np.arange(levels[-1] + 2) - 0.5, np.arange(levels[-1] + 1) + 0.5])
share = counts / counts.sum(axis=0).clip(1)
image = middle.imshow(share.T, origin="lower", aspect="auto", cmap="Blues", vmin=0, vmax=1,
                      extent=(-0.5, levels[-1] + 0.5, 0.5, levels[-1] + 0.5))  # fmt: skip
middle.plot(levels, levels, color=STOP, lw=1)
middle.set(title="Accepted, by draft calls made", xlabel="accepted", ylabel="draft calls", yticks=levels)
figure.colorbar(image, ax=middle, pad=0.02)

parts = {"draft": GO, "verify": "#999999", "decide": STOP, "rest": "#dddddd"}
left_edge = np.zeros(len(present))
for part, colour in parts.items():
    totals = []
    for name in present:
        of_task = log.filter(task=name)
        tokens = of_task["emitted"].sum()
        ended = rounds.filter(task=name).height
        seconds = hardware.rest_seconds * ended if part == "rest" else of_task[f"{part}_seconds"].sum()
        totals.append(1e3 * seconds / tokens)
    right.barh(present, totals, left=left_edge, color=colour, label=part, height=0.6)
    left_edge += totals
if hardware.autoregressive_seconds:
    alone = 1e3 * hardware.autoregressive_seconds
    right.axvline(alone, color=INK, ls="--", lw=1, label="no speculation")
right.invert_yaxis()
right.set(title="Milliseconds per token", xlabel="ms")
figure.suptitle(f"What {policy} did", x=0.01, ha="left", fontsize=10)
right.legend(loc="upper center", bbox_to_anchor=(0.35, -0.25), ncols=3, fontsize=8, columnspacing=1, handlelength=1)
plt.show()

# %% [markdown]
# Because the trace is exact, this policy can be judged against everything else on the very same texts.

# %%
seconds = log.select(pl.col("draft_seconds", "verify_seconds", "decide_seconds").sum()).sum_horizontal().item()
seconds += hardware.rest_seconds * rounds.height
candidates = {
    f"static, depth {levels[-1]}": static[-1].tokens_per_second,
    "static, best depth": throughput,
    policy: log["emitted"].sum() / seconds,
    "clairvoyant oracle": oracle.tokens_per_second,
}
gap = oracle.tokens_per_second - throughput
pl.DataFrame(
    {
        "policy": list(candidates),
        "tokens/s": [round(speed, 1) for speed in candidates.values()],
        "over best static": [round(speed / throughput, 3) for speed in candidates.values()],
        "share of the oracle gap": [round((speed - throughput) / gap, 2) for speed in candidates.values()],
    }
)

# %% [markdown]
# What to do about the gap: `radar-rl train` learns a policy from the same trace in a minute, and `radar-rl evaluate`
# puts it into this table on prompts it has never seen: see *compare_algorithms*.
