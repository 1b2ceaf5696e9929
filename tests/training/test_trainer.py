"""What the trainer promises beyond resuming (test_resume.py) and whole runs (test_run.py)."""

import pytest
import torch
from torch import nn

from ader.methods._base import Method, Prediction, TrainStage
from ader.training.cost import RandomImages
from ader.training.trainer import Trainer


class TwoUpdates(Method):
    """Minimizes the same loss twice per batch and keeps both values."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)
        self.seen = []

    def stages(self):
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.5)
        yield TrainStage(
            name="train", batch_size=2, step=self.step, optimizers={"net": optimizer}, modules=[self.net], steps=1
        )

    def step(self, batch, optimize):
        losses = []
        for _ in range(2):
            loss = self.net(batch.image_BCHW.mean(dim=(2, 3))).float().square().mean()
            optimize(loss)
            losses.append(loss.detach())
        self.seen = [float(loss) for loss in losses]
        return {"loss": losses[-1]}

    def predict(self, image_BCHW):
        score_B = self.net(image_BCHW.mean(dim=(2, 3)))[:, 0]
        return Prediction(score_B, score_B[:, None, None].expand(-1, *image_BCHW.shape[2:]))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_second_update_of_a_step_sees_the_first(precision):
    """Autocast keeps weights it has converted; a second forward pass in one step must not use the old ones."""
    torch.manual_seed(0)
    method, device = TwoUpdates(), torch.device("cpu")
    Trainer(device=device, precision=precision).fit(method, RandomImages(32, 1, device, method.tags))
    first, second = method.seen
    assert second < 0.9 * first
