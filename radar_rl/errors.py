"""The named errors: each says what was expected, what came, and what to do. The command line exits with 2 on them."""


class RadarError(Exception):
    """Base of every error that radar-rl raises on purpose."""


class InputError(RadarError, ValueError):
    """A file, a row, a prompt or an argument is not what was expected."""


class ConfigError(RadarError, ValueError):
    """A configuration key or value is unknown or contradictory."""


class CheckpointError(RadarError, ValueError):
    """A checkpoint lacks a tensor, has an unexpected one, or does not fit its partner."""


class TraceError(RadarError, ValueError):
    """A trace or rollout is damaged, incomplete, or was made with other settings than asked for."""


class ArtifactError(RadarError, ValueError):
    """An exported policy is damaged, of an unknown version, or made for another pair or specification."""


class ModelOutputError(RadarError, ArithmeticError):
    """A model returned values that no token may be chosen from (NaN or infinite logits)."""
