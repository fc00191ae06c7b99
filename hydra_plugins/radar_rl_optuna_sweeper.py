"""Settings proposed by Optuna (https://optuna.org): ``hydra/sweeper=optuna``.

PyPI's hydra-optuna-sweeper (1.3.0) holds Optuna below 3, whose storages today's SQLAlchemy refuses. This one
asks Optuna itself, and its study is a file, so that a killed one goes on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from radar_rl import settings
from radar_rl.errors import SweepError

Job = list[str]


class OptunaSweeper(Sweeper):
    """Asks for settings, runs jobs with them, tells what they returned; the larger, the better.

    Args:
        n_trials: jobs that the study is to hold when it ends, those of earlier calls included.
        n_jobs: how many are given to the launcher at a time.
        seed: where the proposals' randomness starts.
        storage: the study's file.
        params: what to sweep over besides the command line.
    """

    def __init__(self, n_trials: int, n_jobs: int, seed: int, storage: str, params: Mapping[str, str]) -> None:
        self.n_trials, self.n_jobs, self.seed, self.storage, self.params = n_trials, n_jobs, seed, storage, dict(params)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run trials until the study holds ``n_trials`` that came to an end.

        Trials that were under way when an earlier call was killed run again first, with the settings that they had.

        Raises:
            SweepError: nothing varies, or some jobs failed; it holds all that did.
        """
        import optuna  # here, because Hydra imports its plugins for every command

        fixed, space = self._parsed(arguments)
        study = self._study(sorted([*fixed, *map(str, space.items())]))
        assert self.config is not None, "Hydra calls setup first"
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        waiting = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
        left = self.n_trials - len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)))
        failures: list[tuple[str, Exception]] = []
        ran = 0
        while ran < left:
            size = min(self.n_jobs, left - ran)
            trials, waiting = [*waiting[:size]], waiting[size:]
            trials += [study.ask(space) for _ in range(size - len(trials))]
            jobs = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in trials]
            self.validate_batch_is_legal(jobs)
            results = self.launcher.launch(jobs, initial_job_idx=ran)
            for trial, job, result in zip(trials, jobs, results, strict=True):
                failure = _failure(result)
                if failure is None:
                    study.tell(trial.number, float(result.return_value))
                else:
                    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                    failures.append((settings.job_name(job, set(space)), failure))
            ran += size
        if study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
            best = study.best_trial
            chosen = " ".join(f"{key}={value}" for key, value in best.params.items())
            print(f"optuna: best of {len(study.trials)} trials: {best.value:.4g} with {chosen}")
        if failures:
            raise SweepError(f"{len(failures)} of {ran} jobs failed, the others are done", failures)
        return None

    def _parsed(self, arguments: list[str]) -> tuple[Job, dict[str, Any]]:
        """What all jobs have in common, and the distribution of each key that varies."""
        written = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        pairs = {pair.get_key_element(): pair for pair in OverridesParser.create().parse_overrides(written)}
        space = {key: _distribution(pair) for key, pair in pairs.items() if pair.is_sweep_override()}
        if not space:
            raise SweepError("nothing varies: give a key several values, key=a,b, or a range, 'key=interval(0,1)'")
        fixed = [f"{key}={pair.get_value_element_as_str()}" for key, pair in pairs.items() if key not in space]
        return fixed, space

    def _study(self, about: Sequence[str]) -> Any:
        """The study of these settings in the file, begun if there is none."""
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file = Path(self.storage)
        file.parent.mkdir(parents=True, exist_ok=True)
        backend = JournalFileBackend(str(file))
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="\n".join(text for text in about if not text.startswith("out=")),
            direction="maximize",
            load_if_exists=True,
        )
        # A study that goes on must not propose what it began with.
        study.sampler = optuna.samplers.TPESampler(seed=self.seed + len(study.trials))
        return study


def _distribution(pair: Override) -> Any:
    """What Optuna draws a key's value from: ``a,b``, ``range(…)``, ``interval(…)`` and ``tag(log, interval(…))``."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep = pair.value()
    if not isinstance(sweep, IntervalSweep):
        return CategoricalDistribution(list(pair.sweep_string_iterator()))
    assert sweep.start is not None, "Hydra's grammar asks for both ends"
    assert sweep.end is not None, "Hydra's grammar asks for both ends"
    log = "log" in sweep.tags
    if isinstance(sweep.start, int) and isinstance(sweep.end, int):
        return IntDistribution(sweep.start, sweep.end, log=log)
    return FloatDistribution(sweep.start, sweep.end, log=log)


def _failure(result: JobReturn) -> Exception | None:
    """Why a job tells nothing to maximise; None if it does."""
    if result.status == JobStatus.FAILED:
        failure = result._return_value
        return failure if isinstance(failure, Exception) else SweepError(str(failure))
    if not isinstance(result.return_value, int | float):
        return SweepError("it tells nothing to maximise; train does with validation=0.2 or another share")
    return None
