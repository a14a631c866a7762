"""Words of the report and columns of its table, for those who have not met them; what to cite."""

from __future__ import annotations

WORDS = (
    (
        "Neural tangent kernel (NTK)",
        "A number for each pair of images that tells how strongly training a very wide network "
        "on one of them changes its answer for the other. It follows from the network's layers "
        "alone, so that nothing is trained to compute it.",
    ),
    (
        "Gram matrix",
        "The table of these numbers for all pairs of images, N rows by N columns. Everything in "
        "this report is read off it and the labels.",
    ),
    (
        "L(Z), the label error",
        "Z sums the inverse of the Gram matrix over pairs of classes, and L(Z) is its mean within "
        "classes less that between them. The better labels go with what the kernel finds alike, "
        "the lower it is.",
    ),
    (
        "Ridge",
        "A small number added to the diagonal of the Gram matrix, so that single images are not "
        "fitted exactly. It is given relative to the mean of the diagonal; a larger one trusts "
        "single labels less.",
    ),
    (
        "Label quality",
        "The probability that a label is right, given what all other images and their labels say "
        "about this one. Below one half it is more probably wrong than right.",
    ),
    (
        "Leave-one-out accuracy",
        "The share of the given labels that are predicted right from all other images and their "
        "labels, an image's own label left out. It is held against chance: always naming the "
        "largest class. Wrong labels lower it as errors of the kernel do.",
    ),
    (
        "Symmetric and class-conditional noise",
        "Two models of how labels go wrong. Symmetric: a label is wrong equally often in every "
        "class, and then names any other class equally often. Class-conditional: how often each "
        "class is taken for each other one is estimated, a K by K matrix.",
    ),
    (
        "Expected precision",
        "The share of the flagged labels that are expected to be wrong: the mean of one less "
        "their quality. It is the model's own estimate, and needs no true labels.",
    ),
    (
        "Verdict",
        "How far to trust what is said about labels. Reliable: the kernel sees the classes well "
        "enough to tell its own errors from wrong labels. Weak: only the surest labels are "
        "flagged. Cannot judge: none is flagged and none is called clean.",
    ),
)

# of labels.csv
COLUMNS = (
    (("index",), "Which image of the run, counted from 0."),
    (("file",), "Its file, where the images came from files."),
    (("given_label", "given_class"), "The label it has, as a number from 0 and as a name."),
    (
        ("suggested_label", "suggested_class"),
        "The label suggested instead; the given one where nothing speaks for a change, or where "
        "no other class is more probable.",
    ),
    (
        ("label_quality",),
        "The probability that the given label is right, 0 to 1. The table is sorted by it, the "
        "lowest first. With the verdict cannot judge it is an order and no probability.",
    ),
    (
        ("is_label_issue",),
        "True where the label is flagged: it is more probably wrong than right, and the verdict "
        "lets labels be flagged.",
    ),
    (
        ("abstained",),
        "True where no class reaches the probability that the setting labels.confidence asks for.",
    ),
    (
        ("round",),
        "At which step the label was last changed, from 1; -1 where it never was. The method "
        "posterior decides all labels at once: there it is the rank of the change, 1 for the "
        "surest.",
    ),
    (
        ("delta_loss",),
        "How much that change altered the label error L(Z), below 0 where the labels fit the "
        "kernel better after it; empty where nothing was changed. With the method posterior it is "
        "the change that this label alone makes in the given labels.",
    ),
    (
        ("probability_CLASS",),
        "The probability of a class by all images but this one; a column for each class, where "
        "the setting labels.probabilities asks for them.",
    ),
)

CITE = (
    (
        "the kernel",
        "Jacot, Gabriel and Hongler 2018, Neural Tangent Kernel: Convergence and Generalization in "
        "Neural Networks, NeurIPS; for convolutions Arora et al. 2019, On Exact Computation with "
        "an Infinitely Wide Neural Net, NeurIPS",
    ),
    ("the label error L(Z) and its descent", "DeOliveira et al. 2025"),
)
