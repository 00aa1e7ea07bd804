"""Settings of small models of both papers, for the tests: tables of parameters, as profiles have them."""

PAPER_A = dict(d=3, s=2, sigma=0.5, weights="half-normal", n_range=[5, 11], layers=2, D=7, k=2)
PAPER_A |= dict(steps=20, batch=4, lr=0.01)
PAPER_B = dict(d=3, noise=0.2, n=7, steps=20, keep_every=10, batch=5, lr=1e-2)
