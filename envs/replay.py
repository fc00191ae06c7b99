"""The replay environment: the rounds of a collected trace, as the live environment would run them."""

from importlib import resources
from pathlib import Path

from radar_rl.envs.base import DraftTreeBase
from radar_rl.envs.problem import Earned, Hardware, Observed, feature_names, observation_spec
from radar_rl.errors import InputError, TraceError, check_whole
from radar_rl.policies.observation import DEFAULT_FEATURES, ObservationSpec
from radar_rl.rollouts.reading import load_trace
from radar_rl.rollouts.sessions import ReplayTexts
from radar_rl.rollouts.trace import Trace
from radar_rl.speculative.features import FEATURES, columns_of


class DraftTreeReplayEnv(DraftTreeBase):
    """Decide after each draft call whether to make another one or to verify, on recorded outcomes.

    ## Description
    The same decision problem as ``Radar/DraftTree-v0``, with no model: a trace holds, for every position of a text and
    every stopping depth, what the draft head would have seen and what the target would have accepted, so a replayed
    round is the live round: accepted tokens, rewards and ends exactly, observations up to the last digit of the float16
    numbers that a trace holds.

    ## Action space
    ``Discrete(2)``: 0 stops drafting and verifies, 1 makes another draft call. After ``max_depth`` calls both stop;
    ``info["action_mask"]`` is [1, 0] then, else [1, 1].

    ## Observation space
    ``Box`` float32: the features named by ``observation``, as ``Radar/DraftTree-v0`` lists them, ``("confidences",
    "depth")`` by default. Further ones must have been collected with the trace (``radar-rl collect features=[…]``),
    but for ``history``, which the episode makes; projections are the collected ones.

    ## Rewards
    ``throughput`` (default), ``linear`` or ``radar``, as ``Radar/DraftTree-v0`` defines them; seconds come from a
    hardware profile.

    ## Starting state
    A text of the trace is drawn, or taken by its index: ``reset(options={"text": i})``; draft call 1 of its first round
    has been made. To play on some prompts only, give a trace of those: ``load_trace(folder, keep=…)``.

    ## Episode end
    ``episode="sequence"`` (default): the text ends. ``episode="round"``: a round ends; ``reset()`` then goes on with
    the text's next round. Episodes are never truncated. The observation that comes with ``terminated`` is the last
    one again.

    ## Info
    As ``Radar/DraftTree-v0``; ``text`` is the index of the sequence in the trace.

    ## Arguments
    ```python
    import gymnasium
    env = gymnasium.make("radar_rl.envs:Radar/DraftTreeReplay-v0", traces="FOLDER", reward="radar")
    envs = gymnasium.make_vec("radar_rl.envs:Radar/DraftTreeReplay-v0", num_envs=4096, traces="FOLDER")
    ```

    ## Version history
    - v0: first version.

    Args:
        traces: a trace, or the folder that ``radar-rl collect`` wrote; None takes the shipped sample.
        hardware: a profile, a NAME of ``configs/hardware``, or a FILE that ``radar-rl profile`` wrote, or its
            contents. None is ``pocket_cpu``, for traces of the embedded pair only.
        reward: one of the names above, a mapping with parameters, or a ``Reward``.
        episode: ``sequence`` or ``round``.
        observation: names of features, or a whole ``ObservationSpec``.
        max_depth: most draft calls in a round, at most the collected ones (None).
        top_k: beam width; must be the collected one (None).
        tree_size: nodes verified, root included, at most the collected ones (None). A trace in memory was read for one
            tree size and takes no other.
        render_mode: ``ansi`` or ``rgb_array``. A trace holds neither tokens nor parents: pictures show each level's
            beam.
    """

    def __init__(
        self,
        traces: Trace | str | Path | None = None,
        *,
        hardware: Hardware = None,
        reward: Earned = "throughput",
        episode: str = "sequence",
        observation: Observed = DEFAULT_FEATURES,
        max_depth: int | None = None,
        top_k: int | None = None,
        tree_size: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        texts, spec = replayed(traces, observation, max_depth=max_depth, top_k=top_k, tree_size=tree_size)
        super().__init__(
            texts, spec, hardware=hardware, reward=reward, episode=episode, render_mode=render_mode
        )


def replayed(
    traces: Trace | str | Path | None,
    observation: Observed,
    *,
    max_depth: int | None,
    top_k: int | None,
    tree_size: int | None,
) -> tuple[ReplayTexts, ObservationSpec]:
    """The texts of a trace and what is seen of them; arguments as ``DraftTreeReplayEnv`` has them.

    Raises:
        ConfigError: an unknown feature, or a layout of other trees.
        TraceError: the trace was collected otherwise, or without a feature.
        InputError: a size is no whole number, or ``traces`` nothing of the kind.
    """
    for name, value in {"max_depth": max_depth, "top_k": top_k, "tree_size": tree_size}.items():
        if value is not None:
            check_whole(name, value, None)
    features = [name for name in feature_names(observation) if name in FEATURES]
    columns = columns_of(features)
    if isinstance(traces, Trace):
        traces.check_features(columns)
    elif not isinstance(traces, str | Path | None):
        raise InputError(f"traces: expected a Trace or a folder, got {type(traces).__name__}")
    else:
        traces = load_trace(sample_traces() if traces is None else traces, tree_size=tree_size, features=columns)
    made = traces.settings
    if top_k is not None and top_k != made.top_k:
        raise TraceError(f"top_k: the trace was collected with {made.top_k}, got {top_k}; collect again")
    texts = ReplayTexts(traces, max_depth=max_depth, tree_size=tree_size, features=features)
    projections = {"feature_dim": made.feature_dim, "feature_seed": made.feature_seed}
    spec = observation_spec(observation, max_depth=texts.max_depth, top_k=made.top_k, **projections)
    made.check_projections(spec, "the observation")
    return texts, spec


def sample_traces() -> Path:
    """The folder of the trace that ships with the package."""
    return Path(str(resources.files("radar_rl"))) / "datasets" / "sample" / "traces"
