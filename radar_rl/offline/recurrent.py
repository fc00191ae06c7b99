"""RADAR's network for training (arXiv 2512.14069); ``radar_rl.policies.recurrent`` decides with what is trained."""

import torch
from torch import Tensor, nn

from radar_rl.policies.recurrent import RadarPolicy


class RecurrentNetwork(nn.Module):
    """An LSTM over levels, and a perceptron over [LSTM output, state]: parameters named as in the published files.

    Args:
        top_k: numbers in a state.
        lstm_hidden: width of the LSTM.
        mlp_hidden: width of the perceptron.
        dropout: share of the perceptron's hidden units left out in training.
    """

    def __init__(self, top_k: int, lstm_hidden: int, mlp_hidden: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(top_k, lstm_hidden, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(lstm_hidden + top_k, mlp_hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(mlp_hidden, 2)
        )

    def forward(self, states: Tensor) -> Tensor:
        """Logits [stop, continue] after each call: [B, L, top_k] → [B, L, 2]."""
        read, _ = self.lstm(states)
        return torch.as_tensor(self.mlp(torch.cat((read, states), dim=-1)))

    def policy(self, name: str) -> RadarPolicy:
        """The deterministic policy of the weights as they are now.

        Raises:
            ArtifactError: training diverged: the weights are not finite.
        """
        weights = {key: values.detach().numpy().copy() for key, values in self.state_dict().items()}
        return RadarPolicy(name, weights)
