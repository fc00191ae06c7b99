"""Learning a stop policy from traces or rollouts: walks, transitions, d3rlpy algorithms, training."""
