import numpy as np
import pytest
import torch

from radar_rl.offline.encoder import StandardisedEncoderFactory, encoder_factory


def observations() -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.normal(loc=-8.0, scale=4.0, size=(500, 12)).astype(np.float32)
    values[:, 3] = -10.0  # never varies
    return values


def test_folding_changes_nothing() -> None:
    torch.manual_seed(0)
    data = observations()
    encoder = encoder_factory(data, [16, 8]).create((12,))
    x = data
    for weight, bias in encoder.folded():
        x = np.maximum(x @ weight.T + bias, 0.0)
    np.testing.assert_allclose(x, encoder(torch.from_numpy(data)).detach().numpy(), atol=1e-5)


def test_what_goes_in_is_standardised() -> None:
    data = observations()
    factory = encoder_factory(data, [4])
    scaled = (data - np.array(factory.mean)) / np.array(factory.std)
    np.testing.assert_allclose(np.delete(scaled, 3, axis=1).std(axis=0), 1.0, rtol=1e-3)
    np.testing.assert_allclose(scaled.mean(axis=0), 0.0, atol=1e-3)


def test_the_factory_survives_d3rlpys_configuration_files() -> None:
    factory = encoder_factory(observations(), [16])
    assert StandardisedEncoderFactory.deserialize(factory.serialize()) == factory


def test_observations_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="12"):
        encoder_factory(observations(), [4]).create((13,))
