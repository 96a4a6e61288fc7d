"""One order for the same support, whatever order it came in and whatever its classes are called."""

import torch
from torch import Tensor

from learning.types import LabelledSet


def canonical(data: LabelledSet) -> tuple[LabelledSet, Tensor]:
    """`data` ordered by its inputs' content with classes in order of appearance, and the original row of each row.

    Copies of one input are ordered by their labels.
    """
    keys, labels = data.inputs.keys(), data.labels_N.tolist()
    if not data.classes:
        order_S = torch.tensor(sorted(range(len(data)), key=lambda row: (keys[row], labels[row])))
        return data.select(order_S), order_S
    names = [data.classes[label] for label in labels]
    order_S = torch.tensor(sorted(range(len(data)), key=lambda row: (keys[row], names[row])))
    ordered = data.select(order_S)
    classes = tuple(dict.fromkeys(names[row] for row in order_S.tolist()))
    position = {name: i for i, name in enumerate(classes)}
    labels_S = torch.tensor([position[names[row]] for row in order_S.tolist()])
    return LabelledSet(inputs=ordered.inputs, labels_N=labels_S, classes=classes), order_S
