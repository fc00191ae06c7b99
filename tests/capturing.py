"""What a CUDA graph does, on any device."""

from collections.abc import Callable

from radar_rl.speculative.graphs import Outputs


class Capturing:
    """Captures on a CPU: the function of the first call runs again on the inputs and into the outputs of that call.

    Attributes:
        captures, replays: how many.
    """

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, function: Callable[[], Outputs]) -> tuple[Callable[[], object], Outputs]:
        """See ``radar_rl.speculative.graphs.Capture``."""
        self.captures += 1
        outputs = tuple(output.clone() for output in function())

        def replay() -> None:
            self.replays += 1
            for into, output in zip(outputs, function(), strict=True):
                into.copy_(output)

        return replay, outputs
