"""Label recovery from updates of which defences left something out."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from adversary import labels as rules
from adversary.defended import View


def label_rule(rule: rules.LabelRule, seen: View, network: nn.Module, classes: int) -> rules.LabelRule:
    """A rule that reads labels from what still tells.

    - With the last layer withheld, labels are searched for along with the images.
    - With its bias withheld, or sparsified at random, the rows of its weight tell in the bias's place.
    - Where the scale is lost, ``counts`` gives way to ``bias_corrected``, which needs none.

    Args:
        rule: of the attack without knowledge of the defences.
        seen: of the observation that labels are read from.
        network: to find its last layer.
        classes: outputs of that layer.
    """
    found = [n for n, m in network.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    if rule in (rules.given, rules.optimised) or not found:
        return rule
    bias, weight = (f"{found[-1]}.{tensor}".removeprefix(".") for tensor in ("bias", "weight"))
    if seen.silent(weight) and (seen.silent(bias) or bias not in seen.told):
        return rules.optimised
    if (rule is rules.counts and not seen.scaled) or (rule is rules.yin and seen.silent(weight)):
        rule = rules.bias_corrected
    fill = seen.at_random and bias in seen.told and not bool(seen.told[bias].all())
    if not seen.silent(bias) and seen.factor == 1 and not fill:
        return rule
    read = rule

    def from_what_tells(evidence: rules.Evidence) -> Tensor:
        gradient = {name: g * seen.factor for name, g in evidence.gradient.items()}
        if fill:
            gradient[bias] = filled(gradient[bias], gradient[weight], seen.told[bias], seen.told[weight])
        elif seen.silent(bias):
            gradient.pop(bias, None)
        return read(replace(evidence, gradient=gradient))

    return from_what_tells


def filled(bias: Tensor, weight: Tensor, told_bias: Tensor, told_weight: Tensor) -> Tensor:
    """The bias's gradient with its missing entries from the rows of the weight's, [classes].

    For features a that are not negative, the mean over some entries of row c, ``mean_j (p_c - y_c) a_j``, is near a
    multiple of ``p_c - y_c``, the bias's entry; the multiple is fitted to the classes of which both are there, and is
    1 if there are none.

    Args:
        bias: [classes].
        weight: [classes, features].
        told_bias: bool, the entries that are there.
        told_weight: likewise.
    """
    told_bias, told_weight = told_bias.to(bias.device), told_weight.to(bias.device)
    rows = (weight * told_weight).sum(1) / told_weight.sum(1).clamp_min(1)
    both = told_bias & told_weight.any(1)
    known = (rows * rows)[both].sum()
    multiple = (rows * bias)[both].sum() / known if float(known) > 0 else rows.new_ones(())
    return bias.where(told_bias, multiple * rows)
