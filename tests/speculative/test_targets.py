"""Targets of several families, tiny and random: a tree is the texts it holds, and greedy text is ``generate``'s."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, SIZES, VOCABULARY, write_pair
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from radar_rl.errors import CheckpointError, ModelOutputError
from radar_rl.policies import StaticDepth
from radar_rl.runtime import SpeculativeDecoder, autoregressive
from radar_rl.speculative import Pair, load_pair
from radar_rl.speculative.pair import stock_target
from radar_rl.speculative.target import Target, TargetCache


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    torch.manual_seed(0)
    return load_pair(*write_pair(tmp_path, FAMILIES[request.param]()))


def test_a_verified_tree_is_a_forward_for_each_of_its_texts(pair: Pair, tmp_path: Path) -> None:
    stock: Any = stock_target(pair, tmp_path / "target")
    generator = torch.Generator().manual_seed(1)
    prefix = torch.randint(3, VOCABULARY, (20,), generator=generator)
    parents = [0, 0, 0, 1, 1, 2, 3, 6, 7]  # node 0 is the root
    tokens = torch.randint(3, VOCABULARY, (len(parents),), generator=generator)
    paths = [[0]]
    for node in range(1, len(parents)):
        paths.append([*paths[parents[node]], node])
    ancestors = torch.zeros(len(parents), len(parents), dtype=torch.bool)
    for node, path in enumerate(paths):
        ancestors[node, path] = True
    depths = torch.tensor([len(path) - 1 for path in paths])
    with torch.inference_mode():
        cache = TargetCache(pair.target.model, 64)
        pair.target.extend(prefix, cache)
        visible = torch.cat((torch.ones(len(parents), 20, dtype=torch.bool), ancestors), dim=1)
        hidden, features = pair.target.forward(tokens[None], 20 + depths[None], visible[None], cache)
        logits = pair.target.logits(hidden)[0]
        for node, path in enumerate(paths):
            text = torch.cat((prefix, tokens[path]))[None]
            one = stock(text, attention_mask=torch.ones_like(text), output_hidden_states=True)
            torch.testing.assert_close(logits[node], one.logits[0, -1], rtol=0, atol=1e-4)
            inputs = [one.hidden_states[layer][0, -1] for layer in pair.target.feature_layers]
            torch.testing.assert_close(features[0, node], torch.cat(inputs), rtol=0, atol=1e-4)


def test_greedy_text_is_that_of_generate_alone_and_in_a_batch(pair: Pair, tmp_path: Path) -> None:
    decoder = SpeculativeDecoder(pair, StaticDepth(4), max_depth=4, top_k=4, tree_size=16)
    stock: Any = stock_target(pair, tmp_path / "target")
    prompts = [list(range(start, start + length)) for start, length in ((3, 9), (17, 4), (40, 20))]
    expected = []
    for prompt in prompts:
        given = torch.tensor([prompt])
        text = stock.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=40, do_sample=False)
        expected.append(text[0, len(prompt) :].tolist())
    for prompt, text in zip(prompts, expected, strict=True):
        assert decoder.generate(prompt, max_new_tokens=40).token_ids == text
        assert list(autoregressive(pair, prompt, max_new_tokens=40)) == text
    assert [out.token_ids for out in decoder.generate_batch(prompts, max_new_tokens=40)] == expected


def test_a_sharded_checkpoint_is_the_whole_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = FAMILIES["llama"]()
    whole = load_pair(*write_pair(tmp_path / "whole", model))
    sharded = load_pair(*write_pair(tmp_path / "sharded", model, shard="20KB"))
    assert len(list((tmp_path / "sharded/target").glob("*.safetensors"))) > 2
    for ours, theirs in zip(sharded.target.model.parameters(), whole.target.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_positions_that_move_with_the_text_are_refused(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    with pytest.raises(CheckpointError, match=r"rope type 'dynamic'.*expected default, linear, llama3 or yarn"):
        Target(LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=rope)), eagle3=True)


def test_targets_whose_text_would_not_be_their_own_are_refused(tmp_path: Path) -> None:
    llama = LlamaForCausalLM(LlamaConfig(**SIZES))
    _, head = write_pair(tmp_path, llama)
    shape = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 6, "n_head": 4}
    for model, message in (
        (
            CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25)),
            "cohere: its logits are not .* Known to work",
        ),
        (GPT2LMHeadModel(GPT2Config(**shape)), "expected a decoder-only model of text"),
    ):
        model.save_pretrained(tmp_path / "other")
        with pytest.raises(CheckpointError, match=message):
            load_pair(tmp_path / "other", head)


def test_weights_that_are_not_numbers_are_told_where_they_decode(tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    model.lm_head.weight.data[:] = torch.nan
    pair = load_pair(*write_pair(tmp_path, model))
    with pytest.raises(ModelOutputError):
        list(autoregressive(pair, [3, 4, 5], max_new_tokens=2))
