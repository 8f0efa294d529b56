"""Per-datum inference for any decoder, given as log p(x, z) alone: the best posterior, log p(x), a decoder's curve.

Start in `log_joint`: what such a decoder is. `local` finds the best Gaussian posteriors, `evidence` estimates log p(x),
`rate_curve` a decoder's rate-distortion curve; `annealing` and `lbfgs` are what they are made of.
"""
