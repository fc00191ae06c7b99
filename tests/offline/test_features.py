"""A policy that looks at features: trained, evaluated, exported and decoding, it sees the same numbers everywhere."""

from pathlib import Path

import numpy as np
import pytest
from synthetic_trace import HARDWARE, make_trace, with_features, write_collection

from radar_rl import cli
from radar_rl.errors import TraceError
from radar_rl.offline.run import load_run
from radar_rl.offline.walk import Outcomes, policy_depths
from radar_rl.policies import LearnedPolicy, ObservationSpec, States
from radar_rl.rollouts import load_rollouts
from radar_rl.runtime import SpeculativeDecoder, autoregressive, load_policy
from radar_rl.speculative import Pair
from radar_rl.speculative.features import FEATURES, columns_of

SEEN = ("depth", "entropy", "mass", "ngram", "hidden", "target", "history")
SHAPE = ["max_depth=5", "top_k=6", "tree_size=20"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small collection of the embedded pair with features, and a run that was trained on it."""
    folder = tmp_path_factory.mktemp("features")
    features = f"features=[{','.join(columns_of(SEEN))}]"
    collected = ["temperature=0.7", "max_new_tokens=24", "limit=6", "tasks=[instructions,python]", "feature_dim=3"]
    assert cli.main(["collect", *collected, *SHAPE, features, f"out={folder}/traces"]) == 0
    chosen = [f"observation=[{','.join(SEEN)}]", "algo=cql", "steps=60", "batch_size=64", "hardware=pocket_cpu"]
    assert cli.main(["train", f"traces={folder}/traces", *chosen, f"out={folder}/run"]) == 0
    return folder


def test_training_records_what_is_seen(folder: Path) -> None:
    policy = load_run(folder / "run").policy
    assert isinstance(policy, LearnedPolicy)
    assert policy.spec.features == SEEN
    assert (policy.spec.feature_dim, policy.features) == (3, tuple(name for name in SEEN if name in FEATURES))


def test_it_is_evaluated_exported_and_decodes(folder: Path, pocket: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["hardware=pocket_cpu", f"traces={folder}/traces", f"runs=[{folder}/run]", "resamples=100"]
    assert cli.main(["evaluate", *shared, f"out={folder}/evaluation"]) == 0
    assert cli.main(["export", f"run={folder}/run", f"out={folder}/policy"]) == 0
    decoder = SpeculativeDecoder(pocket, load_policy(folder / "policy"), max_depth=5, top_k=6, tree_size=20)
    prompts = [pocket.encode_prompt(text) for text in ("Name a colour.", "Write a Python function that adds numbers.")]
    alone = [list(autoregressive(pocket, ids, max_new_tokens=20)) for ids in prompts]
    together = decoder.generate_batch(prompts, max_new_tokens=20)
    assert [out.token_ids for out in together] == alone
    for ids, out in zip(prompts, together, strict=True):
        single = decoder.generate(ids, max_new_tokens=20)
        assert [r.draft_calls for r in single.rounds] == [r.draft_calls for r in out.rounds]
    ngrams = SpeculativeDecoder(
        pocket, load_policy(folder / "policy"), max_depth=5, top_k=6, tree_size=20, draft_source="ngram"
    )
    assert ngrams.generate(prompts[0], max_new_tokens=20).token_ids == alone[0]  # nobody asks the policy there


def test_rollouts_live_and_replayed_decide_alike(folder: Path) -> None:
    logged = [f"policy={folder}/run", "hardware=pocket_cpu", *SHAPE]
    texts = ["tasks=[instructions,python]", "limit=6", "temperature=0.7", "max_new_tokens=24"]
    assert cli.main(["rollout", "env=live", *logged, *texts, f"out={folder}/live"]) == 0
    assert cli.main(["rollout", "env=replay", *logged, f"traces={folder}/traces", f"out={folder}/replay"]) == 0
    live, replay = (load_rollouts(folder / name).sort("sequence_id", "step") for name in ("live", "replay"))
    same = ["sequence_id", "step", "position", "depth", "action", "accepted", "emitted", "reward", "terminated"]
    assert live.select(same).equals(replay.select(same))


def test_many_rows_are_decided_as_one_by_one() -> None:
    trace = with_features(make_trace(prompts=8, new_tokens=24, seed=2))
    spec = ObservationSpec(features=("entropy", "ngram"))
    weight = np.stack([np.zeros(spec.size), -np.ones(spec.size)]).astype(np.float32)  # what has been unsure adds up
    policy = LearnedPolicy("drawn", spec, [(weight, np.array([0, 50], np.float32))])
    depths = policy_depths(Outcomes.of(trace, HARDWARE), policy)
    assert len(set(depths.tolist())) > 3
    for row in range(0, len(trace), 5):
        features = {name: values[row : row + 1] for name, values in trace.features.items()}
        stops = [
            not policy.continues(States(trace.confidences[row : row + 1], np.array([depth]), features))[0]
            for depth in range(1, 8)
        ]
        assert depths[row] == (stops.index(True) + 1 if any(stops) else 8)


def test_what_cannot_be_seen_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = load_run(folder / "run").policy
    with pytest.raises(TraceError, match="read without entropy"):
        policy_depths(Outcomes.of(make_trace(prompts=4, new_tokens=12, max_depth=5, top_k=6), HARDWARE), policy)
    plain = write_collection(tmp_path / "plain", make_trace(prompts=8, new_tokens=20))
    for source, observation, message in (
        (f"traces={plain}", "[depth,entropy]", "no column for the feature entropy"),
        (f"traces={plain}", "[mood]", "valid: confidences, depth"),
        ("rollouts=somewhere", "[depth]", "observation= is for traces"),
    ):
        seen = [source, f"observation={observation}", "hardware=pocket_cpu", f"out={tmp_path}/run"]
        assert cli.main(["train", *seen]) == 2
        assert message in capsys.readouterr().err


def test_other_projections_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = with_features(make_trace(prompts=12, new_tokens=20, max_depth=5, top_k=6, tree_size=20), feature_dim=4)
    other = write_collection(tmp_path / "other", made)
    shared = [f"traces={other}", "hardware=pocket_cpu", "allow_other_pair=true", f"out={tmp_path}/out"]
    rolled = ["rollout", "env=replay", f"policy={folder}/run", *SHAPE]
    for command in (["evaluate", f"runs=[{folder}/run]"], rolled):
        assert cli.main([*command, *shared]) == 2
        assert "feature_dim: the trace was collected with 4" in capsys.readouterr().err
