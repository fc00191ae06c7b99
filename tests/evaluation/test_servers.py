"""The lines to paste: flags that the servers document, holding the setting."""

import argparse
import json
import shlex

from transformers import GenerationConfig

from radar_rl.evaluation.servers import LLAMA_CPP, SERVERS, SGLANG, TRANSFORMERS, VLLM, Setting, adaptive_config, ranges
from radar_rl.policies import DraftChain, RenormalisedChain, StaticDepth
from radar_rl.rollouts.trace import TraceSettings

TABLE = [(1, 5), (2, 5), (4, 3), (8, 1), (16, 0)]


def parsed(line: str, flags: dict[str, type], switches: tuple[str, ...] = ()) -> dict[str, object]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag, kind in flags.items():
        parser.add_argument(flag, type=kind)
    for flag in switches:
        parser.add_argument(flag, action="store_true")
    return vars(parser.parse_args(shlex.split(line)))


def test_vllm_reads_one_json_argument() -> None:
    setting = Setting({"num_speculative_tokens": 3}, StaticDepth(3), 9)
    read = parsed(VLLM.line(setting, [(1, 3)], "some/HEAD", "eagle3"), {"--speculative-config": json.loads})
    assert read == {"speculative_config": {"method": "eagle3", "model": "some/HEAD", "num_speculative_tokens": 3}}
    read = parsed(VLLM.line(setting, TABLE, "HEAD's", "eagle2"), {"--speculative-config": json.loads})
    assert read["speculative_config"] == {
        "method": "eagle",
        "model": "HEAD's",
        "num_speculative_tokens": 5,  # no entry of the table may be larger
        "num_speculative_tokens_per_batch_size": [[1, 3, 5], [4, 7, 3], [8, 15, 1], [16, 16, 0]],
    }


def test_sglang_reads_a_tree_or_for_chains_a_table() -> None:
    known = dict.fromkeys(("--speculative-algorithm", "--speculative-draft-model-path"), str)
    known |= dict.fromkeys(
        ("--speculative-num-steps", "--speculative-eagle-topk", "--speculative-num-draft-tokens"), int
    )
    known |= {"--speculative-adaptive-config": str}
    switches = ("--speculative-adaptive",)
    tree = Setting({"steps": 4, "topk": 10, "draft-tokens": 32}, StaticDepth(4), 32)
    read = parsed(SGLANG.line(tree, TABLE, "some/HEAD", "eagle3"), known, switches)
    assert read == {
        "speculative_algorithm": "EAGLE3",
        "speculative_draft_model_path": "some/HEAD",
        "speculative_num_steps": 4,
        "speculative_eagle_topk": 10,
        "speculative_num_draft_tokens": 32,
        "speculative_adaptive": False,
        "speculative_adaptive_config": None,
    }
    chain = Setting({"steps": 5, "topk": 1, "draft-tokens": 6}, StaticDepth(5), 6)
    read = parsed(SGLANG.line(chain, TABLE[:-1], "HEAD", "eagle2"), known, switches)
    assert (read["speculative_algorithm"], read["speculative_adaptive"]) == ("EAGLE", True)
    assert read["speculative_adaptive_config"] == "adaptive.json"
    assert "adaptive" not in SGLANG.line(chain, TABLE[:2], "HEAD", "eagle3")
    assert adaptive_config(TABLE[:-1]) == {
        "1": {"candidate_steps": [5]},
        "4": {"candidate_steps": [3]},
        "8": {"candidate_steps": [1]},
    }


def test_llama_cpp_reads_its_draft_flags() -> None:
    setting = Setting({"n-max": 6, "n-min": 2, "p-min": 0.35}, RenormalisedChain(0.35, most=6), 9, True, 2)
    known = dict.fromkeys(("--spec-type", "--spec-draft-model"), str)
    known |= {"--spec-draft-n-max": int, "--spec-draft-n-min": int, "--spec-draft-p-min": float}
    assert parsed(LLAMA_CPP.line(setting, (), "some/HEAD", "eagle3"), known) == {
        "spec_type": "draft-eagle3",
        "spec_draft_model": "HEAD.gguf",
        "spec_draft_n_max": 6,
        "spec_draft_n_min": 2,
        "spec_draft_p_min": 0.35,
    }


def test_transformers_takes_the_assistants_generation_config() -> None:
    values = {"num_assistant_tokens": 7, "assistant_confidence_threshold": 0.45}
    line = TRANSFORMERS.line(Setting(values, DraftChain(0.45, most=7), 9), (), "HEAD", "eagle3")
    call = line.removeprefix("assistant.generation_config.update")
    config = GenerationConfig()
    assert eval(f"config.update{call}", {"config": config}) == {}  # what it does not know, it returns
    assert (config.num_assistant_tokens, config.assistant_confidence_threshold) == (7, 0.45)
    assert config.num_assistant_tokens_schedule == "constant"


def test_every_flag_has_a_meaning_and_a_source() -> None:
    for server in SERVERS.values():
        assert server.flags
        for flag in server.flags:
            assert len(flag.meaning) > 10
            assert flag.source.startswith("https://")
        made = TraceSettings("target@0", "draft@0", top_k=1, tree_size=9)
        line = server.line(next(server.settings(made, server.features)), [(1, 2), (2, 1)], "HEAD", "eagle3")
        assert all(flag.name in line for flag in server.flags)


def test_a_table_without_sizes_has_no_ranges() -> None:
    assert ranges([]) == []
    assert ranges([(1, 4), (2, 4), (4, 4)]) == [(1, 4, 4)]
