"""Replay for stable-baselines3 (https://stable-baselines3.readthedocs.io): PPO and the like, online."""

import contextlib
import io
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from radar_rl.envs.vector import DraftTreeReplayVectorEnv
from radar_rl.errors import ConfigError, InputError

# stable-baselines3 imports the retired gym package where there is one, which prints a notice to stderr on import.
with contextlib.redirect_stderr(io.StringIO()):
    import stable_baselines3
    from stable_baselines3.common.vec_env import VecEnv
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

__all__ = ["DraftTreeVecEnv", "stable_baselines3"]

MASKS = "action_masks"  # how sb3-contrib calls the method

Step = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]


class DraftTreeVecEnv(VecEnv):
    """A vector environment as stable-baselines3 wants it, with no environment of its own behind each row.

    Its episodes begin in the step that ended the last one: the observation that comes with ``done`` is the next
    episode's first, and ``infos[i]["terminal_observation"]`` the last one's last. Beside it stands what the environment
    tells of that step (``accepted``, ``tokens_per_second``, …); the dictionaries of other rows are empty, and what is
    told of all of them is in ``infos``, as arrays.

    ```python
    from stable_baselines3 import PPO
    envs = DraftTreeVecEnv(DraftTreeReplayVectorEnv(256, "FOLDER"))
    PPO("MlpPolicy", envs, gamma=1.0).learn(100_000)
    ```

    ``env_method("action_masks")`` is what sb3-contrib's ``MaskablePPO`` asks for.

    Args:
        envs: N texts side by side.

    Attributes:
        envs: the same.
        infos: of the newest step or reset, by key an array [N, …].

    Raises:
        ConfigError: ``envs`` changes its observations in place (``copy=False``): what was learned from would change.
    """

    def __init__(self, envs: DraftTreeReplayVectorEnv) -> None:
        if not envs.copy:
            raise ConfigError("envs: expected copy=True, since learners keep the observations of earlier steps")
        self.envs = envs
        self.infos: dict[str, Any] = {}
        self._actions: NDArray[np.int64] | None = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> NDArray[np.float32]:
        """Begin an episode everywhere, with the seeds and options that ``seed`` and ``set_options`` have left.

        Returns:
            [N, size] float32.

        Raises:
            InputError: options for some of the environments only, an unknown option, or no such text.
        """
        observations, self.infos = self.envs.reset(seed=self._seeds, options=_joined(self._options))
        self.reset_infos = [_told(self.infos, i) for i in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Note the actions, [N]."""
        self._actions = actions

    def step_wait(self) -> Step:
        """Take the step.

        Returns:
            Observations [N, size] float32, rewards [N] float32, dones [N] bool, and a dictionary for each row.

        Raises:
            InputError: no actions were given, or they are not what the environment takes.
        """
        if self._actions is None:
            raise InputError("no actions: call step_async() before step_wait()")
        actions, self._actions = self._actions, None
        observations, rewards, terminated, truncated, self.infos = self.envs.step(actions)
        dones, cut = terminated | truncated, truncated & ~terminated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        ended = np.flatnonzero(dones)
        if len(ended):
            last = observations[ended]
            for i, observation in zip(ended.tolist(), last, strict=True):
                told = _told(self.infos, i)
                infos[i] = told | {"terminal_observation": observation, "TimeLimit.truncated": bool(cut[i])}
                self.reset_infos[i] = {}  # nothing is told of an episode that begins in between
            observations[ended] = self.envs.reset_rows(ended)
        return observations, rewards.astype(np.float32), dones, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions have an effect of their own now: [N, 2] bool, stop and continue."""
        return self.envs.action_mask.astype(np.bool_)

    def close(self) -> None:
        """Let the environments go."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the vector environment, which its rows share, once for each of them.

        Raises:
            AttributeError: it has none of this name.
        """
        rows = self._get_indices(indices)
        if attr_name == MASKS:
            return [partial(self._mask, i) for i in rows]
        value = getattr(self.envs, attr_name)
        return [value for _ in rows]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the vector environment.

        Raises:
            InputError: for some of its rows only, which share it.
        """
        if indices is not None and set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise InputError(f"set_attr: all {self.num_envs} environments share {attr_name}; leave indices out")
        setattr(self.envs, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call ``action_masks`` for some rows: [2] bool each.

        Raises:
            AttributeError: another method; there is no environment behind a row that has it.
        """
        if method_name != MASKS:
            raise AttributeError(f"env_method: expected {MASKS}, got {method_name!r}; the rest is a method of .envs")
        masks = self.action_masks()
        return [masks[i] for i in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """None is: there is nothing to wrap behind a row."""
        return [False for _ in self._get_indices(indices)]

    def _mask(self, i: int) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = self.action_masks()[i]
        return mask


def _told(infos: dict[str, Any], i: int) -> dict[str, Any]:
    """What a vector environment's infos tell of a row."""
    return {key: values[i] for key, values in infos.items() if not key.startswith("_") and infos[f"_{key}"][i]}


def _joined(options: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Options of each row as the vector environment takes them; None: there are none.

    Raises:
        InputError: rows have options of other names.
    """
    names = {frozenset(row) for row in options}
    if len(names) > 1:
        raise InputError(f"options: expected the same ones for every environment, got {sorted(map(sorted, names))}")
    return {name: np.array([row[name] for row in options]) for name in names.pop()} or None
