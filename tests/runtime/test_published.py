"""RADAR's weight files: read strictly, decoded with, and never unpickled beyond tensors."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from recurrent_weights import make_weights

from radar_rl import cli
from radar_rl.errors import ArtifactError, ConfigError
from radar_rl.policies import RadarPolicy, SampledRadar, StaticDepth
from radar_rl.runtime import SpeculativeDecoder, autoregressive, load_policy, save_policy
from radar_rl.runtime.export import export
from radar_rl.runtime.named import policy_from_string
from radar_rl.speculative import Pair


def write(path: Path, weights: dict[str, np.ndarray]) -> Path:
    torch.save({name: torch.from_numpy(values) for name, values in weights.items()}, path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "mine.pt", make_weights(top_k=10))


def test_a_file_is_a_policy(file: Path, tmp_path: Path) -> None:
    policy = load_policy(file)
    assert isinstance(policy, RadarPolicy)
    assert (policy.name, policy.top_k) == ("radar-mine", 10)
    named = policy_from_string(f"sampled:{file}", seed=5)
    assert isinstance(named, SampledRadar)
    assert named.seed == 5
    for made in (policy, named):
        save_policy(tmp_path / "run", made, {"max_depth": 8})
        export(run=str(tmp_path / "run"), out=str(tmp_path / "out"))
        again = load_policy(tmp_path / "out")
        assert type(again) is type(made)
        assert again.name == made.name
    assert isinstance(again, SampledRadar)
    assert again.seed == 5
    for name, values in policy.weights.items():
        np.testing.assert_array_equal(again.policy.weights[name], values)


class Danger:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.folder,)


def test_a_pickled_program_is_refused_and_does_not_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    torch.save({"lstm.bias_hh_l0": Danger(str(made))}, tmp_path / "bad.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Danger(str(made)), protocol=2))
    for name in ("bad.pt", "plain.pt"):  # as torch saves, and bare
        with pytest.raises(ArtifactError, match="could run code"):
            load_policy(tmp_path / name)
    assert not made.exists()


def test_bad_files_are_named(tmp_path: Path, file: Path) -> None:
    weights = make_weights(top_k=10)
    lacking = {name: values for name, values in weights.items() if name != "mlp.3.bias"}
    with pytest.raises(ArtifactError, match=r"lacking\.pt.*missing \['mlp.3.bias'\]"):
        load_policy(write(tmp_path / "lacking.pt", lacking))
    with pytest.raises(ArtifactError, match=r"other\.pt.*lstm.weight_hh_l0: expected \[24, 6\], got \[20, 6\]"):
        load_policy(write(tmp_path / "other.pt", weights | {"lstm.weight_hh_l0": weights["lstm.weight_hh_l0"][:20]}))
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(ArtifactError, match="expected a PyTorch state dict, tensors by name; got Tensor"):
        load_policy(tmp_path / "tensor.pt")
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ArtifactError, match=r"mine\.pt: cannot be read|could run code"):
        load_policy(file)
    (tmp_path / "empty.pt").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"empty\.pt"):
        load_policy(tmp_path / "empty.pt")
    with pytest.raises(ConfigError, match="file of RADAR's weights"):
        policy_from_string(str(tmp_path / "nothing.pt"))
    save_policy(tmp_path / "rule", StaticDepth(2), {})
    with pytest.raises(ConfigError, match="only a policy of RADAR's"):
        policy_from_string(f"sampled:{tmp_path / 'rule'}")


def test_another_beam_is_refused_at_the_door(pocket: Pair, file: Path) -> None:
    with pytest.raises(ArtifactError, match="observes top_k 10, this decoder drafts with 4"):
        SpeculativeDecoder(pocket, load_policy(file), top_k=4, strict=True)


@pytest.mark.parametrize("prefix", ["", "sampled:"])
def test_decoding_with_the_published_weights_changes_no_text(reference: Path, pocket: Pair, prefix: str) -> None:
    policy = policy_from_string(f"{prefix}{reference / 'radar' / 'llama3.pt'}")
    prompts = [pocket.encode_prompt(text) for text in ("Name three colours.", "Add 17 and 25.")]
    for widen in (False, True):
        decoder = SpeculativeDecoder(pocket, policy, widen_first_level=widen)
        batch = decoder.generate_batch(prompts, max_new_tokens=24)
        for prompt, beside in zip(prompts, batch, strict=True):
            alone = decoder.generate(prompt, max_new_tokens=24)
            assert alone.token_ids == beside.token_ids == list(autoregressive(pocket, prompt, max_new_tokens=24))
    assert len({ended.draft_calls for out in batch for ended in out.rounds}) > 1


def test_the_command_line_takes_a_file(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = reference / "radar" / "llama3.pt"
    decode = ["decode", f"policy={file}", "max_new_tokens=8", "--prompt", "Name three colours.", "--compare"]
    assert cli.main(decode) == 0
    printed = capsys.readouterr().err
    assert "radar-llama3" in printed
    assert "the text is the same for every row" in " ".join(printed.split())
