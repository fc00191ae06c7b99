"""``bench soak``: every way is decoded, policies are swapped, and a wrong text or a leak fails it."""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from radar_rl import cli
from radar_rl.benchmarks import soak as module
from radar_rl.benchmarks.relay import Relay
from radar_rl.benchmarks.soak import MEANING, Memory, Soaked, bench_soak, networks, soak
from radar_rl.configs import load
from radar_rl.errors import ConfigError, InputError, LimitError
from radar_rl.policies import ObservationSpec
from radar_rl.runtime import SpeculativeDecoder, autoregressive
from radar_rl.runtime.named import policy_from_string
from radar_rl.speculative import Pair

FILE = load("bench-soak")


def settings(**other: Any) -> dict[str, Any]:
    values = {key: value for key, value in FILE.items() if key != "defaults"} | {"model": load("model", "pocket")}
    return values | {"max_new_tokens": 16, "limit": 50.0} | other


def soaked(tmp_path: Path, **other: Any) -> dict[str, Any]:
    bench_soak(**settings(out=str(tmp_path / "soak.json"), **other))
    figures: dict[str, Any] = json.loads((tmp_path / "soak.json").read_text())
    assert figures["different"] == []
    return figures


def test_fifteen_seconds_of_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    figures = soaked(tmp_path, minutes=0.25)
    printed = capfd.readouterr()
    assert "all are the target's own" in printed.out
    assert "host memory by quarter:" in printed.out
    assert "bench soak: 0.2 of 0.25 min, " in printed.err
    assert set(figures["texts"]) == set(MEANING)
    assert sum(figures["texts"].values()) > 0
    assert len(figures["memory"]) >= 4
    assert {"argv", "started", "commit", "pair", "torch", "policies", "drift_percent"} <= set(figures)
    assert {"static-1", "network-3", "relay"} - set(figures["policies"]) == {"relay"}


@pytest.mark.slow
def test_two_minutes_of_it(tmp_path: Path) -> None:
    figures = soaked(tmp_path, minutes=2.0, max_new_tokens=64, limit=5.0)
    assert min(figures["texts"].values()) > 0
    assert figures["swaps"] > 0


def test_a_policy_may_take_over_within_a_text(pocket: Pair) -> None:
    spec = ObservationSpec(features=("confidences", "depth", "entropy", "log_probs"))
    names = ("static:1", "static:8", "svip:1.1", "p-min:0.3", "ucbspec:8", "plus-two:3")
    relay = Relay([policy_from_string(name) for name in names], spec, random.Random(0))
    ids = pocket.encode_prompt("Name three colours.")
    decoder = SpeculativeDecoder(pocket, relay)
    out = decoder.generate(ids, max_new_tokens=64)
    assert out.token_ids == list(autoregressive(pocket, ids, max_new_tokens=64))
    assert relay.swaps > 2
    assert len({ended.draft_calls for ended in out.rounds}) > 1


def test_a_wrong_text_is_told(pocket: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(pair: Pair, prompt_ids: Sequence[int], **options: Any) -> Iterator[int]:
        for number, token in enumerate(autoregressive(pair, prompt_ids, **options)):
            yield token + (number == 1)

    monkeypatch.setattr(module, "autoregressive", wrong)
    prompts = [pocket.encode_prompt("Two plus two?")]
    found = soak(pocket, prompts, list(networks(0)), minutes=0.001, max_new_tokens=12)
    assert len(found.different) == found.decoded > 0
    with pytest.raises(LimitError, match=r"of \d+ texts are not the target's own; the first: .*Asked\(prompt=0"):
        found.check(2.0)


def test_a_soak_too_short_to_swap_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    done = leaking(500, 500, 500, 500)
    done.texts["one text"] = 2
    monkeypatch.setattr(module, "soak", lambda *_, **__: done)
    monkeypatch.setattr(module, "warm_up", lambda *_: None)
    for swaps, unmet in ((0, ", no policy swapped within a text"), (3, "")):
        done.swaps = swaps
        bench_soak(**settings(minutes=0.05))
        told = capsys.readouterr().err.splitlines()[-1]
        ways = ", ".join(f"no text decoded in the way {way!r}" for way in MEANING if way != "one text")
        assert told == f"bench soak: {ways}{unmet}: not met in 0.05 min; soak longer"
    done.texts = dict.fromkeys(MEANING, 1)
    bench_soak(**settings(minutes=0.05))
    assert "not met" not in capsys.readouterr().err


def leaking(*host: float, device: float = 0.0) -> Soaked:
    return Soaked(1.0, memory=[Memory(float(i), mib, device) for i, mib in enumerate(host)])


def test_memory_must_be_flat_after_the_first_quarter() -> None:
    flat = leaking(100, 300, 500, 500, 505, 500, 503, 503)
    assert flat.quarters("host") == [200, 500, 502.5, 503]
    assert flat.drift("host") == pytest.approx(0.6)
    assert flat.drift("device") == 0
    flat.check(2.0)
    for grown in (leaking(500, 500, 500, 500, 505, 505, 515, 515), leaking(500, 500, 500, 500, 500, 500, 480, 480)):
        with pytest.raises(LimitError, match=r"host memory: expected within ± 2 % .* measured [+-][34]\.0 %"):
            grown.check(2.0)
        grown.check(5.0)
        with pytest.raises(LimitError, match=r"soak for 10 min or longer$"):
            grown.check(2.0)
        grown.minutes = 10.0
        with pytest.raises(LimitError, match=r"%$"):
            grown.check(2.0)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"messages": []}, ConfigError, "messages: expected at least one"),
        ({"policies": []}, ConfigError, "policies: expected at least one"),
        ({"temperatures": []}, ConfigError, "temperatures: expected at least one"),
        ({"minutes": 0.0}, ConfigError, "minutes and limit: expected more than 0"),
        ({"policies": ["statik:1"]}, ConfigError, "statik:1"),
        ({"max_new_tokens": 3}, InputError, "max_new_tokens: expected a whole number ≥ 4"),
        ({"max_new_tokens": 5000}, InputError, "prompt too long"),
    ],
)
def test_what_cannot_soak_is_refused(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bench_soak(**settings(**wrong))


def test_it_is_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "soak", "minutes=0"]) == 2
    assert capsys.readouterr().err.startswith("radar-rl bench soak: minutes and limit")
