"""One round of speculative decoding: target, draft head, draft tree, verification, and the session that runs them."""

from radar_rl.speculative.batch import SpeculativeBatch
from radar_rl.speculative.hardware import HardwareProfile, tree_nodes
from radar_rl.speculative.inflate import InflatedShape, inflate_pair
from radar_rl.speculative.ngram import NgramIndex
from radar_rl.speculative.pair import Pair, load_pair
from radar_rl.speculative.qwen2 import as_qwen2, qwen2_pair
from radar_rl.speculative.sampling import Sampling
from radar_rl.speculative.session import SpeculativeSession
from radar_rl.speculative.state import DraftState
from radar_rl.speculative.text import Round
from radar_rl.speculative.tree import DraftTree

__all__ = [
    "DraftState",
    "DraftTree",
    "HardwareProfile",
    "InflatedShape",
    "NgramIndex",
    "Pair",
    "Round",
    "Sampling",
    "SpeculativeBatch",
    "SpeculativeSession",
    "as_qwen2",
    "inflate_pair",
    "load_pair",
    "qwen2_pair",
    "tree_nodes",
]
