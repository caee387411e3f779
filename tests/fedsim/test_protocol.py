"""The vocabulary: plans cross Flower's records without loss, and count their steps."""

import pytest
import torch
from flwr.app import ConfigRecord

from fedsim import models
from fedsim.errors import FedsimError
from fedsim.protocol import Knowledge, Observation, TrainingPlan

PLANS = [
    TrainingPlan(),
    TrainingPlan("fedsgd", batch_size=None, learning_rate=0.3),
    TrainingPlan(local_steps=7, momentum=0.9, weight_decay=1e-4, mode="eval", learning_rate_decay=0.99),
]


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_crosses_a_config_record_without_loss(plan: TrainingPlan) -> None:
    record = plan.to_config()
    record["server-round"] = 3  # as Flower's strategies add it
    assert TrainingPlan.from_config(record) == plan


def test_a_message_without_plan_is_explained() -> None:
    with pytest.raises(FedsimError, match="no training plan"):
        TrainingPlan.from_config(ConfigRecord({"lr": 0.1}))


def test_steps() -> None:
    assert TrainingPlan(local_epochs=3, batch_size=4).steps(10) == 9  # 4 + 4 + 2 a pass
    assert TrainingPlan(local_epochs=3, batch_size=None).steps(10) == 3
    assert TrainingPlan(local_steps=5, batch_size=4).steps(10) == 5
    assert TrainingPlan("fedsgd", local_epochs=3, batch_size=4).steps(10) == 1


def test_an_update_is_a_positive_multiple_of_a_gradient() -> None:
    gradient = torch.tensor([1.0, -2.0])
    weights = torch.tensor([0.5, 0.5])
    model = Observation(1, 0, {"w": weights}, {"w": weights - 0.1 * gradient}, "model", 4)
    same = Observation(1, 0, {"w": weights}, {"w": gradient}, "gradient", 4)
    assert torch.allclose(model.update(["w"])[0], 0.1 * same.update(["w"])[0])


def test_normalisation_is_undone_and_clamped() -> None:
    knowledge = Knowledge(lambda: models.build("mlp", (3, 2, 2), 2), (3, 2, 2), 2, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    images = torch.rand(4, 3, 2, 2)
    assert torch.allclose(knowledge.denormalise(knowledge.normalise(images)), images, atol=1e-6)
    assert float(knowledge.denormalise(torch.full((1, 3, 2, 2), 9.0)).max()) == 1.0
