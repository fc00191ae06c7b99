"""Hydra's own sweeper raises the first error of a job and forgets the others: this one names them all, at the end."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from radar_rl import settings
from radar_rl.errors import RadarError, SweepError


class Sweeper(BasicSweeper):
    """Every combination of the values, whatever became of the others.

    Values on the command line take the place of those that a configuration sweeps over (``hydra.sweeper.params``).
    """

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs.

        Raises:
            SweepError: some of them failed; it holds all that did.
        """
        assert self.launcher is not None
        given = settings.written_keys(arguments)
        self.params = {key: values for key, values in self.params.items() if key not in given}
        self.launcher = launcher = _Gathering(self.launcher)
        results = super().sweep(arguments)
        if launcher.failed:
            keys = settings.swept_keys(arguments) | set(self.params)
            failures = [(settings.job_name(job.overrides or (), keys), job._return_value) for job in launcher.failed]
            raise SweepError(f"{len(failures)} of {launcher.jobs} jobs failed, the others are done", failures)
        return results


class _Gathering(Launcher):
    """A launcher that hands on what succeeded and keeps what failed."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self.failed: list[JobReturn] = []
        self.jobs = 0

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        self.jobs += len(job_overrides)
        try:
            results = self.launcher.launch(job_overrides, initial_job_idx)
        except (HydraException, OmegaConfBaseException, RadarError, ImportError):
            raise
        except Exception as error:
            # Jobs return their errors: this is an engine's own, such as joblib's when the system killed a worker.
            first = next(iter(str(error).splitlines()), "")
            raise SweepError(f"the launcher gave up: {type(error).__name__}: {first}") from error
        self.failed += [result for result in results if result.status == JobStatus.FAILED]
        return [result for result in results if result.status != JobStatus.FAILED]
