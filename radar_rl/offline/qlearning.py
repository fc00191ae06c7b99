"""d3rlpy's algorithms: from settings to one of them, its training, and from a trained one to an exportable policy."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from radar_rl.offline.backend import d3rlpy
from radar_rl.offline.buffer import TransitionBuffer
from radar_rl.offline.data import TrainingData, sample_observations
from radar_rl.offline.discrete_iql import DiscreteIQLConfig
from radar_rl.offline.divergence import watched
from radar_rl.offline.encoder import StandardisedEncoderFactory, encoder_factory
from radar_rl.offline.fit import EPOCHS, Fitted, Progress, Training, one_thread
from radar_rl.offline.greedy import greedy_layers
from radar_rl.policies.learned import LearnedPolicy
from radar_rl.policies.observation import ObservationSpec
from radar_rl.progress import track

# Tokens are multiplied by this before learning. d3rlpy's discrete Q-functions minimise a Huber loss, quadratic only up
# to an error of 1; rewards spread over several tokens, skewed, and beyond 1 it would learn something like their median.
REWARD_SCALE = 0.1

# γ = 1: with texts as episodes the return is emitted − λ · seconds, undiscounted (DESIGN §3.4).
GAMMA = 1.0

# They regress on actions and look at no next state.
IMITATORS = ("bc",)


# What each is made of, and what is fixed about it. BCQ: one body for Q and imitator, so that a decision costs one
# network's microseconds.
CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "cql": (d3rlpy.algos.DiscreteCQLConfig, {}),
    "iql": (DiscreteIQLConfig, {}),
    "bc": (d3rlpy.algos.DiscreteBCConfig, {}),
    "bcq": (d3rlpy.algos.DiscreteBCQConfig, {"share_encoder": True}),
    "ddqn": (d3rlpy.algos.DoubleDQNConfig, {}),
}

# IQL's config names its networks, where the others' speaks of one.
IQL_NETWORKS = {"learning_rate": ("actor", "critic"), "optim_factory": ("actor", "critic")}


def fit_qlearning(data: TrainingData, settings: Mapping[str, Any], training: Training) -> Fitted:
    """Train one of d3rlpy's algorithms in its own loop, over a buffer priced at λ; a ``Learner``.

    Raises:
        ConfigError: training diverged (a loss is not finite; names it).
    """
    d3rlpy.seed(training.seed)
    progress = Progress(settings["name"], data, training)
    bootstraps = settings["name"] not in IMITATORS
    buffer = TransitionBuffer(data.source, data.transitions(progress.rate), training.seed, bootstraps)
    encoder = encoder_factory(sample_observations(data, buffer.transitions, training.seed), settings["hidden"])
    steps = training.per_epoch * EPOCHS
    algorithm = make_algorithm(settings, encoder, training.batch_size, steps)
    label = f"training {settings['name']}"
    epochs = algorithm.fitter(
        buffer,
        n_steps=steps,
        n_steps_per_epoch=training.per_epoch,
        experiment_name=settings["name"],
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )

    with one_thread():
        for epoch, losses in track(watched(epochs, algorithm, f"algo={settings['name']}"), total=EPOCHS, label=label):
            if progress.add(epoch, losses, lambda: learned_policy(algorithm, data.spec, settings["name"])):
                buffer.replace(data.transitions(progress.rate))
    return Fitted(progress.policy, algorithm, progress.curve, progress.rate, len(buffer.transitions))


def make_algorithm(
    settings: Mapping[str, Any], encoder: StandardisedEncoderFactory, batch_size: int, steps: int
) -> Any:
    """A d3rlpy algorithm, not yet built.

    Args:
        settings: the algorithm, as ``settings_of`` returns it.
        encoder: the body of every network but IQL's critics, which have their own widths.
        batch_size: transitions per update.
        steps: updates to come; the learning rate falls to zero over them along a cosine, so that what is exported is
            not the last swing of the optimiser.
    """
    own = {key: value for key, value in settings.items() if key not in ("name", "hidden", "critic_hidden")}
    if "weight_temp" in own:
        own["weight_temp"] /= REWARD_SCALE  # advantages arrive scaled; the temperature is meant per token
    schedule = d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=steps)
    own["optim_factory"] = d3rlpy.optimizers.AdamWFactory(
        clip_grad_norm=1.0, lr_scheduler_factory=schedule, weight_decay=own.pop("weight_decay")
    )
    if settings["name"] == "iql":
        shared = {key: own.pop(key) for key in IQL_NETWORKS}
        own |= {f"{network}_{key}": shared[key] for key, networks in IQL_NETWORKS.items() for network in networks}
        own["actor_encoder_factory"] = encoder
        critic = replace(encoder, hidden_units=list(settings["critic_hidden"]))
        own["critic_encoder_factory"] = own["value_encoder_factory"] = critic
    else:
        own["encoder_factory"] = encoder
    config, fixed = CONFIGS[settings["name"]]
    scaler = d3rlpy.preprocessing.MultiplyRewardScaler(REWARD_SCALE)
    return config(batch_size=batch_size, gamma=GAMMA, reward_scaler=scaler, **fixed, **own).create(device=False)


def learned_policy(algorithm: Any, spec: ObservationSpec, name: str) -> LearnedPolicy:
    """The greedy policy of a trained algorithm, standardisation folded into the first layer.

    Args:
        algorithm: a built d3rlpy algorithm of ``make_algorithm``.
        spec: the observation it was trained on.
        name: how tables call the policy.

    Raises:
        ArtifactError: training diverged: the weights are not finite.
    """
    return LearnedPolicy(name, spec, greedy_layers(algorithm))
