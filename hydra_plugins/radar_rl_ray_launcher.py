"""A sweep's jobs as plain Ray tasks: ``hydra/launcher=ray``.

PyPI's hydra-ray-launcher (1.2.2) wants a cloudpickle that joblib refuses, cannot attach to a running cluster
unless told so in its own words, and gives the whole sweep up with the first worker that dies. This one has its keys
(``hydra.launcher.ray.init`` and ``.remote``), so that nothing changes for a user on the day it can be used.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from radar_rl.errors import SweepError


class RayLauncher(Launcher):
    """Starts every job as one Ray task and waits for all of them.

    Args:
        ray: ``init`` and ``remote``, the arguments of ``ray.init`` and of ``ray.remote``; see
            configs/hydra/launcher/ray.yaml.
    """

    def __init__(self, ray: DictConfig) -> None:
        self.init = _plain(ray.init)
        self.remote = _plain(ray.remote)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the jobs need."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs and return what came of them, in their order.

        A job whose worker died more often than ``max_retries`` allows, or never began, comes back as failed; the others
        run to their end.
        """
        import ray  # here, because Hydra imports its plugins for every command

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        configs = [self._job(list(job), number) for number, job in enumerate(job_overrides, start=initial_job_idx)]
        if not ray.is_initialized():
            try:
                ray.init(**self.init)  # no shutdown here: at the process's exit Ray waits for the workers' last words
            except ConnectionError as error:
                raise SweepError(f"no Ray cluster at {self.init.get('address')}: {error}") from error
        task = ray.remote(**self.remote)(_run)
        shared = [ray.put(item) for item in (self.context, self.task, Singleton.get_state())]
        running = [
            task.options(name=f"job {config.hydra.job.num}").remote(config, str(Path.cwd()), *shared)
            for config in configs
        ]
        return [_awaited(job, list(overrides)) for job, overrides in zip(running, job_overrides, strict=True)]

    def _job(self, overrides: list[str], number: int) -> DictConfig:
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = f"{config.hydra.job.name}_{number}"
            config.hydra.job.num = number
        return config


def _plain(node: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _run(
    config: DictConfig, folder: str, context: HydraContext, task: TaskFunction, singletons: Mapping[Any, Any]
) -> JobReturn:
    """One job, in a worker: what Hydra's own launchers do in theirs.

    Ray starts workers wherever its daemon was started; relative paths of the configuration mean the folder that the
    sweep was started from.

    Raises:
        SweepError: this machine does not have that folder.
    """
    if not Path(folder).is_dir():
        raise SweepError(f"{socket.gethostname()} has no folder {folder}, which the sweep was started from")
    os.chdir(folder)
    setup_globals()
    Singleton.set_state(singletons)
    HydraConfig.instance().set_config(config)
    return run_job(
        hydra_context=context,
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _awaited(job: Any, overrides: list[str]) -> JobReturn:
    """What came of a task; a failure of Ray's is a failed job and no reason to give the others up."""
    import ray

    try:
        result: JobReturn = ray.get(job)
    except ray.exceptions.RayTaskError as error:
        failure = error.cause if isinstance(error.cause, SweepError) else error
    except ray.exceptions.RayError as error:
        failure = SweepError(f"its worker died: {str(error).splitlines()[0]}")
    else:
        return result
    return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=failure)
