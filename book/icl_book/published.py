"""What the papers published in numbers, to stand beside ours."""

from collections.abc import Mapping

# Paper B's loss by L, for d = 5 and noise variance 0.1, omega = 0.13, mu = 3.45 (the released notebooks).
LOSS: Mapping[str, Mapping[int, float]] = {
    "two heads": {10: 0.604, 40: 0.243, 100: 0.164},
    "debiased GD": {10: 0.614, 40: 0.243, 100: 0.163},
    "GD": {10: 0.643, 40: 0.241, 100: 0.162},
    "one head": {10: 0.875, 40: 0.405, 100: 0.284},
    "ridge": {10: 0.194, 40: 0.115, 100: 0.104},
}

# Of paper B's trained models: omega of one head, sum_h omega_h mu_h of two, the multi-task loss an output.
OMEGA_ONE_HEAD = 0.518
PRODUCT_TWO_HEADS = 0.897
MULTITASK_LOSS = 0.4
