"""Training-time test feeds the head exactly what drafting feeds it."""

from pathlib import Path

import torch

from radar_rl.speculative import load_pair
from radar_rl.speculative.draft_call import LiveSlots
from radar_rl.speculative.heads import DraftCache
from radar_rl.speculative.target import TargetCache
from radar_rl.speculative.tree import TreeGrowth
from radar_rl.zoo.head import training_time_test


def test_each_step_gives_the_outputs_that_drafting_the_text_itself_gives(tiny_pair: tuple[Path, Path]) -> None:
    pair = load_pair(*tiny_pair)
    tokens = torch.randint(0, 32, (20,), generator=torch.Generator().manual_seed(0)) * 2  # the draft vocabulary
    unroll, root = 4, 9
    with torch.inference_mode():
        _, features = pair.target.extend(tokens, TargetCache(pair.target.model, 20))
        trained = [hidden[0] for hidden, _ in training_time_test(pair.head, features[None], tokens[None], unroll)]
        cache = DraftCache(pair.head, 20)
        committed = cache.extend(pair.head, features[None, :root], tokens[None, 1 : root + 1], [root])[0]
        torch.testing.assert_close(committed, trained[0][:root], atol=1e-5, rtol=1e-4)
        growth = TreeGrowth(
            pair.head, LiveSlots(cache), torch.tensor([root]), committed[-1:], top_k=1, max_depth=unroll
        )
        for step in range(1, unroll):
            growth.beam_tokens[:] = tokens[root + step]  # the chain drafts the text itself
            growth.grow()
            torch.testing.assert_close(growth.hidden[0, 0], trained[step][root - 1], atol=1e-5, rtol=1e-4)
