"""Label recovery: what the last layer's gradient says about the labels of a batch.

With the mean cross-entropy over B samples, softmax outputs p and the last layer ``z = W a + b``:

    grad b_c = mean_i p_ic - n_c / B          grad W_c = mean_i (p_ic - 1[y_i = c]) a_i

where ``n_c`` counts the samples of class c. Each rule maps ``Evidence`` to labels, int64 [N], in ascending
order: an update says nothing about the order of its samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from adversary.network import Weights, gradients_behind, logits, place
from fedsim.errors import FedsimError
from fedsim.protocol import Knowledge, Observation

LabelRule = Callable[["Evidence"], Tensor]

_DUMMY_IMAGES = 64
_PATH_POINTS = 5


@dataclass(frozen=True)
class Evidence:
    """What a label rule may look at.

    Attributes:
        observation: of the victim.
        knowledge: of the adversary.
        network: in the client's mode.
        weights: those sent, on the device.
        gradient: the update as a mean gradient, by name; its positive scale is unknown where no plan was sent.
        generator: for rules that draw.
    """

    observation: Observation
    knowledge: Knowledge
    network: nn.Module
    weights: Weights
    gradient: Mapping[str, Tensor]
    generator: torch.Generator

    @classmethod
    def of(
        cls,
        observation: Observation,
        knowledge: Knowledge,
        network: nn.Module,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> Evidence:
        """Evidence in one observation."""
        weights = place(network, observation.sent, device)
        gradient = dict(zip(weights.names(), gradients_behind(observation, weights), strict=True))
        return cls(observation, knowledge, network, weights, gradient, generator)

    @property
    def examples(self) -> int:
        """Labels to recover."""
        return self.observation.examples

    @property
    def scaled(self) -> bool:
        """Whether the gradient's scale is known, not only its direction."""
        return self.observation.kind == "gradient" or self.observation.plan is not None

    @property
    def steps(self) -> int:
        """Local steps behind the update; 1 where unknown."""
        plan = self.observation.plan
        return 1 if plan is None or self.observation.kind == "gradient" else plan.steps(self.examples)

    def last_layer(self) -> tuple[str, nn.Linear]:
        """Name and module of the last linear layer, which gives the logits.

        Raises:
            FedsimError: the network has no linear layer with one output a class.
        """
        found = [
            (name, module)
            for name, module in self.network.named_modules()
            if isinstance(module, nn.Linear) and module.out_features == self.knowledge.classes
        ]
        if not found:
            raise FedsimError(
                f"The network has no linear layer with {self.knowledge.classes} outputs, from which labels are read. "
                "Choose labels = 'optimised', or grant the labels and choose labels = 'given'."
            )
        return found[-1]

    def weight_gradient(self) -> Tensor:
        """Of the last layer, [classes, features]."""
        return self.gradient[self._qualified("weight")]

    def bias_gradient(self) -> Tensor | None:
        """Of the last layer, [classes]; ``None`` if it has no bias."""
        return self.gradient.get(self._qualified("bias"))

    def class_signal(self) -> Tensor:
        """One number a class, the more negative the more of its samples: bias gradient, else row sums of W's.

        Row sums need features that are not negative (iDLG).
        """
        bias = self.bias_gradient()
        return self.weight_gradient().sum(dim=1) if bias is None else bias

    def _qualified(self, tensor: str) -> str:
        name, _ = self.last_layer()
        return f"{name}.{tensor}" if name else tensor


def idlg(evidence: Evidence) -> Tensor:
    """The one class whose gradient is negative (iDLG, Zhao et al. 2020, arXiv:2001.02610, section 3.1).

    Of the bias, where any activation will do; without a bias, of the row sums of the weight.

    Raises:
        FedsimError: the update rests on more than one example.
    """
    if evidence.examples != 1:
        raise FedsimError(
            f"Label rule 'idlg' reads the label of one example, but the update rests on {evidence.examples}. "
            "Choose labels = 'counts'."
        )
    return evidence.class_signal().argmin().view(1).cpu()


def yin(evidence: Evidence) -> Tensor:
    """The B classes whose rows of the weight gradient reach lowest (GradInversion, arXiv:2104.07586, equation 6).

    Assumes that no label occurs twice and that features are not negative. With more samples than
    classes the order of classes is gone through again.
    """
    order = evidence.weight_gradient().amin(dim=1).argsort()
    return order.repeat(-(-evidence.examples // len(order)))[: evidence.examples].sort().values.cpu()


def bias_corrected(evidence: Evidence) -> Tensor:
    """Negative entries once each, then greedily, correcting for what was taken (breaching's ``bias-corrected``).

    Needs no scale, hence serves where the learning rate is unknown; fails once B exceeds the classes.
    """
    signal = evidence.class_signal().clone()
    negative = signal < 0
    taken = signal.argsort()[: min(int(negative.sum()), evidence.examples)].tolist()
    impact = signal[negative].sum() / evidence.examples
    signal[taken] -= impact
    while len(taken) < evidence.examples:
        chosen = int(signal.argmin())
        taken.append(chosen)
        signal[chosen] -= impact
    return torch.tensor(taken).sort().values


def counts(evidence: Evidence) -> Tensor:
    """Counts of each class, ``n_c = B (p_c - grad b_c)``, p estimated on noise; exact facts take precedence.

    Without a bias, ``n_c = B (p_c - sum_j grad W_cj / O)`` with O the mean sum of the features (Dimitrov et
    al. 2022, arXiv:2206.12395, section 4.2); p and O come from N(0, 1) inputs, averaged for an update of several steps
    along the line from the weights sent to those received. As p is not negative, ``n_c >= -B grad b_c``
    holds whatever the data; these labels are set first, so that one sample is read as iDLG does. Near exact
    on fresh and briefly trained networks; outputs on noise say less of a network that has learned. Where
    the gradient's scale is unknown this is ``bias_corrected``.
    """
    if not evidence.scaled:
        return bias_corrected(evidence)
    n, bias = evidence.examples, evidence.bias_gradient()
    least = torch.zeros(evidence.knowledge.classes, dtype=torch.int64)
    if bias is not None:
        # A margin for rounding errors of the gradient, far below one sample.
        bound = -n * bias.detach().cpu() - 1e-4
        # Over several steps samples of smaller batches weigh more, so that only whole samples are certain.
        least = torch.nan_to_num(bound.ceil() if evidence.steps == 1 else bound.floor()).clamp(0, n).long()
        if evidence.observation.kind == "gradient":  # a negative entry, however small, takes a sample of its class
            least = torch.maximum(least, (bias < 0).long().cpu())
        if int(least.sum()) == n:  # nothing is left to estimate
            return labels_from_counts(least)
    probability, feature_sum = _on_noise(evidence)
    deviation = evidence.weight_gradient().sum(dim=1).cpu() / feature_sum if bias is None else bias.detach().cpu()
    return labels_from_counts(round_counts(n * (probability - deviation), least, n))


def given(evidence: Evidence) -> Tensor:
    """The true labels, where the threat model grants them."""
    if evidence.knowledge.labels is None:
        raise FedsimError("Label rule 'given' needs the labels. Grant 'labels' in the attack's knowledge.")
    return evidence.knowledge.labels.long().cpu()


def optimised(evidence: Evidence) -> Tensor:
    """Soft labels searched for together with the images (DLG); here the uniform start's place holder.

    An inversion that finds this rule draws label logits from N(0, 1) and optimises them; called as a
    rule, it knows nothing and answers class 0.
    """
    return torch.zeros(evidence.examples, dtype=torch.int64)


LABEL_RULES: dict[str, LabelRule] = {
    "counts": counts,
    "bias_corrected": bias_corrected,
    "yin": yin,
    "idlg": idlg,
    "given": given,
    "optimised": optimised,
}
"""Label rules by the name that configurations use."""


def round_counts(estimate: Tensor, least: Tensor, total: int) -> Tensor:
    """Whole counts near an estimate that add up to ``total``.

    Clamp at ``least``, floor, then add where most is missing or remove where least is.

    Args:
        estimate: [classes].
        least: int64 [classes], counts that are certain; ignored if they exceed the total.
        total: samples.
    """
    if int(least.sum()) > total:
        least = torch.zeros_like(least)
    estimate = torch.nan_to_num(estimate).clamp(-total, total)  # a broken update must not stop the attack here
    whole = torch.maximum(estimate.floor().long(), least)
    while int(whole.sum()) < total:
        whole[(estimate - whole).argmax()] += 1
    while int(whole.sum()) > total:
        gap = torch.where(whole > least, estimate - whole, torch.inf)
        whole[gap.argmin()] -= 1
    return whole


def labels_from_counts(counted: Tensor) -> Tensor:
    """Labels int64 [N], ascending, from counts int64 [classes]."""
    return torch.repeat_interleave(torch.arange(len(counted)), counted)


def _on_noise(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Mean softmax output [classes] and mean sum of the last layer's features on N(0, 1) inputs."""
    noise = torch.randn(_DUMMY_IMAGES, *evidence.knowledge.input_shape, generator=evidence.generator)
    inputs = evidence.knowledge.normalise(evidence.knowledge.denormalise(noise))  # among valid images
    inputs = inputs.to(evidence.weight_gradient().device)
    sums: list[Tensor] = []
    _, layer = evidence.last_layer()
    hook = layer.register_forward_pre_hook(lambda _, features: sums.append(features[0].flatten(1).sum(dim=1).mean()))
    try:
        with torch.no_grad():
            probabilities = [
                functional.softmax(logits(evidence.network, weights, inputs), dim=1).mean(dim=0)
                for weights in _along_the_path(evidence)
            ]
    finally:
        hook.remove()
    return torch.stack(probabilities).mean(dim=0).cpu(), torch.stack(sums).mean().cpu()


def _along_the_path(evidence: Evidence) -> list[Weights]:
    """Weights where the steps of the update began, as if they lay evenly on a line."""
    points = min(evidence.steps, _PATH_POINTS)
    if points == 1:
        return [evidence.weights]
    update = evidence.observation.update(evidence.weights.names())
    return [
        Weights(
            {
                name: sent - change.to(sent.device) * (point / points)
                for (name, sent), change in zip(evidence.weights.parameters.items(), update, strict=True)
            },
            evidence.weights.buffers,
        )
        for point in range(points)
    ]
