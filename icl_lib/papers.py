"""What the two papers claim and what they published for it, in our words, and where this book tests it."""

from collections.abc import Mapping
from dataclasses import dataclass

# Paper B's loss by L, for d = 5 and noise variance 0.1, omega = 0.13, mu = 3.45 (the released notebooks).
PUBLISHED: Mapping[str, Mapping[int, float]] = {
    "two heads": {10: 0.604, 40: 0.243, 100: 0.164},
    "debiased GD": {10: 0.614, 40: 0.243, 100: 0.163},
    "GD": {10: 0.643, 40: 0.241, 100: 0.162},
    "one head": {10: 0.875, 40: 0.405, 100: 0.284},
    "ridge": {10: 0.194, 40: 0.115, 100: 0.104},
}


def _losses(*names: str) -> str:
    found = [f"{' / '.join(map(str, PUBLISHED[name].values()))} ({name})" for name in names]
    return f"loss at L = {' / '.join(map(str, PUBLISHED[names[0]]))} is {', '.join(found)}"


@dataclass(frozen=True)
class Claim:
    """What a paper claims, in our words, and where this book tests it."""

    id: str
    statement: str
    source: str  # where in the paper
    published: str  # what stands there, in our words
    chapter: str
    figures: tuple[str, ...]  # labels of our figures that show it: the chapter's, then other chapters'


CLAIMS = {
    claim.id: claim
    for claim in (
        Claim(
            "A1",
            "At fixed depth more heads give a lower excess risk, and the gain saturates.",
            "A, Fig. 1",
            "curves of the risk for several H; those of 4 and 8 are close",
            "04_head_counts",
            ("fig-heads-symmetric", "fig-heads-positive"),
        ),
        Claim(
            "A2",
            "In the first layer every head matters; in later layers one head dominates.",
            "A, Fig. 1",
            "a plot of heads masked one at a time",
            "05_head_importance",
            ("fig-importance", "fig-placed-heads"),
        ),
        Claim(
            "A3",
            "All heads in layer 1 and one in each later layer come close to the full model;"
            " one head everywhere does not.",
            "A, Fig. 1 and appendix",
            "curves of the full, the pruned and the single model",
            "06_pruning_probing",
            ("fig-pruning", "fig-allocation"),
        ),
        Claim(
            "A4",
            "Gradient descent on the first layer's features beats the same number of steps on the raw ones.",
            "A, probing",
            "P-probing, with a lower risk than on raw features",
            "06_pruning_probing",
            ("fig-descents",),
        ),
        Claim(
            "A5",
            "For sparse weights preprocess-then-optimize beats gradient descent, ridge and OLS,"
            " and is comparable with the Lasso.",
            "A, theory and figure",
            "a theorem and a plot; the Lasso up to log factors for d ≤ n",
            "02_preprocess_then_optimize",
            ("fig-pto-risk",),
        ),
        Claim(
            "A6",
            "A linear-attention transformer with d heads in layer 1 and one head in each later layer"
            " implements the algorithm.",
            "A, theory",
            "a theorem",
            "03_construction",
            ("fig-layers",),
        ),
        Claim(
            "A7",
            "A1 to A3 hold over depths, noise levels and kinds of attention.",
            "A, appendix",
            "the same plots for 3 to 6 layers and several noise levels",
            "09_robustness",
            ("fig-robustness",),
        ),
        Claim(
            "B1",
            "KQ becomes a multiple of the identity on the covariates and zero elsewhere.",
            "B",
            "omega = ±0.13 with two heads",
            "10_kq_ov_patterns",
            ("fig-kq-ov",),
        ),
        Claim(
            "B2",
            "OV keeps its last entry only, and the heads' entries sum to zero.",
            "B",
            "mu = ±3.45 with two heads",
            "10_kq_ov_patterns",
            ("fig-kq-ov",),
        ),
        Claim(
            "B3",
            "Two heads implement debiased gradient descent.",
            "B",
            _losses("two heads", "debiased GD", "GD"),
            "11_debiased_gd",
            ("fig-loss-by-length", "fig-prompt-by-prompt"),
        ),
        Claim(
            "B4",
            "One head is clearly worse: it is a kernel smoother.",
            "B",
            _losses("one head", "two heads"),
            "11_debiased_gd",
            ("fig-loss-by-length",),
        ),
        Claim(
            "B5",
            "Heads beyond two add nothing: they are copies or dummies.",
            "B",
            "trained H = 2, 4, 8 coincide",
            "10_kq_ov_patterns",
            ("fig-kq-ov", "fig-loss-by-length"),
        ),
        Claim(
            "B6",
            "The risk is within a constant factor of the Bayes predictor's.",
            "B",
            _losses("two heads", "ridge"),
            "11_debiased_gd",
            ("fig-factor-to-bayes",),
        ),
        Claim(
            "B7",
            "The pattern emerges from random weights, as gradient flow on the approximate loss predicts.",
            "B",
            "plots of training, to 150,000 to 400,000 steps",
            "10_kq_ov_patterns",
            ("fig-dynamics", "fig-stuck"),
        ),
        Claim(
            "B8",
            "Softmax heads generalize to longer contexts than in training; linear attention does not.",
            "B",
            "stated, without a value",
            "12_length_generalization",
            ("fig-longer",),
        ),
        Claim(
            "B9",
            "With anisotropic covariates the heads implement preconditioned gradient descent.",
            "B",
            "stated, without a value",
            "13_anisotropic",
            ("fig-anisotropic-spectrum", "fig-anisotropic-loss"),
        ),
        Claim(
            "B10",
            "Several tasks: few heads superpose them, 2N heads or more split up, a pair a task.",
            "B",
            "training loss about 0.4",
            "14_multitask",
            ("fig-multitask-service", "fig-multitask-loss"),
        ),
    )
}
