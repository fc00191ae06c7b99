"""d3rlpy, imported quietly: the one place it enters, so that its import notices and log lines do not reach users."""

import contextlib
import io
import logging
import warnings

import structlog

# d3rlpy imports the retired gym package, which prints a notice to stderr on import.
with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import d3rlpy

# d3rlpy configures structlog to print every epoch; the curve and the progress line say that already.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))

__all__ = ["d3rlpy"]
