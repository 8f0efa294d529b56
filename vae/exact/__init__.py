"""Models that can be solved exactly, and what they are held against: the referees of everything that is trained.

Start in `linear_gaussian`: posteriors, evidence and optima of linear VAEs. `shannon` has rate-distortion curves of
sources, `factor_analysis` maximum likelihood and the optimum of restricted encoders from a covariance alone.
"""
