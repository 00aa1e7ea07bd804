"""Settings of small models of both papers, for the tests, as a chapter gets them from its profile."""

from icl_book.parameters import LayerSetting, Setting

PAPER_A = Setting(
    **dict(d=3, s=2, sigma=0.5, weights="half-normal", n_range=[5, 11]),
    **dict(layers=2, D=7, k=2, steps=20, batch=4, lr=0.01),
)
PAPER_B = LayerSetting(d=3, noise=0.2, n=7, steps=20, keep_every=10, batch=5, queries=1, lr=1e-2)
